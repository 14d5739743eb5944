"""embed_genes(): what a gene is in each cell, or in each group of cells.

Owns the verb and the table it returns. Must not know how genes are read (`reading`) nor what is
tested on the embeddings (`polyfunction`).

Shape suffixes: N cells, Q genes named, K groups, M pairs of cell and gene, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from scgp.cells.counts import choose_counts
from scgp.cells.genes import match_genes
from scgp.cells.named import named_genes
from scgp.device import resolve_device
from scgp.embed import resolve_model
from scgp.errors import ArgumentError, CountsError, GeneError, warn_user
from scgp.groups import group_codes, say_left_out
from scgp.in_context.reading import Read, always, check_context, expressed_of, read_genes
from scgp.progress import progress_bar
from scgp.slots import check_adata

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from scgp.cells.vocabulary import GeneVocabulary
    from scgp.model.checkpoint import Model
    from scgp.what_if.matched_genes import Rows

#: Rows of counts that are read at once.
READ_CELLS = 1024


def embed_genes(
    adata: ad.AnnData,
    genes: str | Sequence[str],
    *,
    groupby: str | None = None,
    expressed: bool = True,
    model: Model | str | Path | None = None,
    layer: str | None = None,
    use_raw: bool | None = None,
    device: str | None = None,
    progress: bool = True,
) -> ad.AnnData:
    """Embed genes in the context of each cell: what the rest of the cell says of the gene.

    Parameters
    ----------
    adata
        Cells x genes with raw counts; in memory or backed. It is only read.
    genes
        HGNC symbols, aliases or Ensembl ids.
    groupby
        Column of ``obs``: embeddings are averaged over the cells of each group (cells without a
        value are left out). None keeps one embedding for each cell and gene.
    expressed
        Read a gene only in the cells that have a count of it. False reads it in every cell; where
        it is absent, its embedding says what the cell would make of it.
    model
        A :class:`scgp.Model`, its directory, or None for the default checkpoint.
    layer, use_raw
        Where the counts are, if not in ``X``.
    device
        ``"cpu"``, ``"cuda"`` or None for the CPU.
    progress
        Show a progress bar.

    Returns
    -------
    An AnnData of its own. Without `groupby`, gene-in-cell observations x 128, in the order of the
    cells and of `genes`:

    ``X`` : float32
        The contextual embedding; of no unit.
    ``obs`` : DataFrame
        ``gene``, ``ensembl_id``, ``cell`` (name in `adata`), ``position`` (int64, row of `adata`),
        ``value`` (float32, log1p(CP10k) of the gene in the cell), ``predicted`` (float32, what the
        rest of the cell suggests, as natural log of CP10k: good for a gene between groups of cells;
        too high for genes that few cells have, and of the single cell within a type it says next to
        nothing; not on the scale of ``value``).

    With `groupby`, one row for each gene and group that has a cell to read:

    ``X`` : float32
        The mean over the cells.
    ``layers["std"]`` : float32
        The standard deviation of each dimension over the cells; 0 for one cell.
    ``obs`` : DataFrame
        ``gene``, ``ensembl_id``, ``group``, ``n_cells`` (read and averaged), ``n_group`` (cells of
        the group), ``value`` and ``predicted`` (means over the cells averaged), ``spread`` (root
        mean square distance of the cells from the mean).

    Raises
    ------
    GeneError
        A gene is not among the model's (the nearest symbols are told), or not measured; none of
        them is expressed in any cell.
    MissingColumnError
        `groupby` is no column.
    CheckpointError
        The model was made before 0.8.0 and cannot read genes in their context.
    CountsError, DeviceError
        As in :func:`scgp.embed`; with ``expressed=False`` also if no cell has a count.

    Warns
    -----
    ScgpWarning
        A gene is expressed in no cell, and has no row; with ``expressed=False``, cells have no
        count and no row; cells without a group are left out.

    Notes
    -----
    A gene is a query of a transformer; it attends to the tokens of the cell's other genes and to
    the pooled view of all of them. Its own count is taken out first, and it does not see other
    queries: the embedding depends neither on how much of the gene the cell has (save by what is
    left of ten thousand for the others), nor on which other genes are asked for, and no gene is
    lost to the budget of tokens. Every gene carries the state of its cell: what is a gene's own is
    only what other genes of its level do not show in the same cells
    (:func:`scgp.polyfunctionality`).

    Examples
    --------
    >>> import scgp
    >>> adata = scgp.demo.counts()
    >>> in_cells = scgp.embed_genes(adata, ["CD74", "LYZ"], progress=False)
    >>> in_cells.n_vars, sorted(set(in_cells.obs["gene"]))
    (128, ['CD74', 'LYZ'])
    >>> in_types = scgp.embed_genes(adata, "CD74", groupby="bulk_labels", progress=False)
    >>> in_types.shape
    (10, 128)
    """
    check_adata(adata)
    if not adata.n_obs:
        msg = "there are no cells (0 rows); expected some whose genes can be read"
        raise ArgumentError(msg)
    model = resolve_model(model)
    check_context(model)
    on = resolve_device(device)
    group_N, names = (None, []) if groupby is None else group_codes(adata, groupby)
    if group_N is not None and groupby is not None:
        say_left_out(group_N, groupby)
    counts = choose_counts(adata, layer=layer, use_raw=use_raw)
    token_V = match_genes(counts, model.genes).token_of_column
    gene_Q = named_genes(genes, model.genes, token_V)
    choose = expressed_of(gene_Q, model.config.n_genes) if expressed else always(gene_Q)
    with progress_bar(counts.n_cells, what="read", unit="cell", shown=progress) as advance:
        reads = read_genes(model, count_blocks(counts), token_V, choose, device=on, advance=advance)
        n_read: list[int] = []
        reads = _counted(reads, n_read)
        if group_N is None:
            table = _of_cells(reads, gene_Q, model, adata)
        else:
            table = _of_groups(reads, gene_Q, model, group_N, names)
    if expressed:
        _say_absent(set(table.obs["gene"].astype(str)), gene_Q, model.genes)
    else:
        _say_empty(sum(n_read), counts.n_cells)
    return table


def count_blocks(counts: Rows) -> Iterator[sp.csr_matrix]:
    """Give the rows of a matrix in blocks."""
    for start in range(0, counts.n_cells, READ_CELLS):
        yield counts.rows(start, min(start + READ_CELLS, counts.n_cells))


def _counted(reads: Iterator[Read], n_read: list[int]) -> Iterator[Read]:
    """Pass on what is read, and note how many cells it is of: a chunk has all of its cells'."""
    for read in reads:
        n_read.append(len(np.unique(read.cell_M)))
        yield read


def _of_cells(
    reads: Iterator[Read], gene_Q: np.ndarray, model: Model, adata: ad.AnnData
) -> ad.AnnData:
    """Put all pairs into one table, in the order of the cells and of the genes asked for."""
    parts = list(reads)
    width = model.config.width
    empty = Read(*(np.zeros(0, np.int64),) * 2, *(np.zeros(0, np.float32),) * 3)
    cell_M, gene_M, own_M, _, rate_M = (
        np.concatenate([getattr(part, name) for part in parts or [empty]])
        for name in Read.__annotations__
    )
    context_MD = np.concatenate([p.context_MD for p in parts] or [np.zeros((0, width))])
    rank_G = np.zeros(model.config.n_genes, np.int64)
    rank_G[gene_Q] = np.arange(len(gene_Q))
    order = np.lexsort([rank_G[gene_M], cell_M])
    cell_M, gene_M = cell_M[order], gene_M[order]
    obs = pd.DataFrame(
        {
            "gene": pd.Categorical(model.genes.symbol[gene_M]),
            "ensembl_id": model.genes.ensembl[gene_M],
            "cell": adata.obs_names.to_numpy(dtype=object)[cell_M],
            "position": cell_M,
            "value": own_M[order],
            "predicted": rate_M[order],
        },
        index=_names(model.genes.symbol[gene_M], map(str, cell_M.tolist())),
    )
    return ad.AnnData(context_MD[order].astype(np.float32), obs=obs, var=_dimensions(width))


def _of_groups(
    reads: Iterator[Read],
    gene_Q: np.ndarray,
    model: Model,
    group_N: np.ndarray,
    names: list[str],
) -> ad.AnnData:
    """Average over the cells of each group, as they come."""
    n_pairs, width = len(gene_Q) * len(names), model.config.width
    place_G = np.zeros(model.config.n_genes, np.int64)
    place_G[gene_Q] = np.arange(len(gene_Q))
    size = np.zeros(n_pairs)
    sums = np.zeros((n_pairs, 2 * width + 2))  # float64: squares of many cells are summed
    for read in reads:
        kept = group_N[read.cell_M] >= 0
        row = place_G[read.gene_M[kept]] * len(names) + group_N[read.cell_M[kept]]
        context = read.context_MD[kept].astype(np.float64)
        others = np.stack([read.own_M[kept], read.log_rate_M[kept]], axis=1)
        of_pair = sp.csr_matrix(
            (np.ones(len(row)), (row, np.arange(len(row)))), shape=(n_pairs, len(row))
        )
        size += np.bincount(row, minlength=n_pairs)
        sums += of_pair @ np.concatenate([context, context**2, others], axis=1)
    there = np.flatnonzero(size)
    mean = sums[there] / size[there, None]
    variance = np.maximum(mean[:, width : 2 * width] - mean[:, :width] ** 2, 0)
    gene, group = gene_Q[there // len(names)], there % len(names)
    obs = pd.DataFrame(
        {
            "gene": pd.Categorical(model.genes.symbol[gene]),
            "ensembl_id": model.genes.ensembl[gene],
            "group": pd.Categorical([names[k] for k in group], categories=names),
            "n_cells": size[there].astype(np.int64),
            "n_group": np.bincount(group_N[group_N >= 0], minlength=len(names))[group],
            "value": mean[:, -2].astype(np.float32),
            "predicted": mean[:, -1].astype(np.float32),
            "spread": np.sqrt(variance.sum(axis=1)).astype(np.float32),
        },
        index=_names(model.genes.symbol[gene], [names[k] for k in group]),
    )
    return ad.AnnData(
        mean[:, :width].astype(np.float32),
        obs=obs,
        var=_dimensions(width),
        layers={"std": np.sqrt(variance).astype(np.float32)},
    )


def _names(genes: Sequence[str], where: Iterator[str] | Sequence[str]) -> pd.Index:
    return pd.Index([f"{gene} in {place}" for gene, place in zip(genes, where, strict=True)])


def _dimensions(width: int) -> pd.DataFrame:
    return pd.DataFrame(index=[f"context_{i}" for i in range(width)])


def _say_empty(n_read: int, n_cells: int) -> None:
    """Tell of cells without a count, which nothing can be read in; refuse where all are."""
    if not n_read:
        msg = f"none of {n_cells} cells has a count in the genes of the model: nothing can be read"
        raise CountsError(msg)
    if n_read < n_cells:
        warn_user(
            f"{n_cells - n_read} of {n_cells} cells have no count in the genes of the model, and "
            "no row"
        )


def _say_absent(found: set[str], gene_Q: np.ndarray, vocabulary: GeneVocabulary) -> None:
    """Refuse where no gene has a row, and name those that have none."""
    absent = [str(vocabulary.symbol[g]) for g in gene_Q if vocabulary.symbol[g] not in found]
    if not absent:
        return
    told = ", ".join(absent[:5])
    if not found:
        msg = (
            f"none of the genes is expressed in any cell: {told}; expressed=False reads them anyway"
        )
        raise GeneError(msg)
    warn_user(f"{len(absent)} of {len(gene_Q)} genes are expressed in no cell: {told}")
