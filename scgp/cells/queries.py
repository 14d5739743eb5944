"""Which genes are read in which cells, as arrays; knows neither network nor AnnData.

Owns the drawing of queries for training, and the dealing of pairs of cell and gene into rows that
are as long as the longest.

Shape suffixes: B cells, Q queries of a cell, N expressed genes of all cells of a batch, M pairs.
"""

from dataclasses import dataclass

import numpy as np

from scgp.cells.kernels import TARGET_TOTAL
from scgp.cells.tokens import TokenBatch


@dataclass(frozen=True)
class ContextSample:
    """A batch of cells with genes to predict from their context.

    Attributes
    ----------
    tokens
        The cells.
    gene_BQ, own_BQ
        Genes asked for, and log1p(CP10k) of each in its cell: int64 and float32.
    count_BQ
        Their counts, float32.
    weight_BQ
        What each counts in the loss (`draw_queries`), float32: 0 where the cell's source does not
        measure the gene, or the cell is empty.
    """

    tokens: TokenBatch
    gene_BQ: np.ndarray
    own_BQ: np.ndarray
    count_BQ: np.ndarray
    weight_BQ: np.ndarray


def values_of(tokens: TokenBatch, gene_BQ: np.ndarray, n_genes: int) -> np.ndarray:
    """Return log1p(CP10k) of genes in their cells (B x Q float32), 0 where not expressed."""
    n_cells = tokens.n_cells
    cell_N = np.repeat(np.arange(n_cells), np.diff(tokens.offset_B))
    width = np.int64(n_genes + 1)  # padding is a gene of its own, which no cell expresses
    key_N = cell_N * width + tokens.pool_gene_N  # sorted: cells, then genes
    key_BQ = np.arange(n_cells)[:, None] * width + gene_BQ
    if not len(key_N):
        return np.zeros(gene_BQ.shape, np.float32)
    place_BQ = np.minimum(np.searchsorted(key_N, key_BQ), len(key_N) - 1)
    found_BQ = key_N[place_BQ] == key_BQ
    return np.where(found_BQ, tokens.pool_value_N[place_BQ], 0).astype(np.float32)


def draw_queries(
    tokens: TokenBatch,
    n_queries: int,
    measured_BG: np.ndarray,
    rng: np.random.Generator,
) -> ContextSample:
    """Draw genes to predict: half from those the cell expresses, half from those its batch does.

    The second half are drawn in proportion to how many cells of the batch express them, so that
    many are genes which the cell could express and does not. The first half alone would teach that
    a gene asked for is there, the more so the fewer genes the cell has. So each query is weighed by
    how often the second way draws its gene over how often both together do (importance sampling):
    weighted, a gene is expressed as often as it is in the batch.

    Parameters
    ----------
    tokens
        The cells.
    n_queries
        Queries of a cell.
    measured_BG
        Which genes each cell's source measures (B x G bool).
    rng
        Where the draws come from.
    """
    n_cells, n_genes = measured_BG.shape
    n_own = n_queries // 2
    size_B = np.diff(tokens.offset_B)
    filled_B = size_B > 0
    if not filled_B.any():
        gene_BQ = np.full((n_cells, n_queries), n_genes, np.int64)
        nothing_BQ = np.zeros(gene_BQ.shape, np.float32)
        return ContextSample(tokens, gene_BQ, nothing_BQ, nothing_BQ, nothing_BQ)
    place_BQ = tokens.offset_B[:-1, None] + (
        rng.random((n_cells, n_own)) * np.maximum(size_B, 1)[:, None]
    ).astype(np.int64)
    place_BQ = np.minimum(place_BQ, len(tokens.pool_gene_N) - 1)
    other_BQ = rng.integers(len(tokens.pool_gene_N), size=(n_cells, n_queries - n_own))
    gene_BQ = tokens.pool_gene_N[np.concatenate([place_BQ, other_BQ], axis=1)]
    own_BQ = values_of(tokens, gene_BQ, n_genes)
    often_G = np.bincount(tokens.pool_gene_N, minlength=n_genes) / len(tokens.pool_gene_N)
    by_own_BQ = (own_BQ > 0) / np.maximum(size_B, 1)[:, None]
    by_other_BQ = often_G[gene_BQ]
    share = n_own / n_queries
    weight_BQ = by_other_BQ / (share * by_own_BQ + (1 - share) * by_other_BQ)
    known_BQ = np.take_along_axis(measured_BG, gene_BQ, axis=1) & filled_B[:, None]
    cp10k_BQ = np.expm1(own_BQ.astype(np.float64))
    count_BQ = np.rint(cp10k_BQ * (tokens.total_B[:, None] / TARGET_TOTAL)).astype(np.float32)
    weight_BQ = (weight_BQ * known_BQ).astype(np.float32)
    return ContextSample(tokens, gene_BQ, own_BQ, count_BQ, weight_BQ)
