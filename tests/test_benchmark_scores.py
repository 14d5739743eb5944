"""The scores of the benchmark, on an ontology small enough to do by hand."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.scores import (
    OTHER,
    UNKNOWN,
    Answer,
    calibration_error,
    chance_calibration_error,
    counted_as,
    holds,
    is_right,
    macro_f1,
    mean_over,
    reachable,
    risk_coverage_area,
    score,
    soft_scores,
    spread_over,
)

# cell > lymphocyte > T > (CD4 > Treg, CD8); cell > lymphocyte > B; cell > monocyte
PARENT = {
    "lymphocyte": "cell",
    "T": "lymphocyte",
    "CD4": "T",
    "Treg": "CD4",
    "CD8": "T",
    "B": "lymphocyte",
    "monocyte": "cell",
}


def ancestors(term):
    above = {term}
    while term in PARENT:
        term = PARENT[term]
        above.add(term)
    return frozenset(above)


def terms(*names):
    return np.array(names, dtype=object)


def test_right_is_the_true_term_or_a_descendant():
    true = terms("T", "T", "T", "CD4", "T", "T")
    label = terms("T", "CD8", "Treg", "T", "B", UNKNOWN)
    assert is_right(true, label, ancestors).tolist() == [True, True, True, False, False, False]


def test_counted_as_follows_the_rule():
    true = terms("T", "CD4", "B", "B", "monocyte", "monocyte", "B")
    label = terms("Treg", "Treg", "Treg", "CD8", "lymphocyte", UNKNOWN, "monocyte")
    # right -> its own term; wrong -> most specific true term at or above the prediction.
    assert counted_as(true, label, ancestors).tolist() == [
        "T", "CD4", "CD4", "T", OTHER, OTHER, "monocyte",
    ]  # fmt: skip


def test_macro_f1_by_hand():
    true = terms("T", "T", "B", "B")
    label = terms("CD4", "B", "B", "monocyte")
    counted = counted_as(true, label, ancestors)
    # T: one of two found, none false: 2/3. B: one of two found, one false: 1/2.
    assert macro_f1(true, counted) == pytest.approx((2 / 3 + 1 / 2) / 2)
    # exact: CD4 is not T, so T is 0.
    assert macro_f1(true, label) == pytest.approx((0 + 1 / 2) / 2)


def test_soft_score_is_the_overlap_of_ancestors():
    true = terms("CD4", "CD4", "CD4", "CD4")
    label = terms("CD4", "T", "CD8", UNKNOWN)
    assert soft_scores(true, label, ancestors) == pytest.approx([1, 3 / 4, 3 / 5, 0])


def test_calibration_error_by_hand():
    # one bin: mean confidence .7, mean right .5
    assert calibration_error([0.9, 0.5], [1, 0], n_bins=1) == pytest.approx(0.2)
    # two bins: |.9 - 1| and |.5 - 0|, weighted by halves
    assert calibration_error([0.9, 0.5], [1, 0], n_bins=2) == pytest.approx(0.3)
    assert math.isnan(calibration_error([], []))


def test_risk_coverage_by_hand():
    assert risk_coverage_area([0.9, 0.8, 0.1], [1, 1, 0]) == pytest.approx((0 + 0 + 1 / 3) / 3)
    assert risk_coverage_area([0.1, 0.8, 0.9], [1, 1, 0]) == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


@given(
    cells=st.lists(
        st.tuples(st.sampled_from([0.1, 0.5, 0.9]), st.booleans()), min_size=1, max_size=40
    ),
    seed=st.integers(0, 5),
)
def test_ties_in_confidence_do_not_depend_on_the_order_of_cells(cells, seed):
    confidence, right = map(np.array, zip(*cells, strict=True))
    order = np.random.default_rng(seed).permutation(len(cells))
    for measure in (calibration_error, risk_coverage_area):
        assert measure(confidence[order], right[order]) == pytest.approx(measure(confidence, right))


def test_a_label_above_or_below_the_truth_holds():
    true = terms("CD4", "CD4", "T", "CD4", "CD4")
    label = terms("CD4", "T", "CD4", "CD8", UNKNOWN)
    assert holds(true, label, ancestors).tolist() == [True, True, True, False, False]


def test_the_chance_calibration_error_is_that_of_true_confidences():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(size=200)
    found = [calibration_error(confidence, rng.uniform(size=200) < confidence) for _ in range(300)]
    assert chance_calibration_error(confidence) == pytest.approx(np.mean(found), rel=0.1)
    assert chance_calibration_error([0.0, 1.0]) == 0
    assert math.isnan(chance_calibration_error([]))


def test_unknown_is_wrong_last_and_out_of_the_calibration():
    true = terms("T", "T", "B", "B")
    answer = Answer(terms("T", UNKNOWN, "B", "B"), np.array([0.9, 0.99, 0.8, 0.7], np.float32))
    scores = score(true, answer, ancestors)
    assert scores["accuracy"] == 0.75
    assert scores["unknown"] == 0.25
    assert scores["aurc"] == pytest.approx((0 + 0 + 0 + 1 / 4) / 4)
    assert scores["ece"] == pytest.approx((0.1 + 0.2 + 0.3) / 3, abs=1e-6)


def test_a_perfect_answer_has_perfect_scores():
    true = terms("T", "B", "monocyte", "T")
    scores = score(true, Answer(true, np.ones(4, np.float32)), ancestors)
    ones = {name: scores[name] for name in ("accuracy", "macro_f1", "macro_f1_exact", "soft")}
    assert ones == dict.fromkeys(ones, 1.0)
    assert scores["ece"] == scores["aurc"] == scores["unknown"] == 0
    assert scores["holds"] == 1
    assert scores["ece_holds"] == scores["aurc_holds"] == scores["ece_chance"] == 0


@given(st.lists(st.tuples(*[st.sampled_from(sorted(PARENT))] * 2), min_size=1, max_size=30))
def test_scores_stay_within_bounds_and_in_order(pairs):
    true, label = (terms(*column) for column in zip(*pairs, strict=True))
    scores = score(true, Answer(label, np.full(len(pairs), 0.5, np.float32)), ancestors)
    assert all(0 <= scores[name] <= 1 for name in scores if name != "cells")
    assert scores["accuracy"] <= scores["holds"]
    assert scores["accuracy"] <= reachable(true, set(label), ancestors) + 1e-12


def test_reachable_counts_terms_with_a_training_label_at_or_below():
    true = terms("T", "B", "CD4", "monocyte")
    assert reachable(true, {"Treg"}, ancestors) == 0.5
    assert reachable(true, {"lymphocyte"}, ancestors) == 0.0


def test_mean_over_studies_and_spread_over_seeds():
    rows = [{"soft": 0.5, "ece": 0.1}, {"soft": 0.7, "ece": math.nan}]
    assert mean_over(rows) == pytest.approx({"soft": 0.6, "ece": 0.1})
    mean, spread = spread_over(rows)["soft"]
    assert (mean, spread) == pytest.approx((0.6, math.sqrt(0.02)))
    assert math.isnan(spread_over(rows[:1])["soft"][1])
