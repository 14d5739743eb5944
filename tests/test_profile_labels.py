"""Labels that the reference knows from published mean profiles alone are named in ``uns``."""

import dataclasses
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

import scgp
from scgp.answer_columns import profile_facts
from scgp.own import model_index
from scgp.reference.decision import Decision


@pytest.fixture(scope="module")
def cells():
    """Cells answered without the pairwise stream, which speaks for labels of real cells alone."""
    adata = scgp.demo.counts()
    index = model_index(scgp.load_model())
    fusion = dataclasses.replace(index.calibration, weight_pairwise=0.0)
    silent = dataclasses.replace(index, calibration=fusion)
    scgp.annotate(adata, index=silent, min_confidence=0, progress=False)
    return adata


def test_those_given_are_named_and_no_others(cells):
    index = model_index(scgp.load_model())
    real = set(np.array(index.labels)[np.unique(index.code_N[~index.drawn_N])])
    labelled = cells.obs["scgp_status"] == "labelled"
    given = set(cells.obs.loc[labelled, "scgp_cell_type"]) & set(index.labels)
    told = cells.uns["scgp"]["labels_from_profiles"]
    assert sorted(given - real) == told
    assert told
    assert given & real


def test_the_readme_says_how_many_there_are():
    index = model_index(scgp.load_model())
    real = np.unique(index.code_N[~index.drawn_N])
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    n_labels = len(index.labels)
    assert f"**{n_labels - len(real)} of the {n_labels} labels of the shipped reference" in readme


def test_the_list_survives_a_file_and_goes_with_the_next_answer(cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    again = ad.read_h5ad(tmp_path / "cells.h5ad")
    assert (
        list(again.uns["scgp"]["labels_from_profiles"]) == cells.uns["scgp"]["labels_from_profiles"]
    )
    scgp.annotate(again, labels=["T cell", "B cell"], progress=False)
    assert "labels_from_profiles" not in again.uns["scgp"]  # both have real cells


def test_a_reference_of_real_cells_has_none():
    index = model_index(scgp.load_model())
    label = np.array(["B cell", "unknown", None], object)
    status = np.array(["labelled", "unknown", "empty"], object)
    ids = np.array(["CL:0000236", "", ""], object)
    assert profile_facts(_decision(label, ids, status), index, named=False) == {}


def _decision(label, ids, status):
    zero = np.zeros(len(label), np.float32)
    return Decision(label, ids, zero, status, label, zero)


@pytest.mark.parametrize(("status", "named"), [("ancestor", False), ("labelled", True)])
def test_a_broader_term_stands_for_all_labels_below_it(status, named):
    """Its own cells are drawn, but kinds of it have real ones; and the other way round."""
    index = model_index(scgp.load_model())
    label = np.array(["epithelial cell", "acinar cell", "keratinocyte"], object)
    ids = np.array(["CL:0000066", "CL:0000622", "CL:0000312"], object)
    given = _decision(label, ids, np.array([status] * 3, object))
    assert profile_facts(given, index, named=named) == {
        "labels_from_profiles": ["acinar cell", "keratinocyte"]
    }
    own = profile_facts(
        _decision(label, ids, np.array(["labelled"] * 3, object)), index, named=False
    )
    assert own == {"labels_from_profiles": ["epithelial cell", "keratinocyte"]}
