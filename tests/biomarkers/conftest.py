"""Fixtures of the tests of biomarkers(): blood in three units, and the tables of it."""

import sys
from pathlib import Path

import pytest

from scgp.annotate import model_index
from scgp.biomarkers import biomarkers

sys.path.insert(0, str(Path(__file__).parent))
from asked_cells import B_CELL, DENDRITIC


@pytest.fixture(scope="session")
def thirds(all_blood):
    """The 700 blood cells, in three parts that stand for units."""
    adata = all_blood.copy()
    adata.obs["part"] = ["abc"[i % 3] for i in range(adata.n_obs)]
    return adata


@pytest.fixture(scope="session")
def found(thirds):
    """All genes of B cells and dendritic cells over the thirds."""
    return biomarkers(
        thirds, groupby="cell_type", across="part", groups=[B_CELL, DENDRITIC], all_genes=True,
        max_cells=25, progress=False,
    )  # fmt: skip


@pytest.fixture(scope="session")
def units(thirds):
    """The same by unit."""
    return biomarkers(
        thirds, groupby="cell_type", across="part", groups=[B_CELL, DENDRITIC], by_unit=True,
        max_cells=25, progress=False,
    )  # fmt: skip


@pytest.fixture(scope="session")
def index(model):
    """The reference of the checkpoint."""
    return model_index(model)
