"""How labels are told apart in a plot: their order, numbers and line breaks.

Owns no library; knows arrays of labels and coordinates, and nothing of AnnData or Axes. Their
colours are in `palette`.

Shape suffixes: N cells, T labels, 2 coordinates.
"""

from __future__ import annotations

import numbers
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from scgp.errors import ArgumentError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

UNDECIDED = ("unknown", "no label")
_FIELDS = 12  # by which the midst of a group is found, along each side
_WIDTH = 38  # characters of a line; Cell Ontology labels run to over a hundred


def as_labels(values: pd.Series[Any]) -> NDArray[np.object_]:
    """Return the labels as text, a missing one as "no label"."""
    filled = values.astype(object).where(values.notna(), "no label")
    return filled.astype(str).to_numpy(dtype=object)


def pool(label_N: NDArray[np.object_], max_labels: int) -> tuple[NDArray[np.object_], list[str]]:
    """Keep the most frequent labels, ties by name; the rest becomes one group.

    Returns the label of each cell and the labels in order, the group last.

    Examples
    --------
    >>> import numpy as np
    >>> pool(np.array(["b", "a", "c", "b"], dtype=object), 1)[1]
    ['b', 'other (2 labels)']
    """
    if not isinstance(max_labels, numbers.Integral) or max_labels < 1:
        message = f"max_labels must be a whole number of at least 1, found {max_labels!r}"
        raise ArgumentError(message)
    names, counts = np.unique(label_N.astype(str), return_counts=True)
    ranked = [str(names[i]) for i in np.lexsort((names, -counts))]
    if len(ranked) <= max_labels:
        return label_N, ranked
    kept = ranked[:max_labels]
    rest = f"other ({len(ranked) - max_labels} labels)"
    return np.where(np.isin(label_N.astype(str), kept), label_N, rest), [*kept, rest]


def medoid(xy_N2: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a cell in the midst of the others, so that a number lies on cells of its own label.

    It is the cell nearest the median of those in the fullest field and its neighbours, of 12 by 12
    fields that hold all cells: of a label that lies in several places, a cell of the largest.

    Examples
    --------
    >>> import numpy as np
    >>> here, there = np.zeros((3, 2)), np.ones((4, 2))
    >>> medoid(np.concatenate([here, there])).tolist()
    [1.0, 1.0]
    """
    low_2, side_2 = xy_N2.min(axis=0), np.ptp(xy_N2, axis=0)
    field_N2 = np.floor((xy_N2 - low_2) / np.where(side_2 > 0, side_2, 1) * _FIELDS).astype(int)
    field_N2 = np.minimum(field_N2, _FIELDS - 1)
    n_FF = np.zeros((_FIELDS + 2, _FIELDS + 2))
    np.add.at(n_FF, (field_N2[:, 0] + 1, field_N2[:, 1] + 1), 1)
    around_FF = sum(n_FF[i : i + _FIELDS, j : j + _FIELDS] for i in range(3) for j in range(3))
    fullest_2 = np.unravel_index(int(np.argmax(around_FF)), (_FIELDS, _FIELDS))
    near_N = np.abs(field_N2 - fullest_2).max(axis=1) <= 1
    away_N = np.square(xy_N2 - np.median(xy_N2[near_N], axis=0)).sum(axis=1)
    return np.asarray(xy_N2[int(away_N.argmin())])


def spread(unit_T2: NDArray[np.float64], *, gap: float = 0.055) -> NDArray[np.float64]:
    """Push numbers apart until none is nearer to another than ``gap`` of the plot's side."""
    place_T2 = unit_T2 + np.random.default_rng(0).normal(scale=1e-4, size=unit_T2.shape)
    for _ in range(200):
        apart_TT2 = place_T2[:, None] - place_T2[None]
        distance_TT = np.linalg.norm(apart_TT2, axis=2)
        np.fill_diagonal(distance_TT, np.inf)
        push_TT = np.clip(gap - distance_TT, 0, None) / 2
        if not push_TT.any():
            break
        place_T2 += (apart_TT2 * (push_TT / distance_TT)[:, :, None]).sum(axis=1)
    return place_T2


def plain(text: str) -> str:
    """Escape the dollars of a name, which matplotlib would read as formulas, or fail to.

    Examples
    --------
    >>> plain("$x$") == chr(92) + "$x" + chr(92) + "$"
    True
    """
    return text.replace("$", r"\$")


def wrap(text: str) -> str:
    """Break a long label at its spaces, and make it `plain`."""
    lines = textwrap.wrap(text, _WIDTH, subsequent_indent="    ", break_on_hyphens=False)
    return plain("\n".join(lines))
