"""annotate_file(): a full disk or a kill at any moment leaves the file as before, or complete."""

import errno
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import anndata as ad
import pytest

import scgp
from scgp.errors import FileError, ScgpWarning
from scgp.labelling import Labeller

sys.path.insert(0, str(Path(__file__).parent))
from annotated_files import content, read, same


@pytest.mark.parametrize("nth", [1, 8, 12])
def test_a_disk_that_is_full_in_the_last_step_leaves_the_file(
    file_of, blood_index, annotate_file, expected, monkeypatch, nth
):
    """The nth write into the file or its log finds no room; then there is room again."""
    path = file_of("h5ad")
    before = path.read_bytes()
    real, left = os.pwrite, [nth]

    def pwrite(*args):
        left[0] -= 1
        if left[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args)

    monkeypatch.setattr(os, "pwrite", pwrite)
    told = r"No space left on device\); it is as it was.*make room, and run this again"
    with (
        pytest.warns(ScgpWarning, match="1 of 1400"),
        pytest.raises(FileError, match=told),
    ):
        scgp.annotate_file(path, index=blood_index, batch_size=512, progress=False)
    assert left[0] <= 0
    monkeypatch.undo()
    assert path.read_bytes() == before
    monkeypatch.setattr(Labeller, "read", None)  # nothing is answered again
    annotate_file(path)
    same(read(path), expected)


@pytest.fixture
def small_disk(tmp_path):
    """A disk with room for 24 MB; the test is skipped where none can be made."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("kind", ["h5ad", "zarr3"])
def test_a_disk_that_is_really_full(
    file_of, blood_index, annotate_file, expected, small_disk, kind
):
    source = file_of(kind)
    path = small_disk / source.name
    (shutil.copytree if source.is_dir() else shutil.copyfile)(source, path)
    before = content(path)
    for spare in (100_000, 1_000_000):  # full among the answers, then in the last step
        room = shutil.disk_usage(small_disk).free - spare
        (small_disk / "ballast").write_bytes(b"\0" * max(room, 0))
        with pytest.raises(FileError, match=r"No space left on device.*make room"):
            _quietly(path, blood_index)
        (small_disk / "ballast").unlink()
        assert content(path) == before
    annotate_file(path)
    same(read(path), expected)


def _quietly(path, index):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScgpWarning)
        scgp.annotate_file(path, index=index, batch_size=512, progress=False)


def _crash(*arguments):
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("crash.py"))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, env=environment,
        check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize(("kind", "stride"), [("h5ad", 5), ("zarr3", 16)])
def test_killed_at_any_operation_the_file_is_as_before_or_complete(stored, tmp_path, kind, stride):
    cells = ad.read_h5ad(stored / "h5ad")[:300, :50].copy()
    if kind == "h5ad":
        cells.write_h5ad(tmp_path / "source.h5ad")
    else:
        _write_zarr(cells, tmp_path / "source.zarr")
    told = _crash("steps", kind[:4], tmp_path, stride)
    assert told["before"] > 2
    assert told["after"] > 0
    assert told["kills"] == told["before"] + told["after"] - 1 > 5


def _write_zarr(adata, path):
    before = ad.settings.zarr_write_format
    ad.settings.zarr_write_format = 3
    with pytest.warns(UserWarning, match="zarr"):
        adata.write_zarr(path)
    ad.settings.zarr_write_format = before


@pytest.mark.parametrize("kind", ["h5ad", "zarr3"])
def test_killed_at_a_random_moment_it_goes_on_to_the_same_answer(file_of, cells, kind, model):
    path = file_of(kind)
    told = _crash("runs", kind[:4], path.parent)
    expected = cells.copy()
    with pytest.warns(ScgpWarning, match="1 of 1400"):
        scgp.annotate(expected, model=model, progress=False)
    same(read(path), expected)
    # -1: a run had ended before it was killed. Nothing that was kept is answered again.
    kept = told["kept"][-1]
    if kept >= 0:
        assert sum(told["answered"]) == max(1400 - 512 * kept, 0)
