"""embed(): cells to unit vectors, in blocks; the loop that annotate() and train() share.

Shape suffixes: B cells, L gene tokens, E width of the joint space, N expressed genes of a chunk.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import scipy.sparse as sp
import torch

from scgp.cells.counts import CountMatrix, choose_counts
from scgp.cells.genes import GeneMatch, match_genes
from scgp.cells.tokens import TokenBatch
from scgp.device import Portions, lent, resolve_device
from scgp.errors import ArgumentError, warn_user
from scgp.model.checkpoint import Model
from scgp.model.network import CellInput
from scgp.number import whole_number
from scgp.progress import progress_bar
from scgp.slots import check_target, write_slots

#: Cells that go through the network at once. Always this many (the last chunk is filled up), so
#: that a cell's vector depends neither on the batch size nor on its company.
CHUNK = 256
#: And on a GPU, where that promise is not made: half of it whenever its memory is out.
GPU_CHUNK = 4096


@dataclass(frozen=True)
class CellVectors:
    """What the network says of cells.

    Attributes
    ----------
    cell_BE, type_BE
        Unit vectors of the cell and of the type slot, float32; zero rows for empty cells.
    total_B
        Counts over the genes of the model; 0 for an empty cell.
    """

    cell_BE: np.ndarray
    type_BE: np.ndarray
    total_B: np.ndarray

    @classmethod
    def join(cls, parts: Sequence["CellVectors"], width: int) -> "CellVectors":
        """Put the vectors of chunks of cells together; `width` where there are none."""
        if not parts:
            nothing = np.zeros((0, width), np.float32)
            return cls(nothing, nothing.copy(), np.zeros(0, np.float32))
        return cls(*(np.concatenate([getattr(p, f) for p in parts]) for f in cls.__annotations__))


#: Is shown the position of a chunk's first cell, its tokens, its vectors, and which genes the data
#: measure.
Watch = Callable[[int, TokenBatch, CellVectors, np.ndarray], None]


def embed(
    adata: ad.AnnData,
    *,
    model: Model | str | Path | None = None,
    layer: str | None = None,
    use_raw: bool | None = None,
    key_added: str = "scgp",
    batch_size: int = 1024,
    device: str | None = None,
    progress: bool = True,
    copy: bool = False,
) -> ad.AnnData | None:
    """Embed cells in the space of cells and phenotype texts.

    Parameters
    ----------
    adata
        Cells x genes with raw counts; in memory, backed, or a dask array, which the
        workers of an active ``dask.distributed`` client read, if there is one. Genes by HGNC symbol
        or Ensembl id.
    model
        A :class:`scgp.Model`, its directory, or None for the default checkpoint.
    layer, use_raw
        Where the counts are, if not in ``X``.
    key_added
        Prefix of the slots written.
    batch_size
        Cells read at once; bounds memory, does not change the answer.
    device
        ``"cpu"``, ``"cuda"`` or None for the CPU.
    progress
        Show a progress bar.
    copy
        Return a changed copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. Written are

    ``obsm["X_scgp"]`` : float32, cells x 128
        Unit rows (cosine distances are meaningful); zero rows for cells without a count.
    ``uns["scgp"]`` : dict
        Model, counts and genes that were used. What `annotate` wrote there is replaced, so give
        another `key_added` where its labels stand beside.

    Raises
    ------
    CountsError
        The matrix does not hold raw counts.
    GeneError
        No gene is in common with the model.
    DeviceError
        The device is not there.

    Warns
    -----
    ScgpWarning
        Few genes in common, duplicated genes (summed), empty cells.

    Examples
    --------
    >>> import scgp
    >>> adata = scgp.demo.counts()
    >>> scgp.embed(adata, progress=False)
    >>> adata.obsm["X_scgp"].shape
    (700, 128)
    """
    check_target(adata, key_added=key_added, copy=copy)
    given, model = model, resolve_model(model)
    counts = choose_counts(adata, layer=layer, use_raw=use_raw)
    from scgp.scale.workers import active_client, embed_on_workers  # which know this file

    client = active_client(counts)
    if client is not None:
        match = match_genes(counts, model.genes)
        facts = facts_of(model, counts, match)
        vectors = embed_on_workers(
            client, counts, match.token_of_column, model, given_model=given,
            batch_size=batch_size, device=device, progress=progress,
        )  # fmt: skip
    else:
        vectors, facts = embed_counts(
            counts, model, batch_size=batch_size, device=device, progress=progress
        )
    warn_empty(vectors, "their vector is zero")
    slots: dict[str, dict[str, object]] = {
        "obsm": {f"X_{key_added}": vectors.cell_BE},
        "uns": {key_added: facts},
    }
    return write_slots(adata, slots, copy=copy)


def embed_adata(
    adata: ad.AnnData,
    model: Model,
    *,
    layer: str | None,
    use_raw: bool | None,
    batch_size: int,
    device: str | None,
    progress: bool,
    watch: Watch | None = None,
) -> tuple[CellVectors, dict[str, object]]:
    """Embed the cells of an AnnData; return vectors and what is to be said of them in ``uns``.

    ``watch`` is shown every chunk (see `embed_rows`).
    """
    counts = choose_counts(adata, layer=layer, use_raw=use_raw)
    return embed_counts(
        counts, model, batch_size=batch_size, device=device, progress=progress, watch=watch
    )


def embed_counts(
    counts: CountMatrix,
    model: Model,
    *,
    batch_size: int,
    device: str | None,
    progress: bool,
    watch: Watch | None = None,
) -> tuple[CellVectors, dict[str, object]]:
    """Embed the cells of chosen counts in this process; return as `embed_adata` does."""
    rows = rows_at_once(batch_size, CHUNK)
    on = resolve_device(device)
    match = match_genes(counts, model.genes)
    blocks = (counts.rows(first, first + rows) for first in range(0, counts.n_cells, rows))
    vectors = embed_rows(
        model, blocks, match.token_of_column, device=on, n_cells=counts.n_cells,
        progress=progress, watch=watch,
    )  # fmt: skip
    return vectors, facts_of(model, counts, match)


def facts_of(model: Model, counts: CountMatrix, match: GeneMatch) -> dict[str, object]:
    """Return what is to be said in ``uns`` of cells that were read."""
    return {
        "model": model.fingerprint,
        "counts": counts.where,
        "n_genes_matched": match.n_matched,
        "n_genes": len(counts.var_names),
    }


def rows_at_once(batch_size: int, whole: int) -> int:
    """Return the batch size, brought up to whole blocks."""
    return -(-whole_number(batch_size, "batch_size", least=1) // whole) * whole


def embed_rows(
    model: Model,
    blocks: Iterable[sp.csr_matrix],
    token_of_column: np.ndarray,
    *,
    device: torch.device | str = "cpu",
    n_cells: int | None = None,
    progress: bool = False,
    use_tokens: bool | None = None,
    watch: Watch | None = None,
) -> CellVectors:
    """Embed blocks of rows, whose columns are the genes `token_of_column` of the model.

    ``use_tokens``: vectors with the transformer, or without; None as the model's config has it.
    ``watch(first, tokens, vectors, measured_G)`` is shown every chunk: the position of its first
    cell, its tokens, its vectors, and which genes are measured.
    """
    parts: list[CellVectors] = []
    measured_G = measured_by(token_of_column, model.config.n_genes)
    n_seen = 0
    with (
        lent(model.network, device),
        progress_bar(n_cells, what="embed", unit="cell", shown=progress) as advance,
    ):
        portions = portions_of(device)
        for block in blocks:

            def embedded(
                part: slice, block: sp.csr_matrix = block
            ) -> tuple[TokenBatch, CellVectors]:
                tokens = model.tokenizer.tokenize(block[part], token_of_column)
                return tokens, embed_chunk(model, tokens, device, use_tokens=use_tokens)

            for tokens, vectors in portions.run(embedded, block.shape[0]):
                parts.append(vectors)
                if watch is not None:
                    watch(n_seen, tokens, vectors, measured_G)
                n_seen += tokens.n_cells
                advance(tokens.n_cells)
    return CellVectors.join(parts, model.config.embed_dim)


def portions_of(device: torch.device | str) -> Portions:
    """Return how many cells go through the network at once on a device."""
    on_gpu = torch.device(device).type == "cuda"
    return Portions(GPU_CHUNK if on_gpu else CHUNK, least=CHUNK)


def measured_by(token_of_column: np.ndarray, n_genes: int) -> np.ndarray:
    """Return which genes of the model have a column (G, bool)."""
    measured_G = np.zeros(n_genes, dtype=bool)
    measured_G[token_of_column[token_of_column >= 0]] = True
    return measured_G


def embed_chunk(
    model: Model,
    tokens: TokenBatch,
    device: torch.device | str,
    *,
    use_tokens: bool | None = None,
) -> CellVectors:
    """Embed a chunk of cells; empty ones get zero rows. The network is on `device`."""
    with torch.inference_mode():
        cells = _padded(tokens, model.config.n_genes, model.config.n_tokens)
        out = model.network(cells.to(device), use_tokens=use_tokens)
    filled_B1 = (tokens.total_B > 0)[:, None]
    n = tokens.n_cells
    return CellVectors(
        np.where(filled_B1, out.cell_BE[:n].cpu().numpy(), np.float32(0)),
        np.where(filled_B1, out.type_BE[:n].cpu().numpy(), np.float32(0)),
        tokens.total_B,
    )


def _padded(tokens: TokenBatch, n_genes: int, n_tokens: int) -> CellInput:
    """Fill a chunk up to `CHUNK` cells of `n_tokens` tokens, with empty cells and padding."""
    B, L = tokens.gene_BL.shape
    size = max(CHUNK, B)
    gene_BL = np.full((size, n_tokens), n_genes, dtype=np.int64)
    value_BL = np.zeros((size, n_tokens), dtype=np.float32)
    gene_BL[:B, :L], value_BL[:B, :L] = tokens.gene_BL, tokens.value_BL
    offset_B = np.full(size + 1, tokens.offset_B[-1])
    offset_B[: B + 1] = tokens.offset_B
    arrays = (gene_BL, value_BL, tokens.pool_gene_N, tokens.pool_value_N, offset_B)
    return CellInput(*map(torch.from_numpy, arrays))


def resolve_model(model: Model | str | Path | None) -> Model:
    """Return the model named: itself, the one of a directory, or the default checkpoint."""
    if model is None:
        return Model.default()
    if isinstance(model, str | Path):
        return Model.load(model)
    if not isinstance(model, Model):
        msg = f"model is a {type(model).__name__}; expected a scgp.Model, its directory, or None"
        raise ArgumentError(msg)
    return model


def warn_empty(vectors: CellVectors, consequence: str) -> None:
    """Say how many cells are empty, and what becomes of them; for the verbs' users."""
    n_empty = int((vectors.total_B == 0).sum())
    if n_empty:
        warn_user(
            f"{n_empty} of {len(vectors.total_B)} cells have no count in the genes of the model: "
            f"{consequence}"
        )
