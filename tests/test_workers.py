"""dask-backed cells: chunk by chunk in this process, and block by block on the workers of a client.

The cluster is a real scheduler with two worker processes on this machine.
"""

import dataclasses
import gc
import os
import signal
import sys
import threading
import time
from types import SimpleNamespace

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scgp
from scgp.cells.counts import choose_counts
from scgp.cells.storage import ChunkedRows, row_readable
from scgp.errors import ArgumentError, CheckpointError, CountsError, DeviceError, FingerprintError
from scgp.scale import job as jobs
from scgp.scale import workers

da = pytest.importorskip("dask.array", reason="needs dask, an optional library")
distributed = pytest.importorskip("distributed", reason="needs distributed, an optional library")

CHUNK = 150  # 700 cells: four chunks, and a last one that is shorter


@pytest.fixture(scope="module")
def expected(all_blood, blood_index):
    """The answers of this process to the cells in memory."""
    cells = all_blood.copy()
    scgp.annotate(cells, index=blood_index, coverage=None, progress=False)
    return cells


@pytest.fixture(scope="module")
def stored(all_blood, tmp_path_factory):
    """The counts in an h5ad file, CSR."""
    path = tmp_path_factory.mktemp("cells") / "cells.h5ad"
    cells = ad.AnnData(sp.csr_matrix(all_blood.X), obs=all_blood.obs, var=all_blood.var)
    cells.write_h5ad(path)
    return path


@pytest.fixture
def lazy(stored, all_blood, monkeypatch):
    """An AnnData whose X is a dask array of CSR chunks of the file.

    Ten rows in three places are looked at when the matrix is chosen: not all cells are.
    """
    monkeypatch.setattr("scgp.cells.counts.PROBE_ROWS", 10)
    with h5py.File(stored) as file:
        matrix = ad.experimental.read_elem_lazy(file["X"], chunks=(CHUNK, all_blood.n_vars))
    return ad.AnnData(matrix, obs=all_blood.obs.copy(), var=all_blood.var)


def same(cells, expected):
    """To the bit: every column, vector and fact."""
    written = [name for name in expected.obs if name.startswith("scgp")]
    pd.testing.assert_frame_equal(cells.obs[written], expected.obs[written], check_exact=True)
    assert cells.obsm["X_scgp"].tobytes() == expected.obsm["X_scgp"].tobytes()
    assert cells.uns["scgp"] == expected.uns["scgp"]


# ---- in this process ----


def counted(matrix, reads):
    """The dask array, with a note of each chunk that is computed."""

    def note(block, block_info=None):
        if block_info:  # dask tries the function on an empty block first
            reads.append(block_info[0]["chunk-location"][0])
        return block

    return matrix.map_blocks(note, dtype=matrix.dtype, meta=matrix._meta)


@pytest.mark.parametrize("batch_size", [64, 1024])
def test_each_chunk_is_computed_once(lazy, expected, annotate, batch_size):
    reads = []
    lazy.X = counted(lazy.X, reads)
    annotate(lazy, batch_size=batch_size)
    same(lazy, expected)
    # those of the first, middle and last rows once more, when the matrix is chosen
    assert reads == [0, 2, 4, *range(5)]


@pytest.mark.parametrize("span", [(0, 700), (10, 20), (140, 160), (150, 300), (299, 700), (5, 5)])
@pytest.mark.parametrize("dense", [False, True])
def test_a_span_is_the_slice(all_blood, span, dense):
    matrix = all_blood.X.toarray() if dense else sp.csr_matrix(all_blood.X)
    rows = ChunkedRows(da.from_array(matrix, chunks=(CHUNK, -1), asarray=False), "X")
    for _ in range(2):  # also when the chunk is held
        block = rows.span(*span)
        found = block if dense else block.toarray()
        np.testing.assert_array_equal(found, all_blood.X[slice(*span)].toarray())
        found = block if dense else block.data
        found[...] = 7  # a copy: what is held stays
    assert rows._last[1].shape[0] <= CHUNK


def test_a_lazy_anndata_is_annotated(stored, expected, annotate):
    cells = ad.experimental.read_lazy(stored)
    annotate(cells)
    np.testing.assert_array_equal(
        np.asarray(cells.obs["scgp_cell_type"]).astype(str), expected.obs["scgp_cell_type"]
    )
    assert cells.obsm["X_scgp"].tobytes() == expected.obsm["X_scgp"].tobytes()


def test_embed_reads_chunks(lazy, expected, model):
    scgp.embed(lazy, model=model, progress=False)
    assert lazy.obsm["X_scgp"].tobytes() == expected.obsm["X_scgp"].tobytes()


def test_a_layer_and_raw(lazy, expected, annotate):
    lazy.layers["counts"] = lazy.X
    lazy.raw = lazy
    lazy.X = lazy.X.map_blocks(sp.csr_matrix.log1p, dtype=np.float32, meta=lazy.X._meta)
    for options in ({"layer": "counts"}, {"use_raw": True}):
        cells = annotate(lazy, copy=True, **options)
        assert cells.obsm["X_scgp"].tobytes() == expected.obsm["X_scgp"].tobytes()


# ---- what cannot be read ----


@pytest.mark.parametrize("verb", [scgp.annotate, scgp.embed])
def test_chunks_across_genes_are_refused_and_the_advice_helps(all_blood, verb):
    cells = ad.AnnData(
        da.from_array(all_blood.X.toarray(), chunks=(200, 300)), obs=all_blood.obs.copy(),
        var=all_blood.var,
    )  # fmt: skip
    advice = "adata.X = adata.X.rechunk({1: -1})"
    with pytest.raises(CountsError, match="chunked across genes") as caught:
        verb(cells, progress=False)
    assert advice in str(caught.value)
    assert not cells.uns
    exec(advice, {"adata": cells})
    assert choose_counts(cells).rows(0, 9).nnz == all_blood.X[:9].nnz


def test_chunks_of_unknown_length_are_refused():
    matrix = da.from_array(np.ones((9, 4)), chunks=(3, 4))
    matrix = matrix[matrix.sum(axis=1) > 0]
    with pytest.raises(CountsError, match=r"how long its chunks are.*compute_chunk_sizes\(\)"):
        row_readable(matrix, "X")
    with pytest.raises(CountsError, match="3 dimensions"):
        row_readable(da.zeros((2, 2, 2)), "X")


# ---- what a worker refuses; in this process ----


@pytest.fixture
def job(model):
    return jobs.Job(
        version=scgp.__version__, model=jobs.place_of_model(None), where="X", batch_size=64,
        token_of_column=np.arange(5, dtype=np.int32), device=None,
        index=jobs.place_of_index(None, None),
    )  # fmt: skip


def test_another_version_is_refused(job):
    old = dataclasses.replace(job, version="0.0.1")
    with pytest.raises(FingerprintError, match=rf"has scgp {scgp.__version__}.*client has 0\.0\.1"):
        jobs.work(old, sp.csr_matrix((1, 5), dtype=np.float32))


@pytest.mark.parametrize("what", ["model", "index"])
def test_another_model_or_index_is_refused(job, what, tmp_path):
    there = dataclasses.replace(getattr(job, what), digest="0" * 64)
    with pytest.raises(FingerprintError, match=f"the {what} with the manifest .* 000000000000"):
        jobs.work(dataclasses.replace(job, **{what: there}))
    there = jobs.Place(str(tmp_path / "gone"), "0" * 64)
    with pytest.raises(CheckpointError, match=f"open the {what} .*gone.*shared file system"):
        jobs.work(dataclasses.replace(job, **{what: there}))


def test_a_device_that_the_worker_has_not(job, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(DeviceError, match="worker of this process: device='cuda'"):
        jobs.work(dataclasses.replace(job, device="cuda"), sp.csr_matrix((1, 5), dtype=np.float32))


def test_packed_rows_are_the_counts(all_blood):
    counts = choose_counts(all_blood).rows(0, 50)
    packed = jobs.PackedRows.pack(counts)
    assert packed.value_N.dtype == packed.column_N.dtype == np.uint16
    assert (packed.unpack() != counts).nnz == 0
    counts.data[0] = 70_000
    assert (jobs.PackedRows.pack(counts).unpack() != counts).nnz == 0


# ---- which client ----


def test_without_a_client_this_process_reads(lazy, all_blood, monkeypatch):
    counts = choose_counts(lazy)
    assert workers.active_client(counts) is None
    monkeypatch.delitem(sys.modules, "distributed")
    assert workers.active_client(counts) is None
    assert "distributed" not in sys.modules


def test_an_asynchronous_client_is_refused(lazy, monkeypatch):
    monkeypatch.setattr(distributed, "default_client", lambda: SimpleNamespace(asynchronous=True))
    with pytest.raises(ArgumentError, match="asynchronous"):
        workers.active_client(choose_counts(lazy))


# ---- on a cluster ----


@pytest.fixture(scope="module")
def client():
    options = {"host": "127.0.0.1", "dashboard_address": None, "processes": True}
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, **options) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def test_workers_answer_as_this_process(client, lazy, all_blood, expected, annotate, monkeypatch):
    """Chunks that lie in a file, and such as lie in memory; the index is sent."""
    read_here = []
    monkeypatch.setattr(
        ChunkedRows, "span", lambda self, *_: read_here.append(1) or pytest.fail("read here")
    )
    annotate(lazy, batch_size=100)
    same(lazy, expected)
    monkeypatch.undo()
    assert not read_here
    in_memory = da.from_array(sp.csr_matrix(all_blood.X), chunks=(CHUNK, -1), asarray=False)
    cells = ad.AnnData(in_memory, obs=all_blood.obs.copy(), var=all_blood.var)
    annotate(cells, batch_size=300)
    same(cells, expected)


def test_arguments_reach_the_workers(client, lazy, all_blood, blood_index, model, tmp_path):
    """Labels, bounds, sets, a tissue, and a model and an index that the workers open themselves."""
    model.save(tmp_path / "model")
    blood_index.save(tmp_path / "index")
    asked = [
        {"index": str(tmp_path / "index"), "labels": ["B cell", "T cell"], "min_confidence": 0.9},
        {"model": tmp_path / "model", "index": tmp_path / "index", "min_confidence": 0.0},
        {"coverage": 0.9, "tissue": "brain"},  # of the default reference
    ]
    for options in asked:
        cells, here = lazy.copy(), all_blood.copy()
        for adata in (cells, here):
            scgp.annotate(adata, progress=False, key_added="scgp", **options)
        same(cells, here)


def test_a_mapped_index_is_mapped_by_the_workers(client, lazy, all_blood, blood_index, tmp_path):
    listed = scgp.ReferenceIndex.merge([blood_index], search="lists")
    listed.save(tmp_path / "index")
    mapped = scgp.ReferenceIndex.load(tmp_path / "index", memory_map=True)
    cells, here = lazy.copy(), all_blood.copy()
    for adata in (cells, here):
        scgp.annotate(adata, index=mapped, min_confidence=0.5, progress=False)
    same(cells, here)

    def seen():
        from scgp.reference.index import ReferenceIndex

        indexes = [x for x in gc.get_objects() if isinstance(x, ReferenceIndex)]
        return [(str(x.opened[0]), x.store.has_mapped_lists) for x in indexes if x.opened]

    found = [x for worker in client.run(seen).values() for x in worker]
    assert (str(tmp_path / "index"), True) in found
    grown = mapped.add(blood_index.vectors_at(np.array([0])), blood_index.labels[:1])
    with pytest.raises(ArgumentError, match=r"cannot be sent to workers\. Save it where all"):
        scgp.annotate(lazy.copy(), index=grown, progress=False)
    blood_index.save(tmp_path / "index", overwrite=True)
    with pytest.raises(CheckpointError, match="was written anew since it was opened; load it"):
        scgp.annotate(lazy.copy(), index=mapped, progress=False)


def test_only_a_mapped_index_is_named_by_its_directory(blood_index, tmp_path):
    """One in memory is sent, as workers may not see the directory; of one mapped, all is named."""
    blood_index.save(tmp_path / "index")
    loaded = scgp.ReferenceIndex.load(tmp_path / "index")
    mapped = scgp.ReferenceIndex.load(tmp_path / "index", memory_map=True)
    assert jobs.place_of_mapped(blood_index) is None
    assert jobs.place_of_mapped(loaded) is None
    whole = jobs.place_of_index(tmp_path / "index", None)
    assert jobs.place_of_mapped(mapped) == dataclasses.replace(whole, memory_map=True)
    assert jobs.place_of_mapped(mapped.compact(search="lists")) is None


def test_embed_on_workers(client, lazy, all_blood, expected):
    """With a model that is sent."""
    model = scgp.Model.load(scgp.Model.default().directory)
    scgp.embed(lazy, model=model, progress=False)
    assert lazy.obsm["X_scgp"].tobytes() == expected.obsm["X_scgp"].tobytes()


@pytest.mark.parametrize("here", [False, True])
def test_a_bad_count_is_named_as_in_memory(client, lazy, all_blood, annotate, here):
    bad = sp.csr_matrix(all_blood.X, copy=True)
    bad.data[bad.indptr[333] + 5] = 2.5

    def spoil(block, block_info=None):
        if block_info and block_info[0]["chunk-location"][0] == 2:
            block = block.copy()
            block.data[block.indptr[33] + 5] = 2.5
        return block

    in_memory = ad.AnnData(bad, obs=all_blood.obs.copy(), var=all_blood.var)
    lazy.layers["counts"] = lazy.X
    in_memory.layers["counts"] = all_blood.X
    lazy.X = (
        da.from_array(bad, chunks=(CHUNK, -1), asarray=False) if here
        else lazy.X.map_blocks(spoil, dtype=lazy.X.dtype, meta=lazy.X._meta)
    )  # fmt: skip
    messages = []
    for cells in (in_memory, lazy):
        cells.obs_names = [f"cell-{i}" for i in range(700)]
        with pytest.raises(
            CountsError, match=r"'cell-333', gene '\S+' is 2\.5.*layer='counts'"
        ) as e:
            annotate(cells, batch_size=50)
        messages.append(str(e.value))
        assert not cells.uns
    assert messages[0] == messages[1]


def test_workers_that_do_not_fit_are_refused(client, lazy, annotate, monkeypatch):
    def pretend(version):
        import scgp

        scgp.__version__ = version

    def hide():
        class Absent:
            def find_spec(self, name, path=None, target=None):
                if name == "scgp":
                    msg = f"No module named {name!r}"
                    raise ModuleNotFoundError(msg, name=name)

        sys.meta_path.insert(0, Absent())
        mine = [name for name in sys.modules if name.split(".")[0] == "scgp"]
        sys.scgp_was = {name: sys.modules.pop(name) for name in mine}

    def show():
        del sys.meta_path[0]
        sys.modules.update(sys.scgp_was)

    odd = sorted(client.nthreads())[0]
    client.run(pretend, "0.0.1", workers=[odd])
    with pytest.raises(FingerprintError, match=rf"{odd} has scgp 0\.0\.1, this process has scgp"):
        annotate(lazy)
    monkeypatch.setattr(workers, "check_versions", lambda *_: None)  # a worker that came later
    with pytest.raises(FingerprintError, match=rf"{odd} has scgp 0\.0\.1, the client has"):
        annotate(lazy, batch_size=50)  # a task for each
    monkeypatch.undo()
    client.run(pretend, scgp.__version__, workers=[odd])
    client.run(hide, workers=[odd])
    with pytest.raises(FingerprintError, match=rf"{odd} has no scgp.*install scgp=="):
        annotate(lazy)
    client.run(show, workers=[odd])


def slowly(matrix, folder):
    """The dask array, with a file for each chunk that is read, and .3 s for each."""

    def slow(block, block_info=None):
        if block_info:
            (folder / f"{os.getpid()}-{time.time_ns()}").touch()
            time.sleep(0.3)
        return block

    return matrix.map_blocks(slow, dtype=matrix.dtype, meta=matrix._meta)


def in_the_middle(folder, act):
    """Start a thread that calls `act` with the process that reads, once tasks run.

    It gives up after a minute, and the test says what did not happen.
    """
    deadline = time.monotonic() + 60

    def watch():
        probed = 3  # chunks are read when the matrix is chosen
        while len(reads := [*folder.iterdir()]) < probed + 2:
            if time.monotonic() > deadline:
                return
            time.sleep(0.02)
        act(int(max(reads, key=lambda path: path.name[-19:]).name.split("-")[0]))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_a_job_that_no_worker_holds_any_more_is_sent_again(
    client, lazy, expected, annotate, tmp_path, monkeypatch
):
    """As when all workers die at once: what they alone held is gone, and its tasks with it."""
    sent = []
    send = workers._Run._send
    monkeypatch.setattr(workers._Run, "_send", lambda run: (send(run), sent.append(run._shared)))
    lazy.X = slowly(lazy.X, tmp_path)
    thread = in_the_middle(tmp_path, lambda _: client.cancel(sent[0], force=True))
    annotate(lazy, batch_size=50)
    thread.join(timeout=90)
    same(lazy, expected)
    assert len(sent) == 2


def test_a_killed_worker_loses_nothing(client, lazy, expected, annotate, tmp_path):
    killed = []

    def kill(pid):
        killed.append(pid)
        os.kill(pid, signal.SIGKILL)

    before = set(client.run(os.getpid).values())
    lazy.X = slowly(lazy.X, tmp_path)
    thread = in_the_middle(tmp_path, kill)
    annotate(lazy, batch_size=50)
    thread.join(timeout=90)
    same(lazy, expected)
    assert set(killed) < before
    assert killed[0] not in client.run(os.getpid).values()
    assert len([*tmp_path.iterdir()]) > 3 + 5  # what it read was read again
