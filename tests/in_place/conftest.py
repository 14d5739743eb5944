"""Fixtures of the tests of annotate_file(): cells in each kind of file, and their answers."""

import shutil

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scgp
from scgp.errors import ScgpWarning


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
