"""Whether an effect holds in one unit after another: pure statistics on arrays.

Knows no genes and no cells: units are rows, what is tested stands in columns.

Shape suffixes: U units, G tests.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

__all__ = ["adjusted", "combined_z", "random_effects_p", "ranks"]


def random_effects_p(mean_UG: np.ndarray, error_UG: np.ndarray) -> np.ndarray:
    """Return one-sided p values of "the mean over units is not above 0".

    Random-effects meta-analysis: the variance between units of DerSimonian and Laird (1986), and
    Knapp and Hartung's (2003) t statistic with one degree of freedom less than there are units,
    whose scale factor is held at 1 or above (Roever, Knapp and Friede 2015): few units that agree
    by chance must not look sure. Units are the replicates, not cells.

    Parameters
    ----------
    mean_UG
        Effect in each unit; NaN where it was not measured.
    error_UG
        Its standard error; 0 is taken as a thousandth of the largest of the test.

    Returns
    -------
    G values; NaN for a test of fewer than two units, 1 where all effects are 0.

    Examples
    --------
    >>> effect = np.array([[1.0, 1.0, 1.0], [1.1, -1.0, np.nan], [0.9, 0.5, np.nan]])
    >>> random_effects_p(effect, np.full((3, 3), 0.1)).round(3).tolist()
    [0.002, 0.404, nan]
    """
    there_UG = np.isfinite(mean_UG)
    n_G = there_UG.sum(axis=0)
    x_UG = np.where(there_UG, mean_UG, 0.0)
    error_UG = np.where(there_UG, error_UG, 0.0)
    floor_G = np.maximum(error_UG.max(axis=0, initial=0.0) * 1e-3, 1e-12)
    variance_UG = np.maximum(error_UG, floor_G) ** 2
    weight_UG = there_UG / variance_UG
    total_G = np.maximum(weight_UG.sum(axis=0), np.finfo(float).tiny)
    fixed_G = (weight_UG * x_UG).sum(axis=0) / total_G
    spread_G = (weight_UG * (x_UG - fixed_G) ** 2).sum(axis=0)
    slack_G = total_G - (weight_UG**2).sum(axis=0) / total_G
    between_G = np.divide(
        spread_G - (n_G - 1), slack_G, out=np.zeros_like(total_G), where=slack_G > 0
    ).clip(min=0)
    weight_UG = there_UG / (variance_UG + between_G)
    total_G = np.maximum(weight_UG.sum(axis=0), np.finfo(float).tiny)
    mean_G = (weight_UG * x_UG).sum(axis=0) / total_G
    freedom_G = np.maximum(n_G - 1, 1)
    scale_G = (weight_UG * (x_UG - mean_G) ** 2).sum(axis=0) / freedom_G
    t_G = mean_G * np.sqrt(total_G / np.maximum(scale_G, 1.0))
    p_G = np.where(x_UG.any(axis=0), stats.t.sf(t_G, freedom_G), 1.0)
    return np.where(n_G >= 2, p_G, np.nan)


def combined_z(z_UG: np.ndarray, weight_U: np.ndarray) -> np.ndarray:
    """Return Stouffer's sum of z values; NaN ones have no part, and all of them give NaN.

    Examples
    --------
    >>> combined_z(np.array([[2.0, np.nan], [2.0, np.nan]]), np.ones(2)).round(2).tolist()
    [2.83, nan]
    """
    weight_UG = np.isfinite(z_UG) * weight_U[:, None]
    length_G = np.sqrt((weight_UG**2).sum(axis=0))
    sum_G = (weight_UG * np.nan_to_num(z_UG)).sum(axis=0)
    nothing_G = np.full(z_UG.shape[1], np.nan)
    return np.asarray(np.divide(sum_G, length_G, out=nothing_G, where=length_G > 0))


def adjusted(p_G: np.ndarray) -> np.ndarray:
    """Return Benjamini and Hochberg's (1995) q values; NaN stays, and is no test.

    Examples
    --------
    >>> adjusted(np.array([0.01, np.nan, 0.04])).tolist()
    [0.02, nan, 0.04]
    """
    q_G = np.full(len(p_G), np.nan)
    tested = np.flatnonzero(np.isfinite(p_G))
    if tested.size:
        q_G[tested] = stats.false_discovery_control(p_G[tested])
    return q_G


def ranks(value_G: np.ndarray) -> np.ndarray:
    """Return ranks, 1 for the largest; ties by position. NaN has none (NaN).

    Examples
    --------
    >>> ranks(np.array([0.5, np.nan, 2.0])).tolist()
    [2.0, nan, 1.0]
    """
    order_G = np.argsort(-value_G, kind="stable")  # NaN comes last
    rank_G = np.empty(len(value_G))
    rank_G[order_G] = np.arange(1, len(value_G) + 1)
    return np.where(np.isnan(value_G), np.nan, rank_G)
