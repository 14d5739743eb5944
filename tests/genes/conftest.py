"""Fixtures of the tests of genes: the small tables, and their vocabulary."""

import sys
from pathlib import Path

import pytest

from scgp.cells.genes import GeneVocabulary

sys.path.insert(0, str(Path(__file__).parent))
from gene_tables import write_tables


@pytest.fixture(scope="session")
def tables(tmp_path_factory):
    return write_tables(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="session")
def vocabulary(tables):
    return GeneVocabulary.from_tables(*tables)
