"""What the training studies alone say of partners: without the network, or without the context.

Owns co-expression of the same type in the training studies, the linear reading, and the network's
own reading pooled over all types. Knows neither scores nor tables.

Shapes: N cells, G genes of a context, V genes of the vocabulary, D components.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from benchmarks.features import log_normalise
from benchmarks.partners_cells import (
    FEWEST,
    MOST,
    POOLED,
    Context,
    context_of,
    correlation,
    of_type,
    predicted,
    unit_columns,
)
from scgp.cells.counts import choose_counts
from scgp.cells.genes import match_genes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from benchmarks.partners_cells import Matrix
    from scgp.model.checkpoint import Model

#: Training files with fewer genes have no part in the linear reading; its components.
WIDE, N_COMPONENTS = 8000, 50


@dataclass(frozen=True, eq=False)
class OfTraining:
    """Co-expression of one type, measured in training studies.

    ``parts`` has for each file and study unit columns, their genes (ascending), and the number of
    cells.
    """

    parts: list[tuple[Matrix, NDArray[np.int64], int]]

    def correlation(self, gene_G: NDArray[np.int64]) -> Matrix | None:
        """Return the mean over studies, by number of cells; 0 where none measured both genes."""
        if not self.parts:
            return None
        total_GG = np.zeros((len(gene_G), len(gene_G)), np.float32)
        weight_GG = np.zeros_like(total_GG)
        for unit_NH, gene_H, n_cells in self.parts:
            there = np.flatnonzero(np.isin(gene_G, gene_H))
            unit_NT = unit_NH[:, np.searchsorted(gene_H, gene_G[there])]
            total_GG[np.ix_(there, there)] += n_cells * correlation(unit_NT)
            varies = there[unit_NT.any(axis=0)]
            weight_GG[np.ix_(varies, varies)] += n_cells
        return np.asarray(total_GG / np.maximum(weight_GG, 1))


def of_training(
    files: Sequence[ad.AnnData], kind: str, below: Callable[[str], Iterable[str]], model: Model,
    *, wanted_G: NDArray[np.int64],
) -> OfTraining:  # fmt: skip
    """Measure a type in every training file and study with at least `FEWEST` cells of it."""
    parts = []
    for cells in files:
        mine = of_type(cells.obs, kind, below)
        for study in cells.obs["study"][mine].unique():
            part = cells[mine & (cells.obs["study"] == study).to_numpy()]
            if part.n_obs >= FEWEST:
                known = match_genes(choose_counts(part.copy()), model.genes).token_of_column
                gene_H = np.intersect1d(wanted_G, known[known >= 0])
                at = context_of(part.copy(), model, gene_G=gene_H)
                parts.append((unit_columns(at.value_NG, at.design_NC), gene_H, part.n_obs))
    return OfTraining(parts)


def training_type(
    files: Sequence[ad.AnnData], kind: str, below: Callable[[str], Iterable[str]], *, seed: int
) -> ad.AnnData | None:
    """Draw at most `MOST` cells of a type from the training files with many genes."""
    parts = [cells[of_type(cells.obs, kind, below)] for cells in files if cells.n_vars >= WIDE]
    rows = [(n, i) for n, part in enumerate(parts) for i in range(part.n_obs)]
    if len(rows) < FEWEST:
        return None
    chosen = np.array(rows)[np.random.default_rng(seed).permutation(len(rows))[:MOST]]
    drawn = [part[np.sort(chosen[chosen[:, 0] == n, 1])] for n, part in enumerate(parts)]
    return ad.concat([part for part in drawn if part.n_obs], join="outer", index_unique="-")


@dataclass(frozen=True, eq=False)
class LinearReading:
    """Principal components of training cells, read in other cells as the network is.

    ``axis_VD`` has orthonormal columns; 0 for genes of which it knows nothing.
    """

    axis_VD: NDArray[np.float64]

    def read(self, context: Context) -> Matrix:
        """Return every gene as the components of the others say (its own value hidden)."""
        axis_GD = self.axis_VD[context.gene_G]
        value_NG = context.value_NG - context.value_NG.mean(axis=0)
        own_G = (axis_GD**2).sum(axis=1)
        return np.asarray((value_NG @ axis_GD) @ axis_GD.T - value_NG * own_G, np.float32)


def linear_reading(files: Sequence[ad.AnnData], model: Model) -> LinearReading:
    """Fit components to the training files with many genes, centred within studies."""
    n_genes = model.config.n_genes
    blocks = []
    measured_V = np.zeros(n_genes, np.int64)
    for cells in files:
        token_X = match_genes(choose_counts(cells), model.genes).token_of_column
        if (token_X >= 0).sum() < WIDE:
            continue
        known = np.flatnonzero(token_X >= 0)
        measured_V[token_X[known]] += 1
        to_vocabulary = sp.csr_matrix(
            (np.ones(len(known), np.float32), (known, token_X[known])), (cells.n_vars, n_genes)
        )
        counts = sp.csr_matrix(cells.X, dtype=np.float32)
        value_NV = log_normalise(sp.csr_matrix(counts @ to_vocabulary))
        study_N = cells.obs["study"].astype(str).to_numpy()
        blocks += [value_NV[study_N == study] for study in np.unique(study_N)]
    return LinearReading(_components(blocks, measured_V >= 2))


def _components(blocks: list[sp.csr_matrix], use_V: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the leading axes of the genes to be used, by the randomised method (seed 0)."""
    column = np.flatnonzero(use_V)
    dense = np.concatenate([b[:, column].toarray() - b[:, column].mean(axis=0) for b in blocks])
    dense = np.asarray(dense, np.float32)
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(len(column), N_COMPONENTS + 20)).astype(np.float32)
    for _ in range(6):
        basis = np.linalg.qr(dense.T @ (dense @ basis))[0]
    _, _, axis_DH = np.linalg.svd(dense @ basis, full_matrices=False)
    axis_VD = np.zeros((len(use_V), N_COMPONENTS))
    axis_VD[column] = basis @ axis_DH[:N_COMPONENTS].T
    return axis_VD


@dataclass(frozen=True, eq=False)
class Pooled:
    """The network's predictions in training cells of all types: the same in every context.

    ``unit_NG`` has what is left within studies, ``within_NG`` within types of them.
    """

    gene_G: NDArray[np.int64]
    unit_NG: Matrix
    within_NG: Matrix

    def correlation(self, gene_G: NDArray[np.int64], *, within: bool) -> Matrix:
        """Return the correlation of some genes."""
        unit_NG = self.within_NG if within else self.unit_NG
        return correlation(unit_NG[:, np.searchsorted(self.gene_G, gene_G)])


def pooled(
    files: Sequence[ad.AnnData], model: Model, *, wanted_G: NDArray[np.int64], seed: int
) -> Pooled:
    """Read genes in at most `POOLED` cells of each type and training study with many genes."""
    parts: list[tuple[Matrix, NDArray[np.float64], pd.Series]] = []
    for cells in files:
        if cells.n_vars < WIDE:
            continue
        order = np.random.default_rng(seed).permutation(cells.n_obs)
        shuffled = cells.obs.iloc[order]
        keys = ["study", "cell_type_ontology_term_id"]
        rank = shuffled.groupby(keys, observed=True).cumcount().to_numpy()
        part = cells[np.sort(order[rank < POOLED])].copy()
        at = context_of(part, model, gene_G=wanted_G)
        kind = part.obs[keys[0]].astype(str) + " " + part.obs[keys[1]].astype(str)
        parts.append((predicted(model, at), at.design_NC[:, 1:3], kind))
    rate_NG = np.concatenate([part[0] for part in parts])
    size = [len(part[0]) for part in parts]
    plain = np.concatenate([part[1] for part in parts])
    kind = pd.concat([part[2] for part in parts])
    file_N = pd.get_dummies(pd.Series(np.repeat(np.arange(len(parts)), size))).to_numpy(float)
    kind_N = pd.get_dummies(kind).to_numpy(float)
    return Pooled(
        wanted_G,
        unit_columns(rate_NG, np.column_stack([file_N, plain])),
        unit_columns(rate_NG, np.column_stack([kind_N, plain])),
    )


def on_genes(context: Context, unit_NG: Matrix, gene_G: NDArray[np.int64]) -> Matrix:
    """Return the columns of some genes of a context."""
    return unit_NG[:, np.searchsorted(context.gene_G, gene_G)]


def halves(context: Context) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the even and the odd cells of a context."""
    rows = np.arange(len(context.value_NG))
    return rows[::2], rows[1::2]
