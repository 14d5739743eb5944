"""train(): interrupted, resumed or refused, and an output that is replaced whole or not at all."""

import os
import shutil
import signal
import sys
from pathlib import Path

import pandas as pd
import pytest

from scgp.errors import ArgumentError, CheckpointError
from scgp.model.checkpoint import Model
from scgp.model.config import TrainConfig
from scgp.reference.index import ReferenceIndex
from scgp.training import loop

sys.path.insert(0, str(Path(__file__).parent))
from trained_cells import NONE, SHORT, assert_equal_weights, make_cells, train


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


@pytest.fixture
def listening():
    """Hear Ctrl-C as Python does by itself: what is started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listening")
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
