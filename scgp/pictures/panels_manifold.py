"""Cells, genes and phenotype texts in one map.

Owns the map: where a gene and a text stand among cells. Must not know how cells are embedded
(`embed`) nor how a text becomes a vector (`texts`).

Shape suffixes: N cells, Q genes, T texts, P points named, E width of the space, 2 coordinates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np

from scgp.cells.named import named_genes
from scgp.embed import embed_adata, resolve_model, warn_empty
from scgp.errors import ArgumentError, GeneError
from scgp.pictures.coordinates import stored_coordinates
from scgp.pictures.legend import as_labels, plain
from scgp.pictures.named_points import (
    draw_groups,
    legend_beside,
    principal_plane,
    write_names,
)
from scgp.pictures.palette import GREY
from scgp.pictures.panels_contexts import column_of, name_components
from scgp.slots import check_adata
from scgp.texts import listed, read_terms, text_vectors, warn_readings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import anndata as ad
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from scgp.cells.tokens import TokenBatch
    from scgp.embed import CellVectors
    from scgp.model.checkpoint import Model
    from scgp.phenotypes.text import TextEncoder

#: Loss of cosine by which a cell's weight for a text falls to 1/e. Distance in the map of the names
#: of cell types from their own cells on blood, liver and fetal organs: .02: .12 .05 .08;
#: .05: .10 .05 .08; .1: .11 .06 .13.
TEMPERATURE = 0.05
_INK = "#111111"


def manifold(
    adata: ad.AnnData,
    *,
    genes: str | Sequence[str] = (),
    texts: str | Sequence[str] = (),
    color: str | None = None,
    basis: str | None = None,
    max_labels: int = 20,
    model: Model | str | Path | None = None,
    encoder: TextEncoder | None = None,
    layer: str | None = None,
    use_raw: bool | None = None,
    device: str | None = None,
    progress: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw cells, genes and phenotype texts in one map.

    Parameters
    ----------
    adata
        Cells x genes with raw counts; in memory or backed. It is only read.
    genes
        HGNC symbols, aliases or Ensembl ids.
    texts
        Terms of the Cell Ontology, by name or id, or free text, as :func:`scgp.score_text` reads
        them.
    color
        Column of ``obs`` with the groups that cells are coloured and numbered by; None: all grey.
    basis
        Coordinates of the cells: the first two columns of ``obsm["X_{basis}"]``. None: the first
        two principal components of the cells' type vectors, with the share of variance of each.
    max_labels
        Groups named one by one, the most frequent first; the others are drawn together.
    model, encoder, layer, use_raw, device, progress
        As in :func:`scgp.score_text`.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    The Axes. Places of genes and texts are means over cells:

    gene (triangle) : where it is expressed
        Each cell weighted by the gene's CP10k in it. A gene that all cells have is in the middle.
    text (star) : where it fits
        Each cell weighted by exp(cosine / 0.05), of its type vector and the projected text. The
        mean cosine under these weights is in brackets: a text that fits no cell has a place, too,
        and only a low number says so.

    A mean lies between two groups if the weight is in both. Cells without a count have no place.

    Raises
    ------
    ArgumentError
        Neither a gene nor a text is named, fewer than two cells have counts, or a text cannot be
        read (:func:`scgp.score_text`).
    GeneError
        A gene is not among the model's, not measured, or expressed in no cell.
    MissingColumnError
        The column or the coordinates are not there.
    CountsError, DeviceError
        As in :func:`scgp.embed`.

    Warns
    -----
    ScgpWarning
        As in :func:`scgp.score_text`.

    Notes
    -----
    Texts are not drawn where their projected vectors lie. Cells and texts have different means in
    the joint space (the modality gap), and two components of the cells' variance hold little of
    what a text says: with both centred on their means, the names of cell types lay 0.21 (blood),
    0.18 (liver) and 0.34 (fetal organs) from the means of their own cells in the map, and 0.10,
    0.05 and 0.08 by the mean over cells (checkpoint of version 0.8.0).
    """
    check_adata(adata)
    model = resolve_model(model)
    asked, text_T = _named(genes, texts)
    groups = None if color is None else as_labels(column_of(adata.obs, color))
    given_N2 = None
    if basis is not None:
        given_N2 = stored_coordinates(adata, basis, "basis=None makes coordinates")
    text_TE = _projected(text_T, model, encoder)
    type_NE, rate_NQ = _read(
        adata, asked, model, layer=layer, use_raw=use_raw, device=device, progress=progress
    )
    kept_N = type_NE.any(axis=1)
    if kept_N.sum() < 2:
        message = f"{kept_N.sum()} of {adata.n_obs} cells have counts; a map needs two"
        raise ArgumentError(message)
    type_NE, rate_NQ = type_NE[kept_N], rate_NQ[kept_N]
    xy_N2, share_2 = principal_plane(type_NE)
    xy_N2 = xy_N2 if given_N2 is None else given_N2[kept_N]
    gene_Q2 = _weighted(rate_NQ, xy_N2)
    text_T2, cosine_T = _of_texts(type_NE @ text_TE.T, xy_N2)
    if ax is None:
        ax = plt.subplots(figsize=(9.5, 6), layout="constrained")[1]
    free_P2 = np.concatenate([gene_Q2, text_T2])
    _draw_cells(ax, xy_N2, None if groups is None else groups[kept_N], free_P2, max_labels)
    name_components(ax, share_2)
    if basis is not None:
        ax.set(xlabel=plain(f"{basis} 1"), ylabel=plain(f"{basis} 2"))
    told_T = [f"{text} ({cosine:.2f})" for text, cosine in zip(text_T, cosine_T, strict=True)]
    _draw_means(ax, gene_Q2, asked, text_T2, told_T)
    return ax


def _named(genes: str | Sequence[str], texts: str | Sequence[str]) -> tuple[list[str], list[str]]:
    """Return genes and texts as lists; either may be empty."""
    asked = [genes] if isinstance(genes, str) else [str(gene) for gene in genes]
    text_T = [] if not isinstance(texts, str) and not len(texts) else listed(texts)
    if not asked and not text_T:
        message = "neither a gene nor a text is named; pass genes=[...], texts=[...], or both"
        raise ArgumentError(message)
    return asked, text_T


def _projected(texts: list[str], model: Model, encoder: TextEncoder | None) -> NDArray[np.float32]:
    """Return the texts in the joint space (T x E unit rows)."""
    term_ids = read_terms(texts, model)
    vector_TW = text_vectors(texts, term_ids, model, encoder)
    warn_readings(texts, term_ids, model)
    return model.project_vectors(vector_TW)


def _read(
    adata: ad.AnnData,
    genes: list[str],
    model: Model,
    *,
    layer: str | None,
    use_raw: bool | None,
    device: str | None,
    progress: bool,
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the cells' type vectors, and the CP10k of the genes in them (N x Q)."""
    gene_Q = named_genes(genes, model.genes) if genes else np.zeros(0, np.int64)
    rate_NQ = np.zeros((adata.n_obs, len(gene_Q)))

    def watch(first: int, tokens: TokenBatch, _: CellVectors, measured_G: np.ndarray) -> None:
        if genes and not first:
            named_genes(genes, model.genes, np.flatnonzero(measured_G))  # refuses what is missing
        value_BQ = tokens.values(model.config.n_genes)[:, gene_Q].toarray()
        rate_NQ[first : first + tokens.n_cells] = np.expm1(value_BQ)

    vectors, _ = embed_adata(
        adata, model, layer=layer, use_raw=use_raw, batch_size=1024, device=device,
        progress=progress, watch=watch,
    )  # fmt: skip
    warn_empty(vectors, "they have no place in the map")
    absent = [gene for gene, there in zip(genes, rate_NQ.sum(axis=0), strict=True) if there == 0]
    if absent and adata.n_obs:
        message = (
            f"{len(absent)} of {len(genes)} genes are expressed in no cell, so they have no place: "
            f"{', '.join(absent[:5])}"
        )
        raise GeneError(message)
    return vectors.type_BE, rate_NQ


def _weighted(weight_NP: NDArray[np.float64], value_NX: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over cells under each column of weights (P x X)."""
    return (weight_NP / weight_NP.sum(axis=0)).T @ value_NX


def _of_texts(
    cosine_NT: NDArray[np.floating], xy_N2: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the place of each text and its mean cosine there."""
    cosine_NT = cosine_NT.astype(np.float64)
    weight_NT = np.exp((cosine_NT - cosine_NT.max(axis=0)) / TEMPERATURE)
    mean_T = (weight_NT * cosine_NT).sum(axis=0) / weight_NT.sum(axis=0)
    return _weighted(weight_NT, xy_N2), mean_T


def _draw_cells(
    ax: Axes,
    xy_N2: NDArray[np.float64],
    groups: NDArray[np.object_] | None,
    free_P2: NDArray[np.float64],
    max_labels: int,
) -> None:
    size = float(np.clip(12_000 / len(xy_N2), 1, 22))
    if groups is None:
        ax.scatter(
            xy_N2[:, 0],
            xy_N2[:, 1],
            color=GREY,
            s=size,
            linewidths=0,
            label=f"cell ({len(xy_N2):,})",
        )
    else:
        draw_groups(ax, xy_N2, groups, size=size, max_labels=max_labels, free_P2=free_P2)


def _draw_means(
    ax: Axes,
    gene_Q2: NDArray[np.float64],
    genes: list[str],
    text_T2: NDArray[np.float64],
    texts: list[str],
) -> None:
    """Draw genes and texts over the cells, with the legend, and their names last."""
    if genes:
        ax.scatter(
            gene_Q2[:, 0], gene_Q2[:, 1], marker="^", s=55, color=_INK,
            edgecolors="white", linewidths=0.8, zorder=3,
            label="gene: mean of cells by its CP10k",
        )  # fmt: skip
    if texts:
        ax.scatter(
            text_T2[:, 0], text_T2[:, 1], marker="*", s=150, color="white",
            edgecolors=_INK, linewidths=1.2, zorder=3,
            label="text: mean of the cells it fits\n(mean cosine of these)",
        )  # fmt: skip
    ax.set_title("cells, genes and texts", fontsize=11)
    legend_beside(ax)
    bold = [False] * len(genes) + [True] * len(texts)
    write_names(ax, np.concatenate([gene_Q2, text_T2]), [*genes, *texts], bold=bold)
