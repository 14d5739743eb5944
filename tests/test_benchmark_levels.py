"""Levels against measured ones, on synthetic values whose answer is planted."""

import numpy as np
import pytest

from benchmarks.levels_measure import (
    HALVES,
    LINEAR,
    MEASURED,
    SCGP,
    TRAINING,
    UNTRAINED,
    between,
    ratios,
    report,
    scores_of,
    summary,
    within,
)
from benchmarks.partners_cells import Context

N_CELLS, N_GENES = 200, 40


def made(seed=0):
    """Counts of genes with a level of their own in each cell; depths of 300 to 6,000."""
    rng = np.random.default_rng(seed)
    total_N = np.exp(rng.uniform(np.log(300), np.log(6000), N_CELLS))
    level_NG = np.exp(rng.normal(1.0, 0.7, N_GENES) + rng.normal(0, 0.8, (N_CELLS, N_GENES)))
    count_NG = rng.poisson(level_NG * total_N[:, None] / 1e4)
    value_NG = np.log1p(1e4 * count_NG / total_N[:, None]).astype(np.float32)
    return np.log(level_NG).astype(np.float32), value_NG, total_N, (count_NG > 0).mean(axis=0)


def test_a_prediction_that_knows_the_level_follows_the_value_at_equal_depth_and_not_the_depth():
    rate_NG, value_NG, total_N, detected_G = made()
    found = within(rate_NG, value_NG, total_N, detected_G)
    assert abs(found["depth"]) < 0.05
    assert found["value_at_equal_depth"] > 0.25
    rng = np.random.default_rng(1)
    unknowing_NG = rng.normal(size=rate_NG.shape).astype(np.float32)
    assert abs(within(unknowing_NG, value_NG, total_N, detected_G)["value_at_equal_depth"]) < 0.05


def test_a_prediction_that_follows_the_depth_is_found_out():
    _, value_NG, total_N, detected_G = made()
    rate_NG = np.tile(-np.log(total_N)[:, None], N_GENES).astype(np.float32)
    found = within(rate_NG, value_NG, total_N, detected_G)
    assert found["depth"] == pytest.approx(-1)
    noisy_NG = rate_NG + np.random.default_rng(0).normal(0, 0.05, rate_NG.shape)
    found = within(noisy_NG.astype(np.float32), value_NG, total_N, detected_G)
    assert found["depth"] < -0.95
    assert abs(found["value_at_equal_depth"]) < 0.05


def test_the_ratio_of_levels_by_detection():
    rate_NG, value_NG, _, detected_G = made()
    right = ratios(rate_NG, value_NG, detected_G)
    assert right
    for value in right.values():
        assert value == pytest.approx(1, abs=0.15)
    tripled = ratios(rate_NG + np.float32(np.log(3)), value_NG, detected_G)
    for name, value in tripled.items():
        assert value == pytest.approx(3 * right[name], rel=1e-4)


def test_between_types():
    rng = np.random.default_rng(3)
    measured_KG = np.exp(rng.normal(size=(4, 300)))
    same = between(measured_KG, measured_KG)
    assert same == {"types": pytest.approx(1), "highest": 1}
    other = between(np.exp(rng.normal(size=(4, 300))), measured_KG)
    assert abs(other["types"]) < 0.15
    assert other["highest"] == pytest.approx(0.25, abs=0.1)
    # a level of the gene that is the same in all types counts for nothing
    static = between(np.tile(measured_KG.mean(axis=0), (4, 1)), measured_KG)
    assert np.isnan(static["types"]) or abs(static["types"]) < 1e-6


def test_the_table_has_every_method_and_measure():
    contexts, said, training = {}, {SCGP: {}, UNTRAINED: {}, LINEAR: {}}, {}
    for n, kind in enumerate(("B cell", "monocyte", "NK cell", "T cell")):
        rate_NG, value_NG, total_N, detected_G = made(n)
        design_NC = np.column_stack([np.ones(N_CELLS), np.log(total_N), np.zeros(N_CELLS)])
        contexts["GeACT blood", kind] = Context(
            None, np.arange(N_GENES), np.arange(N_GENES), value_NG, design_NC, detected_G
        )
        said[SCGP]["GeACT blood", kind] = rate_NG
        said[UNTRAINED]["GeACT blood", kind] = np.random.default_rng(n).normal(size=rate_NG.shape)
        said[LINEAR]["GeACT blood", kind] = rate_NG
        training[kind] = contexts["GeACT blood", kind]
    scores = scores_of(contexts, said, training)
    assert scores[SCGP]["GeACT blood"]["types"] > 0.9
    assert abs(scores[UNTRAINED]["GeACT blood"]["types"]) < 0.3
    assert scores[TRAINING]["GeACT blood"]["types"] == pytest.approx(1)
    assert "types" not in scores[LINEAR]["GeACT blood"]
    table = summary([scores, scores])
    assert table[SCGP]["types"]["seeds"] == 2
    assert table[SCGP]["types"]["sd"] == pytest.approx(0)
    assert table[SCGP]["value_at_equal_depth"]["units"] == 4
    one_less = {method: units for method, units in scores.items() if method != UNTRAINED}
    assert summary([scores, one_less])[UNTRAINED]["types"]["seeds"] == 1
    text = report({"command": "python", "seeds": [0, 1], "scores": table})
    for name in (SCGP, UNTRAINED, LINEAR, MEASURED, HALVES, TRAINING):
        assert f"| {name} |" in text
    assert "nan" not in text
