"""train() of several processes: the curve of one, killed and gone on with, refused, stopped early.

The cells are real (`scgp.demo`); tests/train_together.py has the training.
"""

import contextlib
import json
import multiprocessing
import operator
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from scgp.errors import ArgumentError, DeviceError, ScgpError
from scgp.model.checkpoint import Model
from scgp.training import loop, processes, together
from scgp.training.ranks import Ranks
from scgp.training.together import Processes

sys.path.insert(0, str(Path(__file__).parent))
from train_together import TOKENS, train

SCRIPT = Path(__file__).with_name("train_together.py")
CPU = torch.device("cpu")
# batches that two processes cannot halve; both phases stop early
SETTINGS = {
    "pool_steps": 16, "steps": 8, "batch_size": 15, "context_cells": 7, "queries": 8,
    "learning_rate": 0.01, "precision": "float32", "patience": 1, "validate_every": 2,
    "validation_share": 0.3, "seed": 2,
}  # fmt: skip
MASKED = {
    "pool_steps": 2, "steps": 4, "batch_size": 15, "masked_cells": 5, "precision": "float32",
}  # fmt: skip


def start(command, content):
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[1]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, str(SCRIPT), json.dumps(content)], env=environment, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def kill_all(script):
    """Kill what `start` started, its children and the rest of its group; return the children."""
    children = Path(f"/proc/{script.pid}/task/{script.pid}/children")
    workers = children.read_text().split() if script.poll() is None else []
    for pid in [script.pid, *map(int, workers)] if workers else []:
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(script.pid, signal.SIGKILL)
    return workers


def history(out):
    return pd.read_csv(out.with_name(out.name + ".history.csv"))


def assert_same_curve(left, right):
    assert left["step"].tolist() == right["step"].tolist()
    assert set(left.columns) == set(right.columns)
    for name in left.columns:
        np.testing.assert_allclose(left[name], right[name], rtol=1e-5, atol=1e-7, err_msg=name)


def assert_close_weights(a, b):
    left, right = (dict(Model.load(out).network.named_parameters()) for out in (a, b))
    for name in left:
        # what is added to every key changes no attention: its gradient is rounding, its value as
        # large as the learning rate makes it, and read by nothing
        first = len(left[name]) // 2 if name.endswith("key_value.bias") else 0
        pair = [weights[name].detach().reshape(-1)[first:] for weights in (left, right)]
        # stored in half precision: a difference of rounding may be one of its steps
        torch.testing.assert_close(*pair, rtol=2e-3, atol=1e-4, msg=name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("together")


@pytest.fixture(scope="module")
def alone(folder):
    """A run of one process."""
    train(folder / "one", settings=SETTINGS)
    return folder


@pytest.fixture(scope="module")
def pair(folder):
    """The same run of two processes, by a plain script."""
    model = folder / "two"
    script = start([sys.executable], {str(model): {"settings": SETTINGS, "devices": 2}})
    out, err = script.communicate(timeout=300)
    assert script.returncode == 0, err
    assert out.split() == [Model.load(model).fingerprint]
    assert not err
    return folder


def test_two_processes_have_the_curve_and_the_weights_of_one(alone, pair):
    assert_same_curve(history(alone / "one"), history(pair / "two"))
    assert_close_weights(alone / "one", pair / "two")
    assert Model.load(alone / "one").config.dropout > 0
    found = {path.name for path in pair.iterdir() if path.name.startswith("two")}
    assert found == {"two", "two.history.csv"}


def test_early_stopping_agrees_and_ends_each_phase(alone, pair):
    for out in (alone / "one", pair / "two"):
        found = history(out)
        checks = found[found["validation"].notna()]
        assert checks["step"].tolist() == [1, 3, 5, 17, 19]
        first, second, third, fourth, fifth = checks["validation"]
        assert second < first
        assert third > second  # which ends the pooled view, ten steps early
        assert fifth > fourth
        steps = found["step"][found["loss"].notna()].tolist()
        assert steps == [1, 3, 5, 17, 19]  # every other one is kept
        assert found["context"].notna().sum() == 2


def test_killed_under_torchrun_and_gone_on_with(alone, pair, tmp_path):
    """SIGKILL to all processes in the middle; then on with two processes, and with one."""
    sign = tmp_path / "sign"
    out = tmp_path / "model"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    run = {str(out): {"settings": SETTINGS, "devices": 2, "stop_at": [26, str(sign)]}}
    script = start(torchrun, run)
    deadline = time.monotonic() + 240
    try:
        while not sign.exists() and script.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:  # whatever went wrong, nothing is left running
        workers = kill_all(script)
    _, err = script.communicate(timeout=60)
    assert sign.exists(), err
    assert len(workers) == 2
    assert not out.exists()
    state = tmp_path / "model.training"
    assert (state / "state.safetensors").is_file()
    shutil.copytree(state, tmp_path / "other.training")
    train(out, settings=SETTINGS, devices=2)
    assert Model.load(out).fingerprint == Model.load(pair / "two").fingerprint
    train(tmp_path / "other", settings=SETTINGS)
    ours, whole = (
        history(path).groupby("step").max() for path in (tmp_path / "other", alone / "one")
    )
    assert ours.index.tolist() == whole.index.tolist()  # no step was lost, and none stands twice
    np.testing.assert_allclose(ours["loss"], whole["loss"], rtol=1e-5)


def test_a_process_that_dies_is_told_and_the_state_is_kept(tmp_path, monkeypatch):
    """The other is killed in the last step; so far, this model's curve was that of one process."""
    train(tmp_path / "one", shape=TOKENS, settings=MASKED)
    real, steps = loop.Objective.losses, []

    def losses(self, draw, *, use_tokens):
        steps.append(use_tokens)
        if len(steps) == 6:
            for child in multiprocessing.active_children():
                child.kill()
        return real(self, draw, use_tokens=use_tokens)

    monkeypatch.setattr(loop.Objective, "losses", losses)
    threads, environment = torch.get_num_threads(), dict(os.environ)
    with pytest.raises(ScgpError, match=r"process 1 of the training ended with exit code -9"):
        train(tmp_path / "model", shape=TOKENS, settings=MASKED, devices=2)
    work = tmp_path / "model.training"
    assert (work / "state.safetensors").is_file()
    found = pd.read_csv(work / "history" / "0" / "metrics.csv")
    assert found["masked"].notna().tolist() == [False] * 2 + [True] * 3
    assert_same_curve(found, history(tmp_path / "one")[:5])
    assert not multiprocessing.active_children()
    assert not torch.distributed.is_initialized()
    assert torch.get_num_threads() == threads
    assert dict(os.environ) == environment


# ---- what is refused ----


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"devices": 0}, "devices is 0; expected a whole number of at least 1"),
        ({"devices": -1}, "devices is -1"),
        ({"devices": True}, "devices is True"),
        ({"devices": "2"}, "devices is '2'"),
        ({"devices": 1.0}, "devices is 1.0"),
        ({"num_nodes": 0}, "num_nodes is 0"),
        ({"strategy": "fsdp"}, "strategy is 'fsdp'; expected one of 'auto', 'ddp', 'ddp_spawn'"),
        ({"devices": 2, "strategy": "ddp"}, "nothing has started the processes.*torchrun"),
        ({"num_nodes": 2}, "nothing has started the processes.*srun"),
        ({"devices": 16}, r"batch_size is 15, fewer than the 16 processes.*TrainConfig\(batch"),
        ({"devices": 8}, "context_cells is 7, fewer than the 8 processes"),
    ],
)
def test_processes_that_cannot_be_are_refused_before_any_work(tmp_path, options, words):
    with pytest.raises(ArgumentError, match=words):
        train(tmp_path / "model", settings=SETTINGS, **options)
    assert not list(tmp_path.iterdir())


def test_more_gpus_than_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DeviceError, match=r"devices=2 .*sees 1 CUDA device here; pass devices=1"):
        train(tmp_path / "model", settings=SETTINGS, devices=2, device="cuda")
    with pytest.raises(ArgumentError, match=r"'cuda:0' names one device.*pass device='cuda'"):
        train(tmp_path / "model", settings=SETTINGS, devices=2, device="cuda:0")


def test_a_script_without_the_guard_is_told(monkeypatch):
    """While a process imports the main script, multiprocessing marks it so."""
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(ArgumentError, match=r"under .if __name__ == '__main__':"):
        Processes.plan(2, 1, "auto", CPU)
    assert Processes.plan(1, 1, "auto", CPU) == Processes()


class Elastic(together.TorchElasticEnvironment):
    """A process of four that torchrun started."""

    @staticmethod
    def detect():
        return True

    def world_size(self):
        return 4

    def global_rank(self):
        return 3


def test_processes_from_outside_must_be_as_many_as_were_asked_for(monkeypatch):
    monkeypatch.setattr(together, "_OUTSIDE", (Elastic,))
    expected = Processes(devices=2, num_nodes=2, rank=3, outside=True)
    for strategy in ("auto", "ddp"):
        assert Processes.plan(2, 2, strategy, CPU) == expected
    with pytest.raises(ArgumentError, match="already"):
        Processes.plan(2, 2, "ddp_spawn", CPU)
    for devices, nodes in ((2, 1), (4, 2), (1, 1)):
        with pytest.raises(ArgumentError, match=f"started 4 processes, but devices={devices}"):
            Processes.plan(devices, nodes, "auto", CPU)


def test_tasks_of_slurm_train_together_or_each_alone(monkeypatch):
    """The variables are those that srun sets for the third of four tasks on two machines."""
    variables = {
        "JOB_ID": "1234567", "JOB_NAME": "train", "NTASKS": "4", "NTASKS_PER_NODE": "2",
        "PROCID": "2", "LOCALID": "0", "NODEID": "1", "NODELIST": "node[1-2]", "STEP_ID": "0",
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    expected = Processes(devices=2, num_nodes=2, rank=2, outside=True)
    assert Processes.plan(2, 2, "auto", CPU) == expected
    assert Processes.plan(1, 1, "auto", CPU) == Processes()
    assert not together.outside().auto_requeue
    with pytest.raises(ArgumentError, match="SLURM started 4 processes, but devices=4"):
        Processes.plan(4, 2, "auto", CPU)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    with pytest.raises(ArgumentError, match="--ntasks-per-node"):
        Processes.plan(2, 2, "auto", CPU)
    monkeypatch.delenv("SLURM_STEP_ID")  # the script of a job, which srun has not started
    assert Processes.plan(2, 1, "auto", CPU) == Processes(devices=2)
    with pytest.raises(ArgumentError, match=r"nothing has started the processes.*srun"):
        Processes.plan(1, 2, "auto", CPU)


@pytest.mark.parametrize("per_node", [None, "4"])
def test_one_process_in_a_job_for_several_tasks(monkeypatch, tmp_path, per_node):
    """As in a notebook on a node, or by a script of sbatch without srun."""
    variables = {
        "JOB_ID": "1234567", "JOB_NAME": "train", "NTASKS": "4", "PROCID": "0", "LOCALID": "0",
        "NODEID": "0", "NODELIST": "node1", "NTASKS_PER_NODE": per_node,
    }  # fmt: skip
    for name, value in variables.items():
        if value is not None:
            monkeypatch.setenv(f"SLURM_{name}", value)
    settings = {"pool_steps": 2, "steps": 0, "batch_size": 15, "precision": "float32"}
    train(tmp_path / "model", settings=settings)
    assert len(history(tmp_path / "model")) == 2


# ---- the parts ----


def test_batches_are_shared_out_by_position():
    for n_cells in (1, 7, 64):
        for size in (1, 2, 3, 5):
            rows = [np.arange(n_cells)[Ranks(rank, size).rows(n_cells)] for rank in range(size)]
            assert np.concatenate(rows).tolist() == list(range(n_cells))
            assert max(map(len, rows)) - min(map(len, rows)) <= 1


def test_dropout_is_that_of_the_whole_batch():
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(0.4))
    x_BD = torch.randn(7, 3)
    torch.manual_seed(5)
    whole_BD = network(x_BD)
    parts = []
    for rank in range(2):
        ranks = Ranks(rank, 2)
        ranks.n_cells = 7
        with ranks.dropout_of(network):
            assert not isinstance(network[1], torch.nn.Dropout)
            torch.manual_seed(5)
            parts.append(network(x_BD[ranks.rows(7)]))
            network.eval()
            assert torch.equal(network(x_BD[:2]), network[0](x_BD[:2]))
            network.train()
    torch.testing.assert_close(torch.cat(parts), whole_BD)
    assert isinstance(network[1], torch.nn.Dropout)
    with Ranks().dropout_of(network):
        assert isinstance(network[1], torch.nn.Dropout)


def test_a_process_that_fails_says_why():
    with (
        pytest.raises(ScgpError, match=r"process 1 of the training failed:[\s\S]*ZeroDivision"),
        processes.beside(1, operator.truediv, 0, backend="gloo"),  # 1 / 0
    ):
        torch.distributed.barrier()
