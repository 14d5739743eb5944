"""train(): what it is given: labels, studies, files, markers, and a base to start from."""

import dataclasses
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from scgp.errors import ArgumentError, CheckpointError, LabelError, MissingColumnError, ScgpWarning
from scgp.model.checkpoint import Model
from scgp.model.config import TrainConfig
from scgp.phenotypes.markers import Markers
from scgp.reference.fusion import Fusion
from scgp.reference.index import ReferenceIndex

sys.path.insert(0, str(Path(__file__).parent))
from trained_cells import NONE, SHORT, TYPES, assert_equal_weights, make_cells, train, weights


def test_a_missing_column_is_named(cells, tmp_path):
    with pytest.raises(MissingColumnError, match=r"'celltype'.*'study'"):
        train(cells, tmp_path / "model", label_key="celltype")
    with pytest.raises(MissingColumnError, match="tissue"):
        train(cells, tmp_path / "model", tissue_key="tissue")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("calibrate", [True, False])
def test_cells_without_any_label_are_refused(cells, tmp_path, calibrate):
    blank = cells.copy()
    blank.obs["cell_type_ontology_term_id"] = None
    with pytest.raises(LabelError, match="label"):
        train(blank, tmp_path / "model", calibrate_on_studies=calibrate)


@pytest.mark.parametrize("calibrate", [True, False])
def test_labelled_cells_without_any_count_are_refused(cells, tmp_path, calibrate):
    empty = cells.copy()
    empty.X = empty.X * 0
    with pytest.raises(LabelError, match="no cell has both a label"):
        train(empty, tmp_path / "model", calibrate_on_studies=calibrate)


def test_calibration_is_fitted_on_held_out_studies(cells, tmp_path):
    model = train(cells, tmp_path / "model", calibrate_on_studies=True)
    index = ReferenceIndex.load(tmp_path / "model" / "index", model_fingerprint=model.fingerprint)
    assert index.calibration.to_dict() == model.details["calibration"]
    assert index.calibration != Fusion()
    assert index.calibration.novelty_threshold > -1
    # what is trained in the end does not depend on the folds
    again = train(cells, tmp_path / "again")
    assert_equal_weights(model, again)


def test_one_donor_cannot_be_held_out_and_that_is_said(tmp_path):
    lonely = make_cells(studies=("a",))
    lonely.obs["donor"] = "d"
    with pytest.warns(ScgpWarning, match="one donor"):
        model = train(lonely, tmp_path / "model", calibrate_on_studies=True)
    assert model.details["calibration"] == Fusion().to_dict()


def test_one_study_is_calibrated_on_its_donors(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ScgpWarning)
        model = train(make_cells(studies=("a",)), tmp_path / "model", calibrate_on_studies=True)
    assert model.details["calibration"] != Fusion().to_dict()


def test_one_class_is_legal(tmp_path):
    model = train(make_cells(labels=TYPES[:1]), tmp_path / "model", calibrate_on_studies=True)
    index = ReferenceIndex.load(tmp_path / "model" / "index", model_fingerprint=model.fingerprint)
    assert index.labels == ["T cell"]


def test_labels_outside_the_ontology_are_classes_of_their_own(tmp_path):
    labels = ("CL:0000084", "B cell", "my own type", "cluster 7/8")
    model = train(make_cells(labels=labels), tmp_path / "model", calibrate_on_studies=True)
    index = ReferenceIndex.load(tmp_path / "model" / "index", model_fingerprint=model.fingerprint)
    assert dict(zip(index.labels, index.label_ids, strict=True)) == {
        "T cell": "CL:0000084", "B cell": "CL:0000236", "my own type": "", "cluster 7/8": "",
    }  # fmt: skip


def test_unlabelled_and_drawn_cells_take_part(cells, tmp_path):
    more = make_cells(n_each=2, seed=3)
    more.obs = more.obs[[]]
    more.write_h5ad(tmp_path / "more.h5ad")
    drawn = make_cells(n_each=5, seed=4)
    drawn.obs["profile"] = drawn.obs["cell_type_ontology_term_id"] + " profile"
    model = train(
        cells, tmp_path / "model", unlabelled=tmp_path / "more.h5ad", drawn=[drawn],
        calibrate_on_studies=True,
    )  # fmt: skip
    facts = model.details["corpus"]
    assert (facts["n_cells"], facts["n_labelled"], facts["n_drawn"]) == (96 + 24 + 60, 96, 60)
    index = ReferenceIndex.load(tmp_path / "model" / "index", model_fingerprint=model.fingerprint)
    assert index.drawn_N.sum() == 12  # three of each of four profiles
    assert "drawn" in index.studies


def test_files_and_objects_train_the_same_model(cells, whole, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    assert_equal_weights(train(str(tmp_path / "cells.h5ad"), tmp_path / "model"), whole[0])


def test_the_cells_are_not_changed(tmp_path):
    cells = make_cells()
    before = cells.copy()
    train(cells, tmp_path / "model")
    assert (cells.X != before.X).nnz == 0
    pd.testing.assert_frame_equal(cells.obs, before.obs)
    assert not cells.uns
    assert not cells.obsm


@pytest.mark.parametrize(
    ("markers", "words"),
    [({"CL:0000084": [1]}, "dict"), (Markers.from_columns({"CL:0000084": [300]}), "column 300")],
)
def test_markers_of_another_kind_or_vocabulary(tmp_path, markers, words):
    with pytest.raises(ArgumentError, match=words):
        train(make_cells(), tmp_path / "model", markers=markers)
    assert not list(tmp_path.iterdir())


def test_markers_are_kept_and_have_a_part_in_the_index(tmp_path):
    table = {TYPES[0]: [0, 1, 2], TYPES[1]: [20, 21, 22]}
    model = train(make_cells(), tmp_path / "model", markers=Markers.from_columns(table))
    assert model.markers.ids == TYPES[:2]
    plain = train(make_cells(), tmp_path / "plain")
    assert len(plain.markers) == 0
    described = [
        ReferenceIndex.load(tmp_path / name / "index").gene_head.described_HT
        for name in ("model", "plain")
    ]
    assert not np.array_equal(*described)


def test_fine_tuning_starts_from_the_base_and_leaves_it_alone(whole, tmp_path):
    base, directory = whole
    fingerprint = Model.load(directory).fingerprint
    new = make_cells(labels=TYPES[:2], studies=("d", "e"), seed=7)
    settings = TrainConfig(**SHORT.to_dict() | {"learning_rate": 1e-6})
    tuned = train(new, tmp_path / "tuned", base=base, settings=settings, **NONE)
    from_path = train(new, tmp_path / "path", base=str(directory), settings=settings, **NONE)
    assert_equal_weights(tuned, from_path)
    assert Model.load(directory).fingerprint == fingerprint
    for name, weight in weights(base).items():
        torch.testing.assert_close(weights(tuned)[name], weight, rtol=0, atol=2e-3)
    assert tuned.genes.fingerprint == base.genes.fingerprint
    assert torch.equal(weights(tuned)["gene_weight_G"], weights(base)["gene_weight_G"])


def test_fine_tuning_without_calibration_keeps_that_of_the_base(cells, whole, tmp_path):
    """Without what was measured on the very cells of its reference: sets, and a bound of texts."""
    fusion = Fusion(k=9, threshold=0.7, weight_head=1.0)
    measured = dataclasses.replace(fusion, set_mass=(0.1,) * 99, set_cells=500, novelty_text=0.5)
    old = whole[0]
    base = Model(
        old.config, old.network, old.genes, old.phenotypes,
        details={"calibration": measured.to_dict()},
    )  # fmt: skip
    tuned = train(cells, tmp_path / "tuned", base=base, **NONE)
    index = ReferenceIndex.load(tmp_path / "tuned" / "index", model_fingerprint=tuned.fingerprint)
    assert index.calibration == fusion
    assert tuned.details["calibration"] == fusion.to_dict()


def test_a_base_brings_its_own_parts(cells, whole, tmp_path):
    with pytest.raises(ArgumentError, match="base= brings its own"):
        train(cells, tmp_path / "model", base=whole[0])
    with pytest.raises(CheckpointError, match="does not exist"):
        train(cells, tmp_path / "model", base=tmp_path / "nowhere", **NONE)


def test_studies_that_the_base_has_seen_are_no_test_of_confidence(cells, tmp_path):
    first = train(cells, tmp_path / "first")
    new = make_cells(studies=("d", "e"), seed=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ScgpWarning)
        second = train(
            new, tmp_path / "second", base=first, calibrate_on_studies=True, **NONE
        )  # neither is among the base's
    assert second.details["base_studies"] == ["a", "b", "c"]
    again = {"base": second, "calibrate_on_studies": True, **NONE}
    with pytest.warns(ScgpWarning, match=r"trained on 2 of these studies \('a', 'd'\)"):
        train(make_cells(studies=("a", "d", "x"), seed=6), tmp_path / "third", **again)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ScgpWarning)
        train(new, tmp_path / "kept", base=second, **NONE)
