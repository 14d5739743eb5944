"""The row "scgp, smoothed": CellTypist's own over-clusters, and what scgp calls them."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import celltypist_method, run, scgp_method
from benchmarks.celltypist_method import CellTypist, over_clusters
from benchmarks.corpus import Cells, Source, Split

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of celltypist and of what it calls
    pytest.mark.skipif(
        importlib.util.find_spec("celltypist") is None,
        reason="needs celltypist of the extra scgp[benchmark]",
    ),
]


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


def test_few_cells_have_no_clusters(halves):
    train, query = (half.cells for half in halves)
    few = query.take(np.arange(celltypist_method.MIN_CLUSTERED - 1))
    assert set(over_clusters(train, few, seed=0)) == {-1}


def test_the_row_stands_beside_the_others_and_changes_none(model, halves, tmp_path):
    query = halves[1].adata
    model.save(tmp_path / "model")
    clusters = np.arange(query.n_obs) % 4 - 1
    reference = halves[0].adata
    (alone,) = scgp_method.pair_rows(tmp_path / "model", reference, [query])
    (rows,) = scgp_method.pair_rows(tmp_path / "model", reference, [query], [clusters])
    assert set(rows) == {*alone, "scgp, smoothed"}
    for name, answer in alone.items():
        assert answer.label_N.tolist() == rows[name].label_N.tolist()
    smooth = rows["scgp, smoothed"]
    for cluster in range(3):
        assert len(set(smooth.label_N[clusters == cluster])) == 1
    own = clusters < 0
    assert smooth.label_N[own].tolist() == rows["scgp"].label_N[own].tolist()
    assert smooth.confidence_N[own].tolist() == rows["scgp"].confidence_N[own].tolist()


def test_the_benchmark_asks_with_the_clusters_of_each_file(halves, monkeypatch, tmp_path):
    train, query = halves
    calls = []
    monkeypatch.setattr(scgp_method, "fit_scgp", lambda *_: None)
    monkeypatch.setattr(scgp_method, "scgp_rows", lambda *given: calls.append(given) or {})
    arguments = SimpleNamespace(max_cells_per_type_and_study=None, out=tmp_path)
    run.run_scgp(Split("eval", "eval", [train], [query]), arguments, seed=0)
    (given,) = calls
    assert given[1] is query.adata
    assert given[2].tolist() == over_clusters(train.cells, query.cells, seed=0).tolist()
