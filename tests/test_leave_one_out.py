"""leave_one_out(): which cells are of which unit, on real blood cells."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scgp
from scgp.errors import ArgumentError, MissingColumnError, ScgpWarning


@pytest.fixture(scope="module")
def cells(all_blood):
    adata = all_blood[:120].copy()
    adata.obs["unit"] = np.resize(["A", "B", "A", "  "], 120)
    adata.obs["type"] = adata.obs["cell_type"]
    return adata


def left_out(adata, label_key="type", unit_key="unit"):
    return scgp.leave_one_out(adata, label_key=label_key, unit_key=unit_key, progress=False)


def test_a_blank_is_no_unit_in_memory_or_backed(cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    for adata in (cells, backed):
        with pytest.warns(ScgpWarning, match=r"30 of 120 cells have no value in obs\['unit'\]"):
            indexes = left_out(adata)
        assert {unit: index.n_cells for unit, index in indexes.items()} == {"A": 30, "B": 60}
    backed.file.close()


@pytest.mark.parametrize(
    ("keys", "error", "words"),
    [
        ({"unit_key": ["unit"]}, ArgumentError, "has the type list"),
        ({"label_key": ("type",)}, ArgumentError, "has the type tuple"),
        ({"unit_key": "type"}, ArgumentError, "label_key and unit_key are both 'type'"),
        ({"unit_key": "Unit"}, MissingColumnError, "did you mean 'unit'"),
        ({"label_key": "types"}, MissingColumnError, "did you mean 'type'"),
    ],
)
def test_columns_that_are_none(cells, keys, error, words):
    with pytest.raises(error, match=words):
        left_out(cells, **keys)


def test_two_columns_of_one_name_and_one_unit(cells):
    twice = cells.copy()
    twice.obs = pd.concat([cells.obs, cells.obs[["unit"]]], axis=1)
    with pytest.raises(ArgumentError, match="obs has 2 columns of the name 'unit'"):
        left_out(twice)
    one = cells[cells.obs["unit"] == "A"].copy()
    with pytest.raises(ArgumentError, match=r"obs\['unit'\] has 1 unit"):
        left_out(one)
