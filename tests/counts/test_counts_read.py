"""Counts are read the same from every container, in blocks, and the container stays as it is."""

import sys
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from scgp.cells.counts import CountMatrix, choose_counts
from scgp.errors import ArgumentError, CountsError

sys.path.insert(0, str(Path(__file__).parent))
from count_matrices import CONTAINERS, DENSE, LOG, backed, make, messy, spoiled, with_raw


def is_canonical(matrix):
    fresh = sp.csr_matrix((matrix.data, matrix.indices, matrix.indptr), shape=matrix.shape)
    return fresh.has_canonical_format and bool((matrix.data != 0).all())


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_gives_the_same_rows(container, tmp_path):
    counts = choose_counts(CONTAINERS[container](DENSE, tmp_path))
    assert (counts.n_cells, len(counts.var_names), counts.where) == (23, 7, "X")
    for start, stop in [(0, 23), (0, 5), (5, 23), (22, 23), (4, 4), (9, 4), (20, 99)]:
        block = counts.rows(start, stop)
        assert type(block) is sp.csr_matrix
        assert block.dtype == np.float32
        assert is_canonical(block)
        np.testing.assert_array_equal(block.toarray(), DENSE[start:stop])
    for wanted in ([3], [22, 0, 7], [5, 5, 1, 5], list(range(23))[::-1], []):
        block = counts.take(np.array(wanted, dtype=np.int64))
        assert block.dtype == np.float32
        assert is_canonical(block)
        np.testing.assert_array_equal(block.toarray(), DENSE[np.array(wanted, dtype=int)])


@pytest.mark.parametrize("container", ["csr", "csc", "dense", "backed csr", "backed dense"])
@pytest.mark.parametrize("place", ["layer", "raw"])
def test_layers_and_raw_read_like_x(container, place, tmp_path):
    x = {"csr": sp.csr_matrix, "csc": sp.csc_matrix}.get(container.split()[-1], np.array)(DENSE)
    adata = make(sp.csr_matrix(LOG), layers={"counts": x})
    adata.raw = make(x)
    if container.startswith("backed"):
        adata = backed(adata, tmp_path)
    choice = {"layer": "counts"} if place == "layer" else {"use_raw": True}
    counts = choose_counts(adata, **choice)
    assert counts.where == {"layer": "layers['counts']", "raw": "raw.X"}[place]
    np.testing.assert_array_equal(counts.rows(2, 19).toarray(), DENSE[2:19])
    np.testing.assert_array_equal(counts.take(np.array([9, 1])).toarray(), DENSE[[9, 1]])


def test_raw_of_a_view_and_of_a_backed_view(tmp_path):
    adata = with_raw(sp.csr_matrix(LOG), sp.csr_matrix(DENSE))
    for cells in (adata[5:12], backed(adata, tmp_path)[5:12]):
        counts = choose_counts(cells, use_raw=True)
        assert counts.n_cells == 7
        np.testing.assert_array_equal(counts.rows(0, 7).toarray(), DENSE[5:12])


def test_raw_brings_its_own_genes():
    adata = with_raw(sp.csr_matrix(LOG), sp.csr_matrix(DENSE))[:, :3].copy()
    adata.raw.var["note"] = "raw"
    counts = choose_counts(adata, use_raw=True)
    assert list(counts.var_names) == [f"g{i}" for i in range(7)]
    assert list(counts.var.columns) == ["note"]
    assert counts.rows(0, 23).shape == (23, 7)


@settings(deadline=None, max_examples=60)
@given(
    dense=st.integers(1, 9).flatmap(
        lambda n: st.lists(
            st.lists(st.integers(0, 300), min_size=4, max_size=4), min_size=n, max_size=n
        )
    ),
    container=st.sampled_from(["csr", "csc", "dense", "messy", "int64", "view of csr"]),
    data=st.data(),
)
def test_take_is_numpy_indexing(dense, container, data):
    x = np.array(dense, dtype=np.float32)
    rows = data.draw(st.lists(st.integers(0, len(x) - 1), max_size=12))
    counts = choose_counts(CONTAINERS[container](x, None))
    taken = counts.take(np.array(rows, dtype=int))
    assert is_canonical(taken)
    np.testing.assert_array_equal(taken.toarray(), x[np.array(rows, dtype=int)])


def test_sums_of_uint16_do_not_overflow():
    x = sp.csr_matrix((np.full(4, 60_000, "u2"), [1, 1, 1, 0], [0, 4]), shape=(1, 2))
    assert choose_counts(make(x)).rows(0, 1).toarray().tolist() == [[60_000.0, 180_000.0]]


def test_the_users_matrix_is_unchanged():
    x = messy(DENSE)
    adata = make(x, layers={"more": messy(DENSE)})
    adata.raw = make(messy(DENSE))
    before = [(m.data.copy(), m.indices.copy(), m.indptr.copy()) for m in (x, adata.raw.X)]
    for choice in ({}, {"layer": "more"}, {"use_raw": True}):
        counts = choose_counts(adata, **choice)
        for block in (counts.rows(0, 23), counts.take(np.arange(23)), counts.take(np.array([2]))):
            block.data[:] = -1  # the caller may do this with what it was given
            block.indices[:] = 0
    for matrix, arrays in zip((adata.X, adata.raw.X), before, strict=True):
        for now, then in zip((matrix.data, matrix.indices, matrix.indptr), arrays, strict=True):
            np.testing.assert_array_equal(now, then)
    assert not adata.X.has_sorted_indices


@pytest.mark.parametrize(
    "container", ["csr", "csc", "messy", "uint16", "backed csr", "view of csr"]
)
def test_sparse_is_never_made_dense(container, tmp_path, monkeypatch):
    adata = CONTAINERS[container](DENSE, tmp_path)

    def forbidden(*_, **__):
        pytest.fail("made dense")

    for kind in (sp.csr_matrix, sp.csc_matrix, sp.csr_array, sp.coo_matrix):
        monkeypatch.setattr(kind, "toarray", forbidden)
        monkeypatch.setattr(kind, "todense", forbidden)
    counts = choose_counts(adata)
    assert counts.rows(0, 23).nnz == np.count_nonzero(DENSE)
    assert counts.take(np.array([3, 1])).nnz == np.count_nonzero(DENSE[[3, 1]])


def test_a_backed_file_is_read_in_blocks(tmp_path, monkeypatch):
    adata = backed(make(sp.csr_matrix(DENSE)), tmp_path)
    monkeypatch.setattr(type(adata.X), "to_memory", lambda _: pytest.fail("read whole"))
    counts = choose_counts(adata)
    np.testing.assert_array_equal(counts.rows(3, 9).toarray(), DENSE[3:9])
    np.testing.assert_array_equal(counts.take(np.array([9, 3])).toarray(), DENSE[[9, 3]])


def test_a_backed_csc_file_is_read_once(tmp_path, monkeypatch):
    adata = backed(make(sp.csc_matrix(DENSE)), tmp_path)
    kind, reads = type(adata.X), []
    whole = kind.to_memory
    monkeypatch.setattr(kind, "to_memory", lambda self: (reads.append(1), whole(self))[1])
    counts = choose_counts(adata)
    for start in range(0, 23, 5):
        np.testing.assert_array_equal(
            counts.rows(start, start + 5).toarray(), DENSE[start : start + 5]
        )
    assert len(reads) == 1


def test_dask_is_read_by_block():
    da = pytest.importorskip("dask.array", reason="needs dask, an optional library")
    adata = make(DENSE)
    adata.X = da.from_array(DENSE, chunks=(5, 7))
    np.testing.assert_array_equal(choose_counts(adata).rows(3, 9).toarray(), DENSE[3:9])
    adata.X = da.from_array(DENSE, chunks=(5, 7)).map_blocks(sp.csr_matrix)
    np.testing.assert_array_equal(choose_counts(adata).take([7, 2]).toarray(), DENSE[[7, 2]])


class Lazy:
    """The part of dask's array that is used: slicing is lazy until ``compute``."""

    def __init__(self, values):
        self.values, self.shape, self.dtype = values, values.shape, values.dtype

    def __getitem__(self, rows):
        return SimpleNamespace(compute=lambda: self.values[rows])


def count_matrix(matrix, n_cells=23):
    return CountMatrix(
        matrix,
        var=pd.DataFrame(index=[f"g{i}" for i in range(7)]),
        obs_names=pd.Index([f"c{i}" for i in range(n_cells)]),
        where="X",
        advice=str,
    )


@pytest.mark.parametrize("values", [DENSE, sp.csr_matrix(DENSE), sp.csc_matrix(DENSE)])
def test_lazy_arrays_are_computed_block_by_block(values):
    counts = count_matrix(Lazy(values))
    np.testing.assert_array_equal(counts.rows(3, 9).toarray(), DENSE[3:9])
    np.testing.assert_array_equal(counts.take(np.array([8, 8, 2])).toarray(), DENSE[[8, 8, 2]])


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_np_matrix():
    counts = count_matrix(np.asmatrix(DENSE))
    np.testing.assert_array_equal(counts.rows(3, 9).toarray(), DENSE[3:9])
    np.testing.assert_array_equal(counts.take(np.array([8])).toarray(), DENSE[[8]])
    bad = count_matrix(np.asmatrix(spoiled(0.5)))
    with pytest.raises(CountsError, match="cell 'c4', gene 'g2'"):
        bad.take(np.array([1, 4]))


def test_unknown_containers_are_refused_by_name():
    with pytest.raises(CountsError, match=r"X is a builtins\.list; expected a sparse matrix"):
        count_matrix([[1, 2]])
    with pytest.raises(CountsError, match=r"rows as builtins\.list.*adata\.X\.get\(\)"):
        count_matrix(ListRows()).rows(0, 1)


class ListRows:
    shape, dtype = (23, 7), np.dtype("f4")

    def __getitem__(self, rows):
        return [[1]]


@pytest.mark.parametrize("kind", [np.array, sp.csr_matrix, sp.csc_matrix])
@pytest.mark.parametrize("shape", [(0, 7), (1, 7), (5, 0), (0, 0)])
def test_small_shapes(kind, shape, tmp_path):
    x = kind(np.ones(shape, dtype=np.float32))
    for adata in (make(x), backed(make(x), tmp_path)):
        counts = choose_counts(adata)
        assert counts.n_cells == shape[0]
        assert counts.rows(0, 10).shape == shape
        assert counts.take(np.array([], dtype=int)).shape == (0, shape[1])


def test_take_refuses_what_is_no_row():
    counts = choose_counts(make(DENSE))
    for wrong in ([-1], [23], [0.5], [[1, 2]], [True, False]):
        with pytest.raises(ArgumentError, match="row indices"):
            counts.take(np.array(wrong))


def test_all_zero_counts_are_counts():
    assert choose_counts(make(sp.csr_matrix((30, 7), dtype=np.float32))).rows(0, 30).nnz == 0


def test_real_files_give_their_totals(shared_data):
    files = [*(shared_data / "eval").glob("*.h5ad"), *(shared_data / "train").glob("z*.h5ad")]
    assert len(files) == 9
    for path in files:
        adata = ad.read_h5ad(path)
        counts = choose_counts(adata)
        totals = [
            counts.rows(i, i + 999).data.sum(dtype=np.float64)
            for i in range(0, counts.n_cells, 999)
        ]
        assert sum(totals) == adata.X.sum(dtype=np.float64), path.name


def test_a_real_backed_file_reads_as_in_memory(shared_data):
    path = shared_data / "eval" / "zilionis2019_nsclc.h5ad"
    rows = np.random.default_rng(1).permutation(299)[:120]
    on_disk, here = choose_counts(ad.read_h5ad(path, backed="r")), choose_counts(ad.read_h5ad(path))
    assert (on_disk.take(rows) != here.take(rows)).nnz == 0
    assert (on_disk.rows(100, 200) != here.rows(100, 200)).nnz == 0
