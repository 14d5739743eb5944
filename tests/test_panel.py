"""The panel of genes of like levels, and interactions beyond what they show (synthetic)."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp

from scgp.in_context import panel
from scgp.in_context.panel import Panel, choose_panel


def test_the_panel_is_of_every_level_and_of_the_seed():
    rng = np.random.default_rng(0)
    gene_T, level_T = np.sort(rng.permutation(1000)[:400]), rng.random(400)
    gene_P, bin_P, bin_G = choose_panel(level_T, gene_T, 1000, 3)
    assert len(gene_P) == len(set(gene_P)) == 200
    assert np.bincount(bin_P).tolist() == [10] * 20
    assert np.flatnonzero(bin_G >= 0).tolist() == gene_T.tolist()
    np.testing.assert_array_equal(bin_P, bin_G[gene_P])
    mean = [level_T[bin_G[gene_T] == b] for b in range(20)]
    assert all(a.max() < b.min() for a, b in itertools.pairwise(mean))
    np.testing.assert_array_equal(choose_panel(level_T, gene_T, 1000, 3)[0], gene_P)
    assert (choose_panel(level_T, gene_T, 1000, 4)[0] != gene_P).any()
    few = choose_panel(level_T[:7], gene_T[:7], 1000, 3)
    assert sorted(few[0]) == gene_T[:7].tolist()


def test_an_interaction_is_what_the_mates_do_not_show():
    """Mates share a shift of the cell; one gene has a shift of its own."""
    rng = np.random.default_rng(1)
    shared_NR, own_NR = rng.normal(size=(2, 30, 4)).astype(np.float32)
    gene_P, bin_P = np.arange(6), np.array([0, 0, 1, 1, 2, 3])
    shift_NPR = np.repeat(shared_NR[:, None], 6, axis=1)
    shift_NPR[:, 2] += own_NR
    found = Panel(gene_P, bin_P, np.array([0, 0, 1, 1, 2, 3, 1]), np.eye(4), shift_NPR)
    assert found.mates(6).tolist() == [0, 1, 2, 3, 4]  # its bin and the two beside it
    assert found.mates(2).tolist() == [0, 1, 3, 4]  # but itself
    assert found.mates(5).tolist() == [4]
    cell_M = np.array([4, 0, 29])
    own_MR, mate_MQR = found.own_shift(shift_NPR[cell_M, 2], cell_M, 2)
    np.testing.assert_allclose(own_MR, own_NR[cell_M], atol=1e-6)
    np.testing.assert_allclose(mate_MQR, 0, atol=1e-6)
    alone_MR, mate_MQR = found.own_shift(shift_NPR[cell_M, 3], cell_M, 3)
    np.testing.assert_allclose(alone_MR, -own_NR[cell_M] / 4, atol=1e-6)  # of four mates one moves
    np.testing.assert_allclose(mate_MQR[:, 2], own_NR[cell_M], atol=1e-6)
    np.testing.assert_allclose(mate_MQR[:, 0], -own_NR[cell_M] / 3, atol=1e-6)


@dataclasses.dataclass
class ReadCells:
    """Stands for cells whose contextual embeddings are known."""

    n_cells: int
    blocks: Callable[[], list[sp.csr_matrix]]
    context_MD: np.ndarray
    gene_M: np.ndarray

    def read(self, *_: object) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(context_MD=self.context_MD, gene_M=self.gene_M)


def cells_of(sizes, context_MD=None, gene_M=None):
    row_N1 = sp.csr_matrix(np.arange(1.0, sum(sizes) + 1)[:, None])
    edges = np.cumsum([0, *sizes])
    blocks = [row_N1[a:b] for a, b in itertools.pairwise(edges)]
    return ReadCells(sum(sizes), lambda: blocks, context_MD, gene_M)


@pytest.mark.parametrize("sizes", [(900,), (301, 450, 149), (1, 2, 897)])
def test_directions_are_fitted_to_every_second_cell_whatever_the_blocks(sizes):
    found = panel._spread(cells_of(sizes))
    assert found.toarray().ravel().tolist() == list(range(1, 901, 2))


def test_directions_are_of_what_varies_between_cells_and_not_between_genes(monkeypatch):
    """The two genes lie far apart on the first axis; in each, cells differ on the third."""
    rng = np.random.default_rng(0)
    gene_M = np.repeat([3, 5], 50)
    context_MD = 0.01 * rng.normal(size=(100, 4))
    context_MD[:, 0] += np.where(gene_M == 3, 10, -10)
    context_MD[:, 2] += rng.normal(size=100)
    monkeypatch.setattr(panel, "N_DIRECTIONS", 1)
    basis_DR = panel._directions(cells_of((9,), context_MD, gene_M), np.array([3, 5]), None)
    np.testing.assert_allclose(np.abs(basis_DR[:, 0]), [0, 0, 1, 0], atol=0.01)
