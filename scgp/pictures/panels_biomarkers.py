"""One phenotype's markers: removal against Wilcoxon's rank, or gene by gene in each unit.

Draws what `scgp.biomarkers` found; computes nothing. Kinds of dots differ in colour and in shape.

Shape suffixes: G genes, L names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.transforms import Bbox

from scgp.errors import ArgumentError, MissingColumnError
from scgp.pictures.legend import wrap
from scgp.pictures.palette import colour

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.legend import Legend
    from numpy.typing import NDArray

#: How each kind of gene is drawn: words, colour, marker.
_FOUND = {
    "both": ("found by both", colour(0), "o"),
    "removal": ("by removal only", colour(5), "^"),
    "wilcoxon": ("by Wilcoxon only", colour(2), "s"),
    "neither": ("by neither", (0.78, 0.78, 0.78), "."),
}
_NEEDED = ("gene", "effect", "smallest_effect", "removal_rank", "wilcoxon_rank", "found_by")
_NEEDED_OF_UNITS = ("gene", "effect", "removal_rank", "wilcoxon_rank", "n_cells")
_MARKERS = "o^sDvP*X<>"
#: Where a name may stand, in points from its dot, nearest first: right, left, above, below, ...
_PLACES = [
    (np.cos(angle) * away, np.sin(angle) * away)
    for away in (7, 12, 18, 26, 36)
    for angle in np.deg2rad([0, 180, 40, 140, 320, 220, 90, 270])
]


def biomarkers(
    table: pd.DataFrame, *, group: str | None = None, n_genes: int = 20, ax: Axes | None = None
) -> Axes:
    """Draw the markers of one phenotype.

    Parameters
    ----------
    table
        What :func:`scgp.biomarkers` returned, of all genes or those found; or by unit.
    group
        The phenotype; may be left out where the table has one.
    n_genes
        Most genes that are named: those that rank first, by removal and by Wilcoxon in turn. Of a
        table by unit, the genes drawn: those with the largest mean effect.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    The Axes. A dot is a gene: to the right by Wilcoxon's rank, upwards by what its removal costs
    the phenotype (mean over units; a line goes down to the unit where it costs least). Names that
    find no free place are left out. Genes without a Wilcoxon test stand apart, to the left. Of a
    table by unit: a row is a gene, and a dot its effect in
    one unit; filled where the gene is among the first `n_genes` of the unit's Wilcoxon ranking.

    Raises
    ------
    MissingColumnError
        The table is none of :func:`scgp.biomarkers`.
    ArgumentError
        There is no such phenotype in the table, or there are several and none is named.
    """
    by_unit = "unit" in table
    needed = ("group", *(_NEEDED_OF_UNITS if by_unit else _NEEDED))
    if missing := [column for column in needed if column not in table]:
        message = (
            f"the table has no column {missing[0]!r}; expected what scgp.biomarkers returned, with "
            f"{', '.join(needed)}"
        )
        raise MissingColumnError(message)
    if n_genes < 1:
        message = f"n_genes is {n_genes}; expected at least 1"
        raise ArgumentError(message)
    own = _of_group(table, group)
    if ax is None:
        ax = plt.subplots(figsize=(7, 5.5), layout="constrained")[1]
    draw = _draw_units if by_unit else _draw_ranks
    draw(ax, own, n_genes)
    ax.set_title(_title(own), fontsize=11, loc="left")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _of_group(table: pd.DataFrame, group: str | None) -> pd.DataFrame:
    """Return the rows of the phenotype to draw."""
    there = [str(name) for name in dict.fromkeys(table["group"])]
    if group is None and len(there) == 1:
        return table
    if group not in there:
        asked = "several phenotypes are there" if group is None else f"{group!r} is not there"
        message = f"{asked}; pass group=, one of {', '.join(map(repr, there)) or 'none'}"
        raise ArgumentError(message)
    return table[table["group"] == group]


def _title(own: pd.DataFrame) -> str:
    """Return the phenotype, and the label whose posterior was asked where that has another name."""
    name = str(own["group"].iloc[0])
    asked = str(own["asked"].iloc[0]) if "asked" in own else name
    return wrap(name if asked == name else f"{name} (asked: {asked})")


def _draw_ranks(ax: Axes, own: pd.DataFrame, n_genes: int) -> None:
    """Draw each gene by Wilcoxon's rank and by the effect of its removal."""
    untested = bool(own["wilcoxon_rank"].isna().any())
    own = _beside_ranks(ax, own)
    for kind, (words, shade, marker) in _FOUND.items():
        part = own[own["found_by"] == kind]
        if part.empty:
            continue
        rank, effect = part["wilcoxon_rank"].to_numpy(), part["effect"].to_numpy()
        size, z = (12, 1) if kind == "neither" else (36, 2)
        ax.scatter(
            rank, effect, s=size, color=[shade], marker=marker, linewidths=0, label=words, zorder=z
        )
        if kind != "neither":
            least = part["smallest_effect"].to_numpy()
            ax.vlines(rank, least, effect, color=[shade], lw=0.9, alpha=0.6, zorder=1)
    ax.axhline(0, color="#333333", lw=0.8, zorder=0)
    ax.set_xscale("log")
    ax.set_xlim(1.6 * own["wilcoxon_rank"].max(), 0.6)
    ax.margins(y=0.08)
    ax.set_xlabel("rank by Wilcoxon's test (first to the right)")
    ax.set_ylabel("log odds lost without the gene (nats)\nline: to the unit where least is lost")
    legend = ax.legend(frameon=False, fontsize=8.5, loc="best" if untested else "upper left")
    ax.grid(color="#EEEEEE")
    ax.set_axisbelow(True)
    _name(ax, own[["wilcoxon_rank", "effect"]].to_numpy(float), legend, _to_name(own, n_genes))


def _beside_ranks(ax: Axes, own: pd.DataFrame) -> pd.DataFrame:
    """Give genes without a rank a place beyond the last one, and mark it as such."""
    untested = own["wilcoxon_rank"].isna()
    if not untested.any():
        return own
    last = 1.0 if untested.all() else float(own["wilcoxon_rank"].max())
    ax.axvspan(1.6 * last, 4 * last, color="#F4F4F4", lw=0, zorder=0)
    ax.text(
        2.5 * last, 0.01, "no\ntest", transform=ax.get_xaxis_transform(), fontsize=8, ha="center"
    )
    return own.assign(wilcoxon_rank=own["wilcoxon_rank"].fillna(2.5 * last))


def _to_name(own: pd.DataFrame, n_genes: int) -> pd.DataFrame:
    """Return the genes to name: the first of both rankings in turn."""
    found = own[own["found_by"] != "neither"]
    turn = found[["removal_rank", "wilcoxon_rank"]].min(axis=1)
    return found.iloc[np.lexsort((found["removal_rank"], turn))[:n_genes]]


def _name(ax: Axes, dots_G2: NDArray[np.float64], legend: Legend, named: pd.DataFrame) -> None:
    """Write the names beside their dots where nothing else stands; a name without room goes."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # the layout must stand before places are looked for
    frame = ax.get_window_extent()
    taken = [Bbox.from_bounds(x - 3, y - 3, 6, 6) for x, y in ax.transData.transform(dots_G2)]
    taken.append(legend.get_window_extent())
    for row in named.itertuples():
        at = (row.wilcoxon_rank, row.effect)
        for place in _PLACES:
            text = ax.annotate(
                str(row.gene), at, place, textcoords="offset points", fontsize=8, zorder=3,
                ha="left" if place[0] > 1 else "right" if place[0] < -1 else "center",
                va="center" if abs(place[1]) < 1 else "bottom" if place[1] > 0 else "top",
                arrowprops={"arrowstyle": "-", "lw": 0.5, "color": "#999999", "shrinkB": 3}
                if np.hypot(*place) > 8 else None,
            )  # fmt: skip
            box = text.get_window_extent().padded(1)
            inside = frame.containsx(box.x0) and frame.containsx(box.x1)
            inside = inside and frame.containsy(box.y0) and frame.containsy(box.y1)
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()


def _draw_units(ax: Axes, own: pd.DataFrame, n_genes: int) -> None:
    """Draw a row for each gene, and a dot in it for each unit."""
    mean = own.groupby("gene")["effect"].mean().sort_values(ascending=False, kind="stable")
    genes = mean.index[:n_genes].tolist()
    for u, unit in enumerate(dict.fromkeys(own["unit"])):
        part = own[own["unit"] == unit].set_index("gene").reindex(genes)
        row = np.arange(len(genes)) + 0.12 * (u % 5 - 2)  # equal effects stay apart
        top = part["wilcoxon_rank"].to_numpy() <= n_genes
        face = [colour(u) if is_top else (1.0, 1.0, 1.0) for is_top in top]
        n_cells = f"{part['n_cells'].max():.0f} cells"
        n_cells += ", no Wilcoxon test" if part["wilcoxon_rank"].isna().all() else ""
        ax.scatter(
            part["effect"], row, s=34, c=face, edgecolors=[colour(u)], linewidths=1.1,
            marker=_MARKERS[u % len(_MARKERS)], label=f"{wrap(str(unit))} ({n_cells})",
            zorder=2,
        )  # fmt: skip
    ax.axvline(0, color="#333333", lw=0.8, zorder=0)
    ax.set_yticks(range(len(genes)), genes, fontsize=8.5)
    ax.set_ylim(len(genes) - 0.4, -0.6)
    ax.set_xlabel(
        f"log odds lost without the gene (nats)\nfilled: among Wilcoxon's first {n_genes}"
    )
    ax.grid(color="#EEEEEE")
    ax.set_axisbelow(True)
    ax.legend(frameon=False, fontsize=8, loc="lower right")
