"""Clusters and columns of an earlier call in files: as annotate() has them in memory."""

import dataclasses
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import zarr

import scgp
from scgp.__main__ import main
from scgp.errors import ArgumentError, MissingColumnError, ScgpWarning
from scgp.scale import zarr_store
from scgp.scale.stored import opened_cells

sys.path.insert(0, str(Path(__file__).parent))
from annotated_files import content, read, same

KINDS = ["h5ad", "zarr2", "zarr3"]
pytestmark = pytest.mark.filterwarnings("ignore:1 of 1400 cells have no count")


@pytest.fixture(scope="session")
def smooth(cells, blood_index):
    """What annotate() writes in memory, with the authors' labels for clusters."""
    with pytest.warns(ScgpWarning, match="1 of 1400 cells have no count"):
        return scgp.annotate(
            cells, index=blood_index, smooth="bulk_labels", progress=False, copy=True
        )


@pytest.mark.parametrize("kind", KINDS)
def test_clusters_of_a_file_are_answered_as_in_memory(file_of, annotate_file, kind, smooth):
    path = file_of(kind)
    annotate_file(path, smooth="bulk_labels")
    same(read(path), smooth)


def test_the_command_line_passes_the_column_on(file_of, blood_index, smooth, tmp_path):
    blood_index.save(tmp_path / "index")
    options = ["--index", str(tmp_path / "index"), "--smooth", "bulk_labels"]
    for kind in ("h5ad", "zarr3"):
        path, out = file_of(kind), tmp_path / f"out.{kind[:4]}"
        assert main(["annotate", str(path), "--in-place", *options]) == 0
        pd.testing.assert_frame_equal(read(path).obs, smooth.obs)
        path = file_of(kind) if kind == "h5ad" else path
        assert main(["annotate", str(path), str(out), *options]) == 0
        pd.testing.assert_frame_equal(read(out).obs, smooth.obs)


@pytest.mark.parametrize("kind", KINDS)
def test_columns_of_an_earlier_call_go(file_of, annotate_file, blood_index, expected, kind):
    mass = tuple(np.linspace(0.0, 0.9, 99))
    calibration = dataclasses.replace(blood_index.calibration, set_mass=mass, set_cells=500)
    index = dataclasses.replace(blood_index, calibration=calibration)
    path = file_of(kind)
    scgp.annotate_file(path, index=index, coverage=0.9, smooth="bulk_labels", progress=False)
    there = {"scgp_set", "scgp_set_size", "scgp_smooth_cell_type", "scgp_smooth_share"}
    assert there <= set(read(path).obs)
    scgp.annotate_file(path, index=blood_index, smooth="bulk_labels", progress=False)
    assert there & set(read(path).obs) == {"scgp_smooth_cell_type", "scgp_smooth_share"}
    annotate_file(path)
    same(read(path), expected)
    obs = h5py.File(path)["obs"] if path.is_file() else zarr.open_group(path, mode="r")["obs"]
    assert not there & set(obs)  # nor do they stand in the file unseen


def test_a_removal_that_was_killed_is_finished(file_of, annotate_file, monkeypatch, expected):
    path = file_of("zarr3")
    annotate_file(path, smooth="bulk_labels")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(zarr_store, "_consolidate", killed)
        with pytest.raises(KeyboardInterrupt):
            annotate_file(path)
    annotate_file(path)
    same(read(path), expected)


@pytest.mark.parametrize(
    ("smooth", "error", "message"),
    [
        ("bulk_label", MissingColumnError, "no column 'bulk_label', did you mean 'bulk_labels'"),
        (3, ArgumentError, "smooth is 3; expected the name of a column"),
    ],
)
def test_a_column_that_is_not_there_leaves_the_file(file_of, blood_index, smooth, error, message):
    path = file_of("h5ad")
    before = content(path)
    with pytest.raises(error, match=message):
        scgp.annotate_file(path, index=blood_index, smooth=smooth, progress=False)
    assert content(path) == before


def test_another_column_is_another_run(file_of, annotate_file, blood_index, monkeypatch, smooth):
    """What is kept of a run is not taken for one with other clusters."""
    path = file_of("h5ad")
    with monkeypatch.context() as patch:
        patch.setattr("scgp.scale.in_place.label_columns", _full)
        with pytest.raises(KeyboardInterrupt):
            annotate_file(path, smooth="note")
    with pytest.raises(ArgumentError, match="smooth"):
        scgp.annotate_file(path, index=blood_index, smooth="bulk_labels", progress=False)
    annotate_file(path, smooth="bulk_labels", resume=False)
    same(read(path), smooth)


def _full(*_):
    raise KeyboardInterrupt


def test_codes_of_an_old_categorical_are_read_with_their_gaps(file_of):
    path = file_of("h5ad")
    with h5py.File(path, "r+") as file:
        obs = file["obs"]
        codes = np.arange(1400, dtype=np.int8) % 3 - 1
        obs["old"] = codes
        obs["__categories/old"] = np.array([b"a", b"b"])
        obs["old"].attrs["categories"] = obs["__categories/old"].ref
        obs["old"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        obs.attrs["column-order"] = np.array([*obs.attrs["column-order"], "old"], object)
    with opened_cells(path, smooth="old") as adata:
        found = adata.obs["old"]
    assert found.isna().tolist() == (codes < 0).tolist()
    assert found.nunique() == 2
