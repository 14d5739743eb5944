"""benchmarks/predict_expression.py: nothing of what is asked may train, and what the scores are."""

import functools

import numpy as np
import pytest

from benchmarks import predict_expression as benchmark
from benchmarks.expression_methods import Fold, Table, nearest_term, pearson, scores, training_mean
from benchmarks.expression_report import lead
from scgp.phenotypes.ontology import Ontology

LABELS = ["CL:0000236", "CL:0000788", "CL:0000084", "CL:0000624", "CL:0000115", "CL:0000057"]


@pytest.fixture
def table():
    """Synthetic: five profiles of each label in one file, and one of each in another source."""
    rng = np.random.default_rng(0)
    label_R = np.array(LABELS * 6)
    n = len(label_R)
    steps = np.array([[Ontology("CL").distance(a, b) for b in label_R] for a in label_R])
    measured = rng.random((n, 30)) < 0.9
    return Table(
        value_RG=rng.gamma(1.0, 1.0, (n, 30)).astype(np.float32),
        measured_RG=measured,
        label_R=label_R,
        tissue_R=np.array(["t1", "t2"] * (n // 2)),
        source_R=np.array(["file"] * 30 + ["other"] * 6),
        text_RR=np.eye(n),
        lineage_RR=np.eye(n),
        marker_RR=np.eye(n),
        tissue_RR=np.eye(n),
        steps_RR=steps,
    )


def test_a_held_out_term_trains_nowhere_nor_does_any_below_it(table, monkeypatch):
    monkeypatch.setattr(benchmark, "MAX_SHARE", 0.4)
    ontology, rows, asked = Ontology("CL"), np.arange(30), []
    for fold in benchmark.term_folds(table, rows, 3, 0):
        below = set().union(*(ontology.descendants(t) for t in table.label_R[fold.asked]))
        assert not below & set(table.label_R[fold.train])
        assert not below & set(table.label_R[fold.others])
        assert set(table.source_R[fold.others]) == {"other"}
        asked += fold.asked.tolist()
    assert sorted(asked) == rows.tolist()  # each once


def test_a_held_out_study_does_not_train_and_its_terms_are_known(table):
    study_R = np.array([f"s{i // 6}" for i in range(36)])
    table.label_R[0] = "CL:0000097"  # known from no other study
    folds = list(benchmark.study_folds(table, np.arange(30), 5, 0, study_R=study_R))
    assert len(folds) == 5
    for fold in folds:
        assert not set(study_R[fold.asked]) & set(study_R[fold.train])
        assert set(table.label_R[fold.asked]) <= set(table.label_R[fold.train])
        assert 0 not in fold.asked


def test_settings_are_chosen_without_the_profiles_that_are_asked(table, monkeypatch):
    monkeypatch.setattr(benchmark, "MAX_SHARE", 0.4)
    fold = next(benchmark.term_folds(table, np.arange(30), 3, 0))
    chosen = [benchmark.choose(table, fold, benchmark.term_folds, "nearest term", 0)]
    table.value_RG[fold.asked] = 99.0
    chosen.append(benchmark.choose(table, fold, benchmark.term_folds, "nearest term", 0))
    assert chosen[0] == chosen[1]


def test_the_nearest_term_is_an_average_of_what_ties(table):
    fold = Fold(train=np.arange(6, 30), asked=np.array([0]), others=np.arange(30, 36))
    mean_G, _ = training_mean(table, fold.train)
    same = [row for row in fold.train if table.label_R[row] == LABELS[0]]
    measured = table.measured_RG[same]
    apart = ((table.value_RG[same] - mean_G) * measured).sum(0) / np.maximum(measured.sum(0), 1)
    said = nearest_term(table, fold, {"k": 1, "near_home": False})
    np.testing.assert_allclose(said[0], apart, rtol=1e-5, atol=1e-6)


def test_unmeasured_genes_do_not_count(table):
    fold = Fold(train=np.arange(6, 30), asked=np.array([0, 1]), others=np.arange(30, 36))
    said = np.random.default_rng(1).normal(size=(2, 30)).astype(np.float32)
    first = scores(table, fold, said)
    table.value_RG[~table.measured_RG] = 77.0
    np.testing.assert_array_equal(first, scores(table, fold, said))


def test_a_correlation_is_pearsons_and_zero_where_nothing_varies():
    a, b = np.random.default_rng(0).normal(size=(2, 1, 20))
    counted = np.ones((1, 20), bool)
    assert pearson(a, b, counted)[0] == pytest.approx(np.corrcoef(a[0], b[0])[0, 1])
    assert pearson(np.zeros((1, 20)), b, counted)[0] == 0


def test_the_interval_of_a_lead_is_over_units():
    rng = np.random.default_rng(0)
    unit = np.repeat([f"u{i}" for i in range(10)], 20)
    gap = np.repeat(rng.normal(0.1, 0.1, 10), 20)
    mean, low, high = lead(gap, np.zeros(200), unit)
    assert low < mean < high
    single = functools.partial(lead, gap, np.zeros(200))
    _, low_1, high_1 = single(np.arange(200).astype(str))
    assert high - low > 2 * (high_1 - low_1)  # profiles of one unit are not independent
