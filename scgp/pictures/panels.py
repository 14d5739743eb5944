"""The three panels of one explained answer: genes, streams, nearest cells.

Draws what `scgp.explain` found; computes nothing.

Shape suffixes: T labels, S streams.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np

from scgp.errors import ArgumentError
from scgp.explaining.explanation import leaf_told
from scgp.pictures.legend import plain, wrap
from scgp.pictures.palette import colour

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from scgp.explaining.explanation import Explanation

#: Names of the streams under the dots, in the order of the columns.
_STREAMS = {
    "neighbour": "nearest\ncells",
    "text": "text",
    "head": "linear\nhead",
    "gene": "gene\nhead",
    "described": "descrip-\ntion",
    "background": "back-\nground",
    "pairwise": "pair-\nwise",
    "fused": "fused",
}
#: Those that have a column only where they say something.
_OPTIONAL = {"background", "pairwise"}
#: Labels of the middle panel, and cells of the right one.
_LABELS, _CELLS = 10, 10
#: Area of the dot of probability 1, the least probability that has its number written, and the
#: least that has it on its dot: below one, for beside it the number would lie on the next.
_AREA, _WRITTEN, _INSIDE = 560.0, 0.10, 0.35
#: Columns for which there is room for dots of that area.
_COLUMNS = 6
_FOR, _AGAINST = colour(0), colour(5)


def explain(
    explanation: Explanation,
    cell: str | None = None,
    *,
    axes: Sequence[Axes] | NDArray[np.object_] | None = None,
) -> NDArray[np.object_]:
    """Draw why one cell has its label: genes, what each stream says, nearest reference cells.

    Parameters
    ----------
    explanation
        What :func:`scgp.explain` returned.
    cell
        Name of one of its cells; by default the first that has a count.
    axes
        Three Axes to draw on; by default those of a new figure, which has the answer as its title,
        and the best label and its doubt where that is not the answer.

    Returns
    -------
    The three Axes. Left: how much of the label's fused probability goes when a gene is removed,
    with the gene's counts. Middle: the probability of the first ten labels in each stream (area of
    the dot; a ring round the first of each), with the stream's share in the fusion. Right: the
    cosines of the nearest reference cells, with their labels and studies; an open dot was drawn
    from a mean profile.

    Raises
    ------
    ArgumentError
        There is no such cell in the explanation, it is empty, or `axes` are not three.
    """
    row = _answer(explanation, cell)
    if axes is None:
        wider = 2.0 * len(_OPTIONAL & set(explanation.streams["stream"]))  # columns more
        figure, made = plt.subplots(
            1, 3, figsize=(15 + wider, 6), layout="constrained",
            width_ratios=[1.0, 1.5 + 0.2 * wider, 1.1],
        )  # fmt: skip
        figure.suptitle(plain(_headline(row)), fontsize=13, fontweight="bold")
        axes = made
    drawn = np.asarray(axes, dtype=object).ravel()
    if len(drawn) != 3:
        message = f"axes are {len(drawn)}; expected three: for genes, streams and nearest cells"
        raise ArgumentError(message)
    tables = (explanation.genes, explanation.streams, explanation.neighbours)
    genes, streams, neighbours = (table[table["cell"] == row["cell"]] for table in tables)
    _draw_genes(drawn[0], genes, row)
    _draw_streams(drawn[1], streams)
    _draw_neighbours(drawn[2], neighbours)
    return drawn


def _answer(explanation: Explanation, cell: str | None) -> pd.Series:
    """Return the row of the answer to draw."""
    answer = explanation.answer
    own = answer[answer["status"] != "empty"] if cell is None else answer[answer["cell"] == cell]
    if own.empty and cell is not None:
        there = ", ".join(map(repr, answer["cell"].head(5)))
        more = " ..." if len(answer) > 5 else ""
        message = f"{cell!r} is none of the cells explained: {there}{more}"
        raise ArgumentError(message)
    if own.empty or own.iloc[0]["status"] == "empty":
        which = "every cell" if cell is None else repr(cell)
        message = f"{which} is empty: there is nothing to draw"
        raise ArgumentError(message)
    return own.iloc[0]


def _headline(row: pd.Series) -> str:
    sure = f", confidence {row['confidence']:.2f}" if row["confidence"] else ""
    status = "" if row["status"] == row["label"] else f" ({row['status']}{sure})"
    leaf = leaf_told(row)
    return f"{row['cell']}: {row['label']}{status}" + (f"\n{leaf}" if leaf else "")


def _draw_genes(ax: Axes, genes: pd.DataFrame, row: pd.Series) -> None:
    """Draw a bar for each gene: to the right for the label, to the left against it."""
    lost = genes["difference"].to_numpy()
    place = np.arange(len(lost))
    ax.barh(place, lost, color=[_FOR if x > 0 else _AGAINST for x in lost], height=0.75)
    ticks = [f"{gene} ({n:.0f})" for gene, n in genes[["gene", "count"]].to_numpy()]
    ax.set_yticks(place, ticks, fontsize=8.5)
    ax.set_ylim(len(lost) - 0.4, -0.6)
    ax.axvline(0, color="#333333", lw=0.8)
    ax.margins(x=0.08)
    ax.locator_params(axis="x", nbins=5)
    ax.set_xlabel("← against it  |  for it →\nprobability lost when the gene is removed")
    of = f"{wrap(str(row['explained']))}\n(fused probability {row['probability']:.2f})"
    _finish(ax, f"genes (and their counts) of\n{of}")
    if not len(lost):
        text = "no gene was removed,\nor none changes the probability"
        ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center")
        ax.set(xticks=[], ylim=(0, 1))


def _draw_streams(ax: Axes, streams: pd.DataFrame) -> None:
    """Draw a dot for each label and stream, and a ring round the first of each stream."""
    table = streams.pivot_table(index="label", columns="stream", values="probability")
    shown = [key for key in _STREAMS if key in table.columns or key not in _OPTIONAL]
    table = table.reindex(columns=shown)
    first = streams.groupby("label")["rank"].min().loc[table.index].to_numpy()
    fused = table["fused"].to_numpy()
    leading = np.lexsort((-fused, first))[:_LABELS]
    rows = leading[np.argsort(-fused[leading], kind="stable")]
    kept = [str(label) for label in table.index[rows]]
    p_TS = table.to_numpy()[rows]
    t, s = np.nonzero(np.nan_to_num(p_TS) > 0)
    area = _AREA * min(1.0, (_COLUMNS / len(shown)) ** 2)
    ax.scatter(s, t, s=area * p_TS[t, s], color=colour(4), linewidths=0)
    heard = [j for j in range(len(shown)) if np.nansum(p_TS[:, j]) > 0]
    best = [int(np.nanargmax(p_TS[:, j])) for j in heard]
    ringed = set(zip(best, heard, strict=True))
    for i, j in zip(t.tolist(), s.tolist(), strict=True):
        if p_TS[i, j] >= _WRITTEN:
            # beside a dot that is smaller than it, unless a ring has room
            inside = p_TS[i, j] >= _INSIDE or (i, j) in ringed
            radius = float(np.sqrt(area * p_TS[i, j] / np.pi))
            ax.annotate(
                f"{p_TS[i, j]:.2f}", (j, i), (0, 0 if inside else -radius - 1),
                textcoords="offset points", ha="center", va="center" if inside else "top",
                fontsize=8,
            )  # fmt: skip
    ax.scatter(heard, best, s=1.25 * area, facecolors="none", edgecolors="black", linewidths=1.1)
    ax.axvline(len(shown) - 1.5, color="#BBBBBB", lw=0.8)
    ax.set_xticks(range(len(shown)), _stream_names(streams, shown), fontsize=9)
    ax.set_yticks(range(len(kept)), [wrap(label) for label in kept], fontsize=8.5)
    counted = set(streams["label"][streams["counted"]])
    for tick, label in zip(ax.get_yticklabels(), kept, strict=True):
        tick.set_fontweight("bold" if label in counted else "normal")
    ax.set(xlim=(-0.6, len(shown) - 0.4), ylim=(len(kept) - 0.4, -0.6))
    ax.set_xlabel("stream, and its share in the fusion")
    told = "(ring: first in the stream;\nbold: counts for the explained label)"
    _finish(ax, f"probability of each label {told}")


def _stream_names(streams: pd.DataFrame, shown: list[str]) -> list[str]:
    """Return what stands under the dots: the stream and its share; "silent" where it has no row."""
    weight = streams.groupby("stream")["weight"].first()
    share = {key: f"{weight[key]:.0%}" if key in weight else "silent" for key in shown}
    named = {key: f"{_STREAMS[key]}\n{share[key]}" for key in shown}
    return [*(named | {"fused": _STREAMS["fused"]}).values()]


def _draw_neighbours(ax: Axes, neighbours: pd.DataFrame) -> None:
    """Draw the cosine to each of the nearest cells."""
    shown = neighbours.head(_CELLS)
    place = np.arange(len(shown))
    cosine = shown["cosine"].to_numpy()
    face = ["white" if drawn else _FOR for drawn in shown["drawn"]]
    # cells that are near are told apart by the third digit
    left = max(0.0, np.floor(10 * float(cosine.min(initial=1.0))) / 10 - 0.1)
    ax.hlines(place, left, cosine, color="#DDDDDD", lw=1.2, zorder=1)
    ax.scatter(cosine, place, c=face, edgecolors=[_FOR], s=55, zorder=2)
    for y, x in zip(place, cosine, strict=True):
        ax.annotate(f"{x:.3f}", (x, y), (0, 6), textcoords="offset points", ha="center", fontsize=8)
    named = shown[["label", "study", "drawn"]].to_numpy()
    ticks = [
        "\n".join(filter(None, [wrap(label), wrap(study + ", profile" * bool(drawn))]))
        for label, study, drawn in named
    ]
    ax.set_yticks(place, ticks, fontsize=8.5)
    ax.locator_params(axis="x", nbins=4)
    ax.set(
        xlim=(left, 1 + 0.08 * (1 - left)), ylim=(max(len(shown), 1) - 0.4, -0.6), xlabel="cosine"
    )
    _finish(ax, "nearest reference cells\n(label, study)")


def _finish(ax: Axes, title: str) -> None:
    ax.set_title(title, fontsize=10.5, loc="left")
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.set_axisbelow(True)
    ax.grid(axis="both", color="#EEEEEE")
