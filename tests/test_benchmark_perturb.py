"""The perturbation benchmark: fold changes, tests and scores on numbers whose answer is known."""

import numpy as np
import pytest

from benchmarks.perturb import _against_null, scored, table_of
from benchmarks.perturb_truth import (
    Screen,
    adjusted,
    correlations,
    fold_changes,
    mean_of_others,
    stratified_test,
)


@pytest.fixture
def screen_cells():
    """Three replicates of 40 cells, half of them of the target; gene 0 halves in it, none else."""
    rng = np.random.default_rng(0)
    target = np.tile([True, False], 60)
    replicate = np.repeat(["a", "b", "c"], 40)
    rate = np.full((120, 5), 100.0)
    rate[target, 0] = 50
    rate[replicate == "b"] *= 3  # a replicate that differs, which is no effect
    return rng.poisson(rate).astype(np.float32), target, replicate


def test_fold_changes_and_tests_are_within_replicates(screen_cells):
    counts, target, replicate = screen_cells
    log2 = fold_changes(counts, target, replicate)
    assert log2[0] == pytest.approx(-1, abs=0.1)
    np.testing.assert_allclose(log2[1:], 0, atol=0.1)
    p = stratified_test(counts, target, replicate)
    assert p[0] < 1e-10
    assert p[1:].min() > 0.01
    # all of the target in the replicate that differs: without strata everything would move
    biased = target & (replicate == "b")
    kept = biased | ~target
    assert stratified_test(counts[kept], biased[kept], replicate[kept])[1:].min() > 0.01


def test_without_a_gene_its_correlates_fall():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, 4)).astype(np.float32)
    x[:, 1] = x[:, 0] + 0.1 * x[:, 1]
    x[:, 2] = -x[:, 0] + 0.1 * x[:, 2]
    for said in correlations(x, 0, np.ones((200, 1))).values():
        assert said[1] < -0.9
        assert said[2] > 0.9
        assert abs(said[3]) < 0.2


def test_the_mean_shift_leaves_the_target_out():
    real = {"A": np.array([9.0, 9.0]), "B": np.array([1.0, np.nan]), "C": np.array([3.0, 4.0])}
    np.testing.assert_allclose(mean_of_others(real, "A"), [2, 4])


def test_scores_by_hand():
    real = np.array([-3.0, -2.0, 0.1, 0.2, 0.3, 2.0])
    moves = np.abs(real) > 1
    assert scored(real, real, moves) == (pytest.approx(1), pytest.approx(1))
    assert scored(-real, real, moves) == (pytest.approx(-1), pytest.approx(1))
    assert scored(np.zeros(6), real, moves) == (0, pytest.approx(0.5))
    assert np.isnan(scored(real, real, np.arange(6) < 1)[1])


def test_q_values_and_null_units():
    q = adjusted(np.array([0.01, np.nan, 0.04]))
    np.testing.assert_allclose(q, [0.02, np.nan, 0.04])
    told = _against_null([np.array([3.0, 1]), np.array([0.0, np.nan]), np.array([2.0, np.nan])])
    np.testing.assert_allclose(told["z"], [2, np.nan])


def test_methods_are_scored_on_the_genes_that_all_know():
    real = np.array([-2.0, -1.0, 0.0, 0.1, 0.2, 1.0, 2.0])
    screen = Screen("s", None, {"T": real}, {"T": np.abs(real) >= 1}, {"T": {}})
    partial = real.copy()
    partial[0] = np.nan
    table = table_of(screen, {"a": {"T": [real]}, "b": {"T": [partial, -partial]}})
    assert table["genes"]["T"] == 6
    assert table["moving"]["T"] == 3
    assert table["methods"]["a"]["spearman"] == [pytest.approx(1)] * 3
    assert table["methods"]["b"]["spearman"][0] == pytest.approx(0)  # the mean of the seeds
