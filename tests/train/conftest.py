"""Fixtures of the tests of train(): the cells, and a run that nothing interrupted."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from trained_cells import make_cells, train


@pytest.fixture(scope="session")
def cells():
    return make_cells()


@pytest.fixture(scope="session")
def whole(cells, tmp_path_factory):
    """A short run that nothing interrupted, with its directory."""
    out = tmp_path_factory.mktemp("whole") / "model"
    return train(cells, out), out
