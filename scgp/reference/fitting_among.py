"""Fit how sure a label is that was asked for, to cells of held-out studies.

The map of `fitting` is fitted to best labels, which have most of the mass, or lie in line with what
has. The best of a few labels that somebody names may have hardly any, beside another that excludes
it. So the held-out cells are asked for panels of labels drawn at random, and what a likelier label
on another line costs is fitted to whether the best of the panel holds; all else stays.

Shape suffixes: B held-out cells, T classes, M pairs of cell and panel.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import logit

from scgp.reference.evidence import fuse, pool
from scgp.reference.fusion import Fusion, lag

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scgp.reference.fitting import HeldOut, Scorer

#: Labels in a panel; each cell is asked for one panel of each size. The smaller, the less often the
#: cell's own label is on it.
PANELS = (1, 3, 10, 30, 100)
#: What cells of types that the reference lacks weigh, as in the map of best labels.
NOVEL_WEIGHT = 0.25
#: The steepest cost that is looked for.
_STEEPEST = 5.0


def fit_among(fusion: Fusion, cells: HeldOut, scorer: Scorer) -> Fusion:
    """Fit `Fusion.slope_rival` by the likelihood of what holds.

    Parameters
    ----------
    fusion
        With weights and the map of best labels.
    cells
        Evidence on cells of held-out studies.
    scorer
        Of the classes.

    Returns
    -------
    The fusion with ``slope_rival``.
    """
    from scipy.optimize import minimize_scalar  # .2 s, which only a fit needs

    there_BT, line_TT = cells.there(), scorer.right_TT | scorer.right_TT.T
    posterior_BT = np.where(there_BT, fuse(cells.streams, fusion), -1.0)
    mass_BT = pool(cells.streams, fusion) @ scorer.right_TT.T
    asked = [_best_of_panel(posterior_BT, there_BT, size) for size in PANELS]
    best_M, row_M = np.concatenate(asked), np.tile(np.arange(len(there_BT)), len(PANELS))
    rival_M = np.concatenate([_rival(mass_BT, there_BT, line_TT, best_B) for best_B in asked])
    mass_M = mass_BT[row_M, best_M]
    odds_M = logit(fusion.confidence(mass_M, cells.nearest_B[row_M]))
    lag_M = lag(mass_M, rival_M)
    holds_M = line_TT[cells.class_B[row_M], best_M]
    weight_M = cells.weights(NOVEL_WEIGHT)[row_M]

    def loss(slope: float) -> float:
        asked_M = odds_M + slope * lag_M
        return float(weight_M @ (np.logaddexp(0, asked_M) - holds_M * asked_M))

    found = minimize_scalar(loss, bounds=(0.0, _STEEPEST), method="bounded")
    return dataclasses.replace(fusion, slope_rival=float(found.x))


def _best_of_panel(
    posterior_BT: NDArray[np.float64], there_BT: NDArray[np.bool_], size: int
) -> NDArray[np.intp]:
    """Return the likeliest label of each cell's own panel, drawn from those that are there."""
    rng = np.random.default_rng(size)
    key_BT = np.where(there_BT, rng.random(there_BT.shape), 2.0)
    last_B1 = np.sort(key_BT, axis=1)[:, [min(size, key_BT.shape[1]) - 1]]
    panel_BT = there_BT & (key_BT <= last_B1)
    return np.where(panel_BT, posterior_BT, -1.0).argmax(axis=1)


def _rival(
    mass_BT: NDArray[np.float64],
    there_BT: NDArray[np.bool_],
    line_TT: NDArray[np.bool_],
    best_B: NDArray[np.intp],
) -> NDArray[np.float64]:
    """Return the largest mass of a label on another line."""
    rival_B: NDArray[np.float64] = np.where(there_BT & ~line_TT[best_B], mass_BT, 0.0).max(axis=1)
    return rival_B
