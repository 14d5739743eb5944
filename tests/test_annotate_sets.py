"""annotate(coverage=...): label sets on real cells, and every bad input."""

import dataclasses

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scgp
from scgp.errors import ArgumentError, ScgpWarning
from scgp.phenotypes.ontology import Ontology
from scgp.reference.conformal import LEVELS, NEVER

SET, SIZE = "scgp_set", "scgp_set_size"


@pytest.fixture(scope="module")
def set_index(blood_index):
    """The small index with masses of sets as a training would have fitted: invented ones."""
    mass = tuple(np.linspace(0.0, 0.9, 95)) + (NEVER,) * (LEVELS - 95)
    calibration = dataclasses.replace(blood_index.calibration, set_mass=mass, set_cells=500)
    return dataclasses.replace(blood_index, calibration=calibration)


def sets_of(adata, index, coverage=0.9, **options):
    scgp.annotate(adata, index=index, coverage=coverage, progress=False, **options)
    return [set(text.split(" | ")) for text in adata.obs[SET].astype(str)]


def test_sets_are_written_beside_the_same_answer(blood, set_index, annotated):
    found = sets_of(blood, set_index)
    for name in ("cell_type", "confidence", "status"):
        pd.testing.assert_series_equal(blood.obs[f"scgp_{name}"], annotated.obs[f"scgp_{name}"])
    assert blood.obs[SIZE].dtype == np.int32
    assert blood.obs[SIZE].tolist() == [len(labels) for labels in found]
    assert set().union(*found) <= set(set_index.labels)
    assert blood.uns["scgp"]["coverage"] == 0.9
    assert SET not in annotated.obs
    assert "coverage" not in annotated.uns["scgp"]


def test_sets_grow_with_the_coverage(blood, set_index):
    few = sets_of(blood, set_index, 0.3)
    many = sets_of(blood, set_index, 0.94)
    assert all(small <= large for small, large in zip(few, many, strict=True))
    assert np.mean([len(s) for s in few]) < np.mean([len(s) for s in many])


def test_sets_hold_the_labels_that_the_authors_gave(blood, set_index):
    ontology = Ontology("CL")
    name_of = dict(zip(set_index.label_ids, set_index.labels, strict=True))
    true = [name_of.get(term, ontology.label(term)) for term in blood.obs["cell_type"]]
    held = {}
    for coverage in (0.3, 0.94):
        sets = sets_of(blood, set_index, coverage)
        held[coverage] = np.mean([t in s for t, s in zip(true, sets, strict=True)])
    assert held[0.94] > max(held[0.3], 0.8)


def test_the_same_cells_have_the_same_sets_in_any_company(blood, set_index):
    whole = sets_of(blood.copy(), set_index, batch_size=256)
    part = sets_of(blood[::-3].copy(), set_index)
    assert part == whole[::-3]


def test_empty_cells_have_no_set(blood, set_index):
    blood.X = sp.diags_array(np.repeat([0.0, 1.0], [2, 118])).tocsr() @ blood.X
    with pytest.warns(ScgpWarning, match="2 of 120 cells have no count"):
        scgp.annotate(blood, index=set_index, coverage=0.5, progress=False)
    assert blood.obs[SET].isna().tolist() == [True] * 2 + [False] * 118
    assert blood.obs[SIZE].tolist()[:2] == [0, 0]
    nobody = blood[:0].copy()
    scgp.annotate(nobody, index=set_index, coverage=0.5, progress=False)
    assert nobody.obs[SIZE].dtype == np.int32


def test_sets_survive_a_file(blood, set_index, tmp_path):
    sets_of(blood, set_index)
    blood.write_h5ad(tmp_path / "cells.h5ad")
    again = ad.read_h5ad(tmp_path / "cells.h5ad")
    assert again.obs[SET].astype(str).tolist() == blood.obs[SET].astype(str).tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coverage": 1.0}, "expected a share between 0 and 1"),
        ({"coverage": 0.0}, "expected a share between 0 and 1"),
        ({"coverage": 90}, "expected a share between 0 and 1"),
        ({"coverage": 0.98}, "at least 49 independent cells"),
        ({"coverage": 0.9, "labels": ["B cell"]}, "do not go together"),
    ],
)
def test_coverages_that_cannot_be_kept_are_refused(blood, set_index, state, options, message):
    before = state(blood)
    with pytest.raises(ArgumentError, match=message):
        scgp.annotate(blood, index=set_index, progress=False, **options)
    assert state(blood) == before


def test_a_reference_of_ones_own_promises_no_coverage(blood, blood_index):
    assert blood_index.calibration.set_mass == ()
    with pytest.raises(ArgumentError, match="no calibration for label sets: build_index made it"):
        scgp.annotate(blood, index=blood_index, coverage=0.9, progress=False)


def test_the_default_reference_keeps_its_sets_small(blood):
    scgp.annotate(blood, coverage=0.9, progress=False)
    assert 1 <= blood.obs[SIZE].mean() < 5
    assert (blood.obs[SIZE] >= 1).all()
