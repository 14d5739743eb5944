"""The panel of genes of like levels, and interactions beyond what they show (synthetic)."""

import itertools

import numpy as np

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
    panel = Panel(gene_P, bin_P, np.array([0, 0, 1, 1, 2, 3, 1]), np.eye(4), shift_NPR)
    assert panel.mates(6).tolist() == [0, 1, 2, 3, 4]  # its bin and the two beside it
    assert panel.mates(2).tolist() == [0, 1, 3, 4]  # but itself
    assert panel.mates(5).tolist() == [4]
    cell_M = np.array([4, 0, 29])
    own_MR, mate_MQR = panel.own_shift(shift_NPR[cell_M, 2], cell_M, 2)
    np.testing.assert_allclose(own_MR, own_NR[cell_M], atol=1e-6)
    np.testing.assert_allclose(mate_MQR, 0, atol=1e-6)
    alone_MR, mate_MQR = panel.own_shift(shift_NPR[cell_M, 3], cell_M, 3)
    np.testing.assert_allclose(alone_MR, -own_NR[cell_M] / 4, atol=1e-6)  # of four mates one moves
    np.testing.assert_allclose(mate_MQR[:, 2], own_NR[cell_M], atol=1e-6)
    np.testing.assert_allclose(mate_MQR[:, 0], -own_NR[cell_M] / 3, atol=1e-6)
