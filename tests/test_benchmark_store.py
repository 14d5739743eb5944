"""Runs of the benchmark on disk: they come back as they were, and only with their own cells."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.scores import Answer
from benchmarks.store import RunKey, cells_of, is_done, read_runs, write_run, write_truth

KEY = RunKey("eval", "all", "majority", 0)
OPTIONS = {"drawn": True}
FACTS = {"options": OPTIONS, "grid": [{}], "trained": ["CL:1"], "seconds": 1, "cpu_seconds": 1}


def source(labels):
    obs = pd.DataFrame({"study": "s", "label": labels}, index=[f"cell {i}" for i in labels])
    return SimpleNamespace(name="file", cells=SimpleNamespace(obs=obs))


def write(folder, labels=("CL:1", "CL:2", "CL:1")):
    queries = [source(list(labels))]
    write_truth(folder, KEY.setting, KEY.fold, queries)
    answer = Answer(np.array(["CL:1", "", "CL:3"], object), np.array([0.25, 0, 1], np.float32))
    write_run(folder, KEY, queries, [{"majority": answer}], FACTS)


def test_a_run_comes_back_with_what_was_true(tmp_path):
    write(tmp_path)
    (run,) = read_runs(tmp_path)
    table = cells_of(run)
    assert table["true"].tolist() == ["CL:1", "CL:2", "CL:1"]
    assert table["label"].tolist() == ["CL:1", "", "CL:3"]
    assert table["confidence"].tolist() == [0.25, 0, 1]
    assert set(table["row"]) == {"majority"}


def test_what_is_committed_holds_no_label_of_the_data(tmp_path):
    """What is true is the data's own; the runs name only what was answered."""
    write(tmp_path)
    committed = [p for p in tmp_path.rglob("*") if p.is_file() and p.name != "truth.json.gz"]
    (run,) = read_runs(tmp_path)
    del run["truth"]
    assert len(committed) == 1
    assert "CL:2" not in repr(run)
    assert "cell " not in repr(run)


def test_the_same_run_is_the_same_file(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b")
    assert KEY.path(tmp_path / "a").read_bytes() == KEY.path(tmp_path / "b").read_bytes()


def test_a_run_about_other_cells_is_refused(tmp_path):
    write(tmp_path)
    write_truth(tmp_path, KEY.setting, KEY.fold, [source(["CL:1", "CL:1", "CL:1"])])
    with pytest.raises(ValueError, match="other cells"):
        list(read_runs(tmp_path))


def test_a_run_made_with_other_options_is_refused(tmp_path):
    write(tmp_path)
    assert is_done(tmp_path, KEY, OPTIONS, [{}])
    assert not is_done(tmp_path, RunKey("eval", "all", "majority", 1), OPTIONS, [{}])
    for options, grid in (({"drawn": False}, [{}]), (OPTIONS, [{"C": 1}])):
        with pytest.raises(ValueError, match="was made with"):
            is_done(tmp_path, KEY, options, grid)
