"""Labels that the reference knows from published mean profiles alone are named in ``uns``."""

from pathlib import Path

import anndata as ad
import numpy as np
import pytest

import scgp
from scgp.answer_columns import profile_facts
from scgp.own import model_index


@pytest.fixture(scope="module")
def cells():
    adata = scgp.demo.counts()
    scgp.annotate(adata, min_confidence=0, progress=False)
    return adata


def test_those_given_are_named_and_no_others(cells):
    index = model_index(scgp.load_model())
    real = set(np.array(index.labels)[np.unique(index.code_N[~index.drawn_N])])
    given = set(cells.obs["scgp_cell_type"].dropna()) & set(index.labels)
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
    assert profile_facts(np.array(["B cell", "unknown", None], object), index) == {}
