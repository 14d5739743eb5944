"""The stored text vectors of ontology terms."""

import hashlib

import numpy as np
import pytest

from scgp.errors import CheckpointError, LabelError
from scgp.phenotypes.ontology import Ontology
from scgp.phenotypes.terms import HEALTHY, Phenotypes
from scgp.phenotypes.text import term_vectors


class HashEncoder:
    """A text encoder without a model: the same text, the same unit vector."""

    def __init__(self):
        self.texts = []

    def encode(self, texts):
        self.texts += texts
        seeds = [int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) for text in texts]
        rows = np.array([np.random.default_rng(seed).normal(size=16) for seed in seeds])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_vectors_come_in_the_order_asked_for_and_zero_where_there_is_none():
    table = np.eye(3, dtype=np.float16)
    phenotypes = Phenotypes(("CL:0000084", "CL:0000236", HEALTHY), table, "synthetic")
    found = phenotypes.vectors(["CL:0000236", "", "CL:0000236", "CL:0000084", "nothing"])
    np.testing.assert_array_equal(found, [table[1], [0] * 3, table[1], table[0], [0] * 3])
    assert found.dtype == np.float32
    assert phenotypes.vectors([]).shape == (0, 3)
    assert phenotypes.width == 3
    assert "CL:0000084" in phenotypes
    assert "CL:0000000" not in phenotypes


@pytest.mark.parametrize(
    ("ids", "vectors"),
    [
        (("a", "b"), np.ones((3, 4))),
        (("a", "b"), np.ones(2)),
        (("a", "a"), np.ones((2, 4))),
        (("a", "b"), np.array([[1.0, np.nan], [1.0, 0.0]])),
        (("a",), np.array([[np.inf, 0.0]])),
    ],
)
def test_tables_whose_parts_do_not_fit_are_refused(ids, vectors):
    with pytest.raises(CheckpointError, match="vectors"):
        Phenotypes(ids, vectors, "synthetic")


def test_terms_of_four_ontologies_are_encoded_each_once():
    encoder = HashEncoder()
    given = [
        "UBERON:0000178", "CL:0000236", HEALTHY, "CL:0000084", "CL:0000084", "MONDO:0005148",
        "my own type", "", "PATO:0000001", "CL:9999999",
    ]  # fmt: skip
    phenotypes = Phenotypes.encode(given, encoder, name="hash")
    assert phenotypes.ids == (
        "CL:0000084", "CL:0000236", "UBERON:0000178", "MONDO:0005148", HEALTHY,
    )  # fmt: skip
    assert phenotypes.encoder == "hash"
    assert phenotypes.vector_TW.dtype == np.float16
    norm = np.linalg.norm(phenotypes.vectors(list(phenotypes.ids)), axis=1)
    np.testing.assert_allclose(norm, 1, atol=2e-3)
    assert any(text.startswith("T cell") for text in encoder.texts)
    assert any("healthy" in text for text in encoder.texts)


def test_vectors_are_those_of_text_and_ancestors():
    ids = ["CL:0000084", "CL:0000624", "CL:0000115"]
    found = Phenotypes.encode(ids, HashEncoder(), name="hash").vectors(ids)
    expected = term_vectors(ids, HashEncoder(), Ontology("CL"))
    np.testing.assert_allclose(found, expected, atol=1e-3)  # half precision


def test_nothing_to_encode_is_said():
    with pytest.raises(LabelError, match="live term of CL, UBERON, MONDO"):
        Phenotypes.encode(["my own type"], HashEncoder(), name="hash")
