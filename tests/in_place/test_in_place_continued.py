"""annotate_file(): an ended run goes on, and what cannot be written is refused before any work."""

import dataclasses
import shutil
import sys
import warnings
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest

import scgp
from scgp.__main__ import main
from scgp.errors import ArgumentError, CountsError, FileError
from scgp.labelling import Labeller
from scgp.scale import in_place
from scgp.scale.parts import WorkFolder

sys.path.insert(0, str(Path(__file__).parent))
from annotated_files import SLOTS, content, read, same


@pytest.fixture
def interrupted(monkeypatch, file_of, blood_index, ensembl_ids):
    """A file whose annotation was ended after two blocks of three; also counts cells read."""
    answered = Labeller.answered
    n_read: list[int] = []
    real = Labeller.read

    def read_counted(self, counts, *args):
        n_read.append(counts.shape[0])
        return real(self, counts, *args)

    def interrupt(kind, after=2, *, ids=False):
        path, left = file_of(kind), [after]
        if ids:
            _name_by_ids(path, ensembl_ids)

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


def _name_by_ids(path, ensembl_ids):
    """Leave the genes of a file to a column of var."""
    adata = ad.read_h5ad(path)
    adata.var["ensembl_id"] = ensembl_ids(adata.var_names)
    adata.var_names = [f"row {i}" for i in range(adata.n_vars)]
    adata.write_h5ad(path)


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


def test_answers_by_a_representation_take_no_kept_ones_away(interrupted, annotate_file, expected):
    path, folder, n_read = interrupted("h5ad")
    known = read(path)[:300].copy()
    known.obs["kind"] = known.obs["bulk_labels"].astype(str)
    options = {"use_rep": "X_pca", "reference": known, "label_key": "kind", "key_added": "rep"}
    with pytest.raises(ArgumentError, match=r"run that is not this one: .* use_rep"):
        scgp.annotate_file(path, progress=False, **options)
    assert len(list(folder.glob("cells-*.npz"))) == 2
    annotate_file(path)
    assert n_read == [1400 - 1024]
    same(read(path), expected)


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


def test_a_run_with_other_genes_of_the_same_names_is_refused(interrupted, blood_index):
    """Names that say nothing stand beside a column of ids, which tells what gene each is."""
    path, _, _ = interrupted("h5ad", ids=True)
    with h5py.File(path, "r+") as file:
        ids = file["var/ensembl_id"]
        ids[...] = ids[...][::-1]
    with pytest.raises(ArgumentError, match="not this one: genes was"):
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


def test_a_file_that_this_session_holds_is_told(file_of, blood_index, capsys):
    path = file_of("h5ad")
    held = ad.read_h5ad(path, backed="r")
    with pytest.raises(FileError, match=r"in this session: .* adata\.file\.close\(\) lets it go"):
        scgp.annotate_file(path, index=blood_index, progress=False)
    held.file.close()
    command = ["annotate", str(path), "--in-place", "--label-key", "bulk_labels", "--reference"]
    assert main([*command, str(path)]) == 2
    assert "is the input too, which --in-place writes into" in capsys.readouterr().err


def test_no_count_is_read_for_a_batch_of_none(file_of, blood_index, monkeypatch):
    monkeypatch.setattr("scgp.asking.choose_counts", None)  # any reading would fail
    path = file_of("h5ad")
    with pytest.raises(ArgumentError, match="batch_size is 0; expected a whole number"):
        scgp.annotate_file(path, index=blood_index, batch_size=0, progress=False)


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
