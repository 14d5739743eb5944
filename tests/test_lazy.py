"""Cells of anndata.experimental.read_lazy: tables and matrix stay in the file until asked for."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scgp
from scgp.cells.dataset import CellDataset

pytest.importorskip("dask", reason="needs dask, an optional library")


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_a_lazy_anndata_gives_its_columns(all_blood, model, ensembl_ids, tmp_path, kind):
    """Genes by a column of var, clusters and labels by columns of obs."""
    cells, path = all_blood[:200].copy(), tmp_path / f"cells.{kind}"
    cells.var["ensembl_id"] = ensembl_ids(cells.var_names)
    cells.var_names = [f"row {i}" for i in range(cells.n_vars)]
    cells.obs["cluster"] = pd.Categorical([None, *"abcd" * 50][:200])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of anndata's coming defaults for zarr
        (cells.write_h5ad if kind == "h5ad" else cells.write_zarr)(path)
    index, of_lazy = (
        scgp.build_index(a, label_key="cell_type", model=model, background=False, progress=False)
        for a in (cells, ad.experimental.read_lazy(path))
    )
    assert of_lazy.labels == index.labels
    assert of_lazy.vectors_ND.tobytes() == index.vectors_ND.tobytes()
    lazy = ad.experimental.read_lazy(path)
    for smooth in ("cluster", None):  # whose columns the second call removes
        for adata in (cells, lazy):
            scgp.annotate(adata, index=index, smooth=smooth, progress=False)
        assert set(lazy.obs.columns) == set(cells.obs.columns)
        for name in ("scgp_cell_type", "scgp_smooth_cell_type"):
            if name in cells.obs:
                assert np.asarray(lazy.obs[name]).astype(str).tolist() == cells.obs[name].tolist()
        assert lazy.obsm["X_scgp"].tobytes() == cells.obsm["X_scgp"].tobytes()


def test_training_cells_may_be_lazy(all_blood, model, tmp_path):
    """Columns with and without missing values, counts, and each cell's place."""
    cells, path = all_blood[:200].copy(), tmp_path / "cells.h5ad"
    cells.obs["donor"] = pd.Categorical([None, *["first", "second"] * 100][:200])
    cells.write_h5ad(path)
    keys = {"label_key": "cell_type", "study_key": "louvain", "donor_key": "donor"}
    in_file = ad.experimental.read_lazy(path)
    lazy, own = (CellDataset(a, model.genes, **keys) for a in (in_file, cells))
    for name in ("label", "study", "donor"):
        assert getattr(lazy, name).tolist() == getattr(own, name).tolist()
    assert set(lazy.donor) == {"", "first", "second"}
    assert (lazy.in_memory() != own.in_memory()).nnz == 0
    assert lazy.identity() == own.identity()


def test_units_left_out_may_be_lazy(all_blood, model, tmp_path):
    cells, path = all_blood[:200].copy(), tmp_path / "cells.h5ad"
    cells.obs["half"] = ["even", "odd"] * 100
    cells.write_h5ad(path)
    keys = {"label_key": "cell_type", "unit_key": "half", "model": model, "progress": False}
    left_out = [scgp.leave_one_out(a, **keys) for a in (cells, ad.experimental.read_lazy(path))]
    for of_own, of_lazy in zip(*(found.values() for found in left_out), strict=True):
        assert of_lazy.labels == of_own.labels
        assert of_lazy.vectors_ND.tobytes() == of_own.vectors_ND.tobytes()
