"""The command line writes no file under a name that promises another format."""

import errno
import os
import resource

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest

import scgp
from scgp.__main__ import main


@pytest.fixture
def folder(blood, tmp_path, monkeypatch):
    """A file and a store of the same cells, in the current directory; a verb would fail."""
    blood.write_h5ad(tmp_path / "in.h5ad")
    blood.write_zarr(tmp_path / "in.zarr")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_verb(monkeypatch):
    def fail(*_, **__):
        pytest.fail("refused only after the work was done")

    monkeypatch.setitem(vars(scgp), "annotate", fail)
    monkeypatch.setattr("scgp.scale.copies.annotate", fail)


@pytest.mark.parametrize(
    ("given", "name", "told"),
    [
        ("in.h5ad", "o.csv", "o.csv: a copy of an .h5ad file is written; expected a name ending"),
        ("in.h5ad", "o", "ending in .h5ad"),
        ("in.h5ad", "o.h5", "ending in .h5ad"),
        ("in.h5ad", "o.h5ad.gz", "ending in .h5ad"),
        ("in.h5ad", "o.zarr", "ending in .h5ad"),
        ("in.h5ad", ".h5ad", "ending in .h5ad"),
        ("in.zarr", "o.h5ad", "o.h5ad: a copy of a zarr store is written; expected a name ending"),
        ("in.zarr", "o.csv", "ending in .zarr"),
    ],
)
@pytest.mark.filterwarnings("default")  # of anndata on writing zarr stores
def test_a_name_of_another_format_is_refused(folder, no_verb, given, name, told, capsys):
    assert main(["annotate", given, name]) == 2
    line = capsys.readouterr().err
    assert line.startswith("scgp: error: ")
    assert told in line
    assert sorted(path.name for path in folder.iterdir()) == ["in.h5ad", "in.zarr"]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["o.h5ad", "o.H5AD"])
def test_an_h5ad_file_is_written_under_its_name(folder, name):
    assert main(["annotate", "in.h5ad", name]) == 0
    assert np.isfinite(ad.read_h5ad(folder / name).obs["scgp_confidence"]).all()


@pytest.fixture
def texts(blood, tmp_path, monkeypatch):
    """A compressed file with a column of pandas' own texts, and names of cells that are some."""
    blood.obs["barcode"] = pd.array([*(f"x{i}" for i in range(119)), None], dtype="string")
    blood.obs_names = pd.Index(pd.array(blood.obs_names, dtype="string"))
    with ad.settings.override(allow_write_nullable_strings=True):
        blood.write_h5ad(tmp_path / "in.h5ad", compression="gzip")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _stored(path):
    """All arrays of a file by name: how each is stored, and its bytes on the disk."""
    found = {}

    def note(name, item):
        if isinstance(item, h5py.Dataset):
            raw = (
                item[()] if item.chunks is None else item.id.read_direct_chunk((0,) * item.ndim)[1]
            )
            attributes = {key: str(value) for key, value in item.attrs.items()}
            found[name] = (str(item.dtype), item.compression, attributes, str(raw))

    with h5py.File(path) as file:
        file.visititems(note)
    return found


def test_a_copy_is_the_file_and_the_slots(texts):
    assert main(["annotate", "in.h5ad", "o.h5ad"]) == 0
    before, after = _stored(texts / "in.h5ad"), _stored(texts / "o.h5ad")
    assert {name: after.get(name) for name in before} == before
    assert (texts / "o.h5ad").stat().st_size < (texts / "in.h5ad").stat().st_size + 200_000
    new = {name.split("/")[1] for name in after.keys() - before.keys()}
    assert {name.removeprefix("X_") for name in new} == {
        "scgp", "scgp_cell_type", "scgp_cell_type_ontology_term_id", "scgp_confidence",
        "scgp_status", "scgp_novelty",
    }  # fmt: skip
    obs, old = ad.read_h5ad(texts / "o.h5ad").obs, ad.read_h5ad(texts / "in.h5ad").obs
    pd.testing.assert_frame_equal(obs[obs.columns[:-5]], old)


@pytest.mark.filterwarnings("default")  # of anndata on writing zarr stores
@pytest.mark.parametrize("step", ["sync_tree", "apply"])
def test_a_copy_of_a_store_on_a_full_disk_is_none(folder, monkeypatch, capsys, step):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"scgp.scale.zarr_store.{step}", fail)
    assert main(["annotate", "in.zarr", "o.zarr"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == (
        "scgp: error: o.zarr could not be written (No space left on device), and nothing of it "
        "was; make room, or name another place"
    )
    assert sorted(path.name for path in folder.iterdir()) == ["in.h5ad", "in.zarr"]


def test_a_copy_is_made_where_the_file_system_cannot_reserve_room(texts, monkeypatch):
    def cannot(*_):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", cannot, raising=False)
    assert main(["annotate", "in.h5ad", "o.h5ad"]) == 0
    assert "scgp_cell_type" in ad.read_h5ad(texts / "o.h5ad").obs


@pytest.mark.parametrize("room", [0.5, 1.02])
def test_a_copy_that_the_disk_has_no_room_for_is_none(texts, capsys, room):
    """The system's own limit of a file's size: while it is copied, and while slots are written."""
    size = int(room * (texts / "in.h5ad").stat().st_size)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        assert main(["annotate", "in.h5ad", "o.h5ad"]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == (
        "scgp: error: the copy of in.h5ad could not be written (File too large), and nothing of "
        "it was; make room, or name another place"
    )
    assert sorted(path.name for path in texts.iterdir()) == ["in.h5ad"]
