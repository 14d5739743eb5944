"""A logistic map fitted to weighted answers, with bounds on its slopes (Platt 1999).

Shape suffixes: M answers, F features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def fit_logistic(
    feature_MF: NDArray[np.float64],
    holds_M: NDArray[np.bool_],
    weight_M: NDArray[np.float64],
    *,
    bounds: Sequence[tuple[float | None, float | None]],
    ridge: float,
) -> tuple[float, ...]:
    """Return the slope of each feature; the search starts from 1 for the first and 0.

    Parameters
    ----------
    feature_MF
        The last may be 1 throughout, for an offset.
    holds_M, weight_M
        Whether each answer holds, and what it counts.
    bounds
        Least and largest slope of each feature; None: any.
    ridge
        Strength of the prior that all slopes are 0.
    """
    wanted_M = holds_M.astype(float)

    def loss(slope_F: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        odds_M = feature_MF @ slope_F
        value = weight_M @ (np.logaddexp(0, odds_M) - wanted_M * odds_M)
        slope = feature_MF.T @ (weight_M * (expit(odds_M) - wanted_M))
        return float(value + ridge / 2 * slope_F @ slope_F), slope + ridge * slope_F

    start = np.eye(1, feature_MF.shape[1])[0]
    fitted = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=list(bounds))
    return tuple(map(float, fitted.x))
