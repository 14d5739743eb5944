"""The cells of the benchmark: files, drawn cells, one gene space, and who trains on what.

Owns the gene space that every baseline shares (the genes of the vocabulary, zero where a file has
none) and the splits. Knows nothing of methods or scores.

Shapes: N cells, G genes of the vocabulary, V genes of a file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from benchmarks.folds import SHIFT_GROUPS, assign_folds, group_of, study_of_profile
from scgp.cells.counts import choose_counts
from scgp.cells.draw import draw_cells, read_profiles
from scgp.cells.genes import GeneVocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from scgp.phenotypes.ontology import Ontology

LABEL_KEY = "cell_type_ontology_term_id"
# Cells drawn from one profile, by file: the Human Cell Landscape has three times the profiles.
PER_PROFILE = {"cellprofilelibrary_human": 20, "hcl_ref_2020": 8}
MIN_QUERY_GENES = 50


@dataclass(frozen=True)
class Cells:
    """Cells in a gene space.

    Parameters
    ----------
    count_NG
        Counts, float32 CSR.
    obs
        ``label`` (ontology term, or the author's label where it has none), ``study``, ``donor``,
        ``file``, ``group``, ``batch``, ``drawn``; the index is the cell's name.
    gene_G
        Approved symbols.
    measured_G
        Whether any of the files measured the gene.
    """

    count_NG: sp.csr_matrix
    obs: pd.DataFrame
    gene_G: NDArray[np.object_]
    measured_G: NDArray[np.bool_]

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Cells:
        """Return some of the cells; a mask or positions."""
        return replace(self, count_NG=self.count_NG[rows], obs=self.obs.iloc[rows])

    @property
    def label_N(self) -> NDArray[np.object_]:
        """Labels, (N,)."""
        return self.obs["label"].to_numpy(dtype=object)


@dataclass(frozen=True)
class Source:
    """One file as it came (for scgp) and in the shared gene space (for the baselines)."""

    name: str
    adata: ad.AnnData
    cells: Cells

    def take(self, keep_N: NDArray[np.bool_]) -> Source:
        """Return the source with some of its cells; itself where all are kept."""
        if keep_N.all():
            return self
        return Source(self.name, self.adata[keep_N].copy(), self.cells.take(keep_N))


@dataclass(frozen=True)
class Split:
    """What trains and what is asked: one fold of one setting."""

    setting: str
    name: str
    train: list[Source]
    queries: list[Source]


def read_vocabulary(data: Path) -> GeneVocabulary:
    """Make the gene space from the tables of the data folder."""
    tables = data / "resources" / "genes"
    return GeneVocabulary.from_tables(
        tables / "hgnc_2024_slim.tsv.gz", tables / "10x_reference_symbol_to_ensembl.tsv.gz"
    )


def to_source(name: str, adata: ad.AnnData, vocabulary: GeneVocabulary) -> Source:
    """Bring a file whose ``obs`` has the benchmark's columns into the shared gene space."""
    counts = choose_counts(adata)
    token_V = np.asarray(counts_match(vocabulary, counts.var_names, counts.var), dtype=np.int64)
    known_V = np.flatnonzero(token_V >= 0)
    shape = (len(token_V), vocabulary.n_genes)
    ones = np.ones(len(known_V), np.float32)
    to_gene_VG = sp.csr_matrix((ones, (known_V, token_V[known_V])), shape=shape)
    count_NG = sp.csr_matrix(counts.rows(0, counts.n_cells) @ to_gene_VG, dtype=np.float32)
    count_NG.sort_indices()
    measured_G = np.zeros(vocabulary.n_genes, bool)
    measured_G[token_V[known_V]] = True
    gene_G = np.asarray(vocabulary.symbol, dtype=object)
    return Source(name, adata, Cells(count_NG, adata.obs, gene_G, measured_G))


def counts_match(
    vocabulary: GeneVocabulary, var_names: pd.Index, var: pd.DataFrame
) -> NDArray[np.int32]:
    """Return the vocabulary's gene of each column, -1 where it has none."""
    return vocabulary.match(var_names, var).token_of_column


def _with_columns(name: str, adata: ad.AnnData, label: Sequence[str]) -> ad.AnnData:
    """Add the benchmark's ``obs`` columns to a file just read; cells without a label go."""
    obs = adata.obs
    obs["label"] = np.asarray(label, dtype=object)
    for column in ("study", "donor"):
        known = obs[column].astype(str) if column in obs else pd.Series(name, index=obs.index)
        obs[column] = known.to_numpy(dtype=object)
    if "drawn" not in obs:
        obs["drawn"] = False
    obs["file"] = name
    obs["group"] = [group_of(name, study) for study in obs["study"]]
    obs["batch"] = np.where(obs["drawn"], f"drawn from {name}", obs["study"])
    return adata[(obs["label"] != "").to_numpy()].copy()


def read_folder(folder: Path, vocabulary: GeneVocabulary) -> list[Source]:
    """Read every file of ``train`` or ``eval``."""
    paths = sorted(folder.glob("*.h5ad"))
    if not paths:
        message = f"no .h5ad file in {folder}; --data wants the folder that holds train/ and eval/"
        raise FileNotFoundError(message)
    sources = []
    for path in paths:
        adata = ad.read_h5ad(path)
        label = adata.obs[LABEL_KEY].astype(str).tolist()
        sources.append(to_source(path.stem, _with_columns(path.stem, adata, label), vocabulary))
    return sources


def draw(data: Path, vocabulary: GeneVocabulary, *, seed: int) -> list[Source]:
    """Draw the cells that every method trains on beside the real ones.

    Profiles that are means of a study of the corpus carry that study, so that they are held out
    with its cells (`benchmarks.folds.PROFILE_STUDIES`).
    """
    sources = []
    for name, profiles in zip(PER_PROFILE, read_profiles(data / "pseudobulk"), strict=True):
        drawn = draw_cells(profiles, n_per_profile=PER_PROFILE[name], seed=seed)
        collection = drawn.obs["study"].astype(str) if "study" in drawn.obs else name
        drawn.obs["study"] = [
            study_of_profile(profile, study)
            for profile, study in zip(drawn.obs["profile"], collection, strict=True)
        ]
        label = drawn.obs[LABEL_KEY].astype(str).tolist()
        sources.append(to_source(name, _with_columns(name, drawn, label), vocabulary))
    return sources


def read_pair_file(
    path: Path, label_key: str, ontology: Ontology, vocabulary: GeneVocabulary
) -> Source:
    """Read a user's file; labels become ontology terms where they name one."""
    adata = ad.read_h5ad(path)
    if label_key not in adata.obs:
        message = f"{path} has no obs column {label_key!r}; it has {', '.join(adata.obs.columns)}"
        raise KeyError(message)
    column = adata.obs[label_key]
    given = np.where(column.isna(), "", column.astype(str)).tolist()
    label = [term or own for term, own in zip(ontology.resolve(given), given, strict=True)]
    return to_source(path.stem, _with_columns(path.stem, adata, label), vocabulary)


def _parts(sources: list[Source], groups: frozenset[str], *, inside: bool) -> list[Source]:
    """Return the cells of the sources whose group is in ``groups``, or not; no empty source."""
    masks = [source.cells.obs["group"].isin(groups).to_numpy() == inside for source in sources]
    return [source.take(m) for source, m in zip(sources, masks, strict=True) if m.any()]


def fold_splits(
    train: list[Source], drawn: list[Source], *, n_folds: int | None
) -> Iterator[Split]:
    """Leave studies out: each group of the training corpus is a query once."""
    groups = [group for source in train for group in source.cells.obs["group"]]
    setting = "each" if n_folds is None else f"folds{n_folds}"
    for fold in assign_folds(groups, n_folds=n_folds):
        kept = _parts(train + drawn, fold.held_out, inside=False)
        yield Split(setting, fold.name, kept, _parts(train, fold.held_out, inside=True))


def eval_split(train: list[Source], drawn: list[Source], queries: list[Source]) -> Split:
    """Train on everything but the groups of the queries, save the documented shift test."""
    groups = {group for source in queries for group in source.cells.obs["group"]}
    kept = _parts(train + drawn, frozenset(groups - SHIFT_GROUPS), inside=False)
    return Split("eval", "all", kept, queries)


def thin(source: Source, *, most: int, seed: int) -> Source:
    """Keep at most ``most`` cells of each study and type."""
    order_N = np.random.default_rng(seed).permutation(len(source.cells.obs))
    shuffled = source.cells.obs.iloc[order_N]
    rank_N = shuffled.groupby(["study", "label"], observed=True).cumcount().to_numpy()
    keep_N = np.zeros(len(order_N), bool)
    keep_N[order_N[rank_N < most]] = True
    return source.take(keep_N)


def join(sources: Sequence[Source]) -> Cells:
    """Stack the cells of several sources; a gene is measured where any of them measured it."""
    parts = [source.cells for source in sources]
    count_NG = sp.vstack([part.count_NG for part in parts], format="csr")
    obs = pd.concat([part.obs[_SHARED] for part in parts])
    measured_G = np.logical_or.reduce([part.measured_G for part in parts])
    return Cells(count_NG, obs, parts[0].gene_G, measured_G)


_SHARED = ["label", "study", "donor", "file", "group", "batch", "drawn"]


def on_query_genes(train: Cells, query: Cells) -> tuple[Cells, Cells]:
    """Restrict both to the genes that the query measures and some training file does.

    As a careful user would: a gene that the query lacks is not zero in it. Training cells without
    a count on these genes are left out.
    """
    shared_G = np.flatnonzero(train.measured_G & query.measured_G)
    if len(shared_G) < MIN_QUERY_GENES:
        message = (
            f"training and query share {len(shared_G)} genes; expected at least {MIN_QUERY_GENES}"
        )
        raise ValueError(message)
    both = []
    for cells in (train, query):
        count_NG = cells.count_NG[:, shared_G]
        measured_G = np.ones(len(shared_G), bool)
        both.append(Cells(count_NG, cells.obs, cells.gene_G[shared_G], measured_G))
    expressed_N = np.diff(both[0].count_NG.indptr) > 0
    return both[0].take(expressed_N), both[1]
