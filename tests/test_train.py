"""train(): a whole run on a few synthetic cells, interrupted, resumed, refused, fine-tuned."""

import os
import shutil
import signal
import sys
import warnings
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from scgp import annotate
from scgp import train as train_function
from scgp.cells.vocabulary import GeneVocabulary
from scgp.errors import ArgumentError, CheckpointError, LabelError, MissingColumnError, ScgpWarning
from scgp.model import checkpoint
from scgp.model.checkpoint import Model
from scgp.model.config import ModelConfig, TrainConfig
from scgp.model.network import CellTransformer
from scgp.phenotypes.markers import Markers
from scgp.phenotypes.terms import Phenotypes
from scgp.reference.evidence import Fusion
from scgp.reference.index import ReferenceIndex
from scgp.training import loop

N_GENES = 300
TYPES = ("CL:0000084", "CL:0000236", "CL:0000576", "CL:0000624")
CONFIG = ModelConfig(
    n_genes=N_GENES, n_tokens=8, width=16, n_layers=1, pool_width=16, embed_dim=16, text_dim=8,
    context_layers=0,
)  # fmt: skip
SHORT = TrainConfig(pool_steps=3, steps=3, batch_size=16, masked_cells=4, learning_rate=1e-2)


def make_genes():
    ids = [f"ENSG{i:011d}" for i in range(N_GENES)]
    table = pd.DataFrame({"ensembl_id": ids, "symbol": [f"SYN{i}" for i in range(N_GENES)]})
    return GeneVocabulary(table.assign(previous="", aliases="", names_10x=""))


def make_texts():
    vector_TW = np.random.default_rng(0).normal(size=(len(TYPES), 8))
    vector_TW /= np.linalg.norm(vector_TW, axis=1, keepdims=True)
    return Phenotypes(TYPES, vector_TW.astype(np.float16), "synthetic")


def make_cells(labels=TYPES, studies=("a", "b", "c"), n_each=8, seed=0):
    """Synthetic counts: 20 genes mark each label; two donors in each study."""
    rng = np.random.default_rng(seed)
    rate = np.full((len(labels), N_GENES), 0.3)
    for i in range(len(labels)):
        rate[i, 20 * i : 20 * (i + 1)] = 4.0
    rows = [(i, study, k) for study in studies for i in range(len(labels)) for k in range(n_each)]
    counts = rng.poisson(rate[[i for i, _, _ in rows]])
    obs = pd.DataFrame(
        {
            "cell_type_ontology_term_id": [labels[i] for i, _, _ in rows],
            "study": [study for _, study, _ in rows],
            "donor": [f"{study}{k % 2}" for _, study, k in rows],
            "synthetic": True,
        },
        index=[f"cell{n}" for n in range(len(rows))],
    )
    var = pd.DataFrame(index=[f"SYN{g}" for g in range(N_GENES)])
    return ad.AnnData(sp.csr_matrix(counts, dtype=np.float32), obs=obs, var=var)


def train(data, out, **changed):
    options = {
        "genes": make_genes(), "phenotypes": make_texts(), "config": CONFIG, "settings": SHORT,
        "calibrate_on_studies": False, "progress": False, "device": "cpu",
    }  # fmt: skip
    return train_function(data, out=out, **{**options, **changed})


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


def weights(model):
    return model.network.state_dict()


def assert_equal_weights(a, b):
    for name, tensor in weights(a).items():
        assert torch.equal(tensor, weights(b)[name]), name
    assert a.fingerprint == b.fingerprint


@pytest.fixture(scope="module")
def cells():
    return make_cells()


@pytest.fixture(scope="module")
def whole(cells, tmp_path_factory):
    """A short run that nothing interrupted, with its directory."""
    out = tmp_path_factory.mktemp("whole") / "model"
    return train(cells, out), out


def interrupt_at(monkeypatch, count, *, when="forward"):
    """Raise KeyboardInterrupt in one step: before its losses, or after the optimizer's step."""
    owner, name = {
        "forward": (loop.Objective, "forward"),
        "after": (loop.KeepState, "on_train_batch_end"),
    }[when]
    real, calls = getattr(owner, name), []

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == count:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, interrupted)


def test_a_run_leaves_a_model_an_index_and_the_history(cells, whole):
    model, out = whole
    assert_equal_weights(Model.load(out), model)
    assert not model.network.training
    assert sorted(p.name for p in out.parent.iterdir()) == ["model", "model.history.csv"]
    index = ReferenceIndex.load(out / "index", model_fingerprint=model.fingerprint)
    assert index.n_cells == cells.n_obs
    assert index.label_ids == ["CL:0000236", "CL:0000624", "CL:0000084", "CL:0000576"]
    assert index.studies == ["a", "b", "c"]
    assert model.details["settings"] == SHORT.to_dict()
    assert model.details["corpus"] == {
        "n_cells": 96, "n_labelled": 96, "n_labels": 4, "n_drawn": 0, "studies": ["a", "b", "c"],
    }  # fmt: skip
    history = pd.read_csv(out.parent / "model.history.csv")
    assert history["step"].tolist() == list(range(6))
    assert {"loss", "type", "cell", "masked"} <= set(history.columns)
    assert history["masked"].notna().tolist() == [False] * 3 + [True] * 3
    assert np.isfinite(history["loss"]).all()


def test_every_part_of_the_network_learns(whole):
    torch.manual_seed(SHORT.seed)
    start = CellTransformer(CONFIG).state_dict()
    for name, weight in weights(whole[0]).items():
        if "sharpness" not in name and "norm" not in name:
            assert not torch.equal(weight, start[name].half().float()), name


def test_the_loss_falls(cells, tmp_path):
    settings = TrainConfig(pool_steps=40, steps=10, batch_size=32, masked_cells=4, seed=1)
    train(cells, tmp_path / "model", settings=settings)
    history = pd.read_csv(tmp_path / "model.history.csv")
    assert history["type"].iloc[-2:].mean() < 0.7 * history["type"].iloc[:2].mean()
    assert history["cell"].iloc[-2:].mean() < history["cell"].iloc[:2].mean()


def test_the_seed_decides_bit_for_bit(cells, whole, tmp_path):
    torch.manual_seed(99)  # the caller's generators play no part
    assert_equal_weights(train(cells, tmp_path / "again"), whole[0])
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (whole[1] / name).read_bytes()
    other = train(cells, tmp_path / "other", settings=TrainConfig(**SHORT.to_dict() | {"seed": 1}))
    assert other.fingerprint != whole[0].fingerprint


def test_the_transformer_is_trained_on_top_of_the_pooled_view(cells, whole, tmp_path):
    """More steps of the transformer change it, and no vector or label of a cell."""
    alone = train(cells, tmp_path / "alone", settings=replace(SHORT, steps=0))
    same, other = weights(alone), weights(whole[0])
    changed = {name for name in same if not torch.equal(same[name], other[name])}
    pooled = {name for name in same if name.split(".")[0] in CellTransformer.POOLED}
    assert changed
    assert not changed & pooled
    assert {"to_slots", "blocks.0.up.weight", "expression.0.weight"} <= changed
    assert alone.fingerprint != whole[0].fingerprint
    found = [annotate(cells, model=model, copy=True, progress=False) for model in (alone, whole[0])]
    np.testing.assert_array_equal(*(adata.obsm["X_scgp"] for adata in found))
    for name in ("scgp_cell_type", "scgp_confidence", "scgp_status"):
        assert found[0].obs[name].tolist() == found[1].obs[name].tolist()


def test_the_pooled_view_is_trained_in_float32_everywhere(cells, tmp_path, monkeypatch):
    """In bfloat16, where the processor has it, the transformer alone."""
    seen = []
    real = loop.Objective.forward

    def watch(self, *args, use_tokens):
        seen.append((use_tokens, torch.is_autocast_enabled("cpu")))
        return real(self, *args, use_tokens=use_tokens)

    monkeypatch.setattr(loop, "has_bf16", lambda _: True)
    monkeypatch.setattr(loop.Objective, "forward", watch)
    train(cells, tmp_path / "model")
    assert set(seen) == {(False, False), (True, True)}


def test_without_layers_all_steps_train_the_pooled_view(cells, tmp_path):
    flat = replace(CONFIG, n_layers=0)
    model = train(cells, tmp_path / "model", config=flat)
    short = train(cells, tmp_path / "short", config=flat, settings=replace(SHORT, steps=0))
    assert not torch.equal(weights(model)["gene.weight"], weights(short)["gene.weight"])


def test_a_pooled_view_that_nothing_would_train_is_refused(cells, tmp_path):
    settings = replace(SHORT, pool_steps=0)
    with pytest.raises(ArgumentError, match="token_slots=True"):
        train(cells, tmp_path / "model", settings=settings)
    assert not list(tmp_path.iterdir())
    both = train(
        cells, tmp_path / "both", settings=settings, config=replace(CONFIG, token_slots=True)
    )
    assert both.config.token_slots


def test_the_transformer_alone_can_be_trained_on_and_an_older_model_as_a_whole(
    cells, whole, tmp_path
):
    settings = replace(SHORT, pool_steps=0)
    again = train(
        cells, tmp_path / "again", base=whole[0], genes=None, phenotypes=None, config=None,
        settings=settings,
    )  # fmt: skip
    same, other = weights(again), weights(whole[0])
    changed = {name.split(".")[0] for name in same if not torch.equal(same[name], other[name])}
    assert changed
    assert not changed & set(CellTransformer.POOLED)
    older = train(cells, tmp_path / "older", config=replace(CONFIG, token_slots=True))
    tuned = train(
        cells, tmp_path / "tuned", base=older, genes=None, phenotypes=None, config=None,
        settings=settings,
    )  # fmt: skip
    assert tuned.config.token_slots
    assert not torch.equal(weights(tuned)["gene.weight"], weights(older)["gene.weight"])


def test_with_token_slots_everything_is_trained_together(cells, tmp_path):
    both = replace(CONFIG, token_slots=True)
    alone, after = (
        train(cells, tmp_path / str(n), config=both, settings=replace(SHORT, steps=n))
        for n in (0, 3)
    )
    assert not torch.equal(weights(alone)["gene.weight"], weights(after)["gene.weight"])
    assert after.config.token_slots


def test_the_seed_decides_whether_or_not_the_default_checkpoint_was_read(cells, tmp_path):
    """Reading it makes a network of random numbers."""
    Model.default()
    warm = train(cells, tmp_path / "warm")
    checkpoint._default_model.cache_clear()
    assert_equal_weights(train(cells, tmp_path / "cold"), warm)


@pytest.mark.parametrize(
    ("when", "count"), [("forward", 1), ("forward", 3), ("forward", 5), ("after", 3), ("after", 5)]
)
def test_interrupted_and_resumed_is_as_if_uninterrupted(
    cells, whole, tmp_path, monkeypatch, when, count
):
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        interrupt_at(patch, count, when=when)
        with pytest.raises(KeyboardInterrupt):
            train(cells, tmp_path / "model")
    assert signal.getsignal(signal.SIGINT) is handler
    assert not (tmp_path / "model").exists()
    assert (tmp_path / "model.training").is_dir()
    assert_equal_weights(train(cells, tmp_path / "model"), whole[0])
    assert not (tmp_path / "model.training").exists()
    history = pd.read_csv(tmp_path / "model.history.csv")
    assert history["step"].is_monotonic_increasing
    assert history["step"].iloc[-1] == 5
    assert set(history["step"]) >= set(range(6)) - {count - 1}


def test_two_interruptions_are_survived(cells, whole, tmp_path, monkeypatch):
    for count in (3, 2):
        with monkeypatch.context() as patch:
            interrupt_at(patch, count)
            with pytest.raises(KeyboardInterrupt):
                train(cells, tmp_path / "model")
    assert_equal_weights(train(cells, tmp_path / "model"), whole[0])


def test_ctrl_c_is_a_keyboard_interrupt_and_works_again_afterwards(cells, tmp_path, monkeypatch):
    real = loop.Objective.forward

    def press(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGINT)
        return real(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Objective, "forward", press)
        with pytest.raises(KeyboardInterrupt):
            train(cells, tmp_path / "model")
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_failure_after_training_costs_no_training(cells, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Model, "save", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(cells, tmp_path / "model")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1)  # no further step is taken
        assert_equal_weights(train(cells, tmp_path / "model"), whole[0])


def test_an_unfinished_run_of_other_settings_or_cells_is_not_gone_on_with(
    cells, whole, tmp_path, monkeypatch
):
    out = tmp_path / "model"
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            train(cells, out)
    other = TrainConfig(**SHORT.to_dict() | {"learning_rate": 2e-2})
    with pytest.raises(CheckpointError, match=r"model\.training .*resume=False"):
        train(cells, out, settings=other)
    with pytest.raises(CheckpointError, match="other settings or data"):
        train(make_cells(seed=1), out)
    assert_equal_weights(train(cells, out, resume=False), whole[0])
    history = pd.read_csv(tmp_path / "model.history.csv")
    assert history["step"].tolist() == list(range(6))  # nothing of the run that was dropped


def test_an_unfinished_run_from_another_base_or_with_other_terms_is_not_gone_on_with(
    cells, whole, tmp_path, monkeypatch
):
    base = whole[0]
    other = train(cells, tmp_path / "other", settings=TrainConfig(**SHORT.to_dict() | {"seed": 1}))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            train(cells, tmp_path / "tuned", base=base, **NONE)
    with pytest.raises(CheckpointError, match="other settings or data"):
        train(cells, tmp_path / "tuned", base=other, **NONE)
    moved = cells.copy()
    moved.obs["study"] = "d"
    moved.obs["tissue"] = "blood"
    for changed in ({"tissue_key": "tissue"}, {"study_key": None}):
        with pytest.raises(CheckpointError, match="other settings or data"):
            train(moved, tmp_path / "tuned", base=base, **NONE, **changed)
    train(cells, tmp_path / "tuned", base=base, **NONE)


def test_a_damaged_state_is_refused(cells, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            train(cells, tmp_path / "model")
    state = tmp_path / "model.training" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="not a whole training state"):
        train(cells, tmp_path / "model")


def test_an_output_that_exists_is_refused_before_any_work(cells, whole, monkeypatch):
    monkeypatch.setattr(sys.modules["scgp.train"], "read_corpus", None)
    with pytest.raises(ArgumentError, match="overwrite=True"):
        train(cells, whole[1])


@pytest.mark.parametrize("found", ["folder", "index", "file", "lost link"])
def test_what_overwriting_would_not_replace_is_refused_before_any_work(
    cells, whole, tmp_path, monkeypatch, found
):
    out = tmp_path / "mine"
    if found == "folder":
        out.mkdir()
        (out / "thesis.tex").write_bytes(b"years")
    elif found == "index":
        shutil.copytree(whole[1] / "index", out)
    elif found == "file":
        out.write_bytes(b"x")
    else:
        out.symlink_to("nowhere")
    with pytest.raises(ArgumentError) as late:
        whole[0].save(out, overwrite=True)
    monkeypatch.setattr(sys.modules["scgp.train"], "read_corpus", None)
    with pytest.raises(ArgumentError) as early:
        train(cells, out, overwrite=True)
    assert str(early.value) == str(late.value)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("existed", [False, True])
def test_a_model_never_stands_without_its_index(cells, whole, tmp_path, monkeypatch, existed):
    """Ctrl-C while the index is written: no model, or the old one whole, and training kept."""
    out = tmp_path / "model"
    if existed:
        shutil.copytree(whole[1], out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    other = TrainConfig(**SHORT.to_dict() | {"seed": 1})

    def interrupted(self, path, **_):
        path.mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ReferenceIndex, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(cells, out, settings=other, overwrite=existed)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    assert out.exists() == existed
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1)  # no further step is taken
        model = train(cells, out, settings=other, overwrite=existed)
    ReferenceIndex.load(out / "index", model_fingerprint=model.fingerprint)
    assert model.fingerprint != whole[0].fingerprint


def test_a_model_saved_anew_keeps_its_index_if_it_is_given(whole, tmp_path):
    """What renews a card: model and index change places with the old ones in one step."""
    model, out = whole
    copied = tmp_path / "model"
    shutil.copytree(out, copied)
    index = ReferenceIndex.load(copied / "index", model_fingerprint=model.fingerprint)
    renewed = Model.load(copied)
    renewed.card = "# Another card"
    renewed.save(copied, overwrite=True, beside={"index": index.save})
    assert Model.load(copied).card == "# Another card"
    for name in ("model.safetensors", "genes.tsv", "index/labels.npz", "index/index.json"):
        assert (copied / name).read_bytes() == (out / name).read_bytes()
    renewed.save(copied, overwrite=True)  # as its docstring says
    assert not (copied / "index").exists()


def test_overwriting_replaces_the_model(cells, tmp_path):
    settings = TrainConfig(**SHORT.to_dict() | {"steps": 0, "pool_steps": 1})
    first = train(cells, tmp_path / "model", settings=settings)
    second = train(make_cells(seed=1), tmp_path / "model", settings=settings, overwrite=True)
    assert first.fingerprint != second.fingerprint
    assert Model.load(tmp_path / "model").fingerprint == second.fingerprint


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


NONE = {"genes": None, "phenotypes": None, "config": None}


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
    fusion = Fusion(k=9, threshold=0.7, weight_head=1.0)
    old = whole[0]
    base = Model(
        old.config, old.network, old.genes, old.phenotypes,
        details={"calibration": fusion.to_dict()},
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
