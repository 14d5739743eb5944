"""Genes that part of the reference does not measure: what they would be, given those it does.

Files of different panels are one reference. A gene that a file lacks is not zero there, but
unknown; taken for zero it teaches that the file's types do not express it, and looks like a
difference between studies. Knows columns, masks and weights; neither labels nor what is fitted.

The model is factor analysis (Rubin and Thayer 1982): a cell's deviations from the mean are few
factors, and noise of each gene by itself. Unmeasured genes have their conditional mean, and the
noise that this mean lacks counts where their spread is taken (the EM algorithm; the doubt about the
factors themselves is left out).

Shapes: N cells, H genes, P sets of genes, K factors, B cells of a block.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from scipy.linalg import eigh

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

#: Factors, and rounds of the fit.
N_FACTORS, ROUNDS = 32, 3
#: A gene's own noise is at least this share of its variance, and this much.
LEAST_SHARE, LEAST_NOISE = 1e-3, 1e-4
#: Rows that are dense at once.
BLOCK = 1024


@dataclasses.dataclass(frozen=True, eq=False)
class Cells:
    """Cells whose genes are not all measured.

    Attributes
    ----------
    x_NH
        Values, CSR float32; 0 where a gene is not measured.
    weight_N
        Weights of the cells, which sum to 1.
    set_N
        Which set of genes each cell has.
    measured_PH
        The sets.
    mean_H
        Mean of each gene over the cells that measure it.
    """

    x_NH: sp.csr_matrix
    weight_N: NDArray[np.float64]
    set_N: NDArray[np.integer]
    measured_PH: NDArray[np.bool_]
    mean_H: NDArray[np.float32]

    def blocks(self, fill: Fill | None) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield rows and their deviations from the means, dense, with what `fill` adds."""
        for start in range(0, len(self.weight_N), BLOCK):
            part = slice(start, min(start + BLOCK, len(self.weight_N)))
            set_B = self.set_N[part]
            deviation_BH = self.x_NH[part].toarray() - self.mean_H
            deviation_BH *= self.measured_PH[set_B]
            if fill is not None:
                fill.into(deviation_BH, set_B, self.measured_PH)
            yield part, deviation_BH

    def moments(
        self, fill: Fill | None, group_N: NDArray[np.integer]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return second moments of the deviations (H x H), and their sums by group; weighted."""
        n_groups, n_genes = int(group_N.max(initial=0)) + 1, len(self.mean_H)
        second_HH, sum_RH = np.zeros((n_genes, n_genes)), np.zeros((n_groups, n_genes))
        for part, deviation_BH in self.blocks(fill):
            weight_B = self.weight_N[part].astype(np.float32)
            second_HH += (deviation_BH * weight_B[:, None]).T @ deviation_BH
            there, row_B = np.unique(group_N[part], return_inverse=True)
            entries = (weight_B, (row_B.ravel(), np.arange(len(weight_B))))
            sum_RH[there] += sp.csr_matrix(entries, (len(there), len(weight_B))) @ deviation_BH
        return second_HH, sum_RH

    @property
    def missing_H(self) -> NDArray[np.float64]:
        """Share of the weight that does not measure each gene."""
        weight_P = np.zeros(len(self.measured_PH))
        np.add.at(weight_P, self.set_N, self.weight_N)
        share_H: NDArray[np.float64] = weight_P @ ~self.measured_PH
        return share_H


@dataclasses.dataclass(frozen=True, eq=False)
class Fill:
    """Factors of the genes, and the noise of each."""

    factor_HK: NDArray[np.float32]
    noise_H: NDArray[np.float32]

    def into(
        self,
        deviation_BH: NDArray[np.float32],
        set_B: NDArray[np.integer],
        measured_PH: NDArray[np.bool_],
    ) -> None:
        """Write the conditional means of unmeasured genes into deviations."""
        for code in np.unique(set_B):
            there_H = measured_PH[code]
            if there_H.all():
                continue
            rows = np.flatnonzero(set_B == code)
            loading_JK = self.factor_HK[there_H] / self.noise_H[there_H][:, None]
            inner_KK = loading_JK.T @ self.factor_HK[there_H]
            inner_KK[np.diag_indices_from(inner_KK)] += 1
            score_BK = deviation_BH[np.ix_(rows, there_H)] @ loading_JK
            score_BK = np.linalg.solve(inner_KK, score_BK.T).T
            deviation_BH[np.ix_(rows, ~there_H)] = score_BK @ self.factor_HK[~there_H].T


def fit_fill(cells: Cells) -> Fill | None:
    """Fit factors to cells; None where every cell measures every gene."""
    missing_H = cells.missing_H
    if not (missing_H > 0).any() or len(missing_H) < 2:
        return None
    fill = None
    for _ in range(ROUNDS):
        second_HH, _ = cells.moments(fill, np.zeros_like(cells.set_N))
        if fill is not None:
            second_HH[np.diag_indices_from(second_HH)] += fill.noise_H * missing_H
        fill = _factors(second_HH)
    return fill


def _factors(second_HH: NDArray[np.float64]) -> Fill:
    """Return the leading factors of second moments, and what they leave of each gene's own."""
    n_genes = len(second_HH)
    n_factors = min(N_FACTORS, n_genes - 1)
    value_K, vector_HK = eigh(second_HH, subset_by_index=[n_genes - n_factors, n_genes - 1])
    own_H = np.diag(second_HH)
    rest = max((own_H.sum() - value_K.sum()) / (n_genes - n_factors), 0.0)
    factor_HK = vector_HK * np.sqrt(np.maximum(value_K - rest, 0.0))
    noise_H = np.maximum(own_H - (factor_HK**2).sum(axis=1), LEAST_SHARE * own_H + LEAST_NOISE)
    return Fill(factor_HK.astype(np.float32), noise_H.astype(np.float32))
