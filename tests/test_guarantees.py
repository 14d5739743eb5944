"""The promises of docs/guarantees.md that the verbs make, held on real cells.

Promises about files (1, 2, 8) are tested in test_directory.py, test_index.py and test_annotate.py.
"""

import socket
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import scgp

NUMBERS = ["scgp_confidence", "scgp_novelty"]
OBS = ["scgp_cell_type", "scgp_cell_type_ontology_term_id", "scgp_status", *NUMBERS]


@pytest.fixture
def annotate(blood_index):
    def verb(adata, **options):
        scgp.annotate(adata, index=blood_index, progress=False, **options)
        return adata

    return verb


@pytest.fixture
def expected(annotated):
    """The cells as they come, annotated."""
    return annotated


def _same(found, expected):
    """Labels equal; numbers to float32 rounding."""
    for name in OBS:
        if name in NUMBERS:
            np.testing.assert_allclose(found.obs[name], expected.obs[name], rtol=0, atol=1e-5)
        else:
            assert found.obs[name].tolist() == expected.obs[name].tolist()
    np.testing.assert_allclose(found.obsm["X_scgp"], expected.obsm["X_scgp"], rtol=0, atol=1e-6)


# ---- 4: a verb changes only the slots it documents ----


def _rich(adata):
    """Something in every slot that an AnnData has."""
    adata.var["highly_variable"] = np.arange(adata.n_vars) % 2 == 0
    adata.layers["log"] = np.log1p(adata.X)
    adata.raw = adata
    adata.obsm["X_pca"] = np.ones((adata.n_obs, 3))
    adata.varm["PCs"] = np.ones((adata.n_vars, 3))
    adata.obsp["distances"] = sp.eye(adata.n_obs, format="csr")
    adata.varp["genes"] = sp.eye(adata.n_vars, format="csr")
    adata.uns["pca"] = {"variance": np.arange(3.0), "params": {"zero_center": True}}
    adata.obs["scgp_note"] = "mine"
    return adata


@pytest.mark.parametrize("container", ["csc", "dense", "unsorted csr", "uint16"])
def test_only_the_documented_slots_change(blood, annotate, state, container):
    _rich(blood)
    # last, for scipy's log1p makes the matrix that it is given canonical
    blood.X = CONTAINERS[container](blood.X)
    matrices = (blood.X, blood.layers["log"], blood.obsp["distances"], blood.uns["pca"])
    before = state(blood)
    annotate(blood)
    assert set(OBS) < set(blood.obs)
    for name in OBS:
        del blood.obs[name]
    del blood.obsm["X_scgp"], blood.uns["scgp"]
    assert state(blood) == before
    held = (blood.X, blood.layers["log"], blood.obsp["distances"], blood.uns["pca"])
    assert all(now is then for now, then in zip(held, matrices, strict=True))


@pytest.mark.parametrize("container", ["csc", "unsorted csr"])
def test_a_read_only_matrix_is_enough(blood, annotate, expected, container):
    blood.X = CONTAINERS[container](blood.X)
    for part in (blood.X.data, blood.X.indices, blood.X.indptr):
        part.setflags(write=False)
    _same(annotate(blood), expected)


# ---- 5: same cells, same answer ----


def _repeated_entries(matrix):
    """CSR with entries in falling order, each count in two parts, and explicit zeros."""
    coo = matrix.tocoo()
    half = np.floor(coo.data / 2)
    row = np.concatenate([coo.row, coo.row, coo.row])
    column = np.concatenate([coo.col, coo.col, coo.col])
    value = np.concatenate([half, coo.data - half, 0 * half]).astype(np.float32)
    order = np.lexsort((-column, row))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=matrix.shape[0]))])
    return sp.csr_matrix((value[order], column[order], indptr), shape=matrix.shape)


def _dask(matrix):
    return pytest.importorskip("dask.array").from_array(matrix.toarray(), chunks=(50, 765))


CONTAINERS = {
    "csc": sp.csc_matrix,
    "csr array": sp.csr_array,
    "csc array": sp.csc_array,
    "dense": lambda matrix: matrix.toarray(),
    "column-major": lambda matrix: np.asfortranarray(matrix.toarray()),
    "unsorted csr": _repeated_entries,
    "dask": _dask,
    **{dtype: lambda m, d=dtype: m.astype(d) for dtype in ("float64", "int64", "int32", "uint16")},
    "dense uint16": lambda matrix: matrix.toarray().astype(np.uint16),
    "dense int64": lambda matrix: matrix.toarray().astype(np.int64),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_container_and_dtype(blood, annotate, expected, container):
    blood.X = CONTAINERS[container](blood.X)
    _same(annotate(blood), expected)


def test_a_layer_and_raw(blood, annotate, expected):
    blood.layers["counts"] = blood.X.copy()
    blood.raw = blood
    blood.X = blood.X.log1p()
    _same(annotate(blood.copy(), layer="counts"), expected)
    _same(annotate(blood.copy(), use_raw=True), expected)


@pytest.mark.parametrize("container", ["uint16", "csc", "dense"])
def test_backed(blood, annotate, expected, container, tmp_path):
    blood.X = CONTAINERS[container](blood.X)
    blood.write_h5ad(tmp_path / "cells.h5ad")
    on_disk = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    _same(annotate(on_disk), expected)
    on_disk.file.close()


def test_a_view(blood, annotate, expected):
    rows, columns = np.arange(119, -1, -3), np.random.default_rng(0).permutation(blood.n_vars)
    with pytest.warns(scgp.ScgpWarning, match="a view of another"):
        answered = annotate(blood[rows, columns])
    _same(answered, expected[rows].copy())


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_genes(blood, annotate, expected, seed):
    order = np.random.default_rng(seed).permutation(blood.n_vars)
    _same(annotate(blood[:, order].copy()), expected)


def test_extra_genes(blood, annotate, expected):
    """Names that the model does not know, in front and in between, with large counts."""
    rng = np.random.default_rng(0)
    extra = sp.csr_matrix(rng.poisson(50, (blood.n_obs, 200)).astype(np.float32))
    names = [*(f"peak_{i}" for i in range(200)), *blood.var_names]
    order = rng.permutation(len(names))
    wider = ad.AnnData(
        sp.hstack([extra, blood.X], format="csr")[:, order], obs=blood.obs.copy(),
        var=pd.DataFrame(index=np.array(names)[order]),
    )  # fmt: skip
    _same(annotate(wider), expected)


def test_genes_without_a_count(blood, annotate, expected, model):
    """All other genes of the model, measured and zero."""
    there = set(model.genes.match(blood.var_names).token_of_column)
    absent = [str(g) for t, g in enumerate(model.genes.ensembl) if t not in there]
    zeros = sp.csr_matrix((blood.n_obs, len(absent)), dtype=np.float32)
    wider = ad.AnnData(
        sp.hstack([zeros, blood.X], format="csr"), obs=blood.obs.copy(),
        var=pd.DataFrame(index=[*absent, *blood.var_names]),
    )  # fmt: skip
    _same(annotate(wider), expected)


@pytest.mark.parametrize("batch_size", [1, 300, 10_000])
def test_batch_size(blood, annotate, expected, batch_size):
    """600 cells: one batch, several, and a last one that is not full."""
    rows = np.tile(np.arange(120), 5)
    found = annotate(ad.AnnData(blood.X[rows], var=blood.var), batch_size=batch_size)
    _same(found, _rows(expected, rows))


@given(data=st.data())
@settings(
    max_examples=6, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
def test_order_and_company_of_cells(blood, annotate, expected, data):
    """Any cells in any order and number, repeated or not, among empty ones or not."""
    rows = np.array(data.draw(st.lists(st.integers(0, 119), min_size=1, max_size=300)))
    found = annotate(ad.AnnData(blood.X[rows], var=blood.var))
    _same(found, _rows(expected, rows))


def _rows(adata, rows):
    """Rows of the answer, repeated where asked for."""
    obs = adata.obs.iloc[rows].reset_index(drop=True).rename(index=str)
    return ad.AnnData(obs=obs, obsm={"X_scgp": adata.obsm["X_scgp"][rows]})


def test_empty_company(blood, annotate, expected):
    empty = sp.csr_matrix((200, blood.n_vars), dtype=np.float32)
    mixed = ad.AnnData(sp.vstack([empty, blood.X, empty], format="csr"), var=blood.var)
    with pytest.warns(scgp.ScgpWarning, match="400 of 520"):
        annotate(mixed)
    _same(mixed[200:320].copy(), expected)


def test_obs_is_never_read(blood, annotate, expected):
    """Labels, studies and everything else that is known of the cells may be wrong or absent."""
    shuffled, bare = blood.copy(), ad.AnnData(blood.X.copy(), var=blood.var.copy())
    order = np.random.default_rng(0).permutation(blood.n_obs)
    for name in blood.obs:
        shuffled.obs[name] = blood.obs[name].to_numpy()[order]
    _same(annotate(shuffled), expected)
    _same(annotate(bare), expected)


def test_twice_is_the_same_bit_by_bit(blood, annotate, expected):
    again = annotate(blood)
    np.testing.assert_array_equal(again.obsm["X_scgp"], expected.obsm["X_scgp"])
    pd.testing.assert_frame_equal(again.obs[OBS], expected.obs[OBS])


def test_the_order_of_the_reference(blood, all_blood):
    """Its neighbours and its head are those of a set of cells, not of a list."""
    atlas = all_blood[200:500].copy()
    order = np.random.default_rng(0).permutation(atlas.n_obs)
    answers = [
        scgp.annotate(blood, reference=a, label_key="cell_type", progress=False, copy=True)
        for a in (atlas, atlas[order].copy())
    ]
    first, second = (a.obs["scgp_confidence"].to_numpy() for a in answers)
    np.testing.assert_allclose(first, second, atol=0.01)
    agree = answers[0].obs[OBS[0]].astype(str) == answers[1].obs[OBS[0]].astype(str)
    assert agree.mean() > 0.98


def test_real_backed_cells_as_in_memory(shared_data, blood_index):
    """uint16 CSR on disk, thousands of genes; both in the first 300 cells of a file."""
    path = shared_data / "eval" / "kang2018_stim_harmony.h5ad"
    on_disk, memory = ad.read_h5ad(path, backed="r"), ad.read_h5ad(path)
    for adata in (on_disk, memory):
        scgp.annotate(adata, index=blood_index, progress=False)
    on_disk.file.close()
    dense = memory[:300].copy()
    dense.X = dense.X.toarray().astype(np.float64)
    scgp.annotate(dense, index=blood_index, progress=False)
    _same(on_disk, memory)
    _same(dense, memory[:300].copy())


# ---- 7: no network ----


def test_no_socket_is_opened(blood, monkeypatch, annotate):
    def refused(*_, **__):
        msg = "a socket was opened"
        raise AssertionError(msg)

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    scgp.build_index(blood, label_key="cell_type", progress=False)
    annotate(blood)


# ---- what scanpy does next ----


def test_results_survive_a_file(expected, tmp_path):
    expected.write_h5ad(tmp_path / "out.h5ad")
    back = ad.read_h5ad(tmp_path / "out.h5ad")
    pd.testing.assert_frame_equal(back.obs[OBS], expected.obs[OBS])
    np.testing.assert_array_equal(back.obsm["X_scgp"], expected.obsm["X_scgp"])
    assert back.obsm["X_scgp"].dtype == np.float32
    assert set(back.uns["scgp"]) == set(expected.uns["scgp"])
    assert all(back.uns["scgp"][k] == value for k, value in expected.uns["scgp"].items())
    back.write_h5ad(tmp_path / "again.h5ad")


def test_results_survive_cutting_and_joining(expected, tmp_path):
    joined = ad.concat({"a": expected[:50], "b": expected[50:]}, index_unique="-")
    np.testing.assert_array_equal(joined.obsm["X_scgp"], expected.obsm["X_scgp"])
    assert joined.obs["scgp_cell_type"].tolist() == expected.obs["scgp_cell_type"].tolist()
    joined.write_h5ad(tmp_path / "joined.h5ad")


def test_scanpy_takes_the_embedding(expected):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scanpy and umap warn as they like
        import scanpy as sc

        sc.pp.neighbors(expected, use_rep="X_scgp", n_neighbors=10)
    assert expected.obsp["connectivities"].shape == (120, 120)
    assert expected.uns["neighbors"]["params"]["use_rep"] == "X_scgp"
