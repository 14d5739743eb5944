"""How much of each gene the cells of a group have, and which genes have as much of it as others.

Owns the survey of a count matrix and the matching. Must not know what the genes are matched for.

Shape suffixes: B cells, P groups, G genes of the model, V columns of the matrix, K genes perturbed,
N draws of the null.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Protocol

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from scgp.cells.counts import CountMatrix

#: Cells of a draw of the null must be two at least, or a mean is that of one cell.
FEWEST_CELLS = 2
#: Genes are no match where their median is further in log mean than the first, or all lie on one
#: side and the nearest further than the second.
MEDIAN_AWAY, NEAREST_AWAY = 0.4, 0.1


class Rows(Protocol):
    """Cells whose counts can be read: a `CountMatrix`, or some of its rows."""

    @property
    def n_cells(self) -> int:
        """Number of cells."""

    def rows(self, start: int, stop: int) -> sp.csr_matrix:
        """Read the rows ``start`` to ``stop``."""


@dataclasses.dataclass(frozen=True, eq=False)
class Levels:
    """Expression of every gene in every group.

    Attributes
    ----------
    n_P
        Cells of each group that have a count.
    total_B
        Counts of each cell in the genes of the model.
    mean_PG, detected_PG
        Mean CP10k over these cells, and the share of them with a count of the gene.
    """

    n_P: np.ndarray
    total_B: np.ndarray
    mean_PG: np.ndarray
    detected_PG: np.ndarray


def blocks_of(
    counts: Rows, token_V: np.ndarray, n_genes: int, batch_size: int
) -> Iterator[tuple[int, sp.csr_matrix]]:
    """Give the first row and the counts by gene of the model (B x G) of one block after another."""
    known = np.flatnonzero(token_V >= 0)
    shape = (len(token_V), n_genes)
    to_gene_VG = sp.csr_matrix((np.ones(len(known), np.float32), (known, token_V[known])), shape)
    for start in range(0, counts.n_cells, batch_size):
        yield start, counts.rows(start, start + batch_size) @ to_gene_VG


def levels(
    counts: CountMatrix,
    token_V: np.ndarray,
    n_genes: int,
    group_B: np.ndarray,
    n_groups: int,
    *,
    batch_size: int,
) -> Levels:
    """Survey all cells once; those whose group is -1 count for none."""
    total_B = np.zeros(counts.n_cells)
    n_P = np.zeros(n_groups, np.int64)
    sum_PG, cells_PG = np.zeros((n_groups, n_genes)), np.zeros((n_groups, n_genes))
    for start, count_BG in blocks_of(counts, token_V, n_genes, batch_size):
        rows = slice(start, start + count_BG.shape[0])
        total_B[rows] = np.asarray(count_BG.sum(axis=1)).ravel()
        counted = np.flatnonzero((group_B[rows] >= 0) & (total_B[rows] > 0))
        own = group_B[rows][counted]
        n_P += np.bincount(own, minlength=n_groups)
        shape = (n_groups, count_BG.shape[0])
        one_PB = sp.csr_matrix((np.ones(len(own)), (own, counted)), shape=shape)
        scaled_PB = sp.csr_matrix((1e4 / total_B[rows][counted], (own, counted)), shape=shape)
        sum_PG += (scaled_PB @ count_BG).toarray()
        cells_PG += (one_PB @ (count_BG > 0).astype(np.float64)).toarray()
    share_P1 = 1 / np.maximum(n_P, 1)[:, None]
    return Levels(n_P, total_B, sum_PG * share_P1, cells_PG * share_P1)


def matched(
    found: Levels, group: int, gene_K: np.ndarray, n_draws: int, left_out_G: np.ndarray
) -> np.ndarray:
    """Return genes of about the expression of some, in a group (N x K); none twice.

    The nearest by log mean CP10k and the log odds of detection, each in standard deviations over
    the genes that can be drawn: those of which `FEWEST_CELLS` cells of the group have a count.

    Parameters
    ----------
    found
        Expression in all groups.
    group
        Which of them.
    gene_K
        The genes to match.
    n_draws
        Genes to find for each. Where there are not enough genes, all get fewer.
    left_out_G
        True for genes that cannot be drawn.
    """
    mean_G, detected_G, n = found.mean_PG[group], found.detected_PG[group], found.n_P[group]
    can = np.flatnonzero((detected_G * n >= FEWEST_CELLS - 0.5) & ~left_out_G)
    n_draws = min(n_draws, len(can) // len(gene_K))
    odds_G = np.log((detected_G * n + 0.5) / ((1 - detected_G) * n + 0.5))
    place_G2 = np.stack([np.log(np.maximum(mean_G, 1e-6)), odds_G], axis=1)
    scale_2 = np.maximum(place_G2[can].std(axis=0), 1e-6) if len(can) else np.ones(2)
    drawn_NK = np.zeros((n_draws, len(gene_K)), np.int64)
    for k, gene in enumerate(gene_K):
        away = np.linalg.norm((place_G2[can] - place_G2[gene]) / scale_2, axis=1)
        order = np.argsort(away, kind="stable")[:n_draws]
        drawn_NK[:, k] = can[order]
        can = np.delete(can, order)
    return drawn_NK


def unmatched(level: float, level_N: np.ndarray) -> str:
    """Say how genes of other mean levels lie that are no match of a level ("" where they are).

    No match: all lie on one side of it, none within `NEAREST_AWAY` in log mean; or their median
    lies further than `MEDIAN_AWAY`.
    """
    away_N = np.log(np.maximum(level_N, 1e-6) / level)
    apart = (away_N > NEAREST_AWAY).all() or (away_N < -NEAREST_AWAY).all()
    if not len(level_N) or not (apart or abs(np.median(away_N)) > MEDIAN_AWAY):
        return ""
    most, median = level_N.max(), np.median(level_N)
    return f"{level:.3g}, theirs {level_N.min():.3g} to {most:.3g}, median {median:.3g}"


def expressing(
    counts: CountMatrix,
    token_V: np.ndarray,
    n_genes: int,
    sets: Sequence[np.ndarray],
    allowed: Callable[[int], np.ndarray],
    *,
    batch_size: int,
) -> list[np.ndarray]:
    """Return, for each set of genes, the cells that have a count of any and are allowed.

    ``allowed(i)`` is a boolean mask over all cells, for the i-th set.
    """
    found: list[list[np.ndarray]] = [[] for _ in sets]
    for start, count_BG in blocks_of(counts, token_V, n_genes, batch_size):
        by_gene = count_BG.tocsc()
        for i, genes in enumerate(sets):
            rows = np.unique(by_gene[:, genes].indices) + start
            found[i].append(rows[allowed(i)[rows]])
    return [np.concatenate(rows) if rows else np.zeros(0, np.int64) for rows in found]
