"""Pairs of held-out studies: which there are, who trains, and what a pair borrows from its fold."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import pairs, run, scgp_method
from benchmarks.baselines import KnnOnPca, LogisticOnGenes
from benchmarks.corpus import Cells, Source, Split
from benchmarks.report import collect, labels_by_unit
from benchmarks.scores import Answer
from benchmarks.store import RunKey, write_json, write_run, write_truth

GENES = np.array(["A", "B", "C"], dtype=object)
ABOVE = {"t1": {"t"}, "t2": {"t"}, "b1": {"b"}}


def ancestors(term):
    return frozenset({term, *ABOVE.get(term, ())})


def source(name, group, labels, *, donor="d", measured=(True, True, True), n=20):
    label_N = np.repeat(labels, n).astype(object)
    donor_N = np.resize(donor, len(label_N))
    obs = pd.DataFrame(
        {"label": label_N, "study": group, "donor": donor_N, "file": name, "group": group},
        index=[f"{name}{i}" for i in range(len(label_N))],
    ).assign(batch=group, drawn=False)
    count_NG = sp.csr_matrix(np.ones((len(obs), 3), np.float32) * np.array(measured))
    adata = ad.AnnData(count_NG[:, np.array(measured)], obs=obs.copy())
    adata.var_names = GENES[np.array(measured)].astype(str)
    return Source(name, adata, Cells(count_NG, obs, GENES, np.array(measured)))


def fold(*queries, train=()):
    return Split("folds5", "fold1of5", list(train), list(queries))


def units(split):
    return [pair.unit for pair in pairs.pair_splits(split, ancestors)]


def test_pairs_are_ordered_and_of_studies_held_out_together():
    rest = source("rest", "R", ["t", "b", "n"])
    split = fold(source("a", "A", ["t", "b", "n"]), source("b", "B", ["t", "b", "n"]), train=[rest])
    found = list(pairs.pair_splits(split, ancestors))
    assert [pair.unit for pair in found] == ["A -> B", "B -> A"]
    for pair, (one, other) in zip(found, ("ab", "ba"), strict=True):
        assert [s.name for s in pair.train] == [one]
        assert [s.name for s in pair.queries] == [other]
        assert pair.fold is split


def test_a_fold_with_one_group_has_no_pair():
    assert units(fold(source("a", "A", ["t", "b", "n"]), source("b", "A", ["t", "b", "n"]))) == []


def test_a_term_is_reachable_by_itself_or_one_below_it():
    """``t1`` names a ``t``; a ``t`` names no ``t1``."""
    deep, broad = source("d", "Deep", ["t1", "b1", "n"]), source("s", "Broad", ["t", "b", "n"])
    assert units(fold(deep, broad)) == ["Deep -> Broad"]


@pytest.mark.parametrize(("n", "expected"), [(16, []), (17, ["A -> B", "B -> A"])])
def test_small_studies_make_no_pair(n, expected):
    labels = ["t", "b", "n"]
    assert units(fold(source("a", "A", labels, n=n), source("b", "B", labels))) == expected


def test_few_donors_take_the_choice_of_the_fold():
    labels = ["t", "b", "n"]
    many = source("m", "Many", labels, donor=["d1", "d2", "d3"])
    few = source("f", "Few", labels, donor=["d1", "d2"])
    split = fold(many, few)
    few_first, many_first = pairs.pair_splits(split, ancestors)
    assert pairs.chooser(few_first) is split
    assert pairs.chooser(many_first) is many_first


def test_the_baseline_of_a_small_reference_has_the_setting_of_its_fold(tmp_path, monkeypatch):
    """The reference alone trains it, and nothing is written beside the fold's own choice."""
    labels = ["t", "b", "n"]
    split = fold(
        source("a", "A", labels), source("b", "B", labels), train=[source("r", "R", ["z"])]
    )
    pair = next(pairs.pair_splits(split, ancestors))
    setting = KnnOnPca.grid[-1]
    choice = RunKey("folds5", "fold1of5", "knn-pca", 0).choice_path(tmp_path / "folds")
    write_json(choice, {"setting": setting, "by_seed": 0, "inner": []})
    asked = []

    class Method(KnnOnPca):
        def answers(self, train, query, settings, *, seed):
            asked.append((set(train.obs["file"]), set(query.obs["file"]), settings))
            return [{self.name: None}]

    monkeypatch.setattr(run, "make_method", lambda name: Method())
    monkeypatch.setattr("benchmarks.corpus.MIN_QUERY_GENES", 1)
    arguments = SimpleNamespace(
        out=tmp_path / "out", fold_runs=tmp_path / "folds", max_cells_per_type_and_study=None
    )
    _, chosen = run.run_baseline("knn-pca", pair, ancestors, arguments, seed=0)
    assert asked == [({"a"}, {"b"}, [setting])]
    assert chosen["chosen_on"] == "folds5 fold1of5"
    assert not (tmp_path / "out").exists()
    assert [p for p in (tmp_path / "folds").rglob("*") if p.is_file()] == [choice]


def test_mini_batches_take_as_many_steps_on_a_small_reference():
    method = LogisticOnGenes()
    few = pairs.enough_steps(method, 300)
    assert few.epochs == pairs.STEPS
    assert method.epochs == LogisticOnGenes.epochs
    assert pairs.enough_steps(method, 100_000).epochs == LogisticOnGenes.epochs


def test_the_network_is_the_one_of_the_fold(tmp_path):
    labels = ["t", "b", "n"]
    split = fold(source("a", "A", labels), source("b", "B", labels))
    pair = next(pairs.pair_splits(split, ancestors))
    trained = []

    def find():
        return pairs.fold_model(
            pair, tmp_path, {"drawn": True}, seed=1, train=lambda *given: trained.append(given)
        )

    folder = tmp_path / "models" / "folds5" / "fold1of5" / "seed1"
    assert find() == folder
    assert trained == [(split, folder)]
    write_json(folder / "config.json", {})
    assert find() == folder
    assert len(trained) == 1
    run_file = RunKey("folds5", "fold1of5", "scgp", 1).path(tmp_path)
    write_json(run_file, {"options": {"drawn": False}, "grid": []})
    with pytest.raises(ValueError, match="was made with"):
        find()


def test_files_of_one_study_become_one_reference_as_for_the_baselines():
    one = source("a", "A", ["t"], n=2, measured=(True, True, False))
    other = source("b", "A", ["b"], n=2, measured=(True, False, False))
    assert pairs.as_reference([one]) is one.adata
    both = pairs.as_reference([one, other])
    assert list(both.var_names) == ["A", "B"]
    assert both.X.toarray().tolist() == [[1, 1], [1, 1], [1, 0], [1, 0]]
    assert both.obs["label"].tolist() == ["t", "t", "b", "b"]
    assert both.obs_names.is_unique


def test_another_fusion_changes_the_index_and_nothing_else(model, all_blood):
    reference = all_blood[:60].copy()
    reference.obs["label"] = reference.obs["cell_type"]
    _, plain = scgp_method.own_reference(model, reference)
    same_model, other = scgp_method.with_fusion(weight_head=0.0)(model, reference)
    assert same_model is model
    assert plain.calibration.weight_head > 0
    assert other.calibration.weight_head == 0
    assert other.calibration.weight_described == plain.calibration.weight_described
    assert np.array_equal(other.vectors_ND, plain.vectors_ND)


def test_every_variant_has_its_rows(model, all_blood, tmp_path, monkeypatch):
    cells = all_blood[:80].copy()
    cells.obs["label"] = cells.obs["cell_type"]
    model.save(tmp_path / "model")
    variants = {
        "scgp": scgp_method.own_reference,
        "scgp, sure": scgp_method.with_fusion(threshold=1.0),
    }
    monkeypatch.setattr(scgp_method, "VARIANTS", variants)
    queries = [cells[:10].copy(), cells[10:30].copy()]
    first, second = scgp_method.pair_rows(tmp_path / "model", cells, queries)
    assert set(first) == {"scgp", "scgp, forced", "scgp, sure", "scgp, sure, forced"}
    assert len(second["scgp"].label_N) == 20
    assert set(second["scgp, sure"].status_N) == {"unknown"}
    assert set(second["scgp, forced"].label_N) <= set(cells.obs["label"])


def test_the_unit_of_the_report_is_the_pair(tmp_path):
    """Cells that the reference cannot name count in one section, and not in the other."""
    query = source("b", "B", ["t", "b", "z"], n=2)
    key = RunKey("pairs", "A--B", "majority", 0)
    write_truth(tmp_path, key.setting, key.fold, [query])
    answer = Answer(np.array(["t1"] * 6, object), np.ones(6, np.float32))
    facts = {"options": {}, "trained": ["t1", "b1"], "unit": "A -> B", "seconds": 1}
    write_run(tmp_path, key, [query], [{"majority": answer}], facts | {"cpu_seconds": 1})

    scores, _ = collect(tmp_path, ancestors)
    every = scores["pairs", "majority", 0]["A -> B"]
    some = scores[f"pairs, {pairs.REACHABLE_ONLY}", "majority", 0]["A -> B"]
    assert (every["cells"], every["reachable"], every["accuracy"]) == (6, 4 / 6, 2 / 6)
    assert (some["cells"], some["reachable"], some["accuracy"]) == (4, 1, 0.5)
    for section, n_cells in (("pairs", 6), (f"pairs, {pairs.REACHABLE_ONLY}", 4)):
        (true_N, _) = labels_by_unit(tmp_path, section, ancestors)["A -> B"]
        assert len(true_N) == n_cells


def test_pairs_of_studies_left_out_one_by_one_are_refused(capsys):
    with pytest.raises(SystemExit):
        run.read_arguments(["--data", "x", "--settings", "pairs", "--folds", "each"])
    assert "--folds" in capsys.readouterr().err
    arguments = run.read_arguments(["--data", "x", "--settings", "pairs", "--out", "o"])
    assert arguments.fold_runs == Path("o")


def test_committed_runs_of_folds_are_there_for_the_pairs():
    """The choices of settings that pairs borrow; without them they would be made anew."""
    runs = Path(run.HERE) / "results" / "runs"
    for name in ("knn-pca", "lr-pca", "lr-genes"):
        grid = run.make_method(name).grid
        for i in range(1, 6):
            path = RunKey("folds5", f"fold{i}of5", name, 0).choice_path(runs)
            assert json.loads(path.read_text())["setting"] in grid


def test_peers_that_take_days_with_the_drawn_cells_must_be_named():
    slow = set(run.SLOW_WITH_MANY_LABELS)
    assert slow.isdisjoint(run.read_arguments(["--data", "x"]).methods)
    assert slow < set(run.read_arguments(["--data", "x", "--no-drawn"]).methods)
    assert run.read_arguments(["--data", "x", "--methods", "scanvi"]).methods == ["scanvi"]
