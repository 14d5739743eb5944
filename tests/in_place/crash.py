"""A program that is killed: run by test_in_place_killed.py in a process of its own.

``steps KIND FOLDER STRIDE`` kills the writing of slots at every operation on the disk in turn (of
STRIDE of them at one, from a random one on), in the middle of it where it writes bytes, and looks
at what is left. ``runs KIND FOLDER`` kills whole annotations at random moments and runs them again.
Prints one line of JSON.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd

from scgp.scale import h5ad, redo, zarr_store
from scgp.scale.parts import MANIFEST
from scgp.scale.written import Slots

N, WIDTH = 300, 32


def dump(path: Path) -> dict[str, str]:
    """Everything that a file holds: attributes and bytes of every group and array."""
    found = {}

    def walk(element, name):
        found[f"{name} attributes"] = repr(sorted((k, str(v)) for k, v in element.attrs.items()))
        if hasattr(element, "keys"):
            for key in element.keys():  # noqa: SIM118
                walk(element[key], f"{name}/{key}")
        else:
            value = np.asarray(element[()])
            text = repr(value.tolist()) if value.dtype.hasobject else value.tobytes().hex()
            found[name] = f"{value.dtype}{value.shape}{text}"

    if path.is_dir():
        import zarr

        walk(zarr.open_group(path, mode="r"), "")
    else:
        with h5py.File(path, "r") as file:
            walk(file, "")
    return found


def slots_of(word: str) -> Slots:
    """Slots of synthetic values that differ from word to word."""
    rng = np.random.default_rng(len(word))
    cell_BE = rng.normal(size=(N, WIDTH)).astype(np.float32)
    columns = {
        "scgp_cell_type": pd.Categorical([f"{word} {i % 7}" for i in range(N)]),
        "scgp_confidence": rng.random(N, dtype=np.float32),
    }
    blocks = [(start, cell_BE[start : start + 100]) for start in range(0, N, 100)]
    return Slots("scgp", columns, {"model": word}, (N, WIDTH), lambda: iter(blocks))


def kill_at(step: int) -> None:
    """From now on, count the operations on the disk, and die in the given one."""
    left = [step]

    def counted(name):
        real = getattr(os, name)

        def operation(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                if name == "pwrite":
                    real(args[0], bytes(args[1])[: len(args[1]) // 2], args[2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        setattr(os, name, operation)

    for name in ("pwrite", "ftruncate", "fsync", "replace", "rename", "unlink"):
        counted(name)


def in_a_child(work) -> bool:
    """Do some work in a copy of this process; tell whether it was killed."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.waitstatus_to_exitcode(status) == 0, "the work failed"
    return False


def steps(kind: str, folder: Path, stride: int) -> dict[str, int]:
    """Kill the writing at every operation; return how often the file was as before, or done."""
    source, path, work = folder / f"source.{kind}", folder / f"cells.{kind}", folder / "work"
    target, recover = (zarr_store, zarr_store.recover) if kind == "zarr" else (h5ad, redo.recover)

    def restore():
        for place in (path, work):
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        work.mkdir()
        shutil.copytree(source, path) if source.is_dir() else shutil.copyfile(source, path)

    restore()
    target.write_slots(path, work, slots_of("first"))  # so that slots are replaced, too
    shutil.rmtree(source) if source.is_dir() else source.unlink()
    shutil.copytree(path, source) if path.is_dir() else shutil.copyfile(path, source)
    before = dump(source)
    restore()
    target.write_slots(path, work, slots_of("another"))
    after = dump(path)
    assert before != after
    told = {"before": 0, "after": 0, "kills": 0}
    size = source.stat().st_size
    for step in range(random.randint(1, stride), 2000, stride):
        restore()

        def work_of_child(step=step):
            kill_at(step)
            target.write_slots(path, work, slots_of("another"))

        killed = in_a_child(work_of_child)
        finished = recover(path, work)
        found = dump(path)
        assert found in (before, after), f"step {step}: neither as before nor complete"
        assert found == after or not finished
        if kind == "h5ad" and found == before:
            assert path.stat().st_size == size, "the new end was not cut off"
        told["before" if found == before else "after"] += 1
        told["kills"] += killed
        target.write_slots(path, work, slots_of("another"))
        assert dump(path) == after, f"step {step}: a second run gives something else"
        if not killed:
            return told
    msg = "the writing never ended"
    raise AssertionError(msg)


def runs(kind: str, folder: Path) -> dict[str, list[int]]:
    """Kill annotations at random moments; return the cells that each later run answered."""
    import faiss
    import torch

    import scgp
    from scgp.labelling import Labeller

    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    model = scgp.Model.default()
    index = scgp.annotate.__globals__["model_index"](model)
    path = folder / f"cells.{kind}"
    work = path.with_name(path.name + ".scgp")
    answered = folder / "answered"
    real = Labeller.read

    def read(self, counts, *args):
        with answered.open("a") as file:
            file.write(f"{counts.shape[0]}\n")
        return real(self, counts, *args)

    Labeller.read = read

    def annotate():
        scgp.annotate_file(path, model=model, index=index, batch_size=512, progress=False)

    told = {"kept": [], "answered": []}
    for n_blocks in (1, random.randint(1, 3)):
        pid = os.fork()
        if pid == 0:
            annotate()
            os._exit(0)
        while len(list(work.glob("cells-*.npz"))) < n_blocks:
            if os.waitpid(pid, os.WNOHANG)[0]:
                break
            time.sleep(0.01)
        else:
            time.sleep(random.uniform(0, 0.3))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        # a run that had ended forgets its answers, first what says whose they are
        begun = (work / MANIFEST).is_file()
        told["kept"].append(len(list(work.glob("cells-*.npz"))) if begun else -1)
    answered.unlink(missing_ok=True)
    assert not in_a_child(annotate)
    assert not work.exists()
    lines = answered.read_text().split() if answered.exists() else []
    told["answered"] = [int(line) for line in lines]
    return told


if __name__ == "__main__":
    ad.settings.zarr_write_format = 3
    what, kind, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    done = steps(kind, folder, int(sys.argv[4])) if what == "steps" else runs(kind, folder)
    sys.stdout.write(json.dumps(done) + "\n")
