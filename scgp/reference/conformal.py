"""Label sets with a coverage promise: split-conformal prediction on the ontology.

Pure functions on arrays. A set holds the labels of highest probability: every label that has at
most a certain mass ahead of it, which was fitted on held-out cells (Romano, Sesia and Candes 2020,
without their randomisation, so sets are a little too large rather than random). The promise is a
mean over cells like those of the calibration: of studies, donors and types that look alike. No
method can promise it for each study.

Shapes: B cells, T labels.
"""

from __future__ import annotations

import numbers
from typing import TYPE_CHECKING, Any

import numpy as np

from scgp.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: Coverages that are fitted, in hundredths; another takes the next higher one.
LEVELS = 99
#: The mass of a level that no set reaches: too few cells, or too many of types without a label.
NEVER = 2.0
# Masses are sums of floats.
_SLACK = 1e-9


def mass_ahead(
    prob_BT: NDArray[np.floating[Any]], covers_BT: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the mass of the labels ahead of the first that covers the truth; `NEVER`: none does.

    Examples
    --------
    >>> mass_ahead(np.array([[0.2, 0.5, 0.3]]), np.array([[True, False, False]]))
    array([0.8])
    """
    order_BT, ahead_BT = _ahead(prob_BT)
    hit_BT = np.take_along_axis(covers_BT, order_BT, axis=1)
    ahead_B = np.take_along_axis(ahead_BT, hit_BT.argmax(axis=1)[:, None], axis=1)[:, 0]
    return np.where(hit_BT.any(axis=1), ahead_B, NEVER)


def _ahead(prob_BT: NDArray[np.floating[Any]]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return labels by falling probability, equal ones in their order, and the mass before each."""
    order_BT = np.argsort(-prob_BT, axis=1, kind="stable")
    sorted_BT = np.take_along_axis(prob_BT, order_BT, axis=1)
    mass_BT = np.cumsum(sorted_BT, axis=1, dtype=np.float64)
    ahead_BT = np.concatenate([np.zeros((len(prob_BT), 1)), mass_BT[:, :-1]], axis=1)
    return order_BT, np.minimum(ahead_BT, 1.0)


def fit_set_mass(
    ahead_B: NDArray[np.floating[Any]], weight_B: NDArray[np.floating[Any]]
) -> tuple[float, ...]:
    """Return the mass of each level, 1 % to `LEVELS` %: a weighted quantile of `mass_ahead`.

    With the correction for finite samples: of n cells (1 / sum of squared weights), the share
    that must be covered is (n + 1) / n of the level.

    Examples
    --------
    >>> mass = fit_set_mass(np.array([0.2, 0.4, 0.6, 0.8]), np.ones(4))
    >>> mass[49], mass[79], mass[80]  # 50 %, 80 %, 81 %: four cells cannot promise the last
    (0.6, 0.8, 2.0)
    """
    if not len(ahead_B):
        return ()
    share_B = weight_B / weight_B.sum()
    n_cells = 1 / float(share_B @ share_B)
    order_B = np.argsort(ahead_B, kind="stable")
    below_B = np.cumsum(share_B[order_B])
    wanted = np.arange(1, LEVELS + 1) / 100 * (1 + 1 / n_cells)
    at = np.searchsorted(below_B, wanted - _SLACK)
    mass = np.append(np.asarray(ahead_B, np.float64)[order_B], NEVER)[at]
    return tuple(float(m) for m in mass)


def mass_for(coverage: float, set_mass: tuple[float, ...], n_cells: int) -> float:
    """Return the mass that a coverage needs.

    Parameters
    ----------
    coverage
        Share of cells whose set shall cover the truth, between 0 and 1.
    set_mass
        What `fit_set_mass` gave.
    n_cells
        Cells it was fitted to, for the message.

    Raises
    ------
    ArgumentError
        The coverage is out of range, or the calibration cells do not suffice for it.
    """
    real = isinstance(coverage, numbers.Real) and not isinstance(coverage, bool)
    if not (real and 0 < coverage < 1):
        msg = f"coverage is {coverage!r}; expected a share between 0 and 1, such as 0.9"
        raise ArgumentError(msg)
    if not set_mass:
        msg = (
            "this index has no calibration for label sets: build_index made it, or an earlier "
            "version, or it was trained on one donor. Training fits sets to held-out studies, as "
            "build_index does with use_rep= and study_key="
        )
        raise ArgumentError(msg)
    level = int(np.ceil(coverage * 100 - _SLACK))
    if level > LEVELS:
        msg = f"coverage is {coverage:g}, and sets are fitted up to {LEVELS / 100}; ask for less"
        raise ArgumentError(msg)
    mass = set_mass[level - 1]
    if mass >= NEVER:
        needed = int(np.ceil(coverage / (1 - coverage) - _SLACK))
        msg = (
            f"the calibration of this index ({n_cells} held-out cells) does not support a coverage "
            f"of {coverage:g}: that needs at least {needed} independent cells, and at most a share "
            f"of {1 - coverage:.2g} of them may be of types that the reference lacks; ask for less"
        )
        raise ArgumentError(msg)
    return mass


def label_sets(prob_BT: NDArray[np.floating[Any]], mass: float) -> NDArray[np.bool_]:
    """Return which labels are in the set of each cell: those with at most `mass` ahead of them.

    Never empty. Labels of equal probability enter in their order.

    Examples
    --------
    >>> label_sets(np.array([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]]), 0.7).astype(int).tolist()
    [[1, 1, 0], [1, 0, 1]]
    """
    order_BT, ahead_BT = _ahead(prob_BT)
    sets_BT = np.zeros(prob_BT.shape, dtype=bool)
    np.put_along_axis(sets_BT, order_BT, ahead_BT <= mass + _SLACK, axis=1)
    return sets_BT


def set_names(sets_BT: NDArray[np.bool_], labels: Sequence[str]) -> NDArray[np.object_]:
    """Return the labels of each set in one text; None for an empty one.

    Examples
    --------
    >>> set_names(np.array([[True, True], [False, True], [False, False]]), ["B cell", "T cell"])
    array(['B cell | T cell', 'T cell', None], dtype=object)
    """
    _, first, set_B = np.unique(
        np.packbits(sets_BT, axis=1), axis=0, return_index=True, return_inverse=True
    )
    texts = [
        " | ".join(labels[t] for t in np.flatnonzero(sets_BT[b]).tolist()) or None for b in first
    ]
    names: NDArray[np.object_] = np.array(texts, dtype=object)[set_B.ravel()]
    return names
