"""A logistic map fitted to weighted answers, with bounds on its slopes (Platt 1999).

Shape suffixes: M answers, F features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: A feature that varies less is constant, and has no slope.
_LEAST_DEVIATION = 1e-9


def fit_logistic(
    feature_MF: NDArray[np.float64],
    holds_M: NDArray[np.bool_],
    weight_M: NDArray[np.float64],
    *,
    bounds: Sequence[tuple[float | None, float | None]],
    ridge: float,
) -> tuple[float, ...]:
    """Return the slope of each feature, and the offset.

    Parameters
    ----------
    feature_MF
        What the answers are told apart by.
    holds_M, weight_M
        Whether each answer holds, and what it counts; weights sum to 1.
    bounds
        Least and largest slope of each feature; None: any.
    ridge
        Strength of the prior that slopes are 0, and the odds at the mean even, for features of
        weighted deviation 1: the scale on which a feature comes does not matter.
    """
    from scipy.optimize import minimize  # .2 s, which only a fit needs

    wanted_M = holds_M.astype(float)
    mean_F = weight_M @ feature_MF
    deviation_F = np.sqrt(weight_M @ (feature_MF - mean_F) ** 2)
    scale_F = np.where(deviation_F > _LEAST_DEVIATION, deviation_F, np.inf)  # constant: slope 0
    scaled_MF = np.column_stack([(feature_MF - mean_F) / scale_F, np.ones(len(feature_MF))])

    def loss(slope_F: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        odds_M = scaled_MF @ slope_F
        value = weight_M @ (np.logaddexp(0, odds_M) - wanted_M * odds_M)
        slope = scaled_MF.T @ (weight_M * (expit(odds_M) - wanted_M))
        return float(value + ridge / 2 * slope_F @ slope_F), slope + ridge * slope_F

    start_F = np.zeros(len(mean_F) + 1)
    fitted = minimize(loss, start_F, jac=True, method="L-BFGS-B", bounds=[*bounds, (None, None)])
    slope_F = fitted.x[:-1] / scale_F
    return (*map(float, slope_F), float(fitted.x[-1] - slope_F @ mean_F))
