"""Reading genes in cells: counts to contextual embeddings, in chunks; nothing is kept.

Owns the loop that embed_genes, polyfunctionality and perturb share. Must not know what is done with
the embeddings.

Shape suffixes: B cells of a chunk, Q queries of a cell, M pairs of cell and gene, L gene tokens,
D width of the contextual embeddings, G genes of the model, V columns of the matrix.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from scgp.cells.queries import values_of
from scgp.device import lent
from scgp.errors import CheckpointError
from scgp.model.context import GeneQueries
from scgp.training.objective import as_input

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import scipy.sparse as sp

    from scgp.cells.tokens import TokenBatch
    from scgp.model.checkpoint import Model
    from scgp.model.context import GeneRows
    from scgp.model.network import CellTransformer

    #: Given the tokens of cells and the position of the first: genes to read, B x Q, padded.
    Choose = Callable[[TokenBatch, int], np.ndarray]

#: Cells that are tokenised at once, and queries (with padding) that go through the network at once.
BLOCK_CELLS, CHUNK_QUERIES = 256, 8192


@dataclass(frozen=True)
class Read:
    """Genes read in some cells: M pairs.

    Attributes
    ----------
    cell_M
        Position of the cell in the data.
    gene_M
        Gene of the model.
    own_M
        log1p(CP10k) of the gene in the cell, 0 where it is not expressed; float32.
    context_MD
        Contextual embedding, float32.
    log_rate_M
        Predicted log CP10k, float32.
    """

    cell_M: np.ndarray
    gene_M: np.ndarray
    own_M: np.ndarray
    context_MD: np.ndarray
    log_rate_M: np.ndarray


@dataclass(frozen=True, eq=False)
class CellsToRead:
    """Cells of a data set, to be read as often as needed.

    Attributes
    ----------
    model
        Whose genes, tokens and network are used.
    blocks
        Makes an iterator over blocks of rows of counts.
    token_V
        Gene of each column.
    n_cells
        Number of rows.
    device
        Where the network computes.
    advance
        Is told of every cell that is done, where `read` is asked to tell.
    """

    model: Model
    blocks: Callable[[], Iterable[sp.csr_matrix]]
    token_V: np.ndarray
    n_cells: int
    device: torch.device | str = "cpu"
    advance: Callable[[int], object] | None = None

    def read(
        self, choose: Choose, network: CellTransformer | None = None, *, tell: bool = False
    ) -> Iterator[Read]:
        """Read genes in all cells (`read_genes`)."""
        return read_genes(
            self.model, self.blocks(), self.token_V, choose, network=network, device=self.device,
            advance=self.advance if tell else None,
        )  # fmt: skip


def check_context(model: Model) -> None:
    """Refuse a model that cannot read genes in their context."""
    if not model.config.context_layers:
        msg = (
            "this model has no transformer that reads genes in their context: it was made before "
            "scgp 0.8.0, or with context_layers=0. Use the default checkpoint, or add one: "
            "scgp.train(data, base=model, config=dataclasses.replace(model.config, n_layers=0, "
            "context_layers=2), settings=TrainConfig(pool_steps=0))"
        )
        raise CheckpointError(msg)


def expressed_of(gene_Q: np.ndarray, n_genes: int) -> Choose:
    """Return a choice of those of some genes that each cell expresses."""
    wanted_G = np.zeros(n_genes + 1, dtype=bool)
    wanted_G[gene_Q] = True

    def choose(tokens: TokenBatch, _: int) -> np.ndarray:
        hit_N = wanted_G[tokens.pool_gene_N]
        cell_M = np.repeat(np.arange(tokens.n_cells), np.diff(tokens.offset_B))[hit_N]
        return dealt(cell_M, tokens.pool_gene_N[hit_N], tokens.n_cells, n_genes)

    return choose


def always(gene_Q: np.ndarray) -> Choose:
    """Return a choice of the same genes for every cell, expressed or not."""

    def choose(tokens: TokenBatch, _: int) -> np.ndarray:
        return np.tile(np.asarray(gene_Q, np.int64), (tokens.n_cells, 1))

    return choose


def dealt(cell_M: np.ndarray, gene_M: np.ndarray, n_cells: int, n_genes: int) -> np.ndarray:
    """Deal pairs, sorted by cell, into a row for each cell; padded with `n_genes`."""
    size_B = np.bincount(cell_M, minlength=n_cells)
    first_B = np.concatenate([[0], np.cumsum(size_B)[:-1]])
    gene_BQ = np.full((n_cells, max(1, int(size_B.max(initial=0)))), n_genes, np.int64)
    gene_BQ[cell_M, np.arange(len(cell_M)) - first_B[cell_M]] = gene_M
    return gene_BQ


def read_genes(
    model: Model,
    blocks: Iterable[sp.csr_matrix],
    token_of_column: np.ndarray,
    choose: Choose,
    *,
    network: CellTransformer | None = None,
    device: torch.device | str = "cpu",
    advance: Callable[[int], object] | None = None,
) -> Iterator[Read]:
    """Read genes in the cells of blocks of rows; yields the pairs of some cells at a time.

    Parameters
    ----------
    model
        Whose genes, tokens and network are used.
    blocks
        Rows of counts, whose columns are the genes `token_of_column` of the model.
    choose
        The genes to read in each cell.
    network
        Another network in place of the model's, for a control.
    advance
        Is told of every cell that is done.
    """
    check_context(model)
    network = network or model.network
    first = 0
    with lent(network, device):
        rows = prepared(network)
        for block in blocks:
            for start in range(0, block.shape[0], BLOCK_CELLS):
                counts = block[start : start + BLOCK_CELLS]
                tokens = model.tokenizer.tokenize(counts, token_of_column)
                yield from read_tokens(
                    network, tokens, choose(tokens, first), first=first, device=device, rows=rows
                )
                first += tokens.n_cells
                if advance is not None:
                    advance(tokens.n_cells)


def read_tokens(
    network: CellTransformer,
    tokens: TokenBatch,
    gene_BQ: np.ndarray,
    *,
    first: int = 0,
    device: torch.device | str = "cpu",
    rows: GeneRows | None = None,
) -> Iterator[Read]:
    """Read the queries of tokenised cells, the cells with the fewest first.

    Cells without a count are not read. A chunk has cells of about as many queries, so that little
    of it is padding.
    """
    n_genes = network.config.n_genes
    asked_B = (gene_BQ < n_genes).sum(axis=1) * (tokens.total_B > 0)
    order_B = np.argsort(asked_B, kind="stable")
    order_B = order_B[asked_B[order_B] > 0]
    gene_BQ = np.sort(gene_BQ, axis=1)  # padding last
    start = 0
    while start < len(order_B):
        stop = start + 1
        # the widest row is the last: as many cells as fit with it
        while stop < len(order_B) and (stop + 1 - start) * asked_B[order_B[stop]] <= CHUNK_QUERIES:
            stop += 1
        cells = np.sort(order_B[start:stop])
        asked_BQ = gene_BQ[cells, : int(asked_B[cells].max())]
        read = _read(network, part(tokens, cells), asked_BQ, device=device, rows=rows)
        yield dataclasses.replace(read, cell_M=cells[read.cell_M] + first)
        start = stop


def prepared(network: CellTransformer) -> GeneRows:
    """Return the rows of all genes, which every chunk looks up."""
    assert network.context is not None
    with torch.inference_mode():
        return network.context.rows(network.gene.weight)


def part(tokens: TokenBatch, rows: np.ndarray) -> TokenBatch:
    """Return the tokens of some cells, in the order given."""
    size_B = np.diff(tokens.offset_B)[rows]
    offset_B = np.concatenate([[0], np.cumsum(size_B)])
    place_N = np.repeat(tokens.offset_B[:-1][rows] - offset_B[:-1], size_B) + np.arange(
        offset_B[-1]
    )
    return type(tokens)(
        gene_BL=tokens.gene_BL[rows],
        value_BL=tokens.value_BL[rows],
        pool_gene_N=tokens.pool_gene_N[place_N],
        pool_value_N=tokens.pool_value_N[place_N],
        offset_B=offset_B,
        total_B=tokens.total_B[rows],
    )


def _read(
    network: CellTransformer,
    tokens: TokenBatch,
    gene_BQ: np.ndarray,
    *,
    device: torch.device | str,
    rows: GeneRows | None,
) -> Read:
    """Run the network on the queries of one chunk, and leave the padding out."""
    own_BQ = values_of(tokens, gene_BQ, network.config.n_genes)
    real_BQ = gene_BQ < network.config.n_genes
    with torch.inference_mode():
        queries = GeneQueries(torch.from_numpy(gene_BQ), torch.from_numpy(own_BQ)).to(device)
        read = network.in_context(as_input(tokens).to(device), queries, rows)
        log_rate_BQ = read.log_rate_BQ.cpu().numpy()
        context_MD = read.embedding_BQD.float().cpu().numpy()[real_BQ]
    return Read(
        np.nonzero(real_BQ)[0], gene_BQ[real_BQ], own_BQ[real_BQ], context_MD, log_rate_BQ[real_BQ]
    )
