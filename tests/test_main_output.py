"""The command line writes no file under a name that promises another format."""

import anndata as ad
import numpy as np
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
