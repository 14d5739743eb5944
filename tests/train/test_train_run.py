"""train(): what a whole run leaves, which weights learn in it, and that the seed decides."""

import functools
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from scgp import annotate
from scgp.errors import ArgumentError
from scgp.model import checkpoint
from scgp.model.checkpoint import Model
from scgp.model.config import TrainConfig
from scgp.model.network import CellTransformer
from scgp.reference.index import ReferenceIndex
from scgp.training import loop

sys.path.insert(0, str(Path(__file__).parent))
from trained_cells import CONFIG, SHORT, assert_equal_weights, train, weights


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


def test_the_seed_decides_whether_or_not_the_default_checkpoint_was_read(
    cells, tmp_path, monkeypatch
):
    """Reading it makes a network of random numbers."""
    Model.default()
    warm = train(cells, tmp_path / "warm")
    unread = functools.cache(checkpoint._default_model.__wrapped__)
    monkeypatch.setattr(checkpoint, "_default_model", unread)  # others keep the one they have
    assert_equal_weights(train(cells, tmp_path / "cold"), warm)
