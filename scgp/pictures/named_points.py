"""Points that a reader can tell apart: numbered groups, and names beside points.

Draws on Axes it is given; makes no figure, and knows nothing of AnnData or of what is drawn.

Shape suffixes: N points of groups, T labels, P points named, D width, 2 coordinates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from scgp.pictures.legend import UNDECIDED, medoid, plain, pool, spread, wrap
from scgp.pictures.palette import GREY, MISSING_GREY, OTHER_GREY, colour

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

#: Markers of the headings, in their order; the last is that of groups without one.
MARKERS, NO_HEADING = "o^sDvP", "X"
#: Colours of groups that are no label; of several drawn together it is `OTHER_GREY`.
_GREYS = {"unknown": GREY, "no label": MISSING_GREY}
#: Where a name may stand, in points from its dot, nearest first: right, left, above, below, ...
_PLACES = [
    (float(np.cos(angle) * away), float(np.sin(angle) * away))
    for away in (8, 13, 20, 28, 38, 52, 70, 90)
    for angle in np.deg2rad([0, 180, 40, 140, 320, 220, 90, 270])
]


def principal_plane(
    vector_ND: NDArray[np.floating],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Project rows on their first two principal components.

    Returns the coordinates (N x 2), and the share of the variance of each of the two. The largest
    loading of a component is positive, so that the same rows always give the same picture.

    Examples
    --------
    >>> import numpy as np
    >>> xy_N2, share = principal_plane(np.array([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0]]))
    >>> xy_N2[:, 0].tolist(), share.tolist()
    ([-2.0, 0.0, 2.0], [1.0, 0.0])
    """
    centred_ND = np.asarray(vector_ND, dtype=np.float64)
    centred_ND = centred_ND - centred_ND.mean(axis=0)
    value_D, axis_DD = np.linalg.eigh(centred_ND.T @ centred_ND)
    axis_D2 = axis_DD[:, [-1, -2]]
    largest_2 = np.abs(axis_D2).argmax(axis=0)
    axis_D2 = axis_D2 * np.sign(axis_D2[largest_2, [0, 1]])
    share_2 = np.maximum(value_D[[-1, -2]], 0) / max(float(value_D.sum()), 1e-12)
    return centred_ND @ axis_D2, share_2


def draw_groups(
    ax: Axes,
    xy_N2: NDArray[np.float64],
    label_N: NDArray[np.object_],
    *,
    size: float,
    max_labels: int,
    headings: Mapping[str, Sequence[str]] | None = None,
    free_P2: NDArray[np.float64] | None = None,
    cells_N: NDArray[np.integer] | None = None,
) -> None:
    """Draw points by group, each with its colour, its number on it and an entry for the legend.

    Parameters
    ----------
    cells_N
        How many cells each point is of, for the legend; None: one.
    headings
        What stands above which labels in the legend; each heading has a marker of its own.
    free_P2
        Places that no number should hide.
    """
    label_N, names = pool(label_N, max_labels)
    own = [name for name in names if name not in UNDECIDED and not name.startswith("other (")]
    marker_of = dict.fromkeys(names, NO_HEADING if headings else MARKERS[0])
    ranked: list[str] = []
    for h, members in enumerate((headings or {}).values()):
        kept = [name for name in own if name in members]
        marker_of |= dict.fromkeys(kept, MARKERS[h % len(MARKERS)])
        ranked += kept
    ranked += [name for name in own if name not in ranked]
    face_of = {name: _GREYS.get(name, OTHER_GREY) for name in names}
    face_of |= {name: to_hex(colour(i)) for i, name in enumerate(ranked)}
    # Groups without a colour first, so that they lie below; the others in a fixed random order, so
    # that no group covers another by its place in the file.
    order_N = np.random.default_rng(0).permutation(len(label_N))
    below_N = np.array([label in ranked for label in label_N[order_N]], dtype=bool)
    order_N = order_N[np.argsort(below_N, kind="stable")]
    for marker in dict.fromkeys(marker_of.values()):
        rows = [i for i in order_N if marker_of[label_N[i]] == marker]
        face = [face_of[label_N[i]] for i in rows]
        ax.scatter(xy_N2[rows, 0], xy_N2[rows, 1], c=face, s=size, marker=marker, linewidths=0)
    rest = [name for name in names if name not in ranked]
    cells_N = np.ones(len(label_N), np.int64) if cells_N is None else cells_N
    n_of = {name: int(cells_N[label_N == name].sum()) for name in names}
    _fill_legend(ax, n_of, ranked, rest, face_of, marker_of, headings or {})
    free_P2 = np.zeros((0, 2)) if free_P2 is None else free_P2
    _write_numbers(ax, xy_N2, [label_N == name for name in ranked], free_P2)


def _fill_legend(  # noqa: PLR0917 (what is known of the groups)
    ax: Axes,
    n_of: Mapping[str, int],
    ranked: list[str],
    rest: list[str],
    face_of: Mapping[str, str],
    marker_of: Mapping[str, str],
    headings: Mapping[str, Sequence[str]],
) -> None:
    """Add an empty series for each heading and each group: these are what a legend shows.

    Those `ranked` have numbers, the `rest` has none.
    """
    heading_of = {name: told for told, members in headings.items() for name in members}
    last = ""
    for number, name in enumerate([*ranked, *rest], start=1):
        heading = heading_of.get(name, "no role") if headings else ""
        numbered = number <= len(ranked)
        if heading != last and numbered:
            ax.plot([], [], linestyle="none", label=wrap(heading))
            last = heading
        mark = str(number) if numbered else "–"  # noqa: RUF001
        text = wrap(f"{mark}  {name} ({n_of[name]:,})")
        ax.scatter(
            [], [], color=face_of[name], s=40, marker=marker_of[name], linewidths=0, label=text
        )


def _write_numbers(
    ax: Axes,
    xy_N2: NDArray[np.float64],
    members: list[NDArray[np.bool_]],
    free_P2: NDArray[np.float64],
) -> None:
    """Write the number of each group a little above one of its points: on it, it would hide it."""
    if not members:
        return
    low, span = xy_N2.min(axis=0), np.maximum(np.ptp(xy_N2, axis=0), 1e-9)
    anchor_T2 = np.stack([medoid(xy_N2[rows]) for rows in members])
    wanted_T2 = (anchor_T2 - low) / span + (0, 0.05)
    place_T2 = spread(np.concatenate([wanted_T2, (free_P2 - low) / span])) * span + low
    for number, (anchor, place) in enumerate(zip(anchor_T2, place_T2, strict=False), start=1):
        ax.annotate(
            str(number), xy=tuple(anchor), xytext=tuple(place), ha="center", va="center",
            fontsize=9, fontweight="bold", zorder=4,
            bbox={"boxstyle": "round,pad=0.2", "fc": "white", "ec": "#333333", "lw": 0.6},
            arrowprops={"arrowstyle": "-", "color": "#333333", "lw": 0.6},
        )  # fmt: skip


def legend_beside(ax: Axes) -> None:
    """Put what has a label into a legend to the right of the plot; headings are bold."""
    handles, labels = ax.get_legend_handles_labels()
    if not handles:
        return
    legend = ax.legend(
        handles, labels, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False,
        fontsize=8.5, ncols=1 if len(handles) <= 20 else 2,
    )  # fmt: skip
    for handle, text in zip(handles, legend.get_texts(), strict=True):
        text.set_fontweight("bold" if isinstance(handle, Line2D) else "normal")


def write_names(
    ax: Axes,
    xy_P2: NDArray[np.float64],
    names: Sequence[str],
    *,
    bold: Sequence[bool] | None = None,
) -> None:
    """Write every name beside its point, apart from the points named and from all that is written.

    To be called last: places are looked for once the layout stands. A name that finds none that is
    free takes the one where it covers least.
    """
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    frame = ax.get_window_extent()
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in ax.transData.transform(xy_P2)]
    taken += [text.get_window_extent() for text in ax.texts]
    for p, name in enumerate(names):
        best, least = _PLACES[0], np.inf
        for place in _PLACES:
            text = _written(ax, name, xy_P2[p], place, bold=bold is not None and bold[p])
            box = _box(text)
            text.remove()
            covered = _shared(box, taken) + 10 * (box.width * box.height - _shared(box, [frame]))
            if covered < least - 1e-6:
                best, least = place, covered
            if least < 1e-6:
                break
        text = _written(ax, name, xy_P2[p], best, bold=bold is not None and bold[p])
        text.set_in_layout(False)
        taken.append(_box(text))


def _written(
    ax: Axes, name: str, xy_2: NDArray[np.float64], place: tuple[float, float], *, bold: bool
) -> Annotation:
    """Write one name at `place`, in points from its own point; a line joins the two if far."""
    return ax.annotate(
        plain(name), (float(xy_2[0]), float(xy_2[1])), place, textcoords="offset points",
        fontsize=8.5, fontweight="bold" if bold else "normal", zorder=5,
        ha="left" if place[0] > 1 else "right" if place[0] < -1 else "center",
        va="center" if abs(place[1]) < 1 else "bottom" if place[1] > 0 else "top",
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
        arrowprops={"arrowstyle": "-", "lw": 0.6, "color": "#333333", "shrinkA": 0, "shrinkB": 3}
        if np.hypot(*place) > 9 else None,
    )  # fmt: skip


def _box(text: Annotation) -> Bbox:
    """Return where a name stands, without its line."""
    text.get_window_extent()  # moves it to its place: until then its box is that of the point
    return Text.get_window_extent(text).padded(1)


def _shared(box: Bbox, others: Sequence[Bbox]) -> float:
    """Return the area that a box has in common with others."""
    bounds = np.array([other.extents for other in others]).reshape(-1, 4)
    width = np.minimum(box.x1, bounds[:, 2]) - np.maximum(box.x0, bounds[:, 0])
    height = np.minimum(box.y1, bounds[:, 3]) - np.maximum(box.y0, bounds[:, 1])
    return float((np.clip(width, 0, None) * np.clip(height, 0, None)).sum())
