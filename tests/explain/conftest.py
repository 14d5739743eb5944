"""Fixtures of the tests of explain(): real B cells, explained once."""

import numpy as np
import pytest

import scgp
from scgp.annotate import model_index


@pytest.fixture(scope="session")
def index(model):
    """The reference of the checkpoint."""
    return model_index(model)


@pytest.fixture(scope="session")
def b_cells(all_blood):
    """Positions of cells that were sorted as B cells, with counts of both marker genes."""
    markers = all_blood[:, ["MS4A1", "CD79B"]].X.toarray() > 0
    sorted_b = (all_blood.obs["bulk_labels"] == "CD19+ B").to_numpy()
    return np.flatnonzero(sorted_b & markers.all(axis=1))[:3]


@pytest.fixture(scope="session")
def explained(all_blood, b_cells):
    """Three B cells of the 700, and one of another kind."""
    return scgp.explain(all_blood, [*b_cells, 0])
