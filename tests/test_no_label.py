"""Words that say there is no label: no verb makes a cell type of them, and each says so."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scgp
from scgp.cells.corpus import read_corpus
from scgp.cells.dataset import CellDataset
from scgp.cells.no_label import NO_LABEL, label_text, says_none, told_words
from scgp.errors import LabelError, ScgpWarning
from scgp.phenotypes.ontology import Ontology

WORDS = [
    "unknown", "Unknown", "nan", "NaN", "None", "NA", "N/A", " unassigned ", "Unannotated",
    "not available", "<NA>", "unlabeled",
]  # fmt: skip


def test_no_word_is_a_name_of_a_cell_type():
    ontology = Ontology("CL")
    assert [word for word in NO_LABEL if ontology.read(word)] == []


@pytest.mark.parametrize("word", ["other", "others", "B", "0", "unknown B cell", "naive", "native"])
def test_what_may_be_a_type_is_kept(word):
    assert not says_none(word)


def test_text_keeps_the_index_and_the_words_of_the_user():
    column = pd.Series(["T/NK", np.nan, " nA", 3, 1.5, True], index=list("abcdef"), dtype=object)
    text = label_text(column)
    assert text.tolist() == ["T/NK", None, None, "3", "1.5", "True"]
    assert text.index.tolist() == list("abcdef")
    assert told_words(column) == "1 say ' nA'"
    categories = column.map(str, na_action="ignore").astype("category")
    assert label_text(categories).tolist() == ["T/NK", None, None, "3", "1.5", "True"]


def test_what_fills_a_text_up_is_no_part_of_it(blood):
    assert label_text(pd.Series(["B cell\0\0", "nan\0", "\0"])).tolist() == ["B cell", None, None]
    blood.obs["label"] = np.repeat(["B cell\0", "B cell", "monocyte"], 40).astype(object)
    index = scgp.build_index(blood, label_key="label", progress=False)
    assert index.labels == ["B cell", "monocyte"]


def test_no_labels_at_all():
    empty = pd.Series([], dtype=object)
    assert label_text(empty).tolist() == []
    assert told_words(empty) == ""


@pytest.mark.parametrize("word", WORDS)
def test_an_index_has_no_type_of_that_name(blood, word):
    blood.obs["label"] = np.repeat(["B cell", "monocyte", word], [50, 40, 30]).astype(object)
    with pytest.warns(ScgpWarning) as caught:
        index = scgp.build_index(blood, label_key="label", progress=False)
    told = f"30 of 120 cells have no label in obs['label']: left out (30 say {word!r})"
    assert [str(w.message) for w in caught] == [told]
    assert index.labels == ["B cell", "monocyte"]
    assert index.n_cells == 90


def test_all_words_are_told_with_their_numbers(blood):
    labels = np.repeat(["B cell", "Unknown", "nan", "T cell"], [50, 20, 10, 40]).astype(object)
    labels[-5:] = None
    blood.obs["label"] = pd.Categorical(labels)
    with pytest.warns(ScgpWarning, match=r"35 of 120 .*\(20 say 'Unknown', 10 say 'nan'\)"):
        scgp.build_index(blood, label_key="label", progress=False)


def test_a_reference_answers_with_no_such_label(blood, annotate):
    """Nor where the labels to be answered are named."""
    atlas, query = blood[:90].copy(), blood[90:].copy()
    atlas.obs["label"] = atlas.obs["cell_type"].astype(str)
    atlas.obs.loc[atlas.obs["cell_type"] == "CL:0000236", "label"] = "Unassigned"
    with pytest.warns(ScgpWarning, match="say 'Unassigned'"):
        annotate(query, index=None, reference=atlas, label_key="label", min_confidence=0)
    labelled = query.obs["scgp_cell_type"].astype(str)
    assert "Unassigned" not in set(labelled)
    with pytest.warns(ScgpWarning, match="say 'Unassigned'"):
        annotate(
            query, index=None, reference=atlas, label_key="label", labels=["T cell", "monocyte"]
        )


def test_an_index_of_a_representation(blood):
    blood.obsm["X_own"] = np.random.default_rng(0).normal(size=(120, 5)).astype(np.float32)
    blood.obs["label"] = np.repeat(["B cell", "T cell", "unknown"], 40).astype(object)
    with pytest.warns(ScgpWarning) as caught:
        index = scgp.build_index(blood, label_key="label", use_rep="X_own")
    assert "40 say 'unknown'" in str(caught[0].message)
    assert index.labels == ["B cell", "T cell"]


def test_an_atlas_of_such_words_alone(blood):
    blood.obs["label"] = "unknown"
    with (
        pytest.warns(ScgpWarning, match="120 of 120"),
        pytest.raises(LabelError, match="no cell has"),
    ):
        scgp.build_index(blood, label_key="label", progress=False)


@pytest.fixture
def cells(model) -> ad.AnnData:
    """Synthetic counts of 600 genes of the model, with labels of which half say that they are none.

    As files give them: a number of missing ones, and words.
    """
    counts = np.random.default_rng(0).poisson(0.5, (8, 600)).astype(np.float32)
    var = pd.DataFrame(index=[str(gene) for gene in model.genes.ensembl[:600]])
    adata = ad.AnnData(sp.csr_matrix(counts), var=var)
    adata.obs_names = [f"cell {i}" for i in range(8)]
    adata.obs["label"] = ["B cell", "unknown", "Unknown", "nan", None, "", "T cell", "other"]
    return adata


def test_training_reads_no_such_label(cells, model):
    told = r"5 of 8 cells have no label in obs\['label'\] \(1 say 'unknown', 1 say 'Unknown', 1 say"
    with pytest.warns(ScgpWarning, match=told) as caught:
        corpus = read_corpus(cells, model.genes, label_key="label", study_key=None, donor_key=None)
    assert len(caught) == 1
    assert corpus.label_N.tolist() == ["B cell", "", "", "", "", "", "T cell", "other"]


def test_other_columns_of_training_cells_are_as_they_were(cells, model):
    cells.obs["donor"] = "unknown"
    found = CellDataset(cells[[0, 6, 7]], model.genes, label_key="label", donor_key="donor")
    assert found.donor.tolist() == ["unknown"] * 3
    assert found.label.tolist() == ["B cell", "T cell", "other"]


def test_an_atlas_without_a_label_says_what_to_pass(all_blood):
    cells = all_blood[:20].copy()
    cells.obs["type"] = "unknown"
    with pytest.warns(ScgpWarning, match="20 say 'unknown'"), pytest.raises(LabelError) as error:
        scgp.build_index(cells, label_key="type", progress=False)
    assert "a label in obs['type'] and a count: 0 of 20 have a label" in str(error.value)
    assert "as label_key" in str(error.value)


@pytest.mark.parametrize("word", [None, "", "unknown", " NA "])
def test_no_study_is_no_study_however_it_is_written(blood, word):
    """One study and cells of none: nothing is compared between studies."""
    blood.obs["study"] = np.array(["one", word] * 60, object)
    blood.obsm["X_own"] = blood.obsm["X_umap"]
    told = [f"60 of 120 cells are of no study in obs['study'] (60 say {word!r})"]
    told *= bool(word)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        index = scgp.build_index(
            blood, label_key="cell_type", study_key="study", background=False, progress=False
        )
    assert [str(w.message) for w in caught] == told
    assert index.studies == ["", "one"]
    assert index.pairwise is None
    with pytest.warns(ScgpWarning) as caught:
        scgp.build_index(blood, label_key="cell_type", study_key="study", use_rep="X_own")
    assert "not calibrated" in str(caught[-1].message)
