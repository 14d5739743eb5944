"""Which genes are read in which cells: values and draws.

Shape suffixes: B cells, Q queries of a cell, G genes, N expressed genes.
"""

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp

from scgp.cells.queries import draw_queries, values_of
from scgp.cells.tokens import Tokenizer

N_GENES = 200


def make_counts(n_cells=30, seed=0):
    rng = np.random.default_rng(seed)
    return rng.poisson(rng.gamma(0.2, 2, (n_cells, N_GENES))).astype(np.float32)


def tokenized(counts):
    tokenizer = Tokenizer(N_GENES, 8, np.ones(N_GENES, np.float32))
    return tokenizer.tokenize(sp.csr_matrix(counts), np.arange(N_GENES))


def draw(tokens, n=20, seed=1, measured_BG=None):
    if measured_BG is None:
        measured_BG = np.ones((tokens.n_cells, N_GENES), bool)
    return draw_queries(tokens, n, measured_BG, np.random.default_rng(seed))


def test_values_are_log1p_cp10k_and_0_where_the_gene_is_not_expressed():
    counts = make_counts()
    tokens = tokenized(counts)
    gene_BQ = np.random.default_rng(0).integers(0, N_GENES + 1, (30, 50))
    gene_BQ[:, 0] = N_GENES  # padding
    found_BQ = values_of(tokens, gene_BQ, N_GENES)
    cp10k_BG = 1e4 * counts / counts.sum(axis=1, keepdims=True)
    value_BG = np.pad(np.log1p(cp10k_BG), ((0, 0), (0, 1)))
    np.testing.assert_allclose(found_BQ, np.take_along_axis(value_BG, gene_BQ, 1), rtol=1e-6)
    assert found_BQ.dtype == np.float32
    assert not found_BQ[:, 0].any()
    assert 0.1 < (found_BQ > 0).mean() < 0.9


@pytest.mark.parametrize("n_cells", [0, 3])
def test_values_where_no_cell_has_a_count(n_cells):
    tokens = tokenized(np.zeros((n_cells, N_GENES), np.float32))
    found_BQ = values_of(tokens, np.full((n_cells, 4), 5), N_GENES)
    assert found_BQ.shape == (n_cells, 4)
    assert not found_BQ.any()


def test_the_last_cell_may_be_asked_for_genes_behind_its_last():
    counts = np.zeros((2, N_GENES), np.float32)
    counts[:, 3] = 5
    found_BQ = values_of(tokenized(counts), np.array([[3, N_GENES], [N_GENES, 199]]), N_GENES)
    np.testing.assert_allclose(found_BQ, [[np.log1p(1e4), 0], [0, 0]], rtol=1e-6)


def test_counts_and_values_are_those_of_the_cell():
    counts = make_counts()
    sample = draw(tokenized(counts))
    assert sample.gene_BQ.shape == (30, 20)
    np.testing.assert_array_equal(
        sample.count_BQ, np.take_along_axis(counts, sample.gene_BQ, axis=1)
    )
    np.testing.assert_array_equal(sample.own_BQ, values_of(sample.tokens, sample.gene_BQ, N_GENES))
    assert sample.count_BQ.dtype == np.float32
    assert (sample.weight_BQ > 0).all()


def test_counts_are_whole_in_a_deep_cell():
    """They come back from log1p(CP10k) in float32: right to some 1e-4."""
    counts = make_counts() * np.array([1, 7, 400])[np.arange(30) % 3][:, None].astype(np.float32)
    sample = draw(tokenized(counts))
    expected = np.take_along_axis(counts, sample.gene_BQ, axis=1)
    assert expected.max() > 5000
    np.testing.assert_allclose(sample.count_BQ, expected, rtol=1e-4, atol=0)


def test_half_of_the_genes_are_expressed_and_the_others_are_what_the_batch_expresses():
    rng = np.random.default_rng(2)
    counts = rng.poisson(rng.gamma(0.3, 1, N_GENES), (400, N_GENES)).astype(np.float32)
    counts[:, 150:] = 0
    sample = draw(tokenized(counts), n=40)
    expressed_BQ = sample.count_BQ > 0
    assert expressed_BQ[:, :20].all()
    assert (sample.gene_BQ < 150).all()
    # a gene is drawn in proportion to the cells that express it
    share_G = (counts > 0).mean(axis=0)
    drawn_G = np.bincount(sample.gene_BQ[:, 20:].ravel(), minlength=N_GENES)
    assert np.corrcoef(drawn_G[:150], share_G[:150])[0, 1] > 0.98
    expected = (share_G**2).sum() / share_G.sum()  # of these, so many are expressed by chance
    assert expressed_BQ[:, 20:].mean() == pytest.approx(expected, abs=0.02)
    assert expected < 0.7


def test_the_expressed_half_is_drawn_from_all_of_the_cells_genes():
    counts = np.zeros((1, N_GENES), np.float32)
    counts[0, :10] = np.arange(1, 11) ** 3
    drawn_G = np.bincount(draw(tokenized(counts), n=8000).gene_BQ[0, :4000], minlength=10)
    assert (np.abs(drawn_G - 400) < 100).all()  # however many counts it has of them


def test_weighted_a_gene_is_asked_for_as_often_in_every_cell_as_in_the_batch():
    """Cells of 5 to 150 genes (synthetic): without weights, those of few genes have them all."""
    rng = np.random.default_rng(3)
    often_G = rng.uniform(0.02, 0.9, N_GENES)
    depth_B = np.repeat([0.05, 0.3, 1.0], 4)
    counts = (rng.random((12, N_GENES)) < often_G * depth_B[:, None]).astype(np.float32)
    tokens = tokenized(counts)
    sample = draw(tokens, n=20_001)
    expected_G = (counts > 0).sum(axis=0) / (counts > 0).sum()
    for cell in range(12):
        gene_Q, weight_Q = sample.gene_BQ[cell], sample.weight_BQ[cell]
        assert weight_Q.mean() == pytest.approx(1, abs=0.05)
        found_G = np.bincount(gene_Q, weight_Q, minlength=N_GENES) / len(gene_Q)
        np.testing.assert_allclose(found_G, expected_G, atol=0.006)
    # which tells shallow from deep cells by what they express of the genes asked for
    weighted_B = np.average(sample.count_BQ > 0, axis=1, weights=sample.weight_BQ)
    expected_B = (counts > 0) @ expected_G
    np.testing.assert_allclose(weighted_B, expected_B, atol=0.03)
    assert (sample.count_BQ > 0).mean(axis=1).min() > 0.5 > expected_B[:8].max()


def test_weights_are_bounded():
    sample = draw(tokenized(make_counts()), n=400)
    assert 0 < sample.weight_BQ.min() < 0.7
    assert 1 < sample.weight_BQ.max() <= 2
    absent_BQ = sample.count_BQ == 0
    np.testing.assert_allclose(sample.weight_BQ[absent_BQ], 2)
    assert draw(tokenized(make_counts()), n=1).weight_BQ.min() == 1  # none of the cell's own


def test_genes_are_known_only_where_they_are_measured():
    tokens = tokenized(make_counts())
    measured_BG = np.random.default_rng(5).random((30, N_GENES)) < 0.7
    sample = draw(tokens, measured_BG=measured_BG)
    np.testing.assert_array_equal(
        sample.weight_BQ > 0, np.take_along_axis(measured_BG, sample.gene_BQ, axis=1)
    )
    assert 0 < (sample.weight_BQ > 0).mean() < 1


def test_the_same_seed_draws_the_same():
    tokens = tokenized(make_counts())
    first, again, other = draw(tokens), draw(tokens), draw(tokens, seed=2)
    for field in dataclasses.fields(first):
        if field.name != "tokens":
            np.testing.assert_array_equal(getattr(first, field.name), getattr(again, field.name))
    assert (first.gene_BQ != other.gene_BQ).any()


def test_of_an_empty_cell_nothing_is_known():
    counts = make_counts(5)
    counts[[0, 2, 4]] = 0
    sample = draw(tokenized(counts))
    assert sample.weight_BQ.any(axis=1).tolist() == [False, True, False, True, False]
    assert not sample.count_BQ[[0, 2, 4]].any()
    assert (sample.gene_BQ < N_GENES).all()
    counts[:] = 0
    nothing = draw(tokenized(counts))
    assert nothing.gene_BQ.shape == (5, 20)
    assert (nothing.gene_BQ == N_GENES).all()
    assert not nothing.weight_BQ.any()
    assert not nothing.own_BQ.any()


def test_an_odd_number_of_queries():
    sample = draw(tokenized(make_counts()), n=5)
    assert sample.gene_BQ.shape == (30, 5)
    assert (sample.count_BQ[:, :2] > 0).all()
