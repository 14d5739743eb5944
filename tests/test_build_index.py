"""build_index() and reference=: a user's own atlas, with every kind of label."""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scgp
from scgp.errors import (
    ArgumentError,
    LabelError,
    MissingColumnError,
    ScgpWarning,
)
from scgp.phenotypes.ontology import Ontology

LABEL, TERM = "scgp_cell_type", "scgp_cell_type_ontology_term_id"
CONFIDENCE, STATUS = "scgp_confidence", "scgp_status"


def test_an_atlas_is_an_index_is_a_saved_index(blood, annotate, model, tmp_path, same_answers):
    """reference=, build_index and its directory give the same answer."""
    atlas, query = blood[:90].copy(), blood[90:].copy()
    direct = annotate(query, index=None, reference=atlas, label_key="cell_type", copy=True)
    index = scgp.build_index(atlas, label_key="cell_type", progress=False)
    index.save(tmp_path / "atlas.scgp")
    assert index.model_fingerprint == model.fingerprint
    for given in (index, tmp_path / "atlas.scgp", str(tmp_path / "atlas.scgp")):
        same_answers(annotate(query, index=given, copy=True), direct)
    assert direct.uns["scgp"]["index"] == repr(index)


def test_an_atlas_has_no_bound_of_text_novelty(blood, model):
    assert model.details["calibration"]["novelty_text"] > 0
    index = scgp.build_index(blood, label_key="cell_type", progress=False)
    assert index.calibration.novelty_text == -1
    assert index.calibration.weight_text == model.details["calibration"]["weight_text"]


def test_building_an_index_changes_nothing(blood, state):
    before = state(blood)
    scgp.build_index(blood, label_key="cell_type", progress=False)
    assert state(blood) == before


def test_a_missing_label_column_names_those_there_are(blood, annotate, state):
    before = state(blood)
    with pytest.raises(MissingColumnError) as caught:
        annotate(blood, index=None, reference=blood, label_key="celltype")
    assert "'celltype'" in str(caught.value)
    assert "'bulk_labels'" in str(caught.value)
    with pytest.raises(MissingColumnError, match="'nope'"):
        scgp.build_index(blood, label_key="cell_type", study_key="nope", progress=False)
    assert state(blood) == before


@pytest.mark.parametrize("argument", ["label_key", "study_key", "tissue_key"])
@pytest.mark.parametrize("key", [["cell_type"], 3])
def test_what_is_no_name_of_a_column_is_told(blood, argument, key):
    options = {"label_key": "cell_type", argument: key}
    with pytest.raises(ArgumentError, match="expected the name of one column of obs"):
        scgp.build_index(blood, progress=False, **options)


@pytest.mark.parametrize("write", [str.lower, lambda term: term.replace(":", "_")])
def test_ids_written_otherwise_are_ids(blood, write):
    expected = scgp.build_index(blood, label_key="cell_type", progress=False)
    blood.obs["written"] = blood.obs["cell_type"].map(write)
    index = scgp.build_index(blood, label_key="written", progress=False)
    assert (index.labels, index.label_ids) == (expected.labels, expected.label_ids)
    found = scgp.annotate(
        blood, index=index, labels=[write("CL:0000236"), "T cell"], progress=False, copy=True
    )
    assert "B cell" in found.obs[LABEL].cat.categories


def _labelled(adata, labels):
    adata.obs["label"] = pd.Series(labels, index=adata.obs_names)
    return adata


@pytest.mark.parametrize("missing", [np.nan, None, "", "  "])
@pytest.mark.parametrize("as_category", [False, True])
def test_cells_without_a_label_are_left_out_and_counted(blood, missing, as_category):
    labels = ["B cell"] * 50 + ["monocyte"] * 40 + [missing] * 30
    _labelled(blood, labels)
    if as_category:
        blood.obs["label"] = blood.obs["label"].astype("category")
    with pytest.warns(ScgpWarning, match="30 of 120 cells have no label") as caught:
        index = scgp.build_index(blood, label_key="label", progress=False)
    assert len(caught) == 1
    assert len(index.code_N) == 90
    assert index.labels == ["B cell", "monocyte"]


@pytest.mark.parametrize("dtype", [object, float, "category"])
def test_a_column_without_any_label(blood, dtype):
    blood.obs["label"] = pd.Series(np.nan, index=blood.obs_names).astype(dtype)
    with (
        pytest.warns(ScgpWarning, match="120 of 120"),
        pytest.raises(LabelError, match="no cell has"),
    ):
        scgp.build_index(blood, label_key="label", progress=False)


def test_an_atlas_of_no_cells(blood):
    none = ad.AnnData(sp.csr_matrix((0, blood.n_vars), dtype=np.float32), var=blood.var)
    none.obs["label"] = pd.Series([], dtype=object)
    with pytest.raises(LabelError, match="no cell has"):
        scgp.build_index(none, label_key="label", progress=False)


def test_empty_cells_of_an_atlas_are_left_out(blood):
    blood.X = sp.vstack([sp.csr_matrix((3, blood.n_vars)), blood.X[3:]], "csr").astype(np.float32)
    index = scgp.build_index(blood, label_key="cell_type", progress=False)
    assert len(index.code_N) == 117


def test_one_class(blood, annotate):
    _labelled(blood, ["B cell"] * 120)
    annotate(blood, index=None, reference=blood, label_key="label")
    assert "B cell" in set(blood.obs[LABEL])
    # cells that the model reads as another type: a term above the label, or none
    above = Ontology("CL").ancestors("CL:0000236")
    assert set(blood.obs[TERM]) <= {*above, ""}
    labelled = blood.obs[STATUS] == "labelled"
    assert set(blood.obs[LABEL][labelled]) == {"B cell"}


def test_labels_with_slashes_and_other_alphabets(blood, annotate, tmp_path, same_answers):
    """Values, never keys: they are answered as written, and survive a file."""
    names = ["T/NK", "Zellen/β", "単球 🧬"]
    kind_N = pd.factorize(blood.obs["cell_type"])[0] % 3
    _labelled(blood, [names[kind] for kind in kind_N])
    with pytest.warns(ScgpWarning, match="3 of 3 labels") as caught:
        index = scgp.build_index(blood, label_key="label", progress=False)
    assert len(caught) == 1
    assert set(index.labels) == set(names)
    assert index.label_ids == ["", "", ""]
    index.save(tmp_path / "index")
    annotate(blood, index=tmp_path / "index")
    assert set(blood.obs[LABEL]) & set(names)
    assert set(blood.obs[LABEL]) <= {*names, "unknown"}
    assert (blood.obs[TERM] == "").all()
    blood.write_h5ad(tmp_path / "labels.h5ad")
    same_answers(ad.read_h5ad(tmp_path / "labels.h5ad"), blood)


def test_a_label_that_is_no_term_is_kept_and_said_once(blood, annotate):
    labels = blood.obs["cell_type"].where(blood.obs["cell_type"] != "CL:0000236", "my B")
    _labelled(blood, labels.tolist())
    with pytest.warns(ScgpWarning, match="'my B'") as caught:
        annotate(blood, index=None, reference=blood, label_key="label")
    assert len(caught) == 1
    mine = blood.obs[LABEL] == "my B"
    assert mine.any()
    assert (blood.obs.loc[mine, TERM] == "").all()
    assert not mine[blood.obs["cell_type"] == "CL:0001054"].any()


def test_ids_names_and_synonyms_of_a_term_are_one_label(blood):
    _labelled(blood, ["CL:0000236", "B cell", "B lymphocyte", "monocyte"] * 30)
    with pytest.warns(ScgpWarning, match="one label: 'B lymphocyte' as 'B cell'$"):
        index = scgp.build_index(blood, label_key="label", progress=False)
    assert len(index.labels) == 2
    assert dict(zip(index.label_ids, index.labels, strict=True))["CL:0000576"] == "monocyte"
    assert "CL:0000236" in index.label_ids


def test_a_term_has_its_most_frequent_name_and_no_blanks(blood):
    """One odd spelling does not rename a type."""
    _labelled(
        blood, [*["B lymphocyte"] * 40, " B lymphocyte", "B cell", "foo ", "foo"] + ["T cell"] * 76
    )
    with pytest.warns(ScgpWarning) as told:
        index = scgp.build_index(blood, label_key="label", progress=False)
    assert index.labels == ["B lymphocyte", "T cell", "foo"]
    assert any("'B cell' as 'B lymphocyte'" in str(warning.message) for warning in told)


def test_labels_that_are_numbers(blood):
    """Clusters: text in the index, so that they survive a file."""
    _labelled(blood, [0, 1, 2] * 40)
    with pytest.warns(ScgpWarning, match="3 of 3 labels"):
        index = scgp.build_index(blood, label_key="label", progress=False)
    assert index.labels == ["0", "1", "2"]


def test_studies_of_an_atlas_are_kept(blood):
    blood.obs["study"] = pd.Categorical(["a"] * 60 + ["b"] * 40 + [None] * 20)
    index = scgp.build_index(blood, label_key="cell_type", study_key="study", progress=False)
    assert index.studies == ["", "a", "b"]
    assert np.bincount(index.study_N).tolist() == [20, 60, 40]


def test_a_model_without_a_reference_says_so(blood, model):
    bare = scgp.Model(model.config, model.network, model.genes, model.phenotypes)
    with pytest.raises(ArgumentError, match="no reference of its own"):
        scgp.annotate(blood, model=bare, progress=False)


def test_a_calibration_of_before_descriptions_is_given_none(all_blood):
    """Its weights and its confidence are those of four streams."""
    folder = Path(__file__).parent / "releases"
    heads = [
        scgp.build_index(
            all_blood, label_key="cell_type", model=folder / release / "model", progress=False
        ).gene_head
        for release in ("0.4.0", "0.5.0")
    ]
    assert [head.described_HT is None for head in heads] == [True, False]


def test_the_gene_head_knows_which_study_a_cell_is_of(all_blood, monkeypatch):
    import scgp.build

    seen = []
    real = scgp.build.fit_gene_head

    def fit(*args, **options):
        seen.append(options["study_N"])
        return real(*args, **options)

    monkeypatch.setattr("scgp.build.fit_gene_head", fit)
    atlas = all_blood[:200].copy()
    atlas.obs["channel"] = [name.split("-")[-1] for name in atlas.obs_names]
    for key in ("channel", None):
        scgp.build_index(atlas, label_key="cell_type", study_key=key, progress=False)
    assert len(set(seen[0].tolist())) == atlas.obs["channel"].nunique()
    assert seen[1] is None
