"""One map of confidence for every method: what it is fitted to, and what it mends (synthetic)."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.mapped import fit_map, fit_maps, leaves_out, mapped_error
from benchmarks.report import DOUBT, collect, main_table
from benchmarks.scores import Answer, calibration_error
from benchmarks.store import RunKey, read_runs, write_run, write_truth

PARENT = {"CD4": "T"}
FOLDS = ("fold1of3", "fold2of3", "fold3of3")


def ancestors(term):
    return frozenset([term]) | (ancestors(PARENT[term]) if term in PARENT else frozenset())


def badly_scaled(n, seed):
    """Confidences that are too far from .5 and too high, and whether each answer holds."""
    rng = np.random.default_rng(seed)
    odds_N = rng.normal(0.5, 1.5, n)
    return expit(2 * odds_N + 1), rng.random(n) < expit(odds_N)


def test_a_badly_scaled_confidence_becomes_calibrated():
    by = fit_map(*badly_scaled(20_000, 0), np.repeat("a", 20_000))
    assert by.slope == pytest.approx(0.5, abs=0.05)
    assert by.offset == pytest.approx(-0.5, abs=0.05)
    confidence_N, holds_N = badly_scaled(20_000, 1)
    assert calibration_error(confidence_N, holds_N) > 0.1
    assert calibration_error(by(confidence_N), holds_N) < 0.02


def test_a_calibrated_confidence_stays_as_it_is():
    rng = np.random.default_rng(0)
    confidence_N = rng.uniform(0.05, 0.95, 20_000)
    by = fit_map(confidence_N, rng.random(20_000) < confidence_N, np.repeat("a", 20_000))
    np.testing.assert_allclose(by(confidence_N), confidence_N, atol=0.02)


def test_each_study_counts_the_same():
    small, large = badly_scaled(50, 0), badly_scaled(80, 1)
    study = ["a"] * 50 + ["b"] * 80
    once = fit_map(*(np.concatenate(x) for x in zip(small, large, strict=True)), study)
    tenfold = [np.concatenate([x, np.tile(y, 10)]) for x, y in zip(small, large, strict=True)]
    many = fit_map(*tenfold, ["a"] * 50 + ["b"] * 800)
    assert (many.slope, many.offset) == pytest.approx((once.slope, once.offset), abs=1e-3)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_constant_confidence_is_mapped_to_what_holds(value):
    """Also at 0 and 1, whose log odds are not finite; the mean is over studies."""
    holds_M = np.array([True] * 6 + [False] * 2 + [True, False])
    by = fit_map(np.full(10, value), holds_M, ["a"] * 8 + ["b"] * 2)
    assert by([value])[0] == pytest.approx((0.75 + 0.5) / 2, abs=1e-3)


def test_a_map_never_turns_the_order_round():
    confidence_N, holds_N = badly_scaled(500, 0)
    by = fit_map(confidence_N, ~holds_N, np.repeat("a", 500))
    assert by.slope == 0


def write(folder, setting, fold, *, seed=0, scale=1.0, labels=("T", "B", "")):
    """Write a run of one method on two studies; what it is sure of depends on ``scale``."""
    rng = np.random.default_rng(FOLDS.index(fold) if fold in FOLDS else 9)
    true_N = rng.choice(["CD4", "B"], 60).astype(object)
    label_N = rng.choice(list(labels), 60).astype(object)
    right_N = np.where(true_N == "B", label_N == "B", label_N == "T")
    # right answers are surer, so that no slope is held at 0
    confidence_N = ((0.5 * right_N + rng.random(60)) / 1.5) ** scale
    confidence_N = confidence_N.astype(np.float32)
    obs = pd.DataFrame({"study": [f"{fold} x", f"{fold} y"] * 30, "label": true_N})
    query = SimpleNamespace(name=f"file of {fold}", cells=SimpleNamespace(obs=obs))
    facts = {"options": {}, "grid": [], "trained": ["CD4", "B"], "seconds": 1, "cpu_seconds": 1}
    facts |= {"unit": "A -> B"} if setting == "pairs" else {}
    write_truth(folder, setting, fold, [query])
    key = RunKey(setting, fold, "peer", seed)
    write_run(folder, key, [query], [{"peer": Answer(label_N, confidence_N)}], facts)


def maps(folder):
    return fit_maps(read_runs(folder), ancestors)


def test_a_fold_is_never_mapped_by_itself(tmp_path):
    for fold in FOLDS:
        write(tmp_path, "folds3", fold)
    before = maps(tmp_path)
    write(tmp_path, "folds3", FOLDS[0], scale=5)
    after = maps(tmp_path)
    changed = {key for key, by in after.items() if by != before[key]}
    assert changed == {("folds3", fold, "peer", 0) for fold in FOLDS[1:]} | {
        ("eval", "all", "peer", 0)
    }
    assert set(after) - changed == {("folds3", FOLDS[0], "peer", 0)}


def test_the_files_of_eval_and_other_seeds_have_no_say(tmp_path):
    for fold in FOLDS:
        write(tmp_path, "folds3", fold)
    before = maps(tmp_path)
    write(tmp_path, "eval", "all", scale=5)
    write(tmp_path, "pairs", "A--B", scale=5)
    for fold in FOLDS:
        write(tmp_path, "folds3", fold, seed=1, scale=5)
    after = maps(tmp_path)
    assert {key: after[key] for key in before} == before
    assert {key[3] for key in after} == {0, 1}
    assert not any(leaves_out(setting) for setting in ("eval", "pairs", "pair"))
    assert leaves_out("each")


def test_unknown_cells_are_in_neither_map_nor_error():
    true_N = np.array(["CD4", "B", "B"], dtype=object)
    label_N = np.array(["T", "CD4", ""], dtype=object)
    by = fit_map([0.9, 0.1, 0.9, 0.1], np.array([True, False, False, True]), ["a"] * 4)
    found = [
        mapped_error(true_N, Answer(label_N, np.array([0.5, 0.5, x], np.float32)), by, ancestors)
        for x in (0.0, 1.0)
    ]
    assert found[0] == found[1] == pytest.approx(0, abs=1e-3)


def test_the_table_has_a_dash_where_there_is_nothing_to_fit_to(tmp_path):
    write(tmp_path, "eval", "all")
    scores, _ = collect(tmp_path, ancestors)
    *_, line = main_table(scores, {"ece_holds_mapped": DOUBT["ece_holds_mapped"]})
    assert line == "| peer | - | 1 x 1 |"
    for fold in FOLDS:
        write(tmp_path, "folds3", fold)
    scores, _ = collect(tmp_path, ancestors)
    found = [one["ece_holds_mapped"] for units in scores.values() for one in units.values()]
    assert np.isfinite(found).all()
