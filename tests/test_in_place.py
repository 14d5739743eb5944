"""annotate_file(): the slots of annotate() in a file, continued, refused, and never half there."""

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scgp
from scgp.__main__ import main
from scgp.errors import ArgumentError, CountsError, FileError, ScgpWarning
from scgp.labelling import Labeller
from scgp.scale import in_place
from scgp.scale.parts import WorkFolder

KINDS = ["h5ad", "zarr2", "zarr3"]
SLOTS = ("scgp_cell_type", "scgp_cell_type_ontology_term_id", "scgp_confidence", "scgp_status",
         "scgp_novelty")  # fmt: skip


@pytest.fixture(scope="session")
def cells(all_blood):
    """The 700 blood cells twice, with one empty cell, and with much else in the file."""
    adata = ad.concat([all_blood, all_blood], index_unique="-")
    adata.var = all_blood.var.copy()
    counts = adata.X.tolil()
    counts[3] = 0
    adata.X = counts.tocsr()
    adata.layers["counts"] = adata.X.copy()
    adata.layers["dense"] = adata.X.toarray()
    adata.raw = adata[:, 10:].copy()
    adata.obs["note"] = [f"cell {i}" for i in range(adata.n_obs)]
    adata.obs["scgp_status"] = pd.Categorical(["of an earlier run"] * adata.n_obs)
    adata.obsm["X_pca"] = np.random.default_rng(0).normal(size=(adata.n_obs, 4))
    adata.obsp["near"] = sp.eye(adata.n_obs, format="csr")
    adata.uns["kept"] = {"numbers": np.arange(3), "text": "as it was"}
    return adata


@pytest.fixture(scope="session")
def expected(cells, blood_index):
    """What annotate() writes in memory."""
    with pytest.warns(ScgpWarning, match="1 of 1400 cells have no count"):
        return scgp.annotate(cells, index=blood_index, progress=False, copy=True)


@pytest.fixture(scope="session")
def stored(cells, tmp_path_factory):
    """The cells in each kind of file; to be copied, not written to."""
    folder = tmp_path_factory.mktemp("stored")
    cells.write_h5ad(folder / "h5ad")
    before = ad.settings.zarr_write_format
    for version in (2, 3):
        ad.settings.zarr_write_format = version
        with pytest.warns(UserWarning, match="zarr"):  # of anndata's coming defaults
            cells.write_zarr(folder / f"zarr{version}")
    ad.settings.zarr_write_format = before
    return folder


@pytest.fixture
def file_of(stored, tmp_path):
    def copy(kind):
        source, path = stored / kind, tmp_path / f"cells.{kind[:4]}"
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, path)
        return path

    return copy


@pytest.fixture
def annotate_file(blood_index):
    """Annotate a file with the small index; the empty cell's warning is expected."""

    def verb(path, **options):
        options = {"index": blood_index, "batch_size": 512, "progress": False, **options}
        with pytest.warns(ScgpWarning, match="1 of 1400"):
            return scgp.annotate_file(path, **options)

    return verb


def read(path):
    return ad.read_zarr(path) if path.is_dir() else ad.read_h5ad(path)


def same(found, expected):
    pd.testing.assert_frame_equal(found.obs, expected.obs)
    np.testing.assert_array_equal(found.obsm["X_scgp"], expected.obsm["X_scgp"])
    assert found.obsm["X_scgp"].dtype == np.float32
    assert found.uns["scgp"] == expected.uns["scgp"]


def content(path):
    """Bytes of a file, or of all files of a store by name."""
    if path.is_file():
        return path.read_bytes()
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_slots_are_those_of_annotate_and_all_else_stays(
    file_of, annotate_file, stored, expected, kind, state
):
    path = file_of(kind)
    n_cells = annotate_file(path)
    found = read(path)
    same(found, expected)
    assert n_cells == {**dict.fromkeys(n_cells, 0), **expected.obs["scgp_status"].value_counts()}
    assert not path.with_name(path.name + ".scgp").exists()
    # What annotate() does not document is as it was.
    for name in SLOTS:
        del found.obs[name]
    del found.obsm["X_scgp"], found.uns["scgp"]
    before = read(stored / kind)
    del before.obs["scgp_status"]
    assert state(found) == state(before)
    assert (found.obsp["near"] != before.obsp["near"]).nnz == 0


def test_arrays_that_are_no_slots_keep_their_bytes_in_a_store(file_of, annotate_file):
    path = file_of("zarr3")
    before = content(path)
    annotate_file(path)
    after = content(path)
    changed = {name for name in before if after.get(name) != before[name]}
    allowed = {name for name in changed if name.startswith("obs/scgp_status/")}
    assert changed - allowed == {"zarr.json", "obs/zarr.json"}


@pytest.mark.parametrize("kind", ["zarr2", "zarr3"])
def test_the_metadata_at_the_root_is_what_zarr_would_write(file_of, annotate_file, kind):
    import zarr

    path = file_of(kind)
    annotate_file(path)
    file = path / (".zmetadata" if kind == "zarr2" else "zarr.json")
    found = json.loads(file.read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # version 3 has no word for such a copy
        zarr.consolidate_metadata(path)
    expected = json.loads(file.read_text())
    if kind == "zarr2":  # zarr 3 puts empty copies into groups of version 2, which has none
        for metadata in (found["metadata"], expected["metadata"]):
            for node in metadata.values():
                node.pop("consolidated_metadata", None)
    assert found == expected


@pytest.mark.parametrize("kind", ["h5ad", "zarr3"])
def test_an_earlier_annotation_is_replaced(file_of, annotate_file, blood_index, kind, expected):
    path = file_of(kind)
    annotate_file(path, labels=["B cell", "T cell"])
    sizes = []
    for _ in range(2):
        annotate_file(path)
        sizes.append(path.stat().st_size)
    same(read(path), expected)
    assert sizes[1] <= sizes[0] * 1.1  # the room of the old slots is used again


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        ("h5ad", {"layer": "dense"}),
        ("h5ad", {"use_raw": True}),
        ("zarr3", {"layer": "dense"}),
        ("zarr3", {"use_raw": True}),
    ],
)
def test_counts_are_read_from_where_they_are(file_of, annotate_file, cells, annotate, kind, where):
    path = file_of(kind)
    annotate_file(path, **where, key_added="mine", coverage=None)
    with pytest.warns(ScgpWarning, match="1 of 1400"):
        expected = annotate(cells, **where, key_added="mine", copy=True)
    found = read(path)
    pd.testing.assert_frame_equal(found.obs, expected.obs)
    assert found.uns["mine"] == expected.uns["mine"]


def test_a_representation_is_answered_too(file_of, cells, tmp_path):
    with pytest.warns(ScgpWarning, match="calibrated"):
        index = scgp.build_index(cells[:200].copy(), label_key="cell_type", use_rep="X_pca")
    path = file_of("h5ad")
    expected = cells.copy()
    with pytest.warns(ScgpWarning, match="calibrated"):
        scgp.annotate(expected, index=index, use_rep="X_pca", progress=False)
    with pytest.warns(ScgpWarning, match="calibrated"):
        scgp.annotate_file(path, index=index, use_rep="X_pca", progress=False)
    found = ad.read_h5ad(path)
    pd.testing.assert_frame_equal(found.obs, expected.obs)
    assert "X_scgp" not in found.obsm
    with pytest.raises(ArgumentError, match="obsm has no such key; its keys: 'X_pca'"):
        scgp.annotate_file(path, index=index, use_rep="X_scVI", progress=False)


@pytest.fixture
def interrupted(monkeypatch, file_of, blood_index):
    """A file whose annotation was ended after two blocks of three; also counts cells read."""
    answered = Labeller.answered
    n_read: list[int] = []
    real = Labeller.read

    def read_counted(self, counts, *args):
        n_read.append(counts.shape[0])
        return real(self, counts, *args)

    def interrupt(kind, after=2):
        path, left = file_of(kind), [after]

        def answered_some(self, block):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return answered(self, block)

        monkeypatch.setattr(Labeller, "answered", answered_some)
        before = content(path)
        with pytest.raises(KeyboardInterrupt):
            scgp.annotate_file(path, index=blood_index, batch_size=512, progress=False)
        assert content(path) == before
        monkeypatch.setattr(Labeller, "answered", answered)
        monkeypatch.setattr(Labeller, "read", read_counted)
        return path, path.with_name(path.name + ".scgp"), n_read

    return interrupt


@pytest.mark.parametrize("kind", ["h5ad", "zarr3"])
def test_an_ended_run_goes_on_and_answers_nothing_twice(interrupted, annotate_file, expected, kind):
    path, folder, n_read = interrupted(kind)
    assert len(list(folder.glob("cells-*.npz"))) == 2
    annotate_file(path, batch_size=1024)  # another batch size changes no answer
    assert n_read == [1400 - 1024]
    same(read(path), expected)
    assert not folder.exists()


def test_a_damaged_block_is_answered_anew(interrupted, annotate_file, expected, caplog):
    path, folder, n_read = interrupted("h5ad")
    second = max(folder.glob("cells-*.npz"))
    damaged = bytearray(second.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    second.write_bytes(damaged)
    annotate_file(path)
    assert n_read == [512, 1400 - 1024]
    assert f"{second} is damaged" in caplog.text
    same(read(path), expected)


def test_a_run_of_other_arguments_is_refused(interrupted, annotate_file, blood_index, expected):
    path, folder, _ = interrupted("h5ad")
    for other, told in [
        ({"min_confidence": 0.9}, "reference was .*; min_confidence was None, now 0.9"),
        ({"labels": "B cell"}, "labels was None"),
        ({"key_added": "mine"}, "key_added was 'scgp', now 'mine'"),
        ({"layer": "counts"}, "counts was 'X', now \"layers"),
        ({"index": None}, "reference was"),
    ]:
        options = {"index": blood_index, "progress": False, **other}
        with pytest.raises(ArgumentError, match=f"unfinished run that is not this one: {told}"):
            scgp.annotate_file(path, **options)
    assert len(list(folder.glob("cells-*.npz"))) == 2
    annotate_file(path, min_confidence=0.9, resume=False)
    assert read(path).uns["scgp"]["min_confidence"] == 0.9


@pytest.mark.parametrize("what", ["values", "cell names", "gene names"])
def test_a_run_on_other_cells_is_refused(interrupted, blood_index, what):
    path, _, _ = interrupted("h5ad")
    with h5py.File(path, "r+") as file:
        if what == "values":
            file["X/data"][0] += 1
        else:
            table = file["obs" if what == "cell names" else "var"]
            names = table[table.attrs["_index"]]
            names[5] = "another"
    with pytest.raises(ArgumentError, match=f"not this one: {what} was"):
        scgp.annotate_file(path, index=blood_index, progress=False)


def test_an_error_before_the_first_answer_leaves_nothing_beside_the_file(file_of):
    path = file_of("h5ad")
    with h5py.File(path, "r+") as file:
        file["X/data"][...] = file["X/data"][...] / 3
    with pytest.raises(CountsError, match="layer='counts'"):
        scgp.annotate_file(path, progress=False)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", ["h5ad", "zarr3"])
def test_what_is_marked_read_only_is_told_before_any_work(file_of, blood_index, kind, monkeypatch):
    monkeypatch.setattr(Labeller, "read", None)  # any work would fail
    path = file_of(kind)
    path.chmod(0o555 if path.is_dir() else 0o444)
    with pytest.raises(FileError, match=r"cannot be written to .*read-only"):
        scgp.annotate_file(path, index=blood_index, progress=False)
    path.chmod(0o755 if path.is_dir() else 0o644)
    path.parent.chmod(0o555)
    try:
        with pytest.raises(FileError, match=r"cells.*\.scgp cannot be made .*read-only"):
            scgp.annotate_file(path, index=blood_index, progress=False)
    finally:
        path.parent.chmod(0o755)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_file_that_another_has_open_is_told_before_any_work(file_of, blood_index):
    path = file_of("h5ad")
    with h5py.File(path, "r"), pytest.raises(FileError, match="open in another program"):
        scgp.annotate_file(path, index=blood_index, progress=False)


def test_two_runs_on_one_file_do_not_meet(file_of, blood_index):
    path = file_of("zarr3")
    with WorkFolder(path), pytest.raises(FileError, match="annotated by another process"):
        scgp.annotate_file(path, index=blood_index, progress=False)


def test_a_folder_of_that_name_is_never_touched(file_of, blood_index):
    path = file_of("h5ad")
    folder = path.with_name(path.name + ".scgp")
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(FileError, match="no work folder of scgp"):
        scgp.annotate_file(path, index=blood_index, progress=False)
    assert (folder / "thesis.txt").read_text() == "mine"


def test_an_old_layout_and_what_is_no_file_are_refused(tmp_path):
    import scanpy as sc

    old = Path(sc.__file__).parent / "datasets" / "10x_pbmc68k_reduced.h5ad"
    path = tmp_path / "old.h5ad"
    shutil.copyfile(old, path)
    with pytest.raises(FileError, match=r"no layout of anndata 0\.7 or later"):
        scgp.annotate_file(path)
    with pytest.raises(ArgumentError, match="is a folder, but no zarr store"):
        scgp.annotate_file(tmp_path)
    (tmp_path / "junk.h5ad").write_bytes(b"no HDF5")
    with pytest.raises(FileError, match=r"cannot be read as an \.h5ad file"):
        scgp.annotate_file(tmp_path / "junk.h5ad")


@pytest.mark.parametrize("kind", ["h5ad", "zarr3"])
@pytest.mark.parametrize("key", ["a/b", "", ".", ".."])
def test_names_that_no_slot_can_have_are_refused(file_of, monkeypatch, kind, key):
    monkeypatch.setattr(WorkFolder, "__enter__", None)  # any work would fail
    path = file_of(kind)
    before = content(path)
    with pytest.raises(ArgumentError, match=f"key_added is {key!r}; expected a name without '/'"):
        scgp.annotate_file(path, key_added=key)
    assert content(path) == before


@pytest.mark.parametrize("kind", ["h5ad", "zarr3"])
def test_names_of_cells_are_no_slot(all_blood, blood_index, tmp_path, monkeypatch, capsys, kind):
    """A file holds them among the columns; one named like a slot would be written over."""
    cells, path = all_blood.copy(), tmp_path / f"cells.{kind[:4]}"
    cells.obsm["X_pca"] = np.ones((700, 2))
    monkeypatch.setattr(Labeller, "read", None)  # any work would fail
    for name in (*SLOTS, "scgp_set", "scgp_set_size"):
        cells.obs.index.name = name
        if kind == "h5ad":
            cells.write_h5ad(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of anndata's coming defaults
                cells.write_zarr(path)
        before = content(path)
        told = f"is called '{name}', which is the name of a slot; rename it .* another key_added"
        for options in ({}, {"use_rep": "X_pca"}):
            with pytest.raises(ArgumentError, match=told):
                scgp.annotate_file(path, index=blood_index, progress=False, **options)
        assert main(["annotate", str(path), str(tmp_path / f"out.{kind[:4]}")]) == 2
        assert f"is called {name!r}" in capsys.readouterr().err
        assert content(path) == before
        assert [p.name for p in tmp_path.iterdir()] == [path.name]


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
        check=False, cwd=Path(__file__).parents[1],
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


@pytest.mark.filterwarnings("default")
def test_the_command_line_writes_in_place_and_copies_stores(file_of, capsys, expected):
    path = file_of("h5ad")
    command = ["annotate", str(path), "--in-place", "--min-confidence", "0.6"]
    assert main(command) == 0
    told = capsys.readouterr()
    assert f"-> {path}" in told.out
    assert "1 of 1400 cells have no count" in told.err
    assert read(path).uns["scgp"]["min_confidence"] == 0.6
    store = file_of("zarr3")
    before, out = content(store), store.with_name("out.zarr")
    assert main(["annotate", str(store), str(out), "--min-confidence", "0.6"]) == 0
    assert content(store) == before
    pd.testing.assert_frame_equal(read(out).obs, read(path).obs)
    np.testing.assert_array_equal(read(out).obsm["X_scgp"], read(path).obsm["X_scgp"])
    names = sorted(p.name for p in store.parent.iterdir())
    assert names == ["cells.h5ad", "cells.zarr", "out.zarr"]


def test_an_opened_index_is_told_by_its_manifest(blood_index, tmp_path, monkeypatch):
    """No vector is read; one made here is told by all that it holds."""
    listed = scgp.ReferenceIndex.merge([blood_index], search="lists")
    listed.save(tmp_path / "a")
    listed.save(tmp_path / "b")
    blood_index.remove([0]).save(tmp_path / "c")
    of = in_place._reference_of
    a, b, c = (scgp.ReferenceIndex.load(tmp_path / x, memory_map=True) for x in "abc")
    in_memory = scgp.ReferenceIndex.load(tmp_path / "a")
    strict = dataclasses.replace(a.calibration, threshold=0.123)
    monkeypatch.setattr(
        in_place, "fingerprint",
        lambda value, of=in_place.fingerprint: (
            pytest.fail("read") if isinstance(value, scgp.ReferenceIndex) else of(value)
        ),
    )  # fmt: skip
    assert of(a) == of(b) == of(in_memory)
    assert len({of(a), of(c), of(dataclasses.replace(a, calibration=strict))}) == 3
    monkeypatch.undo()
    assert len({of(listed), of(blood_index), of(blood_index.remove([0]))}) == 3
