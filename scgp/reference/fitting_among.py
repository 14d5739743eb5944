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
from scipy.optimize import minimize_scalar
from scipy.special import logit

from scgp.reference.evidence import Fusion, fuse, lag, pool

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
    pairs = [_asked(fusion, cells, scorer, size) for size in PANELS]
    odds_M, lag_M, holds_M = (np.concatenate(part) for part in zip(*pairs, strict=True))
    weight_M = np.tile(cells.weights(NOVEL_WEIGHT), len(PANELS))

    def loss(slope: float) -> float:
        asked_M = odds_M + slope * lag_M
        return float(weight_M @ (np.logaddexp(0, asked_M) - holds_M * asked_M))

    found = minimize_scalar(loss, bounds=(0.0, _STEEPEST), method="bounded")
    return dataclasses.replace(fusion, slope_rival=float(found.x))


def _asked(
    fusion: Fusion, cells: HeldOut, scorer: Scorer, size: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Ask each cell for the best of its own panel of labels.

    Returns
    -------
    The log odds of the map of best labels, how far it is behind the likeliest label on another
    line, and whether it holds.
    """
    rng = np.random.default_rng(size)
    there_BT = cells.there()
    line_TT = scorer.right_TT | scorer.right_TT.T
    key_BT = np.where(there_BT, rng.random(there_BT.shape), 2.0)
    last_B1 = np.sort(key_BT, axis=1)[:, [min(size, key_BT.shape[1]) - 1]]
    panel_BT = there_BT & (key_BT <= last_B1)
    best_B = np.where(panel_BT, fuse(cells.streams, fusion), -1.0).argmax(axis=1)
    mass_BT = pool(cells.streams, fusion) @ scorer.right_TT.T
    mass_B = np.take_along_axis(mass_BT, best_B[:, None], axis=1)[:, 0]
    rival_B = np.where(there_BT & ~line_TT[best_B], mass_BT, 0.0).max(axis=1)
    odds_B = logit(fusion.confidence(mass_B, cells.nearest_B))
    return odds_B, lag(mass_B, rival_B), line_TT[cells.class_B, best_B]
