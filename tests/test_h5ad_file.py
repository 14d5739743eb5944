"""HDF5 files that hold no AnnData are told in one line, wherever a file is named."""

import h5py
import numpy as np
import pytest
import scanpy as sc

import scgp
from scgp.__main__ import main
from scgp.errors import ArgumentError


@pytest.fixture
def folder(blood, tmp_path, monkeypatch):
    """Real counts in an .h5ad file and in a file of 10x Genomics; and an empty HDF5 file."""
    blood.write_h5ad(tmp_path / "in.h5ad")
    counts = blood.X.tocsr()
    with h5py.File(tmp_path / "tenx.h5", "w") as file:
        matrix = file.create_group("matrix")
        matrix["data"] = counts.data.astype(np.int32)
        matrix["indices"], matrix["indptr"] = counts.indices, counts.indptr
        matrix["shape"] = np.array(counts.T.shape)
        matrix["barcodes"] = blood.obs_names.to_numpy().astype("S")
        features = matrix.create_group("features")
        for name in ("id", "name"):
            features[name] = blood.var_names.to_numpy().astype("S")
        features["feature_type"] = np.array(["Gene Expression"] * blood.n_vars, "S")
        features["genome"] = np.array(["GRCh38"] * blood.n_vars, "S")
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        "annotate {} out.h5ad",
        "annotate {} --in-place",
        "annotate in.h5ad out.h5ad --reference {} --label-key cell_type",
        "index {} index --label-key cell_type",
        "train {} --out model --label-key cell_type",
        "train in.h5ad --out model --label-key cell_type --study-key louvain --donor-key phase "
        "--unlabelled {}",
    ],
)
@pytest.mark.parametrize("name", ["tenx.h5", "empty.h5"])
def test_what_holds_no_anndata_is_told_in_one_line(folder, capsys, command, name):
    before = sorted(path.name for path in folder.iterdir())
    assert main(command.format(name).split()) == 2
    line = capsys.readouterr().err
    assert line.startswith((f"scgp: error: {name}", f"scgp: error: {folder / name}"))
    assert line.count("\n") == 1
    assert ("scanpy.read_10x_h5" in line) == (name == "tenx.h5")
    assert sorted(path.name for path in folder.iterdir()) == before


def test_the_advice_is_followed(folder):
    with pytest.raises(ArgumentError, match=r"holds no AnnData .*read_10x_h5"):
        scgp.train("tenx.h5", out="model", label_key="cell_type")
    sc.read_10x_h5("tenx.h5").write_h5ad("cells.h5ad")
    assert main(["annotate", "cells.h5ad", "out.h5ad"]) == 0
