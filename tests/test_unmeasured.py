"""Genes that a source does not measure: what they are filled with, and what that is worth."""

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp

from scgp.cells.gene_sets import GeneSets
from scgp.reference.gene_head import PENALTY, RIDGE, fit_gene_head
from scgp.reference.unmeasured import Cells, fit_fill

N_GENES, N_LABELS = 60, 3
ALL = np.ones(N_GENES, bool)


def cells(n, seed):
    """Synthetic log1p(CP10k): each label has a programme of 12 genes, that a factor moves too."""
    rng = np.random.default_rng(seed)
    code_N = rng.integers(N_LABELS, size=n)
    value_NG = rng.gamma(2.0, 0.25, (n, N_GENES))
    for label in range(N_LABELS):
        strength_N = np.where(code_N == label, 1.5, 0.0) + rng.gamma(2.0, 0.2, n)
        value_NG[:, 12 * label : 12 * label + 12] += strength_N[:, None]
    return value_NG.astype(np.float32), code_N


def two_files(n=400, seed=0):
    """Two synthetic files of the same types; the second lacks half of each programme."""
    value_NG, code_N = cells(n, seed)
    set_N = (np.arange(n) >= n // 2).astype(int)
    measured_PG = np.stack([ALL, ALL])
    measured_PG[1, [g for g in range(36) if g % 12 >= 6]] = False
    return value_NG, code_N, GeneSets(set_N, measured_PG)


def as_cells(value_NG, gene_sets):
    held_NG = value_NG * gene_sets.measured_PG[gene_sets.set_N]
    weight_N = np.full(len(value_NG), 1 / len(value_NG))
    share_G = np.bincount(gene_sets.set_N) / len(value_NG) @ gene_sets.measured_PG
    mean_G = (held_NG.mean(axis=0) / share_G).astype(np.float32)
    return Cells(sp.csr_matrix(held_NG), weight_N, *dataclasses.astuple(gene_sets), mean_G)


def test_unmeasured_genes_are_filled_with_what_the_others_imply():
    value_NG, _, gene_sets = two_files()
    known = as_cells(value_NG, gene_sets)
    fill = fit_fill(known)
    filled_NG = np.concatenate([block for _, block in known.blocks(fill)]) + known.mean_H
    away = ~gene_sets.measured_PG[gene_sets.set_N]
    truth, found = value_NG[away], filled_NG[away]
    by_mean = np.broadcast_to(known.mean_H, value_NG.shape)[away]
    assert ((found - truth) ** 2).mean() < 0.4 * ((by_mean - truth) ** 2).mean()
    np.testing.assert_allclose(filled_NG[~away], value_NG[~away], rtol=1e-5, atol=1e-5)


def test_the_conditional_mean_is_that_of_the_gaussian():
    """Against the closed form with the whole covariance of factors and noise."""
    value_NG, _, gene_sets = two_files(200)
    known = as_cells(value_NG, gene_sets)
    fill = fit_fill(known)
    covariance = fill.factor_HK.astype(float) @ fill.factor_HK.T + np.diag(fill.noise_H)
    there = gene_sets.measured_PG[1]
    onto = covariance[np.ix_(~there, there)] @ np.linalg.inv(covariance[np.ix_(there, there)])
    plain = np.concatenate([block for _, block in known.blocks(None)])
    filled = np.concatenate([block for _, block in known.blocks(fill)])
    rows = gene_sets.set_N == 1
    expected = plain[rows][:, there] @ onto.T
    np.testing.assert_allclose(filled[rows][:, ~there], expected, rtol=1e-3, atol=1e-4)
    assert np.array_equal(filled[~rows], plain[~rows])


def test_what_every_cell_measures_is_not_filled():
    value_NG, code_N, gene_sets = two_files()
    same = GeneSets(gene_sets.set_N, np.stack([ALL, ALL]))
    assert fit_fill(as_cells(value_NG, same)) is None
    plain = fit_gene_head(sp.csr_matrix(value_NG), code_N, N_LABELS)
    told = fit_gene_head(sp.csr_matrix(value_NG), code_N, N_LABELS, gene_sets=same)
    for name, array in plain.arrays().items():
        np.testing.assert_array_equal(array, told.arrays()[name], err_msg=name)


def test_a_label_of_a_narrow_file_keeps_genes_that_the_file_lacks():
    """A gene that all cells of a label lack is not taught to be off in it."""
    value_NG, code_N, gene_sets = two_files(900)
    # the last label stands in the narrow file alone, where half of its programme is unmeasured
    keep = (code_N != 2) | (gene_sets.set_N == 1)
    value_NG, code_N, gene_sets = value_NG[keep], code_N[keep], gene_sets.take(keep)
    held = sp.csr_matrix(value_NG * gene_sets.measured_PG[gene_sets.set_N])
    as_zero = fit_gene_head(held, code_N, N_LABELS)
    as_unknown = fit_gene_head(held, code_N, N_LABELS, gene_sets=gene_sets)
    asked_NG, true_N = cells(600, seed=5)
    right = [
        (head.scores(sp.csr_matrix(asked_NG), ALL).argmax(axis=1) == true_N).mean()
        for head in (as_zero, as_unknown)
    ]
    assert right[1] > 0.95
    assert right[1] > right[0] + 0.1


@pytest.mark.parametrize("n_genes", [1, 2])
def test_few_genes_are_enough(n_genes):
    value_NG, code_N, gene_sets = two_files(50)
    some = np.array([0, 11])[:n_genes]
    narrow = GeneSets(gene_sets.set_N, gene_sets.measured_PG[:, some])
    held = sp.csr_matrix((value_NG * gene_sets.measured_PG[gene_sets.set_N])[:, some])
    head = fit_gene_head(held, code_N, N_LABELS, gene_sets=narrow)
    assert np.isfinite(head.weight_HT.astype(float)).all()


def test_a_gene_that_nobody_measures_is_not_taken():
    value_NG, code_N, gene_sets = two_files()
    measured_PG = gene_sets.measured_PG & (np.arange(N_GENES) != 3)
    held = sp.csr_matrix(value_NG * measured_PG[gene_sets.set_N])
    sets = GeneSets(gene_sets.set_N, measured_PG)
    head = fit_gene_head(held, code_N, N_LABELS, gene_sets=sets)
    assert 3 not in head.gene_H


def test_a_gene_that_few_cells_measure_ranks_lower():
    """It varies most, but a tenth of the cells measure it: one that all measure is taken."""
    rng = np.random.default_rng(0)
    value_NG = rng.gamma(2.0, [0.5, 0.6], (400, 2)).astype(np.float32)
    code_N = np.arange(400) % N_LABELS
    measured_PG = np.array([[True, True], [True, False]])
    for few, taken in ((400, 1), (40, 0)):
        sets = GeneSets((np.arange(400) >= few).astype(int), measured_PG)
        held = sp.csr_matrix(value_NG * measured_PG[sets.set_N])
        head = fit_gene_head(held, code_N, N_LABELS, gene_sets=sets, n_genes=1)
        assert head.gene_H.tolist() == [taken]


def test_what_is_filled_in_is_penalised_as_if_its_noise_had_been_drawn():
    """The closed form is the limit of regression on many copies of the cells, each with noise."""
    value_NG, code_N, gene_sets = two_files(300)
    held = sp.csr_matrix(value_NG * gene_sets.measured_PG[gene_sets.set_N])
    head = fit_gene_head(held, code_N, N_LABELS, gene_sets=gene_sets)
    weight_N = 1 / np.sqrt(np.bincount(code_N)[code_N])
    weight_N /= weight_N.sum()
    x_NH = held.toarray() / head.scale_H
    there_NH = gene_sets.measured_PG[gene_sets.set_N]
    share_H = weight_N @ there_NH
    mean_H = ((weight_N @ x_NH) / share_H).astype(np.float32)
    known = Cells(sp.csr_matrix(x_NH), weight_N, *dataclasses.astuple(gene_sets), mean_H)
    fill = fit_fill(known)
    filled_NH = np.concatenate([block for _, block in known.blocks(fill)]).astype(float)
    rng = np.random.default_rng(0)
    second_HH = np.zeros((N_GENES, N_GENES))
    for _ in range(300):
        noise_NH = rng.normal(size=filled_NH.shape) * np.sqrt(fill.noise_H) * ~there_NH
        copy_NH = filled_NH + noise_NH
        second_HH += (copy_NH * weight_N[:, None]).T @ copy_NH / 300
    off_H = weight_N @ filled_NH
    assert np.abs(off_H).max() > 1e-2
    np.testing.assert_allclose(head.mean_H, mean_H + off_H, rtol=1e-4)
    penalty_H = PENALTY * (weight_N @ x_NH**2) / share_H + RIDGE
    y_NT = np.eye(N_LABELS)[code_N] - np.bincount(code_N, weight_N)
    expected = np.linalg.solve(
        second_HH - np.outer(off_H, off_H) + np.diag(penalty_H),
        (filled_NH * weight_N[:, None]).T @ y_NT,
    ) / np.sqrt(np.bincount(code_N, weight_N))
    np.testing.assert_allclose(head.weight_HT.astype(float), expected, atol=2e-3)
