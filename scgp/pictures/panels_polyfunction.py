"""Which genes change between contexts, against their level.

Draws the table of `scgp.polyfunctionality`. Must not know how an effect is measured.

Shape suffixes: W windows of genes, 2 coordinates.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from scgp.errors import ArgumentError, GeneError, MissingColumnError
from scgp.pictures.named_points import write_names
from scgp.pictures.palette import colour

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

#: Fewer genes make no band; genes of one window: this share of all, within these bounds.
_LEAST_GENES = 50
_SHARE, _FEWEST, _MOST = 20, 20, 200
#: Levels that the band is computed at.
_N_LEVELS = 200
#: A gene is drawn filled if at most this share of its matched genes has as large an effect.
_STANDS_OUT = 0.05
_NEEDED = ("gene", "value", "effect", "effect_matched", "rank_matched")


def polyfunctionality(
    table: pd.DataFrame,
    *,
    genes: str | Sequence[str] | None = None,
    n: int = 10,
    ax: Axes | None = None,
) -> Axes:
    """Draw how much each gene changes between contexts, against its level.

    Parameters
    ----------
    table
        What :func:`scgp.polyfunctionality` returned; best of all genes.
    genes
        Symbols of genes to mark and name. None: the `n` with the largest ``excess``.
    n
        Genes that are named where `genes` is None; 0 names none.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    The Axes. A dot is a gene: to the right by its level, upwards by its effect. A named gene has a
    line to the median effect of its matched genes in the same cells: the length is its ``excess``,
    and it is filled if at most 5 % of its matched genes have as large an effect. Of 50 genes or
    more, a line joins the running median of ``effect_matched``, and a band holds 5 to 95 % of the
    effects of the table's genes at that level (the twentieth of all that is nearest in level, but
    20 genes at least, as at both ends, and 200 at most). The band is no null: its genes are
    measured in other cells, and the fewer the cells, the wider effects scatter.

    Raises
    ------
    MissingColumnError
        The table is none of :func:`scgp.polyfunctionality`.
    ArgumentError
        The table is no DataFrame or empty, or `n` is negative.
    GeneError
        A gene is not in the table.
    """
    table = _checked(table, n)
    named = _named(table, genes, n)
    if ax is None:
        ax = plt.subplots(figsize=(7, 5.8), layout="constrained")[1]
    if len(table) >= _LEAST_GENES:
        _draw_band(ax, table)
    ax.scatter(
        table["value"], table["effect"], s=9, color="#8C8C8C", linewidths=0, zorder=2,
        label=f"gene ({len(table):,})" if len(named) < len(table) else None,
    )  # fmt: skip
    _draw_named(ax, named)
    ax.axhline(0, color="#333333", lw=0.8, zorder=0)
    ax.margins(0.06)
    ax.set_xlabel("level: mean log1p(CP10k) in the cells that express the gene")
    ax.set_ylabel("effect: share of the gene's own variance\nthat lies between contexts")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(
        loc="lower left", bbox_to_anchor=(-0.12, 1.0), frameon=False, fontsize=8, ncols=2,
        columnspacing=1.2, handletextpad=0.5,
    )  # fmt: skip
    write_names(ax, named[["value", "effect"]].to_numpy(float), named["gene"].tolist())
    return ax


def _checked(table: pd.DataFrame, n: int) -> pd.DataFrame:
    """Return the rows that can be drawn, or say why there are none."""
    expected = "expected what scgp.polyfunctionality returned"
    if not isinstance(table, pd.DataFrame):
        message = f"table is a {type(table).__name__}; {expected}"
        raise ArgumentError(message)
    if missing := [name for name in _NEEDED if name not in table]:
        message = f"the table has no column {missing[0]!r}; {expected}, with {', '.join(_NEEDED)}"
        raise MissingColumnError(message)
    if table.empty:
        message = f"the table has no row: there is no gene to draw; {expected}"
        raise ArgumentError(message)
    if n < 0:
        message = f"n is {n}; expected 0 or more"
        raise ArgumentError(message)
    return table


def _named(table: pd.DataFrame, genes: str | Sequence[str] | None, n: int) -> pd.DataFrame:
    """Return the rows of the genes to name, in the order asked for."""
    if genes is None:
        excess = (table["effect"] - table["effect_matched"]).to_numpy(float)
        return table.iloc[np.argsort(-excess, kind="stable")[:n]]
    asked = list(dict.fromkeys([genes] if isinstance(genes, str) else map(str, genes)))
    there = table["gene"].astype(str).tolist()
    if lost := [gene for gene in asked if gene not in there]:
        near = difflib.get_close_matches(lost[0].upper(), there, n=3)
        hint = f" (near: {', '.join(near)})" if near else ""
        message = (
            f"{len(lost)} of {len(asked)} genes are not among the {len(there)} of the table: "
            f"{lost[0]!r}{hint}; a gene has no row if too few cells express it, or it was not asked"
        )
        raise GeneError(message)
    return table.iloc[[there.index(gene) for gene in asked]]


def _draw_band(ax: Axes, table: pd.DataFrame) -> None:
    """Draw what effects the genes of a level have, and what their matched genes have."""
    rows = table.iloc[np.argsort(table["value"].to_numpy(float), kind="stable")]
    level, effect, matched = (
        rows[name].to_numpy(float) for name in ("value", "effect", "effect_matched")
    )
    x_W = np.linspace(level[0], level[-1], _N_LEVELS)
    middle_W = np.searchsorted(level, x_W)
    # as many genes to both sides, so that the ends, where genes are few, are of their own level
    most = int(np.clip(len(rows) // _SHARE, _FEWEST, _MOST)) // 2
    half_W = np.clip(np.minimum(middle_W, len(rows) - middle_W), _FEWEST // 2, most)
    low_W = np.clip(middle_W - half_W, 0, len(rows) - 2 * half_W)
    windows = [slice(a, a + 2 * h) for a, h in zip(low_W, half_W, strict=True)]
    low, high = np.array([np.quantile(effect[w], [0.05, 0.95]) for w in windows]).T
    middle = np.array([np.median(matched[w]) for w in windows])
    ax.fill_between(
        x_W, low, high, color=colour(4), alpha=0.35, linewidth=0, zorder=1,
        label="5 to 95 % of genes at that level",
    )  # fmt: skip
    ax.plot(x_W, middle, color=colour(0), lw=1.8, zorder=3, label="matched genes, running median")


def _draw_named(ax: Axes, named: pd.DataFrame) -> None:
    """Draw the named genes, each with a line down to its matched genes."""
    x, y, matched = (named[c].to_numpy(float) for c in ("value", "effect", "effect_matched"))
    ax.vlines(x, matched, y, color=[colour(5)], lw=1.2, zorder=4)
    ax.scatter(
        x, matched, marker="_", s=50, color=[colour(5)], zorder=4, linewidths=1.5,
        label="median of its matched genes" if len(named) else None,
    )  # fmt: skip
    out = named["rank_matched"].to_numpy(float) <= _STANDS_OUT
    for rows, face, words in (
        (out, colour(5), "named; ≤ 5 % of matched genes as large"),
        (~out, (1.0, 1.0, 1.0), "named; > 5 % of matched genes as large"),
    ):
        if rows.any():
            ax.scatter(
                x[rows], y[rows], s=46, marker="D", c=[face], edgecolors=[colour(5)],
                linewidths=1.4, label=words, zorder=5,
            )  # fmt: skip
