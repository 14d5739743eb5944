"""The paired bootstrap of the benchmark, on labels small enough to reason about (synthetic)."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import bootstrap
from benchmarks.bootstrap import SCORES, differences, resampled_scores
from benchmarks.scores import counted_as, macro_f1, soft_scores

PARENT = {"T": "cell", "B": "cell", "CD4": "T", "CD8": "T"}


def ancestors(term):
    return frozenset([term]) | (ancestors(PARENT[term]) if term in PARENT else frozenset())


def labels(n, right, seed):
    """True labels, and answers of which a share is right."""
    rng = np.random.default_rng(seed)
    true_N = rng.choice(["CD4", "CD8", "B"], n).astype(object)
    other_N = rng.choice(["CD4", "CD8", "B", "T", ""], n).astype(object)
    return true_N, np.where(rng.random(n) < right, true_N, other_N)


class _AsTheyAre:
    """A random generator whose every resample is the cells themselves."""

    def multinomial(self, n, share, size):
        return np.ones((size, len(share)), int)


def test_the_cells_themselves_have_the_scores_of_the_table():
    true_N, said_N = labels(80, 0.5, 0)
    found = resampled_scores(true_N, {"a": [said_N]}, ancestors, rng=_AsTheyAre(), n_resamples=2)[
        "a"
    ]
    expected = [
        macro_f1(true_N, counted_as(true_N, said_N, ancestors)),
        macro_f1(true_N, said_N),
        soft_scores(true_N, said_N, ancestors).mean(),
    ]
    np.testing.assert_allclose(found, [expected, expected], atol=1e-6)


def test_a_better_method_is_surely_better_and_an_equal_one_is_not():
    units = {}
    for i in range(6):
        true_N, good_N = labels(150, 0.9, i)
        rng = np.random.default_rng(100 + i)
        bad_N = np.where(rng.random(150) < 0.3, "T", good_N).astype(object)
        units[f"study {i}"] = (true_N, {"ours": [good_N, good_N], "bad": [bad_N], "same": [good_N]})
    found = differences(units, ancestors, ours="ours", n_resamples=200)
    assert set(found) == {"bad", "same"}
    for name in SCORES:
        mean, low, high = found["bad"][name]
        assert 0 < low < mean < high
        assert found["same"][name] == (0, 0, 0)


@pytest.mark.parametrize("rare", [False, True])
def test_the_difference_is_that_of_the_scores_and_not_the_mean_over_resamples(rare):
    """Few cells of many terms: resamples lose terms, so their mean macro-F1 is another."""
    units, asked, expected = {}, {}, []
    for i in range(3):
        true_N, good_N = labels(12, 0.7, i)
        bad_N = labels(12, 0.3, i)[1]
        units[str(i)] = (true_N, {"ours": [good_N, true_N], "other": [bad_N]})
        asked[str(i)] = (true_N == "CD8") if rare else np.ones(12, bool)
        terms = sorted(set(true_N[asked[str(i)]]))
        ours, theirs = (
            np.mean(
                [
                    [
                        macro_f1(true_N, counted_as(true_N, said_N, ancestors), terms),
                        macro_f1(true_N, said_N, terms),
                        soft_scores(true_N, said_N, ancestors)[asked[str(i)]].mean(),
                    ]
                    for said_N in said
                ],
                axis=0,
            )
            for said in ([good_N, true_N], [bad_N])
        )
        expected.append(ours - theirs)
    found = differences(units, ancestors, ours="ours", n_resamples=20, asked=asked)["other"]
    shown = [found[name][0] for name in SCORES]
    np.testing.assert_allclose(shown, np.mean(expected, axis=0), atol=1e-6)


def test_units_that_one_method_lacks_do_not_count():
    true_N, said_N = labels(60, 0.8, 1)
    units = {
        "both": (true_N, {"ours": [said_N], "other": [said_N]}),
        "ours alone": (true_N, {"ours": [true_N]}),
    }
    found = differences(units, ancestors, ours="ours", n_resamples=20)
    assert found["other"]["macro_f1"] == (0, 0, 0)


def test_one_study_can_carry_the_difference_and_the_interval_says_so():
    """Cells within studies agree on little; which studies were asked must widen the interval."""
    units = {}
    for i in range(6):
        true_N, said_N = labels(400, 0.5, i)
        units[str(i)] = (true_N, {"ours": [true_N if i == 0 else said_N], "other": [said_N]})
    mean, low, high = differences(units, ancestors, ours="ours")["other"]["macro_f1"]
    assert low == pytest.approx(0, abs=1e-9)
    assert high > 1.8 * mean


def test_the_same_seed_gives_the_same_interval():
    true_N, said_N = labels(50, 0.6, 2)
    units = {"a": (true_N, {"ours": [said_N], "other": [true_N]})}
    first, second = (differences(units, ancestors, ours="ours", n_resamples=30) for _ in range(2))
    assert first == second
    assert bootstrap.N_RESAMPLES == 1000
