"""Directories are complete or refused, and writing one is all or nothing."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from scgp.errors import ArgumentError, CheckpointError
from scgp.model import directory
from scgp.model.directory import (
    check_target,
    load_npz,
    read_directory,
    save_npz,
    write_directory,
)

NAMES = {"kind": "thing", "manifest_name": "thing.json"}


class Planted:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


def write(path, *, overwrite=False, **facts):
    files = {"a.txt": b"alpha", "deep/b.bytes": lambda p: p.write_bytes(b"beta" * 100)}
    write_directory(path, files, {"width": 3, **facts}, overwrite=overwrite, **NAMES)
    return path


def forge(path, **changes):
    """Rewrite the manifest with a right checksum, as an attacker would."""
    file = path / "thing.json"
    content = {**json.loads(file.read_text(encoding="utf-8")), **changes}
    content["checksum"] = directory._checksum(content)
    file.write_text(json.dumps(content), encoding="utf-8")


def tree(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_round_trip(tmp_path):
    path = write(tmp_path / "new" / "thing ü", note="größer", share=0.1)
    manifest = read_directory(path, **NAMES)
    assert manifest["width"] == 3
    assert manifest["note"] == "größer"
    assert manifest["share"] == 0.1
    assert manifest["format_version"] == directory.FORMAT_VERSION
    assert (path / "deep" / "b.bytes").read_bytes() == b"beta" * 100
    assert tree(tmp_path / "new") == [
        "thing ü", "thing ü/a.txt", "thing ü/deep", "thing ü/deep/b.bytes", "thing ü/thing.json",
    ]  # fmt: skip


def test_others_may_read_it(tmp_path):
    old = os.umask(0o022)
    try:
        path = write(tmp_path / "thing")
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("name", ["a.txt", "deep/b.bytes"])
@pytest.mark.parametrize("fault", ["truncated", "edited", "missing", "link", "folder"])
def test_a_file_that_is_not_as_written_is_refused(tmp_path, name, fault):
    file = write(tmp_path / "thing") / name
    content = file.read_bytes()
    if fault == "truncated":
        file.write_bytes(content[:-1])
    elif fault == "edited":
        file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    else:
        file.unlink()
    if fault == "link":
        (tmp_path / "elsewhere").write_bytes(content)
        file.symlink_to(tmp_path / "elsewhere")
    if fault == "folder":
        file.mkdir()
    expected = {
        "truncated": "truncated or edited", "edited": "was altered", "missing": "is missing",
        "link": "link or no plain file", "folder": "link or no plain file",
    }  # fmt: skip
    with pytest.raises(CheckpointError, match=expected[fault]) as caught:
        read_directory(tmp_path / "thing", **NAMES)
    assert Path(name).name in str(caught.value)


def test_a_linked_folder_inside_is_refused(tmp_path):
    path = write(tmp_path / "thing")
    (path / "deep").rename(tmp_path / "deep")
    (path / "deep").symlink_to(tmp_path / "deep")
    with pytest.raises(CheckpointError, match="link"):
        read_directory(path, **NAMES)


def test_every_bit_of_the_manifest_counts(tmp_path):
    file = write(tmp_path / "thing") / "thing.json"
    text = file.read_text(encoding="utf-8")
    for changed in (text.replace('"width": 3', '"width": 4'), text[:-20], "[]", "", "null"):
        assert changed != text
        file.write_text(changed, encoding="utf-8")
        with pytest.raises(CheckpointError):
            read_directory(tmp_path / "thing", **NAMES)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"has no thing\.json"):
        read_directory(tmp_path / "thing", **NAMES)


def test_another_kind_and_a_later_format_are_refused(tmp_path):
    path = write(tmp_path / "thing")
    with pytest.raises(CheckpointError, match="describes 'thing', expected a saved 'model'"):
        read_directory(path, kind="model", manifest_name="thing.json")
    forge(path, format_version=directory.FORMAT_VERSION + 1)
    with pytest.raises(CheckpointError, match="upgrade scgp"):
        read_directory(path, **NAMES)


def test_no_directory_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        read_directory(tmp_path / "thing", **NAMES)
    (tmp_path / "thing").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is a file"):
        read_directory(tmp_path / "thing", **NAMES)


@pytest.mark.parametrize(
    "name", ["../out.txt", "/anywhere/out.txt", "deep/../../out.txt", "a\\b", "./a"]
)
def test_names_that_leave_the_directory_are_refused_both_ways(tmp_path, name):
    with pytest.raises(CheckpointError, match="leaves its directory"):
        write_directory(tmp_path / "new", {name: b"x"}, {}, **NAMES)
    path = write(tmp_path / "thing")
    (tmp_path / "out.txt").write_bytes(b"x")
    forge(path, files={name: {"size": 1, "sha256": "0" * 64}})
    with pytest.raises(CheckpointError, match="leaves its directory"):
        read_directory(path, **NAMES)


@pytest.mark.parametrize("name", ["evil.pkl", "deep/model.PT", "x.bin", "y.joblib", "z.ckpt"])
def test_a_planted_pickle_is_refused_and_not_run(tmp_path, name):
    path = write(tmp_path / "thing")
    (path / name).write_bytes(pickle.dumps(Planted(tmp_path / "ran")))
    with pytest.raises(CheckpointError, match="pickle"):
        read_directory(path, **NAMES)
    assert not (tmp_path / "ran").exists()


def test_a_target_that_exists_is_kept(tmp_path):
    path = write(tmp_path / "thing", note="first")
    with pytest.raises(ArgumentError, match="overwrite=True"):
        write(path, note="second")
    assert read_directory(path, **NAMES)["note"] == "first"
    write(path, note="second", overwrite=True)
    assert read_directory(path, **NAMES)["note"] == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["thing"]


def test_overwrite_replaces_only_what_we_wrote(tmp_path):
    mine = tmp_path / "home"
    mine.mkdir()
    (mine / "thesis.tex").write_bytes(b"years")
    with pytest.raises(ArgumentError, match="is no saved thing"):
        write(mine, overwrite=True)
    assert (mine / "thesis.tex").read_bytes() == b"years"
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to(write(tmp_path / "thing"))
    for name in ("file", "link"):
        with pytest.raises(ArgumentError, match="no directory"):
            write(tmp_path / name, overwrite=True)
    assert read_directory(tmp_path / "thing", **NAMES)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("found", ["nothing", "thing", "folder", "file", "link", "lost link"])
def test_a_target_is_refused_at_once_as_it_would_be_in_the_end(
    tmp_path, monkeypatch, found, overwrite
):
    """What a verb asks before an hour of work, with the words that saving has."""
    monkeypatch.chdir(tmp_path)
    path = Path("here")
    if found == "thing":
        write(path)
    elif found == "folder":
        path.mkdir()
    elif found == "file":
        path.write_bytes(b"")
    elif "link" in found:
        path.symlink_to(write(tmp_path / "other") if found == "link" else "nowhere")
    before = tree(tmp_path)
    if found == "nothing" or (found == "thing" and overwrite):
        assert check_target(path, overwrite=overwrite, **NAMES) == tmp_path / "here"
        assert tree(tmp_path) == before
        write(path, overwrite=overwrite)
        return
    with pytest.raises(ArgumentError) as early:
        check_target(path, overwrite=overwrite, **NAMES)
    with pytest.raises(ArgumentError) as late:
        write(path, overwrite=overwrite)
    assert str(early.value) == str(late.value)
    assert str(tmp_path / "here") in str(early.value)
    assert tree(tmp_path) == before


def make_other(path):
    """A saved directory of its own, as an index is inside a model."""
    write_directory(path, {"c.txt": b"gamma"}, {}, kind="other", manifest_name="other.json")


@pytest.mark.parametrize("existed", [False, True])
def test_a_directory_comes_with_those_inside_it(tmp_path, existed):
    path = tmp_path / "thing"
    if existed:
        write(path, note="first")
    write_directory(
        path, {"a.txt": b"alpha"}, {}, beside={"inner": make_other, "more": make_other},
        overwrite=existed, **NAMES,
    )  # fmt: skip
    assert sorted(read_directory(path, **NAMES)["files"]) == ["a.txt"]
    for name in ("inner", "more"):
        read_directory(path / name, kind="other", manifest_name="other.json")
    assert tree(tmp_path) == [
        "thing", "thing/a.txt", "thing/inner", "thing/inner/c.txt", "thing/inner/other.json",
        "thing/more", "thing/more/c.txt", "thing/more/other.json", "thing/thing.json",
    ]  # fmt: skip


@pytest.mark.parametrize("existed", [False, True])
def test_a_directory_whose_inside_fails_is_not_there(tmp_path, existed):
    path = tmp_path / "thing"
    if existed:
        write(path, note="first")
    before = tree(tmp_path)

    def fail(target):
        target.mkdir()
        (target / "half").write_bytes(b"half")
        raise KeyboardInterrupt

    beside = {"inner": make_other, "late": fail}
    with pytest.raises(KeyboardInterrupt):
        write_directory(path, {"a.txt": b"x"}, {}, beside=beside, overwrite=True, **NAMES)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["a.txt", "thing.json", "deep"])
def test_what_comes_inside_takes_no_name_of_a_file(tmp_path, name):
    files = {"a.txt": b"x", "deep/x.txt": b"y"}
    with pytest.raises(ArgumentError, match="has that name"):
        write_directory(tmp_path / "thing", files, {}, beside={name: make_other}, **NAMES)
    assert tree(tmp_path) == []
    with pytest.raises(CheckpointError, match="leaves its directory"):
        write_directory(tmp_path / "thing", files, {}, beside={"../out": make_other}, **NAMES)


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("existed", [False, True])
def test_whatever_goes_wrong_nothing_is_left(tmp_path, error, existed):
    if existed:
        write(tmp_path / "thing", note="first")
    before = tree(tmp_path)

    def fail(path):
        path.write_bytes(b"half")
        raise error

    with pytest.raises(type(error)):
        write_directory(
            tmp_path / "thing", {"a.txt": b"x", "b.txt": fail}, {}, overwrite=True, **NAMES
        )
    assert tree(tmp_path) == before


def test_an_interrupt_between_the_renames_brings_the_old_one_back(tmp_path, monkeypatch):
    path = write(tmp_path / "thing", note="first")
    rename = Path.rename

    def interrupted(self, target):
        if self.name.endswith(".tmp"):
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(path, note="second", overwrite=True)
    assert read_directory(path, **NAMES)["note"] == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["thing"]


def test_reserved_fields_are_kept(tmp_path):
    with pytest.raises(ArgumentError, match="for itself"):
        write(tmp_path / "thing", checksum="x")
    with pytest.raises(ArgumentError, match="for itself"):
        write_directory(tmp_path / "thing", {"thing.json": b""}, {}, **NAMES)


def test_npz_round_trip_gives_the_same_bytes(tmp_path):
    arrays = {
        "texts": np.array(["großer/β", "", "T cell"]),
        "numbers_ND": np.arange(6, dtype=np.float32).reshape(2, 3),
        "flags": np.array([], bool),
    }
    save_npz(tmp_path / "a.npz", arrays)
    save_npz(tmp_path / "b.npz", dict(reversed(arrays.items())))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    loaded = load_npz(tmp_path / "a.npz")
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array)
        assert loaded[name].dtype == array.dtype


def test_npz_neither_writes_nor_reads_objects(tmp_path):
    planted = np.array([Planted(tmp_path / "ran")], object)
    with pytest.raises(ArgumentError, match="Python objects"):
        save_npz(tmp_path / "a.npz", {"x": planted})
    np.savez(tmp_path / "evil.npz", x=planted)
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(Planted(tmp_path / "ran")))
    for name in ("evil.npz", "bare.npz"):
        with pytest.raises(CheckpointError):
            load_npz(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_npz_that_is_damaged_or_absent_is_refused(tmp_path):
    save_npz(tmp_path / "a.npz", {"x": np.arange(1000)})
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    middle = len(content) // 2
    (tmp_path / "bent.npz").write_bytes(content[:middle] + b"\0\0\0\0" + content[middle + 4 :])
    np.save(tmp_path / "bare.npy", np.arange(3))
    for name in ("cut.npz", "bent.npz", "absent.npz", "bare.npy"):
        with pytest.raises(CheckpointError):
            load_npz(tmp_path / name)
