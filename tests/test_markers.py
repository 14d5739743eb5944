"""Marker genes of terms: the table, its weights, and how a checkpoint keeps it."""

import numpy as np
import pytest

import scgp
from scgp.errors import CheckpointError
from scgp.model.checkpoint import DEFAULT_DIRECTORY, MARKERS
from scgp.phenotypes.markers import Markers

B_CELL, T_CELL = "CL:0000236", "CL:0000084"
TABLE = {B_CELL: [4, 2], T_CELL: [2, 5, 6], "CL:0000623": [5]}


def test_weights_are_unit_rows_that_prefer_rare_genes():
    markers = Markers.from_columns(TABLE)
    rows = markers.weights([T_CELL, "", B_CELL, "CL:9999999"], 8).toarray()
    assert np.linalg.norm(rows, axis=1).tolist() == pytest.approx([1, 0, 1, 0])
    assert set(np.flatnonzero(rows[0])) == {2, 5, 6}
    assert rows[0, 6] > rows[0, 5]  # gene 5 marks two terms
    assert rows[0, 6] / rows[0, 5] == pytest.approx(np.log(4 / 2) / np.log(4 / 3))


def test_no_markers_weigh_nothing():
    assert Markers.none().weights([B_CELL], 8).nnz == 0
    assert Markers.from_columns(TABLE).weights([], 8).shape == (0, 8)


def test_a_gene_that_is_not_there():
    with pytest.raises(CheckpointError, match="column 6 of 5 genes"):
        Markers.from_columns(TABLE).weights([B_CELL], 5)


@pytest.mark.parametrize(
    ("ids", "terms", "genes"),
    [(["a", "a"], [0], [1]), (["a"], [0, 0], [1]), (["a"], [1], [1]), (["a"], [0], [-1])],
    ids=["twice", "half a pair", "no such term", "no such gene"],
)
def test_tables_that_contradict_themselves(ids, terms, genes):
    with pytest.raises(CheckpointError):
        Markers(tuple(ids), np.array(terms, np.int32), np.array(genes, np.int32))


def test_a_model_keeps_its_markers(model, tmp_path):
    bare = scgp.Model(model.config, model.network, model.genes, model.phenotypes)
    bare.save(tmp_path / "bare")
    assert not (tmp_path / "bare" / MARKERS).exists()
    assert len(scgp.Model.load(tmp_path / "bare").markers) == 0
    bare.markers = Markers.from_columns(TABLE)
    bare.save(tmp_path / "with")
    back = scgp.Model.load(tmp_path / "with").markers
    assert back.ids == tuple(TABLE)
    np.testing.assert_array_equal(back.gene_M, bare.markers.gene_M)
    np.testing.assert_array_equal(back.term_M, bare.markers.term_M)


def test_the_default_checkpoint_knows_what_marks_a_b_cell(model):
    assert (DEFAULT_DIRECTORY / MARKERS).is_file()
    ms4a1, cd3d = model.genes.match(["MS4A1", "CD3D"]).token_of_column
    row = model.markers.weights([B_CELL], model.config.n_genes)
    assert row[0, ms4a1] > 0
    assert row[0, cd3d] == 0
