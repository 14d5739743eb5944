"""Cells with the counts of some genes scaled: their vectors and posteriors, before and after.

Owns the scaling. Must not know which genes are a null, nor how the answers become tables
(`perturb`).

Shape suffixes: B cells, V columns of the matrix, G genes of the model, T labels, E width of the
joint space, Q genes read.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from scgp.embed import CellVectors
from scgp.explain import counted_labels, explained_labels
from scgp.explaining.occlusion import embed_scored
from scgp.in_context.reading import always, read_genes
from scgp.reference.answer import answer, streams_of
from scgp.reference.decision import Decision
from scgp.reference.evidence import fuse

if TYPE_CHECKING:
    import scipy.sparse as sp

    from scgp.reference.index import ReferenceIndex
    from scgp.what_if.removals import Cells


@dataclasses.dataclass(frozen=True, eq=False)
class Change:
    """Cells before and after; of those that are not changed both are the same.

    Attributes
    ----------
    changed_B
        Whether a count was scaled.
    shift_BE
        Vector after minus before.
    cosine_B
        Cosine distance of the two.
    label_B, label_after_B, explained_B
        What annotate answers before and after, and whose probability is told.
    probability_B, probability_after_B
        Of the explained label, and all below it.
    before_BT, after_BT
        The fused posteriors; zero for a cell without a count.
    """

    changed_B: np.ndarray
    shift_BE: np.ndarray
    cosine_B: np.ndarray
    label_B: np.ndarray
    label_after_B: np.ndarray
    explained_B: np.ndarray
    probability_B: np.ndarray
    probability_after_B: np.ndarray
    before_BT: np.ndarray
    after_BT: np.ndarray


def scaled(block_BV: sp.csr_matrix, token_V: np.ndarray, factor_G: np.ndarray) -> sp.csr_matrix:
    """Return the counts multiplied by the factors of their genes; the argument is not changed."""
    factor_V = np.where(token_V >= 0, factor_G[token_V], 1.0).astype(np.float32)
    after_BV = block_BV.copy()
    after_BV.data *= factor_V[after_BV.indices]
    after_BV.eliminate_zeros()
    return after_BV


def has_any(block_BV: sp.csr_matrix, token_V: np.ndarray, factor_G: np.ndarray) -> np.ndarray:
    """Return which cells have a count of a gene whose factor is not 1."""
    column = np.flatnonzero((token_V >= 0) & (factor_G[token_V] != 1))
    return np.asarray(np.diff(block_BV[:, column].indptr) > 0)


def change_of(
    cells: Cells, index: ReferenceIndex, block_BV: sp.csr_matrix, factor_G: np.ndarray
) -> Change:
    """Ask the model and the index about cells as they are, and with the counts scaled."""
    changed_B = has_any(block_BV, cells.token_V, factor_G)
    after_BV = scaled(block_BV[changed_B], cells.token_V, factor_G)
    before, said, before_BT = _asked(cells, index, block_BV)
    after, said_after, new_BT = _asked(cells, index, after_BV)
    counted_BT = counted_labels(said, index)
    shift_BE, after_BT = np.zeros_like(before.cell_BE), before_BT.copy()
    shift_BE[changed_B] = after.cell_BE - before.cell_BE[changed_B]
    after_BT[changed_B] = new_BT
    cosine_B, label_after_B = np.zeros(len(changed_B)), said.label.copy()
    near = np.einsum("be,be->b", before.cell_BE[changed_B], after.cell_BE, dtype=np.float64)
    # a cell that has no other gene has no vector without it
    cosine_B[changed_B] = np.where(after.total_B > 0, np.maximum(1 - near, 0), np.nan)
    label_after_B[changed_B] = said_after.label
    return Change(
        changed_B, shift_BE, cosine_B, said.label, label_after_B, explained_labels(said),
        (before_BT * counted_BT).sum(axis=1), (after_BT * counted_BT).sum(axis=1),
        before_BT, after_BT,
    )  # fmt: skip


def _asked(
    cells: Cells, index: ReferenceIndex, block_BV: sp.csr_matrix
) -> tuple[CellVectors, Decision, np.ndarray]:
    """Return vectors, answers and fused posteriors; the latter 0 for cells without a count."""
    if not block_BV.shape[0]:
        nothing_0E = np.zeros((0, cells.model.config.embed_dim), np.float32)
        vectors = CellVectors(nothing_0E, nothing_0E, np.zeros(0, np.float32))
        return vectors, Decision.join([]), np.zeros((0, len(index.labels)))
    vectors, score_BS, winner_B = embed_scored(
        cells.model, index, iter([block_BV]), cells.token_V, device=cells.device
    )
    parts = answer(index, vectors.cell_BE, vectors.type_BE, score_BS, winner_B=winner_B)
    said = Decision.join(list(parts))
    streams, _ = streams_of(index, vectors.cell_BE, vectors.type_BE, score_BS, index.calibration)
    fused_BT = fuse(streams, index.calibration)
    return vectors, said, np.where((vectors.total_B > 0)[:, None], fused_BT, 0.0)


def dilution(cells: Cells, block_BV: sp.csr_matrix, factor_G: np.ndarray) -> float:
    """Return how far log CP10k rises where other counts go: the mean of -log(1 - their share).

    Over the cells that have a count left; NaN where there is none.
    """
    known_V = cells.token_V >= 0
    after_BV = scaled(block_BV, cells.token_V, factor_G)
    before_B, after_B = (
        np.asarray(x[:, known_V].sum(axis=1), float).ravel() for x in (block_BV, after_BV)
    )
    kept = after_B > 0
    return float(np.log(before_B[kept] / after_B[kept]).mean()) if kept.any() else float("nan")


def mean_rates(
    cells: Cells, block_BV: sp.csr_matrix, factor_G: np.ndarray, gene_Q: np.ndarray
) -> tuple[int, np.ndarray, np.ndarray]:
    """Return how many cells were read, and mean predicted log CP10k before and after (Q each).

    A cell that has no count left is not read. Only sums are kept.
    """
    after_BV = scaled(block_BV, cells.token_V, factor_G)
    kept = np.diff(after_BV[:, cells.token_V >= 0].indptr) > 0
    n, n_genes = int(kept.sum()), cells.model.config.n_genes
    sums = []
    for part_BV in (block_BV[kept], after_BV[kept]):
        sum_G = np.zeros(n_genes)
        for read in read_genes(
            cells.model, iter([part_BV]), cells.token_V, always(gene_Q), device=cells.device
        ):
            sum_G += np.bincount(read.gene_M, read.log_rate_M, n_genes)
        sums.append(sum_G[gene_Q] / n if n else np.full(len(gene_Q), np.nan))
    return n, sums[0], sums[1]
