"""Labelled cells and published profiles become mean profiles that `predict` can draw on.

Owns how cells are averaged, and which profiles are fitted together. Must not know what makes labels
and tissues alike (`alike`), how a profile follows from that (`reference.profiles`), nor how a user
names a label (`texts`).

Shape suffixes: B cells, N cells of a corpus, R mean profiles, V columns of profiles as published, G
genes of the vocabulary.
"""

from collections.abc import Sequence

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from scgp.cells.corpus import Corpus
from scgp.cells.draw import measured_genes
from scgp.errors import ArgumentError, MissingColumnError
from scgp.model.checkpoint import Model
from scgp.phenotypes.ontology import Ontology
from scgp.reference.groups import Groups
from scgp.reference.profiles import Profiles, fit_profiles
from scgp.training.objective import TermTable
from scgp.what_if.alike import group_likeness

#: A mean over fewer cells is no mean profile.
FEWEST_CELLS = 10
#: The source of labelled cells, beside those of profiles.
CELLS = "cells"
LABEL, TISSUE = "cell_type_ontology_term_id", "tissue_ontology_term_id"

#: Mean profiles: log1p(CP10k), what is measured, and label, tissue and source of each.
Rows = tuple["np.ndarray | LogMeans", np.ndarray, list[tuple[str, str, str]]]


class LogMeans:
    """Mean profiles, R x G, log1p of means: made of their sums, float64, when rows are asked for.

    Of an atlas of many donors all of them at once would be twice as large as the sums.
    """

    def __init__(self, sum_RG: np.ndarray, count_R: np.ndarray) -> None:
        self._sum_RG, self._count_R = sum_RG, count_R
        self.shape = sum_RG.shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        return np.log1p(self._sum_RG[rows] / np.maximum(self._count_R[rows], 1)[:, None])


class CellMeans:
    """Means of CP10k over groups of cells that come in blocks; none of groups of few cells.

    Parameters
    ----------
    code_B
        Group of each cell, -1 for cells left out.
    n_groups, n_genes
        Number of groups, and of genes of the vocabulary.
    """

    def __init__(self, code_B: np.ndarray, n_groups: int, n_genes: int) -> None:
        n_cells = np.bincount(code_B[code_B >= 0], minlength=n_groups)
        self._group_R = np.flatnonzero(n_cells >= FEWEST_CELLS)
        row_of = np.full(n_groups + 1, -1)  # the last is that of -1
        row_of[self._group_R] = np.arange(len(self._group_R))
        self._row_B = row_of[code_B]
        self._sum_RG = np.zeros((len(self._group_R), n_genes), np.float32)
        self._count_R = np.zeros(len(self._group_R), np.int64)

    def add(self, first: int, value_BG: sp.csr_matrix) -> None:
        """Add the cells from `first` on, log1p(CP10k); cells without a count are left out."""
        row_B = self._row_B[first : first + value_BG.shape[0]]
        used = np.flatnonzero((row_B >= 0) & (np.diff(value_BG.indptr) > 0))
        row_B = row_B[used]
        linear_BG = value_BG[used].expm1()
        self._count_R += np.bincount(row_B, minlength=len(self._count_R))
        for row in np.unique(row_B):
            self._sum_RG[row] += np.asarray(linear_BG[row_B == row].sum(axis=0)).ravel()

    def means(self) -> tuple[LogMeans, np.ndarray]:
        """Return log1p of the means of the groups that have cells enough, and which they are."""
        enough_R = self._count_R >= FEWEST_CELLS  # fewer where cells have no count
        if not enough_R.all():
            self._sum_RG, self._count_R = self._sum_RG[enough_R], self._count_R[enough_R]
            self._group_R = self._group_R[enough_R]
        return LogMeans(self._sum_RG, self._count_R), self._group_R


def cell_groups(
    label_B: Sequence[str], tissue_B: Sequence[str], set_B: Sequence[str]
) -> tuple[np.ndarray, list[tuple[str, str, str]]]:
    """Return the group of each cell, -1 for cells without a term, and the key of each group.

    Parameters
    ----------
    label_B
        Cell Ontology id of each cell, "" for none.
    tissue_B
        Name or UBERON id of its tissue; what is no term of UBERON counts as unknown.
    set_B
        What else sets groups of a label and tissue apart: study, or set of genes.
    """
    uberon = Ontology("UBERON")
    tissue_of = {name: uberon.id_of(name) for name in set(tissue_B)}
    keys = list(zip(label_B, (tissue_of[t] for t in tissue_B), set_B, strict=True))
    order = sorted({key for key in keys if key[0]})
    code_of = {key: code for code, key in enumerate(order)}
    return np.array([code_of.get(key, -1) for key in keys], int), order


class AveragedCells:
    """Mean profiles of an atlas that is read in blocks: one a label, tissue and study.

    Parameters
    ----------
    model
        The model whose vocabulary the genes are of.
    labels
        Label of each cell; those that name no term of the Cell Ontology are left out.
    tissues, studies
        Of each cell, or None.
    """

    def __init__(
        self, model: Model, labels: pd.Series, tissues: pd.Series | None, studies: pd.Series | None
    ) -> None:
        read = Ontology("CL").read
        label_B = _texts(labels)
        term_of = {name: read(name) if name else "" for name in set(label_B)}
        no_B = [""] * len(label_B)
        tissue_B = no_B if tissues is None else _texts(tissues)
        study_B = no_B if studies is None else _texts(studies)
        code_B, self._keys = cell_groups([term_of[x] for x in label_B], tissue_B, study_B)
        self._means = CellMeans(code_B, len(self._keys), model.config.n_genes)
        self._measured_G = np.zeros(model.config.n_genes, bool)

    def add(self, first: int, value_BG: sp.csr_matrix, measured_G: np.ndarray) -> None:
        """Add the cells from `first` on: log1p(CP10k), and what the atlas measures."""
        self._means.add(first, value_BG)
        self._measured_G = measured_G

    def rows(self) -> Rows:
        """Return the mean profiles."""
        value_RG, group_R = self._means.means()
        measured_RG = np.broadcast_to(self._measured_G, value_RG.shape)
        return value_RG, measured_RG, [(*self._keys[r][:2], CELLS) for r in group_R]


def _texts(column: pd.Series) -> list[str]:
    text = column.astype(object).where(column.notna().to_numpy(), "")
    return [str(value) for value in text]


def profiles_of(
    model: Model, corpus: Corpus, types: TermTable, profiles: Sequence[ad.AnnData] = ()
) -> Profiles | None:
    """Return what the labels of a corpus and of published mean profiles express.

    Parameters
    ----------
    model
        Its texts and markers describe the labels.
    corpus, types
        Labelled cells.
    profiles
        As `scgp.cells.draw.read_profiles` returns them; levels of two are never compared.
    """
    parts = [rows_of_corpus(model, corpus, types)]
    parts += [rows_of_profiles(model, p, f"profiles {i}") for i, p in enumerate(profiles)]
    return make_profiles(model, parts)


def rows_of_corpus(model: Model, corpus: Corpus, types: TermTable) -> Rows:
    """Return the mean profiles of the labelled cells of a corpus, one a label, tissue and source.

    Cells drawn from profiles are left out: the profiles say more.
    """
    ontology = Ontology("CL")
    id_of = np.array([*(n if ontology.is_term(n) else "" for n in types.names), ""], object)
    label_N = np.where(corpus.drawn_N, "", id_of[types.cell_N])  # -1 is the last, ""
    code_N, keys = cell_groups(
        list(label_N), list(corpus.tissue_N), list(map(str, corpus.source_N))
    )
    n_genes = model.config.n_genes
    means, columns = CellMeans(code_N, len(keys), n_genes), np.arange(n_genes)
    for row_B, counts in corpus.blocks():
        means.add(int(row_B[0]), model.tokenizer.tokenize(counts, columns).values(n_genes))
    value_RG, group_R = means.means()
    measured_RG = corpus.measured_SG[[int(keys[r][2]) for r in group_R]]
    return value_RG, measured_RG, [(keys[r][0], keys[r][1], CELLS) for r in group_R]


def rows_of_profiles(model: Model, profiles: ad.AnnData, source: str) -> Rows:
    """Return published mean profiles over the vocabulary.

    Parameters
    ----------
    profiles
        Linear mean expression (`scgp.cells.draw.read_profiles`): ``obs`` with
        ``cell_type_ontology_term_id`` and, where known, ``tissue_ontology_term_id``;
        ``varm["measured"]`` and ``obs["gene_set"]`` as there.
    source
        Name of these profiles, whose levels are compared with no other's.

    Raises
    ------
    MissingColumnError
        ``obs`` has no labels.
    ArgumentError
        Values are negative or not finite, or a label is no term.
    """
    if LABEL not in profiles.obs:
        msg = f"obs of the profiles has no column {LABEL!r}; it has {list(profiles.obs.columns)}"
        raise MissingColumnError(msg)
    labels = profiles.obs[LABEL].astype(str).tolist()
    if odd := sorted({label for label in labels if not Ontology("CL").is_term(label)}):
        msg = f"labels of profiles are no live Cell Ontology ids: {odd[:3]}; leave these rows out"
        raise ArgumentError(msg)
    linear_RV = sp.csr_matrix(profiles.X, dtype=np.float64)
    if not np.isfinite(linear_RV.data).all() or (linear_RV.data < 0).any():
        msg = "profiles hold negative or non-finite values; expected linear mean expression"
        raise ArgumentError(msg)
    total_R = np.maximum(np.asarray(linear_RV.sum(axis=1)).ravel(), np.finfo(float).tiny)
    column_V = model.genes.match(profiles.var_names, profiles.var).token_of_column
    known = np.flatnonzero(column_V >= 0)
    place = (np.ones(len(known)), (known, column_V[known]))
    place_VG = sp.csr_matrix(place, shape=(len(column_V), model.config.n_genes))
    cp10k_RG = (sp.diags(1e4 / total_R) @ linear_RV @ place_VG).toarray()
    given = measured_genes(profiles)
    measured_RV = np.ones(profiles.shape, bool) if given is None else np.stack(given)
    measured_RG = (sp.csr_matrix(measured_RV.astype(np.float32)) @ place_VG).toarray() > 0
    uberon, n = Ontology("UBERON"), len(labels)
    tissues = profiles.obs[TISSUE].astype(str).tolist() if TISSUE in profiles.obs else [""] * n
    ids = [uberon.id_of(tissue) for tissue in tissues]
    keys = list(zip(labels, ids, [source] * n, strict=True))
    return np.log1p(cp10k_RG).astype(np.float32), measured_RG, keys


def make_profiles(model: Model, parts: Sequence[Rows]) -> Profiles | None:
    """Fit profiles to rows; None where there are none."""
    if not any(keys for _, _, keys in parts):
        return None
    value_RG, measured_RG, keys = _joined([part for part in parts if part[2]])
    groups = Groups.of(value_RG, measured_RG, keys)
    return fit_profiles(groups, *group_likeness(groups.label_ids, groups.tissue_ids, model))


def _joined(parts: Sequence[Rows]) -> Rows:
    """Return all rows; those of one part are not copied."""
    if len(parts) == 1:
        return parts[0]
    values, measured, keys = zip(*parts, strict=True)
    value_RG = np.concatenate([of_part[:] for of_part in values])
    return value_RG, np.concatenate(measured), [key for of_part in keys for key in of_part]
