"""The counting of benchmarks/biomarkers.py, on tables whose answer is known."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.biomarkers_measure import (
    ALIKE,
    chosen,
    drawn_shares,
    known_share,
    markers_below,
    replicated,
)


@pytest.fixture
def table():
    """400 genes; by removal g0, g1, ... come first, by Wilcoxon g5, g6, ..."""
    n = np.arange(400)
    wilcoxon = np.where(n < 5, n + 396, n - 4)
    return pd.DataFrame(
        {
            "gene": [f"g{i}" for i in n], "effect": 1.0 - n / 200, "removal_rank": n + 1,
            "wilcoxon_score": 200.0 - wilcoxon, "wilcoxon_rank": wilcoxon,
            "detected": np.linspace(1, 0, 400),
        }
    )  # fmt: skip


def test_lists(table):
    lists = chosen(table, 10)
    assert lists["removal"] == [f"g{i}" for i in range(10)]
    assert lists["wilcoxon"] == [f"g{i}" for i in range(5, 15)]
    assert lists["both"] == [f"g{i}" for i in range(5, 10)]
    assert lists["removal only"] == [f"g{i}" for i in range(5)]
    assert lists["wilcoxon only"] == [f"g{i}" for i in range(10, 15)]
    assert len(chosen(table, 400)["removal"]) == 200  # only those with a positive effect


def test_random_genes_are_detected_alike(table):
    """Known are the genes of the upper half: those detected alike with the first are known, too."""
    known = {f"g{i}" for i in range(200)}
    assert drawn_shares(table, ["g0", "g3"], known, seed=0).mean() == 1
    assert drawn_shares(table, ["g399"], known, seed=0).mean() == 0
    half = drawn_shares(table, ["g200"] * 3, known, seed=0).mean()
    assert 0.4 < half < 0.6
    rare = {"g0"}
    assert drawn_shares(table, ["g7"], rare, seed=0).mean() == pytest.approx(1 / ALIKE, abs=0.01)


def test_known_shares(table):
    rows = pd.DataFrame(known_share(table, {"g0", "g1", "g7"}, seed=0)).set_index(["top", "list"])
    assert rows.loc[(10, "removal"), "known"] == pytest.approx(0.3)
    assert rows.loc[(10, "removal only"), "known"] == pytest.approx(0.4)
    assert rows.loc[(10, "wilcoxon only"), "known"] == 0
    assert rows.loc[(10, "removal"), "above"] == 1
    assert rows.loc[(10, "wilcoxon only"), "above"] == 0


def test_found_again(table):
    rows = pd.DataFrame(replicated(table, table)).set_index(["top", "list"])
    assert (rows["again"] == 1).all()
    turned = table.assign(effect=-table["effect"], removal_rank=401 - table["removal_rank"])
    rows = pd.DataFrame(replicated(table, turned, prefix="new ")).set_index(["top", "list"])
    assert rows.loc[(10, "removal"), ["new again", "new positive", "new higher"]].tolist() == [
        0, 0, 0.5,
    ]  # fmt: skip
    assert rows.loc[(10, "wilcoxon"), "new again"] == 1
    fewer = replicated(table, table.iloc[3:])  # what the others do not measure has no part
    assert pd.DataFrame(fewer).set_index(["top", "list"]).loc[(10, "removal"), "again"] == 1


def test_markers_of_terms_below():
    markers = {"CL:1": ["A"], "CL:2": ["B", "C"], "CL:3": ["D"]}
    assert markers_below("CL:1", markers, {"CL:2", "CL:9"}) == {"A", "B", "C"}
