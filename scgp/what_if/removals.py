"""What becomes of a phenotype's log odds when a gene is removed: of all genes, over many cells.

Owns the sums over the cells of a phenotype and unit: of estimates (`reference.screening`) for every
expressed gene, of true removals (`occlusion`) for chosen ones. Must not know what units mean, nor
which genes are chosen.

Shape suffixes: B cells, G genes of the model, T labels, S scores of the gene head, R removals.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from scgp.device import lent
from scgp.embed import CHUNK
from scgp.explaining.occlusion import embed_scored, without
from scgp.reference.answer import streams_of
from scgp.reference.evidence import fuse
from scgp.reference.fusion import FLOOR
from scgp.reference.screening import removal_effects

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from scgp.cells.counts import CountMatrix
    from scgp.model.checkpoint import Model
    from scgp.reference.index import ReferenceIndex
    from scgp.what_if.asked import Asked


@dataclasses.dataclass(frozen=True, eq=False)
class Cells:
    """Where cells are read, and as what.

    Attributes
    ----------
    counts
        Their counts.
    token_V
        Gene of the model of each column, -1 for none.
    model, device
        What reads them, and where.
    """

    counts: CountMatrix
    token_V: np.ndarray
    model: Model
    device: torch.device | str

    @property
    def measured_G(self) -> np.ndarray:
        """Genes that the columns measure."""
        measured_G = np.zeros(self.model.config.n_genes, dtype=bool)
        measured_G[self.token_V[self.token_V >= 0]] = True
        return measured_G


@dataclasses.dataclass(frozen=True, eq=False)
class Effects:
    """Sums over the cells of one phenotype and unit, for each gene (G).

    Attributes
    ----------
    n_cells
        Cells, those without a count of the gene included.
    n_G
        Cells with a count of it.
    sum_G, square_G
        Of the log odds that the cells lose without the gene, and of their squares; nats.
    """

    n_cells: int
    n_G: np.ndarray
    sum_G: np.ndarray
    square_G: np.ndarray

    @property
    def mean_G(self) -> np.ndarray:
        """Mean over all cells: a cell without a count loses nothing."""
        return np.asarray(self.sum_G / self.n_cells)

    @property
    def mean_expressing_G(self) -> np.ndarray:
        """Mean over the cells with a count; NaN where there is none."""
        nothing_G = np.full(len(self.n_G), np.nan)
        return np.asarray(np.divide(self.sum_G, self.n_G, out=nothing_G, where=self.n_G > 0))


def estimated(
    cells: Cells,
    rows: np.ndarray,
    index: ReferenceIndex,
    asked: Asked,
    *,
    advance: Callable[[int], object],
) -> Effects:
    """Estimate, to first order, what the cells at `rows` lose without each gene."""
    model, n_genes = cells.model, cells.model.config.n_genes
    measured_G = cells.measured_G
    sums = np.zeros((3, n_genes))
    with lent(model.network, cells.device):
        for start in range(0, len(rows), CHUNK):
            block_BV = cells.counts.take(rows[start : start + CHUNK])
            tokens = model.tokenizer.tokenize(block_BV, cells.token_V)
            head = index.gene_head
            values = tokens.values(n_genes)
            score_BS = None if head is None else head.scores(values, measured_G)
            lost_N = -removal_effects(
                model.network,
                tokens,
                index,
                score_BS,
                asked.counted_T,
                rival_BT=asked.rival_T,
            )
            weights = (np.ones_like(lost_N), lost_N, lost_N**2)
            sums += [np.bincount(tokens.pool_gene_N, w, n_genes) for w in weights]
            advance(block_BV.shape[0])
    return Effects(len(rows), *sums)


@dataclasses.dataclass(frozen=True, eq=False)
class Exact:
    """True removals of some genes: means over `n_R` cells, NaN where it is 0.

    ``odds_R`` is the log odds lost (nats), ``probability_R`` the fused probability lost.
    """

    n_R: np.ndarray
    odds_R: np.ndarray
    probability_R: np.ndarray


def exact(
    cells: Cells,
    rows: np.ndarray,
    index: ReferenceIndex,
    asked: Asked,
    gene_R: np.ndarray,
    *,
    n_cells: int,
    rng: np.random.Generator,
) -> Exact:
    """Remove each gene from at most ``n_cells`` of the cells that express it, and ask anew."""
    block_BV = cells.counts.take(rows)
    cell, which = _drawn(block_BV, cells.token_V, gene_R, n_cells, rng)
    used, place = np.unique(cell, return_inverse=True)
    whole = _asked(cells, [block_BV[used]], index, asked)
    lost = []
    for first in range(0, len(used), CHUNK // 4):  # as many cells' removals are in memory at once
        of = [which[place == b] for b in range(first, min(first + CHUNK // 4, len(used)))]
        cut = [
            without(block_BV[used[first + b]], cells.token_V, gene_R[r]) for b, r in enumerate(of)
        ]
        after = _asked(cells, cut, index, asked)
        before = np.repeat(whole[:, first : first + len(of)], [len(r) for r in of], axis=1)
        lost.append(np.vstack([np.concatenate(of), before - after]))
    all_3N = np.concatenate(lost, axis=1) if lost else np.zeros((3, 0))
    all_3N = all_3N[:, np.isfinite(all_3N).all(axis=0)]
    slot_N = all_3N[0].astype(np.int64)
    n_R = np.bincount(slot_N, minlength=len(gene_R))
    sums = [np.bincount(slot_N, lost_N, len(gene_R)) for lost_N in all_3N[1:]]
    nothing_R = np.full(len(gene_R), np.nan)
    means = [np.divide(s, n_R, out=nothing_R.copy(), where=n_R > 0) for s in sums]
    return Exact(n_R, *means)


def _drawn(
    block_BV: sp.csr_matrix,
    token_V: np.ndarray,
    gene_R: np.ndarray,
    n_cells: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of a cell and the position of a gene that it expresses, some of each gene."""
    pairs = []
    by_column = block_BV.tocsc()
    for r, gene in enumerate(gene_R):
        there = np.unique(by_column[:, np.flatnonzero(token_V == gene)].indices)
        kept = rng.permutation(there)[:n_cells]
        pairs.append(np.stack([kept, np.full(len(kept), r)]))
    cell, which = np.concatenate(pairs, axis=1) if pairs else np.zeros((2, 0), np.int64)
    order = np.argsort(cell, kind="stable")
    return cell[order].astype(np.int64), which[order].astype(np.int64)


def _asked(
    cells: Cells, parts: list[sp.csr_matrix], index: ReferenceIndex, asked: Asked
) -> np.ndarray:
    """Return log odds and fused probability of the counted labels (2 x R)."""
    blocks = iter([sp.vstack(parts, format="csr")] if parts else [])
    vectors, score_RS, _ = embed_scored(
        cells.model, index, blocks, cells.token_V, device=cells.device
    )
    if not len(vectors.cell_BE):
        return np.zeros((2, 0))
    fusion = index.calibration
    streams, _ = streams_of(index, vectors.cell_BE, vectors.type_BE, score_RS, fusion)
    fused_RT = fuse(streams, fusion)
    own_R, rival_R = fused_RT @ asked.counted_T, fused_RT @ asked.rival_T
    odds_R = np.log(np.maximum(own_R, FLOOR**3)) - np.log(np.maximum(rival_R, FLOOR**3))
    # of a cell that had nothing else, nothing can be said
    return np.where(vectors.total_B > 0, np.stack([odds_R, own_R]), np.nan)
