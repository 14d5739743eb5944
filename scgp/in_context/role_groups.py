"""Contexts of a gene joined into roles: distances of mean interactions, less their noise.

Pure functions of arrays; knows neither genes nor networks.

Shape suffixes: C cells, K contexts, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Most roles that are looked for; a silhouette below this means one role.
MOST_ROLES, LEAST_SILHOUETTE = 6, 0.25
#: Share of the tables of equal contexts in which some two of them are taken to be apart.
CHANCE = 0.05
#: Contexts that are not apart are still this share of what was measured from each other: where
#: roles are asked for, the nearest are joined first.
LEAST_APART = 1e-6


@dataclass(frozen=True, eq=False)
class Noise:
    """How far the mean interactions of contexts are from what more cells would give.

    Attributes
    ----------
    square_K
        Expected square of that, by context.
    freedom
        In how many directions of equal variance the noise would have to be, to vary as it does.
    """

    square_K: np.ndarray
    freedom: float


def noise_of(interaction_CD: np.ndarray, mean_KD: np.ndarray, code_C: np.ndarray) -> Noise:
    """Return the noise of each context's mean, from how its cells differ.

    ``freedom`` is Satterthwaite's: the square of the trace of the cells' covariance within
    contexts, over the trace of its square.
    """
    apart_CD = interaction_CD - mean_KD[code_C]
    size_K = np.bincount(code_C, minlength=len(mean_KD))
    square_K = np.bincount(code_C, (apart_CD**2).sum(axis=1), len(mean_KD))
    product_DD = apart_CD.T @ apart_CD
    trace = float(np.trace(product_DD))
    freedom = trace**2 / float((product_DD**2).sum()) if trace > 0 else 1.0
    return Noise(square_K / np.maximum(size_K - 1, 1) / size_K, freedom)


def joined(mean_KD: np.ndarray, noise: Noise, n_roles: int | None) -> np.ndarray:
    """Join contexts by average linkage and return the role of each.

    Parameters
    ----------
    mean_KD
        Mean interaction of each context.
    noise
        Of these means (`noise_of`).
    n_roles
        Number of roles; None: that of the best silhouette, or one.
    """
    from scipy.cluster.hierarchy import cut_tree, linkage
    from scipy.spatial.distance import squareform

    n_contexts = len(mean_KD)
    square_KK = ((mean_KD[:, None] - mean_KD[None]) ** 2).sum(axis=-1)
    distance_KK = _distances(square_KK, noise)
    least_KK = np.maximum(distance_KK, LEAST_APART * np.sqrt(square_KK))
    tree = linkage(squareform(least_KK, checks=False), "average")
    if n_roles is not None:
        return np.asarray(cut_tree(tree, min(n_roles, n_contexts))[:, 0])
    best, chosen = LEAST_SILHOUETTE, np.ones(n_contexts, np.int64)
    for n in range(2, min(MOST_ROLES, n_contexts - 1) + 1):
        role_K = np.asarray(cut_tree(tree, n)[:, 0])
        score = silhouette(distance_KK, role_K)
        if score > best:
            best, chosen = score, role_K
    return chosen


def _distances(square_KK: np.ndarray, noise: Noise) -> np.ndarray:
    """Return what is left of distances without their noise; 0 where that may be all of them.

    Without the latter half of the squares of equal contexts would exceed their noise, and the
    silhouette find roles among them.
    """
    from scipy.stats import chi2

    noise_KK = noise.square_K[:, None] + noise.square_K
    n_pairs = len(square_KK) * (len(square_KK) - 1) / 2
    beyond = chi2.isf(CHANCE / n_pairs, noise.freedom) / noise.freedom
    distance_KK = np.sqrt(np.where(square_KK > beyond * noise_KK, square_KK - noise_KK, 0.0))
    np.fill_diagonal(distance_KK, 0)
    return distance_KK


def silhouette(distance_KK: np.ndarray, role_K: np.ndarray) -> float:
    """Return the mean silhouette (Rousseeuw 1987); a context alone in its role counts 0."""
    scores = []
    for k, role in enumerate(role_K):
        own = np.flatnonzero((role_K == role) & (np.arange(len(role_K)) != k))
        if not len(own):
            scores.append(0.0)
            continue
        a = distance_KK[k, own].mean()
        b = min(distance_KK[k, role_K == other].mean() for other in set(role_K) - {role})
        scores.append((b - a) / max(a, b, 1e-12))
    return float(np.mean(scores))
