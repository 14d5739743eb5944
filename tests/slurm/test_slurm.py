"""SLURM as it is: workers in its jobs, a file annotated by a job, a training of two nodes.

Skipped where no SLURM with two idle nodes answers; `nodes.sh` makes one. The cells are real.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scgp
from scgp import demo

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from train_together import train

TESTS = Path(__file__).resolve().parents[1]

SETTINGS = {
    "pool_steps": 8, "steps": 6, "batch_size": 15, "context_cells": 7, "queries": 8,
    "learning_rate": 0.01, "precision": "float32", "seed": 2,
}  # fmt: skip
CHUNK = 100
WAIT = 240  # seconds; a job's first call may compile


def slurm(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def n_idle():
    if shutil.which("sinfo") is None:
        return 0
    asked = subprocess.run(
        ["sinfo", "-h", "-t", "idle", "-o", "%D"], capture_output=True, text=True, check=False
    )
    return int(asked.stdout) if asked.stdout.strip().isdigit() else 0


pytestmark = pytest.mark.skipif(
    n_idle() < 2, reason="needs SLURM with two idle nodes (tests/slurm/nodes.sh makes one)"
)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """What jobs inherit; none is left behind."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS.parent))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    slurm("scancel", "--full", "--me")
    until(lambda: not slurm("squeue", "-h", "--me"), "no job is left")


def until(true, what):
    deadline = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def blood():
    """Real cells, each ten times, under names of their own."""
    cells = demo.counts()
    tiled = ad.AnnData(sp.vstack([sp.csr_matrix(cells.X)] * 10).tocsr(), var=cells.var[[]])
    tiled.obs_names = [f"cell {i}" for i in range(tiled.n_obs)]
    return tiled


@pytest.fixture(scope="module")
def expected(blood):
    cells = blood.copy()
    scgp.annotate(cells, progress=False)
    return cells


@pytest.fixture(scope="module")
def stored(blood, tmp_path_factory):
    path = tmp_path_factory.mktemp("shared") / "cells.h5ad"
    blood.write_h5ad(path)
    return path


def same(found, expected):
    names = [name for name in expected.obs if name.startswith("scgp")]
    assert len(names) >= 5
    for name in names:  # a part of the cells has not every category
        left, right = (cells.obs[name] for cells in (found, expected))
        if left.dtype == "category":
            left, right = left.astype(object), right.astype(object)
        pd.testing.assert_series_equal(left, right, check_exact=True)
    assert found.obsm["X_scgp"].tobytes() == expected.obsm["X_scgp"].tobytes()


def noted(matrix, folder):
    """The dask array, each of whose chunks takes a while and notes the job that reads it."""

    def note(block, block_info=None):
        if block_info and "SLURM_JOB_ID" in os.environ:
            (folder / f"{os.environ['SLURM_JOB_ID']}-{time.time_ns()}").touch()
            time.sleep(0.1)
        return block

    return matrix.map_blocks(note, dtype=matrix.dtype, meta=matrix._meta)


@pytest.mark.parametrize("cancelled", [False, True])
def test_workers_in_jobs_answer_to_the_bit(blood, stored, expected, tmp_path, cancelled):
    """As docs/cluster.md has it; one of the jobs may be cancelled while it works."""
    jobqueue = pytest.importorskip("dask_jobqueue")
    from distributed import Client

    notes = tmp_path / "notes"
    notes.mkdir()
    # a tenth of the work is enough where nothing is to be interrupted
    n_cells = blood.n_obs if cancelled else blood.n_obs // 10
    with h5py.File(stored) as file:
        lazy = ad.experimental.read_elem_lazy(file["X"], chunks=(CHUNK, blood.n_vars))
    cells = ad.AnnData(noted(lazy[:n_cells], notes), obs=blood.obs[:n_cells], var=blood.var)

    def reading():
        return {path.name.split("-")[0] for path in notes.iterdir()}

    def cancel():
        until(lambda: len(reading()) == 2, "both jobs read cells")
        slurm("scancel", "--signal=KILL", "--full", min(reading()))

    cluster = jobqueue.SLURMCluster(
        queue="general", walltime="00:10:00", cores=1, processes=1, memory="4GB",
        interface="eth0", scheduler_options={"interface": "scgp0", "dashboard_address": None},
        python=sys.executable, local_directory=str(tmp_path), log_directory=str(tmp_path),
        job_script_prologue=["export MALLOC_MMAP_THRESHOLD_=33554432"],
    )  # fmt: skip
    with cluster, Client(cluster) as client:
        cluster.scale(jobs=2)
        client.wait_for_workers(2, timeout=WAIT)
        hosts = {worker["host"] for worker in client.scheduler_info()["workers"].values()}
        thread = threading.Thread(target=cancel, daemon=True)
        if cancelled:
            thread.start()
        scgp.annotate(cells, progress=False)
        if cancelled:
            thread.join()
            states = slurm("squeue", "-h", "--me", "-t", "all", "-o", "%i %T").splitlines()
            gone = [line for line in states if line.split()[0] == min(reading())]
            assert gone
            assert not gone[0].endswith("RUNNING")
    assert len(hosts) == 2
    assert len(reading()) == 2
    same(cells, expected[:n_cells])


def test_a_file_goes_on_where_its_job_was_requeued(blood, stored, expected, tmp_path):
    """`scontrol requeue` ends the job and starts it again, maybe on the other node."""
    path = Path(shutil.copy(stored, tmp_path))
    kept = path.with_name("cells.h5ad.scgp")

    def parts():
        return {part.name: part.stat().st_mtime_ns for part in kept.glob("cells-*.npz")}

    command = f"{sys.executable} -m scgp annotate {path} --in-place --batch-size 256"
    job = slurm(
        "sbatch", "--parsable", "--requeue", "--open-mode=append", f"--output={tmp_path}/log",
        "--mem=3G", f"--wrap={command}",
    )  # fmt: skip
    until(lambda: len(parts()) >= 2, "two blocks are answered")
    slurm("scontrol", "requeue", job)
    before = parts()
    assert 2 <= len(before) < blood.n_obs // 256
    until(lambda: len(parts()) > len(before) + 1, "it has gone on")
    after = parts()
    assert {name: after[name] for name in before if name in after} == before
    until(lambda: not slurm("squeue", "-h", "-j", job), "the job has ended")
    assert "COMPLETED" in slurm("scontrol", "show", "job", job), (tmp_path / "log").read_text()
    assert not kept.exists()
    same(ad.read_h5ad(path), expected)


def test_two_nodes_train_with_the_curve_of_one_process(tmp_path):
    run = {str(tmp_path / "two"): {"settings": SETTINGS, "num_nodes": 2}}
    said = slurm(
        "srun", "--nodes=2", "--ntasks-per-node=1", "--mem=3G", "--kill-on-bad-exit=1",
        sys.executable, str(TESTS / "train_together.py"), json.dumps(run),
    )  # fmt: skip
    train(tmp_path / "one", settings=SETTINGS)
    assert said.split() == [scgp.Model.load(tmp_path / "two").fingerprint] * 2
    one, two = (pd.read_csv(tmp_path / f"{name}.history.csv") for name in ("one", "two"))
    assert len(one) > 4
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-5, atol=1e-7, err_msg=name)
