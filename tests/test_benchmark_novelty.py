"""Novelty beside the peers: the score and its table, on made-up (synthetic) scores."""

import numpy as np
import pytest

from benchmarks import novelty
from benchmarks.corpus import Cells, Source


def test_auroc_counts_ties_half():
    assert novelty.auroc(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == 1
    assert novelty.auroc(np.array([1.0, 2.0]), np.array([3.0])) == 0
    assert novelty.auroc(np.array([1.0]), np.array([1.0])) == 0.5


@pytest.fixture
def cells():
    """Synthetic: term N is novel, in study x; K is known, in studies x and y."""
    true_N = np.array(["N"] * 10 + ["K"] * 30)
    study_N = np.array(["x"] * 10 + ["x"] * 10 + ["y"] * 20)
    return true_N, study_N, true_N == "K"


def test_terms_are_compared_with_all_known_cells_and_with_those_of_their_studies(cells):
    true_N, study_N, known_N = cells
    far_in_y = np.where(true_N == "N", 1.0, np.where(study_N == "y", 2.0, 0.0))
    found = novelty.by_term({"a": far_in_y}, true_N, study_N, known_N, ("N", "absent"))
    assert found == {"a": {"N": (pytest.approx(1 / 3), 1.0)}}


def test_terms_of_few_cells_are_left_out(cells):
    true_N, study_N, known_N = cells
    true_N[0] = "K"
    found = novelty.by_term({"a": np.zeros(40)}, true_N, study_N, known_N, ("N",))
    assert found == {"a": {}}


def test_the_lead_and_its_interval():
    mean, low, high = novelty.lead(np.array([0.9, 0.8, 0.7]), np.array([0.8, 0.7, 0.6]))
    assert (round(mean, 6), round(low, 6), round(high, 6)) == (0.1, 0.1, 0.1)
    mean, low, high = novelty.lead(np.array([0.9, 0.5]), np.array([0.5, 0.9]))
    assert low < 0 < high


def test_the_table_has_the_best_first_and_the_lead_over_each():
    seeds = [
        {
            novelty.OURS: {"a": (0.9, 0.8), "b": (0.7, 0.6)},
            "peer": {"a": (0.6, 0.5), "b": (0.4, 0.3)},
        },
        {novelty.OURS: {"a": (0.9, 0.8)}, "peer": {"a": (0.6, 0.5)}},
    ]  # fmt: skip
    lines = novelty.table(seeds)
    assert lines[0] == "1 terms, 2 seed(s)."  # those that all seeds have
    assert lines[4] == f"| {novelty.OURS} | .900 | .800 |  |  |"
    gap = "+0.300 [+0.300, +0.300]"
    assert lines[5] == f"| peer | .600 | .500 | {gap} | {gap} |"


def test_only_files_with_many_genes_are_asked():
    def source(name, n_genes):
        measured_G = np.arange(20_000) < n_genes
        return Source(name, None, Cells(None, None, None, measured_G))

    wide, shared_G = novelty.wide_files(
        [source("a", 18_000), source("b", 900), source("c", 16_000)]
    )
    assert [s.name for s in wide] == ["a", "c"]
    assert shared_G.sum() == 16_000
