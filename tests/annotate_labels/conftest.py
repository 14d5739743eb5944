"""Fixtures of the tests of annotate(labels=...): how they ask."""

import pytest

import scgp


@pytest.fixture
def ask(blood_index):
    """Annotate a copy with the small index of blood cells."""

    def verb(adata, labels, **options):
        options = {"index": blood_index, "progress": False, "copy": True, **options}
        return scgp.annotate(adata, labels=labels, **options)

    return verb
