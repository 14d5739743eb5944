"""Tests of the co-expression that stands beside predicted shifts, on the cells of the excerpt."""

import anndata as ad
import numpy as np
import scipy.sparse as sp

from scgp.cells.counts import choose_counts
from scgp.what_if.coexpression import FEWEST_CELLS, coexpression

GENE = "CD79A"
READ = ["MS4A1", "HLA-DRA", "LYZ"]


def by_hand(adata, cells_B, gene, other):
    """Partial correlation by least squares, all genes of the file known to the model or not."""
    count_BV = adata[cells_B].X.toarray().astype(float)
    total_B = count_BV.sum(axis=1)
    value_BV = np.log1p(1e4 * count_BV / total_B[:, None])
    given_BC = np.column_stack([np.ones(len(total_B)), np.log(total_B)])
    two = value_BV[:, [adata.var_names.get_loc(x) for x in (gene, other)]]
    left_B2 = two - given_BC @ np.linalg.lstsq(given_BC, two, rcond=None)[0]
    return np.corrcoef(left_B2.T)[0, 1]


def test_it_is_the_partial_correlation_with_the_sign_of_what_is_done(ask, all_blood):
    cells = all_blood[:300].copy()
    cells.obs["half"] = ["first", "second"] * 150
    options = {"groupby": "half", "genes": READ, "n_null": 0, "max_cells": 2}
    without = ask(cells, {GENE: 0.0}, batch_size=2048, **options).expression
    doubled = ask(cells, {GENE: 2.0}, **options).expression
    in_blocks = ask(cells, {GENE: 0.0}, batch_size=512, **options).expression
    np.testing.assert_allclose(
        in_blocks["coexpression"].to_numpy(float), without["coexpression"].to_numpy(float)
    )
    for group in ("first", "second"):
        for gene in READ:
            told, other = (
                table.set_index(["group", "gene"]).loc[(group, gene), "coexpression"]
                for table in (without, doubled)
            )
            expected = by_hand(cells, (cells.obs["half"] == group).to_numpy(), GENE, gene)
            np.testing.assert_allclose(told, -expected, atol=0.02)  # some columns are no genes
            np.testing.assert_allclose(other, -told, atol=1e-12)
    assert without.set_index(["group", "gene"]).loc[("first", "MS4A1"), "coexpression"] < -0.1


def table_of(count_BG, group_B, genes, factors, read):
    counts = choose_counts(ad.AnnData(sp.csr_matrix(count_BG.astype(np.float32))))
    return coexpression(
        counts, np.arange(count_BG.shape[1]), count_BG.shape[1],
        groups=(group_B, int(group_B.max()) + 1), total_B=count_BG.sum(axis=1).astype(float),
        perturbed=(np.array(genes), np.array(factors)), gene_Q=np.array(read), batch_size=7,
    )  # fmt: skip


def test_several_genes_groups_too_small_and_genes_that_do_not_vary_synthetic():
    rng = np.random.default_rng(0)
    count_BG = rng.poisson(3.0, size=(60, 6))
    count_BG[:, 5] = 0
    group_B = np.where(np.arange(60) < 60 - FEWEST_CELLS + 1, 0, 1)
    both = table_of(count_BG, group_B, [0, 1], [0.0, 2.0], [2, 3, 5])
    first = table_of(count_BG, group_B, [0], [0.0], [2, 3, 5])
    second = table_of(count_BG, group_B, [1], [2.0], [2, 3, 5])
    np.testing.assert_allclose(both, (first + second) / 2)
    assert np.isfinite(both[0, :2]).all()
    assert np.isnan(both[0, 2]), "a gene without counts"
    assert np.isnan(both[1]).all(), "a group of nine"
    ten = table_of(count_BG, np.where(np.arange(60) < 50, 0, 1), [0], [0.0], [2])
    assert np.isfinite(ten).all(), "a group of ten"
    as_is = table_of(count_BG, group_B, [0, 4], [0.0, 1.0], [2, 3, 5])
    np.testing.assert_allclose(as_is, first, err_msg="a factor of 1 does nothing")
    with_none = table_of(count_BG, group_B, [0, 5], [0.0, 0.0], [2, 3, 5])
    np.testing.assert_allclose(with_none, first, err_msg="a perturbed gene without counts")
    assert np.isnan(table_of(count_BG, group_B, [0], [1.0], [2])).all()


def test_cells_without_a_count_are_no_cells_of_a_group(all_blood):
    """They change no correlation, and do not make a group of nine large enough."""
    cells = all_blood[: 100 + FEWEST_CELLS].copy()
    empty_B = np.isin(np.arange(cells.n_obs), [3, 50, 51, 100])
    cells.X = sp.csr_matrix(cells.X.toarray() * ~empty_B[:, None])
    group_B = np.repeat([0, 1], [100, FEWEST_CELLS])
    gene_V, read_V = (cells.var_names.get_indexer(names).tolist() for names in ([GENE], READ))
    count_BG = cells.X.toarray()
    found = table_of(count_BG, group_B, gene_V, [0.0], read_V)
    full = table_of(count_BG[~empty_B], group_B[~empty_B], gene_V, [0.0], read_V)
    assert np.isfinite(found[0]).all()
    np.testing.assert_allclose(found[0], full[0])
    assert np.isnan(found[1]).all()
