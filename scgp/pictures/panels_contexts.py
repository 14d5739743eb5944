"""One gene's contextual embeddings over cells, by context and role.

Draws what `scgp.embed_genes` and `scgp.gene_roles` found. Must not know how either is computed; the
one thing made here is the layout.

Shape suffixes: M rows of contextual embeddings, 2 coordinates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from scgp.errors import ArgumentError, GeneError, MissingColumnError
from scgp.pictures.legend import as_labels, plain
from scgp.pictures.named_points import draw_groups, legend_beside, principal_plane

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray


def gene_contexts(
    in_cells: ad.AnnData,
    gene: str | None = None,
    *,
    color: str | pd.Series[Any] | ArrayLike,
    roles: pd.DataFrame | None = None,
    max_labels: int = 30,
    ax: Axes | None = None,
) -> Axes:
    """Draw the contextual embeddings of one gene, coloured and numbered by context.

    Parameters
    ----------
    in_cells
        What :func:`scgp.embed_genes` returned.
    gene
        Symbol or Ensembl id of one of its genes; may be left out where it has one.
    color
        The contexts: a column of ``in_cells.obs``; a Series with the names of cells as its index,
        such as ``adata.obs["cell_type"]``; or one value for each row of `in_cells`. Numbers, such
        as the column ``"value"``, get a colour bar; with `roles` they are names of contexts.
    roles
        What :func:`scgp.gene_roles` returned for this gene and these contexts: each role is a
        heading in the legend, with its best gene set (or nearest genes), and has a marker of its
        own.
    max_labels
        Contexts named one by one, the most frequent first; the others are drawn together.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    The Axes. A point is a cell (or, of a table by group, the mean of a group's cells, which the
    legend counts). Coordinates are the first two
    principal components of this gene's embeddings, with the share of variance each of them holds.
    The state of the cell is in them, as it is in every gene's: two contexts that lie apart do not
    show that the gene differs more than others do (:func:`scgp.pl.polyfunctionality`).

    Raises
    ------
    ArgumentError
        `in_cells` is no AnnData, `color` does not fit its rows, or `roles` are of another gene or
        of other contexts.
    GeneError
        The gene has no row, or there are several genes and none is named.
    MissingColumnError
        A column is not there.
    """
    if not isinstance(in_cells, ad.AnnData):
        message = (
            f"in_cells is a {type(in_cells).__name__}; expected the AnnData that "
            "scgp.embed_genes(adata, gene) returned"
        )
        raise ArgumentError(message)
    column_of(in_cells.obs, "gene", "expected what scgp.embed_genes(adata, gene) returned")
    values = _contexts(in_cells, color)
    row_M, name = _rows_of(in_cells.obs, gene)
    values = values.iloc[row_M]
    xy_M2, share_2 = principal_plane(np.asarray(in_cells.X)[row_M])
    if ax is None:
        ax = plt.subplots(figsize=(9.5, 6), layout="constrained")[1]
    size = float(np.clip(12_000 / len(xy_M2), 3, 40))
    told = color if isinstance(color, str) else getattr(color, "name", None)
    told = plain(str(told)) if told else ""
    cells_M = None
    if {"group", "n_cells"} <= set(in_cells.obs):
        cells_M = in_cells.obs["n_cells"].to_numpy(np.int64)[row_M]
        told = "means of cells" if told == "group" else told
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if numeric and roles is None:  # roles are of contexts, such as numbers of clusters
        points = ax.scatter(
            xy_M2[:, 0], xy_M2[:, 1], c=values.to_numpy(float), s=size, cmap="cividis", linewidths=0
        )
        ax.figure.colorbar(points, ax=ax, label=told or "color")
    else:
        label_M = as_labels(values)
        headings = None if roles is None else _headings(roles, name, set(label_M))
        draw_groups(
            ax, xy_M2, label_M, size=size, max_labels=max_labels, headings=headings, cells_N=cells_M
        )
        legend_beside(ax)
    ax.margins(0.08)  # a number may stand above the topmost point
    name_components(ax, share_2)
    ax.set_title(f"{name} in its contexts" + (f": {told}" if told else ""), fontsize=11)
    return ax


def column_of(obs: pd.DataFrame, name: str, fix: str = "name one of these") -> pd.Series[Any]:
    """Return a column of obs, or say which there are."""
    if name not in obs:
        there = ", ".join(map(repr, obs.columns)) or "none"
        message = f"obs has no column {name!r}; its columns: {there}; {fix}"
        raise MissingColumnError(message)
    return obs[name]


def _contexts(in_cells: ad.AnnData, color: str | pd.Series[Any] | ArrayLike) -> pd.Series[Any]:
    """Return the context of each row; a Series of cells is read by the names of the cells."""
    obs = in_cells.obs
    if isinstance(color, str):
        own = column_of(obs, color, "or pass the cells' own column, color=adata.obs[...]")
        return own.reset_index(drop=True)
    if isinstance(color, pd.Series) and not color.index.equals(obs.index) and "cell" in obs:
        lost = ~obs["cell"].isin(color.index)
        if lost.any() or not color.index.is_unique:
            found = f"{int(lost.sum())} of {len(obs)} rows are of cells that are not in its index"
            found = found if lost.any() else "its index names a cell twice"
            message = (
                f"color is a Series of {len(color)} cells, but {found}; pass values by position: "
                'adata.obs[...].to_numpy()[in_cells.obs["position"]]'
            )
            raise ArgumentError(message)
        return color.loc[obs["cell"]].reset_index(drop=True)
    values = pd.Series(color).reset_index(drop=True)
    if len(values) != len(obs):
        message = (
            f"color has {len(values)} values for {len(obs)} rows of in_cells; pass a column of "
            "obs, adata.obs[...] with the names of the cells as its index, or a value for each row"
        )
        raise ArgumentError(message)
    return values


def _rows_of(obs: pd.DataFrame, gene: str | None) -> tuple[NDArray[np.int64], str]:
    """Return the rows of one gene, and its symbol."""
    symbol_M = obs["gene"].astype(str).to_numpy()
    there = list(dict.fromkeys(symbol_M.tolist()))
    if gene is None and len(there) == 1:
        gene = there[0]
    is_own_M = symbol_M == gene
    if "ensembl_id" in obs:
        is_own_M |= obs["ensembl_id"].to_numpy() == gene
    if gene is None or not is_own_M.any():
        found = "there are several genes" if gene is None and there else f"{gene!r} has no row"
        more = f" and {len(there) - 5} more" if len(there) > 5 else ""
        message = f"{found}; in_cells has {', '.join(there[:5]) or 'no gene'}{more}; pass gene="
        raise GeneError(message)
    row_M = np.flatnonzero(is_own_M)
    return row_M, str(symbol_M[row_M[0]])


def _headings(roles: pd.DataFrame, gene: str, contexts: set[str]) -> dict[str, list[str]]:
    """Return the contexts of each role, by what the role is called."""
    needed = ("gene", "role", "contexts", "nearest_genes", "gene_sets")
    for name in needed:
        if name not in roles:
            message = f"roles has no column {name!r}; expected what scgp.gene_roles returned"
            raise MissingColumnError(message)
    others = sorted(set(roles["gene"]) - {gene})
    if others or roles.empty:
        message = f"roles are of {', '.join(others) or 'no gene'}; expected those of {gene}"
        raise ArgumentError(message)
    headings = {}
    set_of = roles["gene_sets"].fillna("")  # none, in a table that was read from a file
    for row, sets in zip(roles.itertuples(), set_of, strict=True):
        near = ", ".join(str(row.nearest_genes).split(", ")[:3])
        told = str(sets).split("; ")[0] or f"near {near}"
        headings[f"role {row.role}: {told}"] = _split(str(row.contexts), contexts)
    return headings


def _split(joined: str, contexts: set[str]) -> list[str]:
    """Split at "; ", but not within the name of a context."""
    found, rest = [], joined.split("; ")
    while rest:
        fits = [k for k in range(len(rest), 0, -1) if "; ".join(rest[:k]) in contexts]
        if not fits:
            message = (
                f"roles name the context {rest[0]!r}, which is none of those in color; pass the "
                "column that was groupby= of scgp.gene_roles"
            )
            raise ArgumentError(message)
        found.append("; ".join(rest[: fits[0]]))
        rest = rest[fits[0] :]
    return found


def name_components(ax: Axes, share_2: NDArray[np.float64]) -> None:
    """Name the axes of a layout by principal components."""
    x, y = (f"component {i} ({share:.0%} of variance)" for i, share in enumerate(share_2, start=1))
    ax.set(xlabel=x, ylabel=y, xticks=[], yticks=[])
    ax.spines[["top", "right"]].set_visible(False)
