"""How good a matrix of co-variation is, and how well its differences between types replicate.

Arrays alone: no files, cells, models or tables. Each measure gives sums over genes that can be
weighted, so that a bootstrap over genes costs a product of matrices.

Shapes: G genes, P processes, K types, R resamples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.stats import rankdata

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.floating]
    Booleans = NDArray[np.bool_]

#: Partners that a gene must have, bins of detection, and genes of a process that are measured.
FEWEST_PARTNERS, N_BINS, FEWEST_OF_PROCESS = 5, 10, 10


class Moments(NamedTuple):
    """A correlation as sums over genes: products, and squares of both sides."""

    xy_G: Array
    xx_G: Array
    yy_G: Array

    def value(self) -> float:
        """Return the correlation over all genes."""
        return float(self.xy_G.sum() / np.sqrt(self.xx_G.sum() * self.yy_G.sum()))

    def resampled(self, weight_RG: Array) -> Array:
        """Return the correlation for each weighting of the genes."""
        xx_R, yy_R = weight_RG @ self.xx_G, weight_RG @ self.yy_G
        return np.asarray(weight_RG @ self.xy_G / np.sqrt(xx_R * yy_R))


def centred(corr_GG: Array) -> Array:
    """Take the means of both genes out of every pair; the diagonal has no part and is 0."""
    corr_GG = corr_GG.astype(np.float64)
    np.fill_diagonal(corr_GG, 0)
    n = len(corr_GG)
    # what each gene adds to its pairs: least squares over all pairs of different genes
    sum_G, total = corr_GG.sum(axis=1), corr_GG.sum()
    main_G = (sum_G - total / (2 * (n - 1))) / (n - 2)
    corr_GG -= main_G[:, None] + main_G[None]
    np.fill_diagonal(corr_GG, 0)
    return np.asarray(corr_GG, np.float32)


def without_means(value_GP: Array) -> Array:
    """Take the means of rows and of columns away: what is left is the interaction."""
    value_GP = value_GP - value_GP.mean(axis=0)
    return np.asarray(value_GP - value_GP.mean(axis=1, keepdims=True))


def partner_auroc(corr_GG: Array, share_GG: Booleans, detected_G: Array) -> Array:
    """Return for each gene how its partners rank among genes that are detected as often.

    Every partner is held against all other genes of its own bin of detection that are no partners;
    .5 by chance. NaN for genes with fewer than `FEWEST_PARTNERS`.
    """
    n = len(corr_GG)
    bin_G = (rankdata(detected_G, method="ordinal") - 1) * N_BINS // n
    own_GG = np.eye(n, dtype=bool)
    wins_G, weight_G = np.zeros(n), np.zeros(n)
    for b in range(N_BINS):
        column = np.flatnonzero(bin_G == b)
        own_GB = own_GG[:, column]
        value_GB = np.where(own_GB, -np.inf, corr_GG[:, column])
        rank_GB = rankdata(value_GB, axis=1) - own_GB.any(axis=1, keepdims=True)
        share_GB = share_GG[:, column] & ~own_GB
        n1_G = share_GB.sum(axis=1)
        n0_G = len(column) - own_GB.any(axis=1) - n1_G
        u_G = (rank_GB * share_GB).sum(axis=1) - n1_G * (n1_G + 1) / 2
        use_G = (n1_G > 0) & (n0_G > 0)
        wins_G[use_G] += u_G[use_G] / n0_G[use_G]
        weight_G[use_G] += n1_G[use_G]
    enough_G = weight_G >= FEWEST_PARTNERS
    return np.where(enough_G, wins_G / np.maximum(weight_G, 1), np.nan)


def over_pairs(x_GG: Array, y_GG: Array, weight_RG: Array) -> tuple[float, Array]:
    """Correlate two centred matrices over pairs of genes: as it is, and for each weighting."""
    moments_R = [
        ((weight_RG @ product) * weight_RG).sum(axis=1)
        for product in (x_GG * y_GG, x_GG**2, y_GG**2)
    ]
    xy, xx, yy = (float((a * b).sum(dtype=np.float64)) for a, b in _pairs_of(x_GG, y_GG))
    with np.errstate(invalid="ignore"):
        resampled_R = moments_R[0] / np.sqrt(moments_R[1] * moments_R[2])
        return float(np.divide(xy, np.sqrt(xx * yy))), np.asarray(resampled_R)


def _pairs_of(x_GG: Array, y_GG: Array) -> tuple[tuple[Array, Array], ...]:
    return (x_GG, y_GG), (x_GG, x_GG), (y_GG, y_GG)


def left_of(x_GG: Array, z_GG: Array) -> Array:
    """Take the share of one centred matrix that another explains away."""
    slope = (x_GG * z_GG).sum(dtype=np.float64) / (z_GG * z_GG).sum(dtype=np.float64)
    return np.asarray(x_GG - np.float32(slope) * z_GG)


def role_profile(centred_GG: Array, member_GP: Booleans) -> Array:
    """Return the z of Mann and Whitney's test of each process among the partners of each gene.

    The gene itself is left out of its processes, and of those it is tested against.
    """
    n = len(centred_GG) - 1
    value_GG = centred_GG.copy()
    np.fill_diagonal(value_GG, -np.inf)
    rank_GG = np.asarray(rankdata(value_GG, axis=1) - 1, np.float32)  # the gene itself: 0
    size_GP = member_GP.sum(axis=0) - member_GP.astype(float)
    sum_GP = rank_GG @ member_GP.astype(np.float32)
    spread_GP = np.sqrt(size_GP * (n - size_GP) * (n + 1) / 12)
    return np.asarray((sum_GP - size_GP * (n + 1) / 2) / spread_GP)


def profile_agreement(x_GP: Array, y_GP: Array) -> tuple[Moments, Array]:
    """Hold interactions of genes and processes against those of another study.

    Returns the moments of the correlation over both, and for each gene how many of the other genes
    are less like its own profile in the other study (.5 by chance).
    """
    moments = Moments((x_GP * y_GP).sum(1), (x_GP**2).sum(1), (y_GP**2).sum(1))
    x_GP, y_GP = (a / np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-12)
                  for a in (x_GP, y_GP))  # fmt: skip
    cosine_GG = x_GP @ y_GP.T
    own_G = np.diag(cosine_GG)[:, None]
    less_G = (cosine_GG < own_G).sum(axis=1) + 0.5 * ((cosine_GG == own_G).sum(axis=1) - 1)
    return moments, less_G / (len(cosine_GG) - 1)


def changing(first_KGG: Sequence[Array], second_KGG: Sequence[Array]) -> Array:
    """Return how much each gene's company differs between types, noise taken out by halves.

    The sum over types and partners of what the type adds to a pair of genes in one half of the
    cells, times the same in the other half: its expectation has no noise.
    """
    means = [np.mean(half, axis=0) for half in (first_KGG, second_KGG)]
    found_G = np.zeros(len(means[0]))
    for a_GG, b_GG in zip(first_KGG, second_KGG, strict=True):
        found_G += ((a_GG - means[0]) * (b_GG - means[1])).sum(axis=1, dtype=np.float64)
    return found_G


def partial_spearman(x_G: Array, y_G: Array, taken_GC: Array) -> Moments:
    """Return the rank correlation with ranks of other columns, and their squares, taken out."""
    rank_GC = np.column_stack([rankdata(column) for column in taken_GC.T]) / len(x_G)
    design = np.column_stack([np.ones(len(x_G)), rank_GC, rank_GC**2])
    basis = np.linalg.qr(design)[0]
    x_G, y_G = (rankdata(a) / len(a) for a in (x_G, y_G))
    x_G, y_G = (a - basis @ (basis.T @ a) for a in (x_G, y_G))
    return Moments(x_G * y_G, x_G**2, y_G**2)
