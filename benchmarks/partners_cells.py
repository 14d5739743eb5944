"""Contexts of the benchmark of partners: their cells, what is read and measured in them.

A context is a cell type in a study. Owns who is asked, and how values become co-variation. Knows
neither scores nor tables.

Shapes: N cells, C covariates, G genes of a context (columns), V genes of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
from scipy.stats import rankdata

from scgp.cells.counts import choose_counts
from scgp.cells.genes import match_genes
from scgp.in_context.reading import always, read_genes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    import scipy.sparse as sp
    from numpy.typing import NDArray

    from scgp.model.checkpoint import Model
    from scgp.model.network import CellTransformer

    Matrix = NDArray[np.float32]

#: Cells of a context that are read, at most and at least; genes, at most, and the least share of
#: cells that must have a count of them.
MOST, FEWEST, N_GENES, DETECTED = 200, 60, 1500, 0.03
#: Components that smooth measured values; cells of each type and training study whose predictions
#: are pooled.
RANK, POOLED = 10, 8
#: Cell Ontology terms of a type; terms below them are of it too.
TYPES = {
    "B cell": "CL:0000236",
    "monocyte": "CL:0000576",
    "NK cell": "CL:0000623",
    "CD4 T cell": "CL:0000624",
    "CD8 T cell": "CL:0000625",
    "T cell": "CL:0000084",
    "fibroblast": "CL:0000057",
    "endothelial cell": "CL:0000115",
    "precursor B cell": "CL:0000817",
}
_FINE = ("B cell", "monocyte", "NK cell", "CD4 T cell", "CD8 T cell")
_SORTED = ("B cell", "monocyte", "NK cell", "T cell")
#: Studies that are asked: file, and types.
ASKED = {
    "Zheng": ("zheng_sorted_fasttopics", (*_FINE, "T cell")),
    "PBMC3k": ("pbmc3k_seurat", (*_FINE, "T cell")),
    "GeACT blood": ("geact_sorted_blood", _SORTED),
    "GeACT fetal": (
        "geact_fetal_7organs",
        ("T cell", "fibroblast", "endothelial cell", "precursor B cell"),
    ),
}
#: Pairs of studies that are held against each other, on the types that both have.
PAIRS = {
    ("Zheng", "PBMC3k"): _FINE,
    ("Zheng", "GeACT blood"): _SORTED,
    ("PBMC3k", "GeACT blood"): _SORTED,
}
#: Contexts that are measured by themselves: T cells of the first two are there by kind.
ALONE = [
    (study, kind)
    for study, (_, kinds) in ASKED.items()
    for kind in kinds
    if not (kind == "T cell" and "CD4 T cell" in kinds)
]


@dataclass(frozen=True, eq=False)
class Context:
    """The cells of one type in one study.

    Attributes
    ----------
    count_NX
        Counts, with the columns of the file.
    token_X
        Gene of the vocabulary of each column.
    gene_G
        The genes that are read and measured, of the vocabulary, ascending.
    value_NG
        log1p(CP10k) of them.
    design_NC
        Intercept, donors, log counts, log genes detected.
    detected_G
        Share of the cells with a count.
    """

    count_NX: sp.csr_matrix
    token_X: NDArray[np.int64]
    gene_G: NDArray[np.int64]
    value_NG: Matrix
    design_NC: NDArray[np.float64]
    detected_G: NDArray[np.float64]


def of_type(obs: pd.DataFrame, kind: str, below: Callable[[str], Iterable[str]]) -> np.ndarray:
    """Tell which cells are of a type of `TYPES`."""
    terms = {TYPES[kind], *below(TYPES[kind])}
    return np.asarray(obs["cell_type_ontology_term_id"].astype(str).isin(terms))


def context_of(
    cells: ad.AnnData, model: Model, *, gene_G: NDArray[np.int64] | None = None
) -> Context:
    """Take counts, values and covariates from cells; by default of the genes detected most."""
    counts = choose_counts(cells)
    token_X = np.asarray(match_genes(counts, model.genes).token_of_column, np.int64)
    count_NX = counts.take(np.arange(cells.n_obs))
    value_NV = model.tokenizer.tokenize(count_NX, token_X).values(model.config.n_genes)
    detected_V = np.asarray((value_NV > 0).mean(axis=0)).ravel()
    if gene_G is None:
        gene_G = np.sort(np.argsort(-detected_V, kind="stable")[:N_GENES])
        gene_G = gene_G[detected_V[gene_G] >= DETECTED]
    total_N = np.maximum(np.asarray(count_NX.sum(axis=1, dtype=np.float64)).ravel(), 1)
    n_genes_N = np.diff(value_NV.tocsr().indptr)
    batch = cells.obs["study"].astype(str) + " " + cells.obs["donor"].astype(str)
    donors = pd.get_dummies(batch, drop_first=True).to_numpy(float)
    design_NC = np.column_stack(
        [np.ones(cells.n_obs), np.log(total_N), np.log(n_genes_N + 1), donors]
    )
    value_NG = value_NV[:, gene_G].toarray().astype(np.float32)
    return Context(count_NX, token_X, gene_G, value_NG, design_NC, detected_V[gene_G])


def asked_contexts(
    data: Path, model: Model, below: Callable[[str], Iterable[str]], *, seed: int,
    most: int | None = MOST, gene_G: NDArray[np.int64] | None = None,
) -> dict[tuple[str, str], Context]:  # fmt: skip
    """Draw at most `most` cells of each context of the studies that are asked, or take all."""
    found = {}
    for study, (name, kinds) in ASKED.items():
        cells = ad.read_h5ad(data / "train" / f"{name}.h5ad")
        for kind in kinds:
            rows = np.flatnonzero(of_type(cells.obs, kind, below))
            rows = np.sort(np.random.default_rng(seed).permutation(rows)[:most])
            if len(rows) >= FEWEST:
                found[study, kind] = context_of(cells[rows].copy(), model, gene_G=gene_G)
    return found


def predicted(model: Model, context: Context, network: CellTransformer | None = None) -> Matrix:
    """Return the predicted log CP10k of the context's genes, each with its own count hidden."""
    place_V = np.zeros(model.config.n_genes, np.int64)
    place_V[context.gene_G] = np.arange(len(context.gene_G))
    rate_NG = np.zeros(context.value_NG.shape, np.float32)
    for read in read_genes(
        model, [context.count_NX], context.token_X, always(context.gene_G), network=network
    ):
        rate_NG[read.cell_M, place_V[read.gene_M]] = read.log_rate_M
    return rate_NG


def unit_columns(value_NG: np.ndarray, design_NC: NDArray[np.float64]) -> Matrix:
    """Regress the covariates out of each gene and scale it to length 1; 0 where nothing is left.

    The product of such a matrix with itself is the partial correlation of its genes.
    """
    basis_NC = np.linalg.qr(design_NC)[0]
    left_NG = value_NG - basis_NC @ (basis_NC.T @ value_NG)
    length_G = np.linalg.norm(left_NG, axis=0)
    scale_G = np.where(length_G > 1e-6 * np.linalg.norm(value_NG, axis=0), length_G, np.inf)
    return np.asarray(left_NG / scale_G, np.float32)


def measured(context: Context) -> dict[str, Matrix]:
    """Return values whose partial correlations are the forms of measured co-expression.

    Pearson and Spearman of log1p(CP10k), and of Pearson residuals of counts (Lause et al. 2021,
    clipped at the root of the number of cells). Smoothing comes after the covariates (`smoothed`).
    """
    value_NG = context.value_NG
    return {
        "co-expression, Pearson": value_NG,
        "co-expression, Spearman": np.asarray(rankdata(value_NG, axis=0), np.float32),
        "co-expression, count residuals": np.asarray(_residuals(context), np.float32),
        "co-expression, smoothed": value_NG,
    }


def smoothed(unit_NG: Matrix) -> Matrix:
    """Return the leading `RANK` components of unit columns, as unit columns again."""
    u_NR, s_R, v_RG = np.linalg.svd(unit_NG, full_matrices=False)
    leading_NG = (u_NR[:, :RANK] * s_R[:RANK]) @ v_RG[:RANK]
    return unit_columns(leading_NG, np.ones((len(leading_NG), 1)))


def _residuals(context: Context) -> NDArray[np.float64]:
    total_N = np.exp(context.design_NC[:, 1])
    count_NG = np.expm1(context.value_NG.astype(float)) * total_N[:, None] / 1e4
    mean_NG = np.outer(total_N, count_NG.sum(axis=0) / total_N.sum())
    z_NG = (count_NG - mean_NG) / np.sqrt(mean_NG + mean_NG**2 / 100 + 1e-12)
    bound = np.sqrt(len(z_NG))
    return np.asarray(np.clip(z_NG, -bound, bound))


def correlation(unit_NG: Matrix) -> Matrix:
    """Return the partial correlation of all pairs of genes."""
    return np.asarray(unit_NG.T @ unit_NG)
