"""The plot of a perturbation: the strongest predicted shifts of genes, and the band of their null.

Draws what `scgp.perturb` found; computes nothing.

Shape suffix: Q genes drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from scgp.errors import ArgumentError
from scgp.pictures.legend import wrap
from scgp.pictures.palette import colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from scgp.what_if.perturbation import Perturbation

_UP, _DOWN, _BAND = colour(0), colour(5), "#D5D5D5"


def perturbation(
    result: Perturbation, *, group: str | None = None, n: int = 20, ax: Axes | None = None
) -> Axes:
    """Draw the genes whose predicted expression shifts most beyond the null, up and down.

    Parameters
    ----------
    result
        What :func:`scgp.perturb` returned.
    group
        The group to draw; by default the first in which genes were read.
    n
        Genes drawn at most: half of them those of the largest positive ``z``, half those of the
        largest negative one (by shift, where there is no null).
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    The Axes drawn on, genes from the largest ``z`` at the top to the most negative one. A dot is
    the shift of predicted log CP10k (natural logarithm), in one colour for genes above the mean of
    their null and in another for those below; filled where it lies outside the grey band, which
    holds 95 % of the shifts that expression-matched genes cause (a line marks their mean). Shift
    and band hold dilution, that of the perturbed genes: a cell without a gene is normalised anew,
    so that what is left rises.

    Raises
    ------
    ArgumentError
        There is no such group, no gene was read, or `n` is below 1.
    """
    if n < 1:
        message = f"n is {n}; expected at least 1"
        raise ArgumentError(message)
    table, by = _outermost(_of(result, group), n)
    if ax is None:
        ax = plt.subplots(figsize=(6.4, 1.9 + 0.27 * len(table)), layout="constrained")[1]
    ax.use_sticky_edges = False
    place_Q, shift_Q = np.arange(len(table)), table["shift"].to_numpy()
    low_Q, high_Q = (table[c].to_numpy() for c in ("null_low", "null_high"))
    outside_Q = (shift_Q < low_Q) | (shift_Q > high_Q) | np.isnan(low_Q)
    known_Q = np.isfinite(low_Q)
    ax.barh(
        place_Q[known_Q], (high_Q - low_Q)[known_Q], left=low_Q[known_Q], height=0.62, color=_BAND,
    )  # fmt: skip
    ax.vlines(
        table["null_mean"].to_numpy()[known_Q], place_Q[known_Q] - 0.31, place_Q[known_Q] + 0.31,
        color="#777777", lw=1.2,
    )  # fmt: skip
    edge = [_UP if x > 0 else _DOWN for x in table[by]]
    face = [c if out else (1.0, 1.0, 1.0) for c, out in zip(edge, outside_Q, strict=True)]
    ax.scatter(shift_Q, place_Q, c=face, edgecolors=edge, s=42, linewidths=1.4, zorder=3)
    ax.axvline(0, color="black", lw=0.8, zorder=1)
    ax.set_yticks(place_Q, table["gene"].tolist(), fontsize=9)
    ax.set(ylim=(len(table) - 0.4, -0.6))
    told = "\n(grey: 95 % of the null; filled: outside it)" if known_Q.any() else ""
    ax.set_xlabel(f"shift of predicted log CP10k, dilution included{told}", fontsize=9.5)
    ax.set_title(_title(result, table), fontsize=10.5, loc="left")
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.set_axisbelow(True)
    ax.grid(axis="both", color="#EEEEEE")
    return ax


def _of(result: Perturbation, group: str | None) -> pd.DataFrame:
    """Return what was read in the group to draw."""
    read = result.expression[result.expression["n_read"] > 0]
    there = list(dict.fromkeys(read["group"]))
    if not there:
        message = "no gene was read: genes=[] was passed, or no cell changed"
        raise ArgumentError(message)
    if group is not None and group not in there:
        message = f"{group!r} is no group in which genes were read: {', '.join(map(repr, there))}"
        raise ArgumentError(message)
    return read[read["group"] == (there[0] if group is None else group)]


def _outermost(read: pd.DataFrame, n: int) -> tuple[pd.DataFrame, str]:
    """Return the genes highest and lowest by z, or else by shift; and which of the two it is."""
    by = "z" if read["z"].notna().any() else "shift"
    ranked = read.sort_values(by, ascending=False, kind="stable")
    down = ranked[ranked[by] < 0].tail(n // 2)
    return pd.concat([ranked[ranked[by] >= 0].head(n - n // 2), down]), by


def _title(result: Perturbation, table: pd.DataFrame) -> str:
    what = ", ".join(f"{gene} × {f:g}" for gene, f in result.perturbed[["gene", "factor"]].values)  # noqa: RUF001
    where = "" if table["group"].iloc[0] == "all" else f" in {table['group'].iloc[0]}"
    n_read, n_null = int(table["n_read"].iloc[0]), int(table["n_null"].max())
    return f"{wrap(what + where)}\n({n_read} cells read, null of {n_null} draws)"
