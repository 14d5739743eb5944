"""What goes with a perturbed gene in the cells at hand: the cheap competitor of a prediction.

Owns the sums over cells and the partial correlation. Knows no network.

Shape suffixes: B cells, P groups, G genes of the model, V columns of the matrix, K genes perturbed,
Q genes read, C covariates (1 and log counts).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scgp.what_if.matched_genes import blocks_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scgp.what_if.matched_genes import Rows

#: Cells a group needs for a correlation.
FEWEST_CELLS = 10
#: What may be left of a gene's sum of squares where the covariates explain all of it.
_NOTHING = 1e-9


def coexpression(
    counts: Rows,
    token_V: NDArray[np.int64],
    n_genes: int,
    *,
    groups: tuple[NDArray[np.int64], int],
    total_B: NDArray[np.float64],
    perturbed: tuple[NDArray[np.int64], NDArray[np.float64]],
    gene_Q: NDArray[np.int64],
    batch_size: int,
) -> NDArray[np.float64]:
    """Correlate genes with the perturbed ones over the cells of each group (P x Q).

    Partial correlations of log1p(CP10k), the logarithm of the cell's counts taken out of both, and
    negative where the perturbed gene is lowered: what moves with it is expected to fall with it.
    Mean over the perturbed genes whose factor is not 1. NaN where a group has fewer than
    `FEWEST_CELLS` cells with a count, and where a gene does not vary in it.

    Parameters
    ----------
    counts, token_V
        The cells, and the gene of each column of their matrix (-1: none of the model).
    groups
        Group of each cell (others count for none), and the number of groups.
    total_B
        Counts of each cell in the genes of the model.
    perturbed
        Genes and their factors.
    gene_Q
        Genes to correlate.
    """
    group_B, n_groups = groups
    gene_K, factor_K = (x[perturbed[1] != 1] for x in perturbed)
    if not len(gene_K) or not len(gene_Q):
        return np.full((n_groups, len(gene_Q)), np.nan)
    n_P, n_given = np.zeros(n_groups, np.int64), 2 + len(gene_K)
    given_PDD = np.zeros((n_groups, n_given, n_given))
    given_PDQ = np.zeros((n_groups, n_given, len(gene_Q)))
    square_PQ = np.zeros((n_groups, len(gene_Q)))
    for start, count_BG in blocks_of(counts, token_V, n_genes, batch_size):
        rows = slice(start, start + count_BG.shape[0])
        own_total_B = total_B[rows]
        value_BG = count_BG.astype(np.float64)
        value_BG.data *= np.repeat(1e4 / np.maximum(own_total_B, 1), np.diff(value_BG.indptr))
        np.log1p(value_BG.data, out=value_BG.data)
        read_BQ = value_BG[:, gene_Q]
        given_BD = np.column_stack(
            [np.ones(len(own_total_B)), np.log(np.maximum(own_total_B, 1)),
             value_BG[:, gene_K].toarray()]
        )  # fmt: skip
        for p in range(n_groups):
            own = np.flatnonzero((group_B[rows] == p) & (own_total_B > 0))
            n_P[p] += len(own)
            given_PDD[p] += given_BD[own].T @ given_BD[own]
            given_PDQ[p] += (read_BQ[own].T @ given_BD[own]).T
            square_PQ[p] += np.asarray(read_BQ[own].power(2).sum(axis=0)).ravel()
    sign_K = np.sign(factor_K - 1)
    found_PQ = np.full((n_groups, len(gene_Q)), np.nan)
    for p in np.flatnonzero(n_P >= FEWEST_CELLS).tolist():
        found_PQ[p] = _signed(given_PDD[p], given_PDQ[p], square_PQ[p], sign_K)
    return found_PQ


def _signed(
    given_DD: NDArray[np.float64],
    given_DQ: NDArray[np.float64],
    square_Q: NDArray[np.float64],
    sign_K: Sequence[float] | NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the mean signed partial correlation from sums of products."""
    solve_CC = np.linalg.pinv(given_DD[:2, :2])
    by_K, by_Q = given_DD[:2, 2:], given_DQ[:2]
    left_KQ = given_DQ[2:] - by_K.T @ solve_CC @ by_Q
    left_K = np.diag(given_DD)[2:] - np.einsum("ck,cd,dk->k", by_K, solve_CC, by_K)
    left_Q = square_Q - np.einsum("cq,cd,dq->q", by_Q, solve_CC, by_Q)
    varies_K = left_K > _NOTHING * np.diag(given_DD)[2:]
    varies_Q = left_Q > _NOTHING * square_Q
    found_Q = np.full(len(square_Q), np.nan)
    if varies_K.any():
        length_KQ = np.sqrt(np.outer(left_K[varies_K], left_Q[varies_Q]))
        part_KQ = left_KQ[np.ix_(varies_K, varies_Q)] / length_KQ
        found_Q[varies_Q] = np.asarray(sign_K)[varies_K] @ part_KQ / varies_K.sum()
    return found_Q
