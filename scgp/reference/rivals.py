"""What a label that was asked for loses to likelier ones that exclude it, and what it keeps.

Pure functions on arrays. Knows neither how candidates are chosen (`scgp.reference.candidates`) nor
how the cost was fitted (`scgp.reference.fitting_among`).

Shapes: B cells, T labels of the reference, C candidates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scgp.reference.candidates import Candidates
    from scgp.reference.fusion import Fusion


def rival_mass(rolled_BT: NDArray[np.float64], rival_TC: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the largest mass of a label that excludes each candidate, B x C; 0 where none does.

    Parameters
    ----------
    rolled_BT
        Mass of each label with all below it.
    rival_TC
        As in `Candidates`.
    """
    columns = [rolled_BT[:, rival_T].max(axis=1, initial=0.0) for rival_T in rival_TC.T]
    largest_BC: NDArray[np.float64] = np.column_stack(columns)
    return largest_BC


def at_least_as_sure(
    sure_BC: NDArray[np.float64],
    rolled_BT: NDArray[np.float64],
    near_B1: NDArray[np.float64],
    candidates: Candidates,
    fusion: Fusion,
) -> NDArray[np.float64]:
    """Return confidences of candidates, none below that of a label that it covers (B x C).

    Only a label that lies below a rival too can be surer: what speaks for it speaks for the rival.
    "CD4 T cell" is a rival of "regulatory T cell", and holds the CD4 regulatory T cells.
    """
    crossed = np.flatnonzero(candidates.crossed_TC.any(axis=1))
    if not len(crossed):
        return sure_BC
    line_TT = candidates.below_TT | candidates.below_TT.T
    rival_BX = rival_mass(rolled_BT, ~line_TT[:, crossed])
    sure_BX = fusion.confidence(rolled_BT[:, crossed], near_B1, rival_BX)
    surer_BC = sure_BC.copy()
    for x, label in enumerate(crossed):
        of = candidates.crossed_TC[label]
        surer_BC[:, of] = np.maximum(surer_BC[:, of], sure_BX[:, [x]])
    return surer_BC
