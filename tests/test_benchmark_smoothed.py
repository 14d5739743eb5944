"""The row "scgp, smoothed": CellTypist's own over-clusters, and what scgp calls them."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import celltypist_method, report, run, scgp_method, smoothed_method
from benchmarks.celltypist_method import CellTypist, over_clusters
from benchmarks.corpus import Cells, Source, Split
from benchmarks.pairs import Pair
from benchmarks.store import RunKey, cells_of, read_json, read_run, write_json
from scgp.annotate import label_cells
from scgp.phenotypes.ontology import Ontology
from scgp.reference.consensus import agree

needs_celltypist = pytest.mark.skipif(
    importlib.util.find_spec("celltypist") is None,
    reason="needs celltypist of the extra scgp[benchmark]",
)
pytestmark = pytest.mark.filterwarnings("ignore")  # of celltypist and of what it calls

ROW = smoothed_method.ROW
KEY = RunKey("eval", "all", smoothed_method.NAME, 0)
SCGP = replace(KEY, method="scgp")


@pytest.fixture(scope="module")
def source(all_blood):
    adata = all_blood.copy()
    shared = {"study": "S", "donor": "d", "file": "f", "group": "S", "batch": "b", "drawn": False}
    adata.obs = adata.obs.assign(label=adata.obs["cell_type"].astype(str), **shared)
    cells = Cells(adata.X.tocsr().astype(np.float32), adata.obs,
                  adata.var_names.to_numpy(dtype=object), np.ones(adata.n_vars, bool))  # fmt: skip
    return Source("f", adata, cells)


@pytest.fixture(scope="module")
def halves(source):
    rows = np.arange(700) < 400
    return source.take(rows), source.take(~rows)


@needs_celltypist
def test_the_clusters_are_those_that_celltypist_votes_in(halves, monkeypatch):
    from celltypist.classifier import Classifier

    train, query = (half.cells.take(np.arange(300)) for half in halves)  # copies
    query.count_NG[7] = 0
    query.count_NG.eliminate_zeros()
    monkeypatch.setattr(celltypist_method, "N_GENES", 200)  # of 765: the training cells choose
    voted_in, real = [], Classifier.majority_vote

    def kept(predictions, clusters, **options):
        voted_in.append(np.asarray(clusters).astype(int))
        return real(predictions, clusters, **options)

    monkeypatch.setattr(Classifier, "majority_vote", staticmethod(kept))
    (rows,) = CellTypist().answers(train, query, [{"alpha": 0.1}], seed=0)
    found = over_clusters(train, query, seed=0)
    assert found[7] == -1
    assert np.delete(found, 7).tolist() == voted_in[0].tolist()
    assert len(set(found)) > 5
    assert set(rows) == {CellTypist.name, CellTypist.voted}


@needs_celltypist
def test_few_cells_have_no_clusters(halves):
    train, query = (half.cells for half in halves)
    few = query.take(np.arange(celltypist_method.MIN_CLUSTERED - 1))
    assert set(over_clusters(train, few, seed=0)) == {-1}


@pytest.fixture
def asked(model, blood_index, monkeypatch):
    """A model stands in for training; what it was asked, in order."""
    asked = []

    def rows_of(_, query):
        asked.append(query)
        return scgp_method._rows(scgp_method._predicted(model, blood_index, query), "scgp")

    monkeypatch.setattr(scgp_method, "fit_scgp", lambda *_: None)
    monkeypatch.setattr(scgp_method, "scgp_rows", rows_of)
    return asked


@pytest.fixture
def clusters(monkeypatch):
    """Four clusters, and every fifth cell in none, in place of those of CellTypist."""
    found = np.arange(300) % 5 - 1
    monkeypatch.setattr(celltypist_method, "over_clusters", lambda *_, seed: found)
    return found


@pytest.fixture
def query(halves):
    """300 cells, the fourth of them empty for scgp."""
    adata = halves[1].adata.copy()
    adata.X[3] = 0
    adata.X.eliminate_zeros()
    return replace(halves[1], adata=adata)


@pytest.fixture
def benchmark(halves, query, tmp_path):
    """Return what runs methods of the benchmark on one split, and returns where the runs are."""
    split = Split("eval", "all", [halves[0]], [query])

    def benchmark(*methods, **options):
        words = ["--data", "x", "--out", str(tmp_path), "--methods", *methods]
        arguments = run.read_arguments(words)
        vars(arguments).update(options)
        run.run_split(split, run.lineage(), arguments, seed=0)
        return tmp_path

    return benchmark


def table(folder, key, row):
    """Return what a row of a saved run says of each cell."""
    cells = cells_of(read_run(key.path(folder)))
    return cells[cells["row"] == row].reset_index(drop=True)


def test_the_saved_answers_are_smoothed_as_those_of_the_cells(
    model, blood_index, query, asked, clusters, benchmark
):
    folder = benchmark("scgp", "scgp-smoothed")
    decision, _, _ = label_cells(query.adata, model, blood_index)
    expected = agree(decision, clusters, Ontology("CL"))
    assert decision.status[3] == "empty"
    found = table(folder, KEY, ROW)
    called = np.where(expected.ontology_id == "", expected.label, expected.ontology_id)
    empty = decision.status == "empty"
    called[(expected.label == "unknown") | empty] = ""
    assert found["label"].tolist() == called.tolist()
    inside = (clusters >= 0) & ~empty
    assert found["confidence"][inside].to_numpy() == pytest.approx(expected.share[inside], abs=1e-3)
    assert found["label"][inside].nunique() > 1

    alone = ~inside
    scgp = table(folder, SCGP, "scgp")
    for column in ("label", "confidence"):
        assert found[column][alone].tolist() == scgp[column][alone].tolist()


def test_unknown_and_empty_cells_come_back_as_such(asked, clusters, benchmark):
    folder = benchmark("scgp", "scgp-smoothed")
    cells = cells_of(read_run(SCGP.path(folder)))
    cells.loc[(cells["row"] == "scgp") & (cells.groupby("row").cumcount() == 7), "label"] = ""
    decision = smoothed_method.decision_of(cells)
    assert decision.status[[3, 7]].tolist() == ["empty", "unknown"]
    assert decision.label[[3, 7]].tolist() == [None, "unknown"]
    assert decision.ontology_id[[3, 7]].tolist() == ["", ""]
    assert decision.leaf[7].startswith("CL:")
    forced = table(folder, SCGP, "scgp, forced")["confidence"]
    assert decision.leaf_confidence.tolist() == forced.tolist()


def test_scgp_is_asked_once_and_has_its_own_rows_alone(asked, clusters, benchmark):
    folder = benchmark("scgp")
    assert set(cells_of(read_run(SCGP.path(folder)))["row"]) == {"scgp", "scgp, forced"}
    before = SCGP.path(folder).read_bytes()
    benchmark("scgp", "scgp-smoothed")
    assert len(asked) == 1
    assert SCGP.path(folder).read_bytes() == before
    assert set(cells_of(read_run(KEY.path(folder)))["row"]) == {ROW}


def test_without_a_run_of_scgp_it_says_what_to_run(clusters, benchmark):
    with pytest.raises(ValueError, match=r"needs the run of scgp.*--methods scgp scgp-smoothed"):
        benchmark("scgp-smoothed")


def test_a_run_of_scgp_with_other_options_is_refused(asked, clusters, benchmark):
    benchmark("scgp")
    with pytest.raises(ValueError, match="was made with"):
        benchmark("scgp-smoothed", max_cells_per_type_and_study=150)


def test_it_is_made_again_when_scgp_is_another(asked, clusters, benchmark):
    folder = benchmark("scgp", "scgp-smoothed")
    made = KEY.path(folder).stat().st_mtime_ns
    benchmark("scgp-smoothed")
    assert KEY.path(folder).stat().st_mtime_ns == made
    content = read_json(SCGP.path(folder))
    for rows in content["files"].values():
        rows["scgp"]["label"]["code"] = [-1] * 300  # scgp calls nothing
    write_json(SCGP.path(folder), content)
    benchmark("scgp-smoothed")
    assert set(table(folder, KEY, ROW)["label"]) == {""}
    SCGP.path(folder).unlink()
    benchmark("scgp", "scgp-smoothed")
    assert len(set(table(folder, KEY, ROW)["label"])) > 1


def test_the_row_is_in_the_table_and_in_no_lead(asked, clusters, benchmark):
    folder = benchmark("majority", "scgp", "scgp-smoothed")
    text = report.write_report(folder, folder / "results", run.lineage(), "command")
    main, rest = text.split("| scgp minus |")
    leads, others = rest.split("| unit |")
    assert f"| {ROW} |" in main
    assert f"| {ROW} |" in others
    assert "| scgp, forced |" in leads
    assert ROW not in leads
    assert "| scgp-smoothed | eval | 1 |" in others


def test_pairs_leave_it_out(halves):
    train, query = halves
    fold = Split("folds5", "fold1of5", [train], [query])
    names = ["majority", "scgp", "scgp-smoothed"]
    assert set(names) <= set(run.METHODS)
    pair = Pair("pairs", "a--b", [train], [query], "a -> b", fold)
    assert list(run.grids_of(fold, names)) == names
    assert list(run.grids_of(pair, names)) == ["majority", "scgp"]


@needs_celltypist
def test_it_asks_with_the_clusters_of_each_file(halves, asked, benchmark, monkeypatch):
    given, real = [], smoothed_method.smoothed
    monkeypatch.setattr(smoothed_method, "smoothed", lambda d, c: given.append(c) or real(d, c))
    benchmark("scgp", "scgp-smoothed")
    train, query = halves
    (found,) = given
    assert found.tolist() == over_clusters(train.cells, query.cells, seed=0).tolist()
