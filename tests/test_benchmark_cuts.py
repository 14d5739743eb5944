"""The hard cuts: which cells belong to each, how they are scored, and the command (synthetic)."""

import json
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import bootstrap, cuts, cuts_cells, cuts_report
from benchmarks.corpus import Cells, Source, Split, thin
from benchmarks.cuts import CUTS
from benchmarks.cuts_report import Cut, cut_scores, measure, units_of
from benchmarks.scores import Answer, score
from benchmarks.store import RunKey, write_run, write_truth

PARENT = {"T": "cell", "B": "cell", "CD4": "T", "CD8": "T"}
ROWS = ("LR on genes", "CellTypist (SGD)", "scgp")


def ancestors(term):
    return frozenset([term]) | (ancestors(PARENT[term]) if term in PARENT else frozenset())


def source(name, labels, *, study=None, drawn=False, n_genes=3, group=None, **columns):
    """A file of one study; ``columns`` are those that only some files of the data have."""
    label_N = np.array(labels, dtype=object)
    study = study or name
    obs = pd.DataFrame(
        {"label": label_N, "study": study, "donor": "d", "file": name, "group": group or study},
        index=[f"{name}{i}" for i in range(len(label_N))],
    ).assign(batch=study, drawn=drawn, **columns)
    count_NG = sp.csr_matrix(np.ones((len(obs), n_genes), np.float32))
    adata = ad.AnnData(count_NG, obs=obs.copy())
    genes = np.array([f"G{i}" for i in range(n_genes)], dtype=object)
    return Source(name, adata, Cells(count_NG, obs, genes, np.ones(n_genes, bool)))


def fact(**changes):
    """One line of `facts_of` that belongs to no cut."""
    plain = {
        "setting": "folds5",
        "fold": "fold1of5",
        "file": "f",
        "study": "s",
        "unit": "s",
        "true": "T",
        "shift": False,
        "assay": "other",
        "assay_trains": "yes",
        "n_genes": 20_000,
        "condition": "not stated",
        "stage": "not stated",
        "n_train": 500,
        "n_real": 400,
    }
    return pd.DataFrame([plain | changes])


def cuts_with(facts):
    return {cut.name for cut in CUTS if np.asarray(cut.select(facts)).all()}


NEW = "technology not in training"
NARROW = "narrow gene panels"
FEW_REAL = "rare: fewer than 20 real training cells"
FEW, NONE = "rare: 1 to 19 training cells", "rare: no training cell"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, set()),
        ({"assay": "inDrop"}, {"inDrop"}),
        ({"assay": "10x 3' v1"}, {"10x 3' v1"}),
        ({"assay": "10x 3' v1", "shift": True}, set()),
        ({"assay": "10x technology", "assay_trains": "open"}, {"10x, chemistry not stated"}),
        ({"assay": "MALBAC-DT", "assay_trains": "no"}, {"MALBAC-DT", NEW}),
        ({"n_genes": 2000}, {NARROW}),
        ({"n_genes": 2001}, set()),
        ({"condition": "IFN-beta stimulated", "shift": True}, {"stimulated cells"}),
        ({"condition": "control"}, set()),
        ({"stage": "fetal 19-22 weeks"}, {"fetal"}),
        ({"stage": "adult"}, set()),
        ({"n_train": 500, "n_real": 19}, {FEW_REAL}),
        ({"n_train": 20, "n_real": 20}, set()),
        ({"n_train": 19, "n_real": 0}, {FEW_REAL, FEW}),
        ({"n_train": 1, "n_real": 1}, {FEW_REAL, FEW}),
        ({"n_train": 0, "n_real": 0}, {NONE}),
    ],
)
def test_a_cell_belongs_to_these_cuts(changes, expected):
    assert cuts_with(fact(**changes)) == expected


def test_cuts_have_names_of_their_own_and_reasons():
    assert len({cut.name for cut in CUTS}) == len(CUTS)
    assert all(cut.what for cut in CUTS)


def a_split(setting="folds5", **asked):
    train = [
        source("real", ["CD4"] * 5 + ["T"] * 2 + ["B"], assay="10x 3' v1"),
        source("open", ["B"] * 2, assay="10x technology"),
        source("profiles", ["CD8"] * 4, drawn=True),
    ]
    query = source("asked", ["CD4", "T", "CD8", "NK"], **asked)
    return Split(setting, "fold1of5", train, [query])


def test_training_cells_at_or_below_a_term_are_counted():
    facts = cuts_cells.facts_of(a_split(), None, ancestors)
    assert facts["true"].tolist() == ["CD4", "T", "CD8", "NK"]
    assert facts["n_train"].tolist() == [5, 11, 4, 0]
    assert facts["n_real"].tolist() == [5, 7, 0, 0]


def test_thinned_cells_are_counted_as_thinned():
    split = a_split()
    thinned = Split(
        split.setting, split.name, [thin(s, most=3, seed=1) for s in split.train], split.queries
    )
    counted = cuts_cells.training_counts(split, 3, ancestors)
    assert counted == cuts_cells.training_counts(thinned, None, ancestors)
    assert counted[0]["T"] == 3 + 2 + 3


def test_what_a_file_does_not_state_is_not_guessed():
    facts = cuts_cells.facts_of(a_split(assay="", n_genes=7), None, ancestors)
    assert set(facts["assay"]) == {"not stated"}
    assert set(facts["assay_trains"]) == {"open"}
    assert set(facts["stage"]) == set(facts["condition"]) == {"not stated"}
    assert set(facts["n_genes"]) == {7}


@pytest.mark.parametrize(
    ("assay", "trained", "expected"),
    [
        ("inDrop", {"10x 3' v1", "10x technology"}, "no"),
        ("10x 3' v1", {"10x 3' v1", "10x technology"}, "yes"),
        ("10x 3' v2", {"10x 3' v1", "10x technology"}, "open"),
        ("10x 3' v2", {"10x 3' v1"}, "no"),
        ("10x technology", {"10x technology"}, "open"),
        ("inDrop", {"10x 3' v1", "not stated"}, "open"),
    ],
)
def test_a_technology_is_new_only_where_the_data_say_so(assay, trained, expected):
    assert cuts_cells.assay_trains(assay, trained) == expected


def test_the_technology_of_drawn_cells_does_not_count():
    """Nothing is stated of it, and that must not make every technology an open question."""
    facts = cuts_cells.facts_of(a_split(assay="inDrop"), None, ancestors)
    assert set(facts["assay_trains"]) == {"no"}


def test_the_unit_is_the_file_of_eval_and_the_study_of_a_fold():
    asked = {"study": "Kang", "group": "Kang 2018"}
    fold, eval_ = (cuts_cells.facts_of(a_split(s, **asked), None, ancestors) for s in ("x", "eval"))
    assert (set(fold["unit"]), set(fold["shift"])) == ({"Kang"}, {False})
    assert (set(eval_["unit"]), set(eval_["shift"])) == ({"asked"}, {True})


def labels(n, seed):
    rng = np.random.default_rng(seed)
    true_N = rng.choice(["CD4", "CD8", "B"], n).astype(object)
    return true_N, rng.choice(["CD4", "CD8", "B", "T", ""], n).astype(object)


def test_a_cut_of_whole_studies_has_the_scores_of_the_benchmark():
    true_N, label_N = labels(90, 0)
    found = cut_scores(true_N, label_N, np.ones(90, bool), ancestors)
    expected = score(true_N, Answer(label_N, np.ones(90, np.float32)), ancestors)
    shared = set(found) & set(expected)
    assert shared == set(found) - {"recall"}
    for name in shared:
        assert found[name] == pytest.approx(expected[name], abs=1e-12), name


def test_calling_a_rare_type_where_it_is_not_costs():
    """Two CD8 T cells found; two B cells that are called CD8 halve the precision."""
    true_N = np.array(["CD8", "CD8", "B", "B"], dtype=object)
    asked_N = true_N == "CD8"
    right = np.array(["CD8", "CD8", "B", "B"], dtype=object)
    eager = np.array(["CD8"] * 4, dtype=object)
    assert cut_scores(true_N, right, asked_N, ancestors)["macro_f1"] == 1
    found = cut_scores(true_N, eager, asked_N, ancestors)
    assert found["macro_f1"] == found["macro_f1_exact"] == pytest.approx(2 / 3)
    assert found["recall"] == found["soft"] == found["holds"] == 1
    assert found["cells"] == 2


def test_recall_counts_terms_alike():
    true_N = np.array(["CD8"] * 3 + ["B"], dtype=object)
    label_N = np.array(["CD8"] * 3 + ["CD8"], dtype=object)
    found = cut_scores(true_N, label_N, np.ones(4, bool), ancestors)
    assert found["recall"] == 0.5


class _AsTheyAre:
    """A random generator whose every resample is the cells themselves."""

    def multinomial(self, n, share, size):
        return np.ones((size, len(share)), int)


def test_the_bootstrap_scores_asked_cells_as_the_table_does():
    true_N, label_N = labels(90, 1)
    asked_N = true_N == "CD8"
    found = bootstrap.resampled_scores(
        true_N, {"a": [label_N]}, ancestors, rng=_AsTheyAre(), n_resamples=2, asked_N=asked_N
    )["a"]
    expected = cut_scores(true_N, label_N, asked_N, ancestors)
    want = [expected[name] for name in bootstrap.SCORES]
    np.testing.assert_allclose(found, [want, want], atol=1e-6)


def test_no_resample_loses_the_asked_cells():
    true_N = np.array(["CD8"] + ["B"] * 60, dtype=object)
    found = bootstrap.resampled_scores(
        true_N,
        {"a": [true_N]},
        ancestors,
        rng=np.random.default_rng(0),
        n_resamples=50,
        asked_N=true_N == "CD8",
    )["a"]
    np.testing.assert_array_equal(found, np.ones((50, 3)))


def some_facts(n_few):
    """Two studies; ``n_few`` cells of the second are of the cut."""
    one = [fact(study="A", unit="A", stage="fetal")] * 12
    other = [fact(study="B", unit="B", stage="fetal")] * n_few + [fact(study="B", unit="B")] * 30
    return pd.concat(one + other, ignore_index=True)


@pytest.mark.parametrize(("n_few", "expected"), [(9, {"A"}), (10, {"A", "B"})])
def test_a_study_with_few_cells_in_a_cut_is_left_out(n_few, expected):
    cut = next(cut for cut in CUTS if cut.name == "fetal")
    facts = some_facts(n_few)
    answers = {row: [facts["true"].to_numpy(object)] for row in ROWS}
    assert set(units_of(cut, facts, answers)) == expected
    found = measure(cut, facts, answers, ancestors)
    assert (found["units"], found["studies"]) == (len(expected),) * 2
    assert found["cells"] == 12 + (n_few if "B" in expected else 0)


def test_the_rest_of_a_unit_counts_only_where_a_cut_says_so():
    facts = some_facts(10)
    answers = {row: [facts["true"].to_numpy(object)] for row in ROWS}
    for among_all, expected in ((False, 10), (True, 40)):
        cut = Cut("c", "w", lambda f: f["stage"].eq("fetal").to_numpy(), among_all=among_all)
        unit = units_of(cut, facts, answers)["B"]
        assert len(unit.true_N) == len(unit.labels["scgp"][0]) == expected
        assert unit.asked_N.sum() == 10


def test_the_lead_on_a_rare_type_is_not_that_on_the_rest_of_its_unit():
    """Both find the rare cells; that one of them misses all others is no matter of this cut."""
    facts = some_facts(10)
    facts["true"] = np.where(facts["stage"] == "fetal", "CD8", "B")
    true_N = facts["true"].to_numpy(object)
    misses_N = np.where(true_N == "CD8", "CD8", "T").astype(object)
    answers = {"scgp": [true_N], "LR on genes": [misses_N], "CellTypist (SGD)": [true_N]}
    cut = Cut("c", "w", lambda f: f["stage"].eq("fetal").to_numpy(), among_all=True)
    found = measure(cut, facts, answers, ancestors)
    assert found["differences"]["LR on genes"] == dict.fromkeys(bootstrap.SCORES, (0, 0, 0))


def test_a_cut_without_a_unit_is_no_table():
    facts = fact()
    answers = {row: [facts["true"].to_numpy(object)] for row in ROWS}
    assert measure(CUTS[0], facts, answers, ancestors) is None


OPTIONS = {"drawn": True, "max_cells_per_type_and_study": None}
TRAINED = ["B", "CD4", "CD8", "T"]


def written(folder, split, *, seeds=(0, 1), rows=ROWS, trained=TRAINED, options=OPTIONS):
    """Write runs of a split: scgp is right, the others call everything B."""
    write_truth(folder, split.setting, split.name, split.queries)
    for row in rows:
        answers = []
        for query in split.queries:
            label_N = query.cells.label_N if row == "scgp" else np.full(len(query.cells.obs), "B")
            confidence_N = np.ones(len(label_N), np.float32)
            answers.append({row: Answer(np.asarray(label_N, dtype=object), confidence_N)})
        facts = {"options": options, "trained": trained, "seconds": 1, "cpu_seconds": 1}
        for seed in seeds:
            key = RunKey(split.setting, split.name, row.split()[0], seed)
            write_run(folder, key, split.queries, answers, facts)


def two_splits():
    train = a_split().train
    one = source("stim", ["CD4"] * 12, condition="stimulated", assay="10x 3' v1", group="Kang 2018")
    other = source("gut", ["CD4"] * 8 + ["NK"] * 12, assay="inDrop")
    return [Split("eval", "all", train, [one]), Split("folds5", "fold1of5", train, [other])]


@pytest.fixture
def ready(tmp_path, monkeypatch):
    """Runs of two synthetic splits, and a command that reads these instead of the data."""
    splits = two_splits()
    monkeypatch.setattr(cuts, "splits_of", lambda data, *, n_folds: splits)
    monkeypatch.setattr("benchmarks.run.lineage", lambda: ancestors)
    for split in splits:
        written(tmp_path / "runs", split)
    words = ["--data", "d", "--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "out")]
    return tmp_path, words


def test_the_command_writes_every_cut_that_has_cells(ready, capsys):
    folder, words = ready
    cuts.main(words)
    text = (folder / "out" / "cuts.md").read_text("utf-8")
    assert capsys.readouterr().out == text
    content = json.loads((folder / "out" / "cuts.json").read_text("utf-8"))
    found = {cut["cut"]: cut for cut in content["cuts"]}
    assert set(found) == {"inDrop", NEW, NARROW, "stimulated cells", NONE, FEW_REAL, FEW}
    assert found["stimulated cells"]["cells"] == 12
    assert found["stimulated cells"]["differences"]["LR on genes"]["macro_f1"] == [1, 1, 1]
    assert found["stimulated cells"]["summary"]["scgp"]["scores"]["macro_f1"] == [1, 0]
    assert found["stimulated cells"]["summary"]["scgp"]["seeds"] == 2
    assert found[NONE]["cells"] == 12
    assert set(found[NONE]["best_peer"]) == {"soft"}
    assert "- **fetal**: no study with enough cells." in text
    assert "+1.000 [+1.000, +1.000] *" in text


def test_answers_of_scgp_smoothed_have_no_part_in_cuts(ready):
    folder, words = ready
    cuts.main(words)
    made = [(folder / "out" / name).read_text("utf-8") for name in ("cuts.md", "cuts.json")]
    written(folder / "runs", two_splits()[0], rows=["scgp-smoothed"])
    cuts.main(words)
    again = [(folder / "out" / name).read_text("utf-8") for name in ("cuts.md", "cuts.json")]
    assert made == again


def test_runs_on_other_training_labels_are_refused(ready):
    folder, words = ready
    written(folder / "runs", two_splits()[0], trained=["B"])
    with pytest.raises(ValueError, match="was trained on 1 labels, the data have 4"):
        cuts.main(words)


def test_a_method_that_lacks_a_split_is_refused(ready):
    folder, words = ready
    RunKey("eval", "all", "scgp", 1).path(folder / "runs").unlink()
    with pytest.raises(ValueError, match=r"'scgp', seed 1, has no run for \['eval all'\]"):
        cuts.main(words)


def test_runs_with_other_options_are_refused(ready):
    folder, words = ready
    written(folder / "runs", two_splits()[0], rows=["scgp"], options=OPTIONS | {"drawn": False})
    with pytest.raises(ValueError, match="2 sets of options"):
        cuts.main(words)


def test_cells_in_another_order_are_refused():
    facts = cuts_cells.facts_of(a_split(), None, ancestors)
    run = {
        "setting": "folds5", "fold": "fold1of5", "method": "m", "seed": 0, "trained": TRAINED,
        "truth": {"asked": {
            "study": {"code": [0] * 4, "names": ["asked"]},
            "true": {"code": [1, 0, 2, 3], "names": ["CD4", "T", "CD8", "NK"]},
        }},
        "files": {"asked": {"m": {
            "label": {"code": [0] * 4, "names": ["B"]}, "confidence": [1] * 4,
        }}},
    }  # fmt: skip
    with pytest.raises(ValueError, match="in another order"):
        cuts_cells.line_up(facts, [run], [a_split()])


def test_the_best_peer_is_no_row_of_scgp():
    summary = {
        name: {"scores": {"soft": (value, 0)}}
        for name, value in (
            ("scgp", 0.9), ("scgp, forced", 0.95), ("scgp, smoothed", 0.9), ("b", 0.5), ("a", 0.5)
        )
    }  # fmt: skip
    assert cuts_report.best_peer({"summary": summary}, "soft") == "a"
