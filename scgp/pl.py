"""Plots of what the verbs found: they take ``ax=``, return the Axes, never show and never save.

Owns matplotlib, together with `panels` (what explain found), `panels_genes`, `panels_perturbation`
and `panels_biomarkers`; here is what annotate wrote. Must not know how an
annotation is made: it reads obs and obsm and changes nothing.

Labels are told apart by a number beside the colour, because no palette keeps thirty colours apart
for every eye.

Shape suffixes: N cells, T labels, 2 coordinates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from scgp.errors import ArgumentError, MissingColumnError
from scgp.pictures.coordinates import stored_coordinates
from scgp.pictures.legend import UNDECIDED, as_labels, plain, pool, wrap
from scgp.pictures.named_points import draw_groups, legend_beside
from scgp.pictures.palette import colour
from scgp.pictures.panels import explain
from scgp.pictures.panels_biomarkers import biomarkers
from scgp.pictures.panels_genes import gene_contexts, manifold, polyfunctionality
from scgp.pictures.panels_perturbation import perturbation

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import anndata as ad
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

__all__ = [
    "biomarkers",
    "confidence",
    "confusion",
    "embedding",
    "explain",
    "gene_contexts",
    "manifold",
    "perturbation",
    "polyfunctionality",
]


def embedding(
    adata: ad.AnnData,
    *,
    basis: str = "umap",
    key_added: str = "scgp",
    color: str | None = None,
    max_labels: int = 30,
    ax: Axes | None = None,
) -> Axes:
    """Draw cells in two dimensions, with each label's number on it and its name beside the plot.

    Parameters
    ----------
    adata
        Annotated cells, with coordinates in ``obsm["X_{basis}"]``.
    basis
        Name of the coordinates; the first two columns are drawn.
    key_added
        Prefix that was given to :func:`scgp.annotate`.
    color
        Column of ``obs``; by default ``{key_added}_cell_type``. Numbers get a colour bar.
    max_labels
        Labels named one by one, the most frequent first; the others are drawn together.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    The Axes drawn on.

    Raises
    ------
    MissingColumnError
        The column or the coordinates are not there.
    """
    column = color or f"{key_added}_cell_type"
    values = _column(adata, column)
    xy_N2 = stored_coordinates(
        adata, basis, "make coordinates first, e.g. sc.pp.neighbors(adata, use_rep='X_scgp'); "
        "sc.tl.umap(adata)",
    )  # fmt: skip
    if ax is None:
        width = 9.5 if values.nunique() <= 18 else 13
        ax = plt.subplots(figsize=(width, 6), layout="constrained")[1]
    size = float(np.clip(12_000 / max(len(xy_N2), 1), 1, 22))
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        points = ax.scatter(
            xy_N2[:, 0], xy_N2[:, 1], c=values.to_numpy(), s=size, cmap="cividis", linewidths=0
        )
        ax.figure.colorbar(points, ax=ax, label=plain(column))
    else:
        draw_groups(ax, xy_N2, as_labels(values), size=size, max_labels=max_labels)
        legend_beside(ax)
    x, y = (plain(f"{basis} {i}") for i in (1, 2))
    ax.set(xlabel=x, ylabel=y, xticks=[], yticks=[], title=plain(column))
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def confidence(
    adata: ad.AnnData,
    *,
    groupby: str | None = None,
    key_added: str = "scgp",
    max_labels: int = 30,
    ax: Axes | None = None,
) -> Axes:
    """Draw the confidence of the cells of each group: median, quartiles, 5th to 95th percentile.

    Parameters
    ----------
    adata
        Annotated cells.
    groupby
        Column of ``obs``; by default ``{key_added}_cell_type``.
    key_added
        Prefix that was given to :func:`scgp.annotate`.
    max_labels
        Groups drawn one by one, the most frequent first; the others are drawn together.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    The Axes drawn on. The group with the highest median is on top. Bounds of the decision show in
    it: a label has at least its ``min_confidence`` (.5), a broader term that is given for want of a
    sure label at least .96, "unknown" always 0. So a broad term on top is not what the model knows
    best.

    Raises
    ------
    MissingColumnError
        A column is not there.
    """
    value_N = _column(adata, f"{key_added}_confidence").to_numpy(dtype=float)
    labels = as_labels(_column(adata, groupby or f"{key_added}_cell_type"))
    label_N, names = pool(labels, max_labels)
    groups = {name: value_N[label_N == name] for name in names}
    names.sort(key=lambda name: float(np.median(groups[name])))
    if ax is None:
        ax = plt.subplots(figsize=(8, 1.2 + 0.42 * len(names)), layout="constrained")[1]
    if names:
        ax.boxplot(
            [groups[name] for name in names],
            orientation="horizontal",
            whis=(5, 95),
            showfliers=False,
            widths=0.6,
            patch_artist=True,
            boxprops={"facecolor": colour(4), "edgecolor": "#333333"},
            medianprops={"color": "black", "linewidth": 2},
        )
    ticks = [wrap(f"{name} ({len(groups[name]):,})") for name in names]
    ax.set_yticks(range(1, len(names) + 1), ticks, fontsize=9)
    ax.set(xlim=(-0.02, 1.02), xlabel="confidence", title="confidence by group (cells)")
    ax.grid(axis="x", color="#E6E6E6")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def confusion(
    adata: ad.AnnData,
    *,
    label_key: str,
    key_added: str = "scgp",
    max_labels: int = 30,
    ax: Axes | None = None,
) -> Axes:
    """Draw which label the cells of each known label were given, as a share of the known label.

    Parameters
    ----------
    adata
        Annotated cells.
    label_key
        Column of ``obs`` with the known labels: the rows. They need not be ontology terms.
    key_added
        Prefix that was given to :func:`scgp.annotate`; its cell types are the columns.
    max_labels
        Rows, and columns, drawn one by one; the others are drawn together, in the last.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    The Axes drawn on. Rows are in the order of the categories of `label_key` (of clusters: 1, 2,
    10), or of the alphabet where it is not categorical. Columns are ordered so that agreement lies
    near the diagonal.

    Raises
    ------
    MissingColumnError
        A column is not there.
    ArgumentError
        There is no cell to draw.
    """
    column = _column(adata, label_key)
    known = as_labels(column)
    given = as_labels(_column(adata, f"{key_added}_cell_type"))
    if not len(known):
        message = "there is no cell to draw: adata has 0 cells"
        raise ArgumentError(message)
    categorical = isinstance(column.dtype, pd.CategoricalDtype)
    order = [str(name) for name in column.cat.categories] if categorical else []
    table = _crosstab(known, given, max_labels, order)
    share = table.div(table.sum(axis=1), axis=0)
    if ax is None:
        size = (4.5 + 0.42 * share.shape[1], 3.5 + 0.34 * share.shape[0])
        ax = plt.subplots(figsize=size, layout="constrained")[1]
    image = ax.imshow(share.to_numpy(), cmap="cividis", vmin=0, vmax=1, aspect="auto")
    ax.figure.colorbar(image, ax=ax, label=plain(f"share of {label_key}"), shrink=0.7)
    _write_percent(ax, share.to_numpy())
    rows = [wrap(f"{name} ({int(n):,})") for name, n in table.sum(axis=1).items()]
    ax.set_yticks(range(len(rows)), rows, fontsize=8)
    columns = [wrap(str(name)) for name in share.columns]
    ax.set_xticks(range(len(columns)), columns, fontsize=8, rotation=60, ha="right")
    ax.tick_params(axis="x", rotation=60)
    ax.set(xlabel=plain(f"{key_added}_cell_type"), ylabel=plain(f"{label_key} (cells)"))
    return ax


def _crosstab(
    known_N: NDArray[np.object_],
    given_N: NDArray[np.object_],
    max_labels: int,
    known_order: Sequence[str],
) -> pd.DataFrame:
    """Count cells by known and given label; in both, what is drawn together comes last."""
    known_N, rows = pool(known_N, max_labels)
    given_N, columns = pool(given_N, max_labels)
    rank = {name: i for i, name in enumerate(known_order)}
    named = sorted(rows[:max_labels], key=lambda name: (rank.get(name, len(rank)), name))
    table = pd.crosstab(known_N, given_N).loc[[*named, *rows[max_labels:]]]
    share = table.div(table.sum(axis=1), axis=0)

    def place(name: str) -> tuple[bool, bool, int, float]:
        row = int(share[name].to_numpy().argmax())
        pooled = name in columns[max_labels:]
        return pooled, name in UNDECIDED, row, -float(share[name].iloc[row])

    order = sorted(map(str, table.columns), key=place)
    return table[order]


def _column(adata: ad.AnnData, name: str) -> pd.Series[Any]:
    if name not in adata.obs:
        found = ", ".join(map(str, adata.obs.columns)) or "none"
        fix = "run scgp.annotate(adata) first" if name.startswith("scgp_") else "name one of these"
        message = f"obs has no column {name!r}; its columns: {found}; {fix}"
        raise MissingColumnError(message)
    return adata.obs[name]


def _write_percent(ax: Axes, share_TT: NDArray[np.float64]) -> None:
    """Write each share of at least 5 %, while the cells are large enough to read it."""
    if max(share_TT.shape) > 20:
        return
    for i, j in zip(*np.nonzero(share_TT >= 0.05), strict=True):
        ink = "black" if share_TT[i, j] > 0.55 else "white"
        ax.text(j, i, f"{100 * share_TT[i, j]:.0f}", ha="center", va="center", c=ink, fontsize=8)


def write_picture(ax: Axes, path: Path) -> None:
    """Write the figure of `ax` and close it: for the command line, where nobody else will."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)
