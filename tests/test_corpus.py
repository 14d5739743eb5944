"""The training corpus: which cells are one donor's, and so which studies are independent."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scgp.cells.corpus import read_corpus
from scgp.cells.draw import draw_cells
from scgp.cells.genes import GeneVocabulary
from scgp.training.calibrate import independent_groups

pytestmark = pytest.mark.filterwarnings("ignore:few genes in common")  # synthetic: few

N_GENES = 250


@pytest.fixture(scope="module")
def genes() -> GeneVocabulary:
    rows = [[f"ENSG{g:011d}", f"GENE{g}", "", "", ""] for g in range(N_GENES)]
    columns = ["ensembl_id", "symbol", "previous", "aliases", "names_10x"]
    return GeneVocabulary(pd.DataFrame(rows, columns=columns))


def cells(n, n_genes, **obs):
    """Return cells that have a count of each of some genes."""
    adata = ad.AnnData(
        sp.csr_matrix(np.ones((n, n_genes), np.float32)),
        obs=pd.DataFrame({"label": "T cell", **obs}, index=[f"c{i}" for i in range(n)]),
    )
    adata.var_names = [f"GENE{g}" for g in range(n_genes)]
    return adata


def corpus_of(genes, pairs):
    """Read one cell of each (study, donor)."""
    counts = sp.csr_matrix(np.ones((len(pairs), N_GENES), np.float32))
    obs = pd.DataFrame(
        pairs, columns=["study", "donor"], index=[f"c{i}" for i in range(len(pairs))]
    )
    adata = ad.AnnData(counts, obs=obs.assign(label="T cell"))
    adata.var_names = [f"GENE{g}" for g in range(N_GENES)]
    return read_corpus(adata, genes, label_key="label", study_key="study", donor_key="donor")


def n_groups(corpus):
    return len(np.unique(independent_groups(corpus, np.zeros(corpus.n_cells, int))))


GENERIC = [
    "1", "07", "12", "1.0", "#3", "donor1", "Donor 1", "donor_2", "D2", "d-2", "patient_3", "P03",
    "sample 4", "S4", "Subject.5", "individual-6", "H1", "N1", "A", "b", "donor A", "donorB", " 1 ",
]  # fmt: skip
SPECIFIC = [
    "Zheng_donorA", "10x_pbmc3k_6k", "SRR7244582", "SCP345_580", "AHCA_D1", "fetus_C", "CID4465",
    "691_692", "Colon1", "Jane", "AB", "HTA4_1",
]  # fmt: skip
UNKNOWN = ["", "unknown", "Unknown", "NA", None]


@pytest.mark.parametrize("donor", [*GENERIC, *UNKNOWN])
def test_a_generic_donor_name_ties_no_studies(genes, donor):
    corpus = corpus_of(genes, [("a", donor), ("b", donor), ("a", donor)])
    assert corpus.donor_N[0] != corpus.donor_N[1]
    assert corpus.donor_N[0] == corpus.donor_N[2]
    assert n_groups(corpus) == 2


@pytest.mark.parametrize("donor", SPECIFIC)
def test_a_specific_donor_name_ties_its_studies(genes, donor):
    corpus = corpus_of(genes, [("a", donor), ("b", donor), ("c", "D1")])
    assert corpus.donor_N[0] == corpus.donor_N[1]
    assert n_groups(corpus) == 2


def test_generic_names_tell_donors_of_one_study_apart(genes):
    corpus = corpus_of(genes, [("a", "1"), ("a", "2"), ("a", "x9"), ("a", ""), ("a", "D1")])
    assert len(set(corpus.donor_N)) == 5
    assert n_groups(corpus) == 5


def test_numbers_with_gaps_are_donors_too(genes):
    """A column of floats: "1.0" in two studies is two donors, and nan is no donor."""
    corpus = corpus_of(genes, [("a", 1.0), ("b", 1.0), ("a", np.nan), ("b", np.nan)])
    assert len(set(corpus.donor_N)) == 4


def test_every_real_cell_names_its_source_and_a_drawn_one_none(genes):
    corpus = read_corpus(
        [cells(2, N_GENES), cells(1, 220)], genes, label_key="label", study_key=None,
        donor_key=None, unlabelled=[cells(3, 230)], drawn=[cells(2, N_GENES, profile="p")],
    )  # fmt: skip
    assert corpus.source_N.tolist() == [0, 0, 1, 2, 2, 2, -1, -1]
    assert corpus.measured_SG.sum(axis=1).tolist() == [N_GENES, 220, 230]
    assert corpus.part(np.array([2, 7])).source_N.tolist() == [1, -1]


def test_gene_sets_of_real_and_drawn_cells(genes):
    """A drawn cell measures what the study behind its profile measured, whatever its file has."""

    profiles = cells(3, N_GENES, gene_set=["wide", "narrow", "wide"])
    narrow = np.arange(N_GENES) < 210
    profiles.varm["measured"] = pd.DataFrame(
        {"narrow": narrow, "wide": True}, index=profiles.var_names
    )
    library = draw_cells(profiles, n_per_profile=2, seed=0)
    plain = draw_cells(cells(1, 220), n_per_profile=1, seed=0)
    corpus = read_corpus(
        [cells(2, N_GENES), cells(1, 230)], genes, label_key="label", study_key=None,
        donor_key=None, drawn=[library, plain],
    )  # fmt: skip
    rows = np.arange(corpus.n_cells)
    sets = corpus.gene_sets(rows)
    n_measured = sets.measured_PG[sets.set_N].sum(axis=1).tolist()
    assert n_measured == [N_GENES, N_GENES, 230, *[N_GENES] * 2, 210, 210, *[N_GENES] * 2, 220]
    assert not sets.measured_PG[sets.set_N[5]][210:].any()
    part = corpus.part(rows[4:])
    of_part = part.gene_sets(np.arange(part.n_cells))
    assert of_part.measured_PG[of_part.set_N].sum(axis=1).tolist() == n_measured[4:]


def test_nothing_is_known_of_drawn_cells_without_gene_sets(genes):
    corpus = corpus_of(genes, [("a", "1"), ("b", "2")])
    assert corpus.gene_sets(np.array([1])).measured_PG.all()
