"""Naming cells by words without any training: marker genes, and gene summaries as text.

Owns the marker tables and the untrained fusion. Both see the cells of a file together and no label,
and are the same in every fold. Knows nothing of folds, models or scores.

Shapes: N cells of a file, G genes, T terms, W width of the text encoder.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from benchmarks.corpus import Cells
    from scgp.phenotypes.ontology import Ontology
    from scgp.phenotypes.text import SentenceEncoder

MARKERS = "marker scores"
FUSION = "untrained fusion"
CENTRED = "untrained fusion, centred"
#: Names of the two tables that mean a term, and that the ontology does not resolve.
ALIASES = {
    "B cells naive": "naive B cell",
    "Resting naive B cell": "naive B cell",
    "B cells memory": "memory B cell",
    "Pre-B cell": "precursor B cell",
    "T cells naive": "naive T cell",
    "Naive T(Th0) cell": "naive T cell",
    "T regulatory cells": "regulatory T cell",
    "Regulatory T (Treg) cell": "regulatory T cell",
    "Regulatory T(Treg) cell": "regulatory T cell",
    "CD4+CD25+ regulatory T cell": "CD4-positive, CD25-positive, alpha-beta regulatory T cell",
    "Gamma delta T cells": "gamma-delta T cell",
    "Gamma delta(γδ) T cell": "gamma-delta T cell",
    "Mucosa-associated invariant T (MAIT) cell": "mucosal-associated invariant T cell",
    "CD4 T cell": "CD4-positive, alpha-beta T cell",
    "CD4+ T cell": "CD4-positive, alpha-beta T cell",
    "CD8 T cell": "CD8-positive, alpha-beta T cell",
    "CD8+ T cell": "CD8-positive, alpha-beta T cell",
    "Naive CD4 T cell": "naive thymus-derived CD4-positive, alpha-beta T cell",
    "Naive CD4+ T cell": "naive thymus-derived CD4-positive, alpha-beta T cell",
    "Naive CD8 T cell": "naive thymus-derived CD8-positive, alpha-beta T cell",
    "Naive CD8+ T cell": "naive thymus-derived CD8-positive, alpha-beta T cell",
    "Memory CD4 T cell": "CD4-positive, alpha-beta memory T cell",
    "Memory CD4+ T cell": "CD4-positive, alpha-beta memory T cell",
    "Memory CD8+ T cell": "CD8-positive, alpha-beta memory T cell",
    "Effector memory CD8+ T cell": "effector memory CD8-positive, alpha-beta T cell",
    "Effector CD8 T cell": "effector CD8-positive, alpha-beta T cell",
    "Effector CD8+ T cell": "effector CD8-positive, alpha-beta T cell",
    "CD14 monocyte": "CD14-positive monocyte",
    "CD14+ monocyte": "CD14-positive monocyte",
    "Plasmacytoid dendritic cell(pDC)": "plasmacytoid dendritic cell",
    "Erythroid-like and erythroid precursor cells": "erythroid lineage cell",
    "Erythroid cell": "erythroid lineage cell",
    "Sinusoidal endothelial cell": "endothelial cell of hepatic sinusoid",
    "Enteric glia cells": "enteroglial cell",
    "Skeletal muscle cell": "cell of skeletal muscle",
    "Vascular smooth muscle cell(VSMC)": "vascular associated smooth muscle cell",
}
#: Genes of a term: those that most rows name come first.
MOST_MARKERS = 50
#: Fewer measured markers of a term than this in a file, and the file cannot show it.
FEWEST_MARKERS = 3
#: Letters of a gene's summary that are read: what a gene does stands first.
SUMMARY_LETTERS = 400


def term_of_name(name: str, ontology: Ontology) -> str:
    """Return the term of a cell-type name of a marker table, "" for none.

    Examples
    --------
    >>> from scgp.phenotypes.ontology import Ontology
    >>> [term_of_name(x, Ontology("CL")) for x in ("B cells", "B cells naive", "Crypt of x")]
    ['CL:0000236', 'CL:0000788', '']
    """
    return ontology.id_of(ALIASES.get(name, name)) or ontology.id_of(name.removesuffix("s"))


def marker_sets(genesets: Path, ontology: Ontology) -> dict[str, list[str]]:
    """Read PanglaoDB and CellMarker; return the marker symbols of each term, best known first."""
    panglao = pd.read_csv(genesets / "PanglaoDB_markers_27_Mar_2020.tsv", sep="\t")
    panglao = panglao[panglao["species"].fillna("").str.contains("Hs")]
    marker = pd.read_csv(genesets / "CellMarker2_human_tissue_celltype.csv")
    rows = [*zip(panglao["cell type"], panglao["official gene symbol"], strict=True)]
    rows += [
        (name, gene.strip())
        for name, genes in zip(marker["CT"], marker["Gene"], strict=True)
        for gene in str(genes).split(",")
    ]
    term_of = {name: term_of_name(name, ontology) for name in {name for name, _ in rows}}
    named: dict[str, Counter[str]] = {}
    for name, gene in rows:
        if term_of[name] and gene:
            named.setdefault(term_of[name], Counter())[gene] += 1
    return {
        term: sorted(genes, key=lambda gene: (-genes[gene], gene))[:MOST_MARKERS]
        for term, genes in sorted(named.items())
    }


def log_normalised(count_NG: sp.csr_matrix) -> sp.csr_matrix:
    """Return log1p of counts scaled to 10,000 a cell; empty cells stay empty."""
    total_N = np.asarray(count_NG.sum(axis=1), np.float64).ravel()
    scale_N = 1e4 / np.maximum(total_N, 1.0)
    value_NG = sp.csr_matrix(sp.diags(scale_N) @ count_NG, dtype=np.float32)
    value_NG.data = np.log1p(value_NG.data)
    return value_NG


def z_scored(score_NT: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale each column to mean 0 and standard deviation 1; one without spread becomes NaN.

    Examples
    --------
    >>> z_scored(np.array([[1.0, 2.0], [3.0, 2.0]])).tolist()
    [[-1.0, nan], [1.0, nan]]
    """
    spread_T = score_NT.std(axis=0)
    return (score_NT - score_NT.mean(axis=0)) / np.where(spread_T > 0, spread_T, np.nan)


def marker_scores(
    cells: Cells, terms: Sequence[str], markers: Mapping[str, Sequence[str]]
) -> NDArray[np.float64]:
    """Score the markers of each term (`scanpy.tl.score_genes`), z-scored over the file's cells.

    Returns
    -------
    N x T; NaN for a term without markers, or with too few that the file measures.
    """
    import anndata as ad
    import scanpy as sc

    there_G = np.flatnonzero(cells.measured_G)
    there_G = there_G[np.diff(cells.count_NG[:, there_G].tocsc().indptr) > 0]
    gene_G = pd.Index(cells.gene_G[there_G])
    value_NG = log_normalised(cells.count_NG)[:, there_G]
    adata = ad.AnnData(value_NG, var=pd.DataFrame(index=gene_G.astype(str)))
    score_NT = np.full((adata.n_obs, len(terms)), np.nan)
    for t, term in enumerate(terms):
        genes = [gene for gene in markers.get(term, ()) if gene in gene_G]
        if len(genes) >= FEWEST_MARKERS:
            sc.tl.score_genes(adata, genes, score_name="score", random_state=0)
            score_NT[:, t] = adata.obs["score"].to_numpy()
    return z_scored(score_NT)


def summary_vectors(
    table: Path, symbols: Sequence[str], encoder: SentenceEncoder
) -> NDArray[np.float32]:
    """Encode the RefSeq summary of each gene: G x W unit rows, zero where there is none."""
    read = pd.read_csv(table, sep="\t", usecols=["symbol", "Gene_summary"]).dropna()
    text_of = dict(zip(read["symbol"], read["Gene_summary"].str[:SUMMARY_LETTERS], strict=True))
    rows = [g for g, symbol in enumerate(symbols) if symbol in text_of]
    found = encoder.encode([f"{symbols[g]}: {text_of[symbols[g]]}" for g in rows])
    vector_GW = np.zeros((len(symbols), found.shape[1]), np.float32)
    vector_GW[rows] = found
    return vector_GW


def fusion_scores(
    cells: Cells,
    vector_GW: NDArray[np.float32],
    text_TW: NDArray[np.float32],
    *,
    centred: bool,
) -> NDArray[np.float64]:
    """Compare cells with texts, untrained: means of gene vectors, weighted by expression.

    Parameters
    ----------
    centred
        Take from the cells their mean over the file, and from the texts their mean over all terms.

    Returns
    -------
    Cosines, N x T.
    """
    known_G = np.any(vector_GW, axis=1).astype(np.float32)
    value_NG = log_normalised(cells.count_NG)
    weight_N1 = np.asarray(value_NG @ known_G)[:, None]
    cell_NW = np.asarray(value_NG @ vector_GW, np.float64) / np.maximum(weight_N1, 1e-9)
    text_TW = np.asarray(text_TW, np.float64)
    if centred:
        cell_NW = cell_NW - cell_NW.mean(axis=0)
        text_TW = text_TW - text_TW[text_TW.any(axis=1)].mean(axis=0)
    return _unit(cell_NW) @ _unit(text_TW).T


def of_file(
    cells: Cells,
    terms: Sequence[str],
    markers: Mapping[str, Sequence[str]],
    vector_GW: NDArray[np.float32],
    text_TW: NDArray[np.float32],
) -> dict[str, NDArray[np.float64]]:
    """Return every baseline's scores of the cells of one file, N x T by name."""
    return {
        MARKERS: marker_scores(cells, terms, markers),
        FUSION: fusion_scores(cells, vector_GW, text_TW, centred=False),
        CENTRED: fusion_scores(cells, vector_GW, text_TW, centred=True),
    }


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
