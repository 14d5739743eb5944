"""Early stopping: what is held out, when it is checked, and that an interrupted run stops alike."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scgp.cells.corpus import Corpus
from scgp.errors import ArgumentError
from scgp.model.checkpoint import Model
from scgp.model.config import TrainConfig
from scgp.training import loop
from scgp.training.stopping import Stopping, held_out

sys.path.insert(0, str(Path(__file__).parent))
from train_together import train


def make_corpus(study, donor, *, labelled=None, drawn=None):
    n_cells = len(study)
    text = np.full(n_cells, "", dtype=object)
    corpus = Corpus(
        count_NG=sp.csr_matrix((n_cells, 3), dtype=np.uint16), label_N=text, tissue_N=text,
        disease_N=text, study_N=np.array(study), donor_N=np.array(donor),
        drawn_N=np.zeros(n_cells, bool) if drawn is None else np.array(drawn),
        source_N=np.zeros(n_cells, int), studies=(), measured_SG=np.ones((1, 3), bool),
    )  # fmt: skip
    known = np.ones(n_cells, bool) if labelled is None else np.array(labelled)
    return corpus, np.where(known, 0, -1)


@pytest.mark.parametrize("seed", range(6))
def test_whole_studies_that_share_no_donor_are_held_out(seed):
    study = np.repeat([0, 1, 2, 3], 5)
    donor = np.repeat([0, 1, 1, 2], 5)  # studies 1 and 2 share a donor
    held_N = held_out(*make_corpus(study, donor), TrainConfig(seed=seed, validation_share=0.2))
    whole = {study: set(held_N[study * 5 : study * 5 + 5]) for study in range(4)}
    assert all(len(values) == 1 for values in whole.values())
    assert whole[1] == whole[2]
    assert 0 < held_N.sum() < 20


def test_with_one_study_whole_donors_are_until_there_are_enough():
    donor = np.repeat(np.arange(10), 4)
    for share, n_cells in ((0.01, 4), (0.1, 4), (0.11, 8), (0.5, 20), (0.999, 36)):
        settings = TrainConfig(validation_share=share)
        held_N = held_out(*make_corpus(np.zeros(40, int), donor), settings)
        assert held_N.sum() == n_cells
        assert len(np.unique(donor[held_N])) == n_cells / 4


def test_unlabelled_cells_go_with_their_donor_and_drawn_cells_stay():
    donor = np.array([0, 0, 1, 1, 0, 1, 0, 1])
    labelled = [True] * 4 + [False] * 2 + [True] * 2
    drawn = [False] * 6 + [True] * 2
    held_N = held_out(
        *make_corpus(np.zeros(8, int), donor, labelled=labelled, drawn=drawn), TrainConfig()
    )
    chosen = donor[held_N][0]
    assert held_N.tolist() == [bool(d == chosen) for d in donor[:6]] + [False] * 2


def test_one_donor_cannot_be_held_out(tmp_path):
    with pytest.raises(ArgumentError, match=r"of one donor.*pass patience=0"):
        held_out(*make_corpus([0, 0], [0, 0]), TrainConfig())


def test_a_run_that_is_refused_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(
        loop, "held_out", lambda *_: held_out(*make_corpus([0, 0], [0, 0])[:2], TrainConfig())
    )
    with pytest.raises(ArgumentError, match="of one donor"):
        train(tmp_path / "model", settings=SETTINGS)
    assert not list(tmp_path.iterdir())


def test_checks_are_counted_from_the_start_of_a_phase_and_none_is_made_at_its_ends():
    stopping = Stopping(TrainConfig(pool_steps=10, steps=8, patience=1, validate_every=4))
    assert [step for step in range(19) if stopping.is_due(step)] == [4, 8, 14]
    stopping.next_step(8, 1.0)
    assert not stopping.is_due(8)


def test_a_phase_ends_after_so_many_checks_without_a_lower_loss():
    stopping = Stopping(TrainConfig(pool_steps=100, steps=50, patience=2, validate_every=10))
    losses = [3.0, 2.0, 2.5, 1.9, 1.9, 1.95]
    found = [stopping.next_step(10 * i, loss) for i, loss in enumerate(losses, start=1)]
    assert found == [10, 20, 30, 40, 50, 100]
    stopping.enter_phase()
    again = Stopping(stopping.settings)
    again.restore(stopping.facts()["stopping"])
    assert again == stopping
    assert [again.next_step(s, x) for s, x in ((110, 9.0), (120, 9.5), (130, 9.1))] == [
        110,
        120,
        150,
    ]


# five checks, after every other of ten steps: the third ends one phase, the fifth the other
SETTINGS = {
    "pool_steps": 16, "steps": 8, "batch_size": 15, "context_cells": 7, "queries": 8,
    "learning_rate": 0.01, "precision": "float32", "patience": 1, "validate_every": 2,
    "validation_share": 0.3, "seed": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "model"
    train(out, settings=SETTINGS)
    return out


def history(out):
    return pd.read_csv(out.with_name(out.name + ".history.csv"))


def test_both_phases_stop_early_on_held_out_donors_of_real_cells(whole):
    found = history(whole)
    checks = found[found["validation"].notna()]
    assert checks["step"].tolist() == [1, 3, 5, 17, 19]
    first, second, third, fourth, fifth = checks["validation"]
    assert second < min(first, third)
    assert fifth > fourth


def test_the_phase_after_one_that_stopped_early_has_its_own_steps_and_no_more(tmp_path):
    train(tmp_path / "model", settings=SETTINGS | {"steps": 2})  # too few for a check
    found = history(tmp_path / "model")
    assert found.loc[found["context"].notna(), "step"].tolist() == [16, 17]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_interrupted_at_a_check_and_resumed_is_as_if_uninterrupted(
    whole, tmp_path, monkeypatch, count
):
    """Ctrl-C comes between a step and its check: at the last one, the run is over but for that."""
    real, calls = Stopping.next_step, []

    def interrupted(self, step, loss):
        calls.append(step)
        if len(calls) == count:
            raise KeyboardInterrupt
        return real(self, step, loss)

    with monkeypatch.context() as patch:
        patch.setattr(Stopping, "next_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "model", settings=SETTINGS)
    steps = []
    losses = loop.Objective.losses

    def count_steps(self, draw, *, use_tokens):
        steps.append(self.network.training)
        return losses(self, draw, use_tokens=use_tokens)

    monkeypatch.setattr(loop.Objective, "losses", count_steps)
    train(tmp_path / "model", settings=SETTINGS)
    assert Model.load(tmp_path / "model").fingerprint == Model.load(whole).fingerprint
    assert sum(steps) == 10 - 2 * count
