"""perturb(): genes deleted from real blood cells, held against cells that never had them."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scgp
from scgp.cells.counts import choose_counts
from scgp.errors import (
    ArgumentError,
    CheckpointError,
    CountsError,
    GeneError,
    MissingColumnError,
    ScgpWarning,
)
from scgp.in_context.reading import always, read_genes
from scgp.perturb import perturb

sys.path.insert(0, str(Path(__file__).parent))
from perturbed_cells import GENE, count_of, without


def test_cells_are_as_if_they_never_had_the_gene(found, tiny, tiny_index, blood):
    before = scgp.annotate(blood, model=tiny, index=tiny_index, progress=False, copy=True)
    cut = without(blood, GENE)
    after = scgp.annotate(cut, model=tiny, index=tiny_index, progress=False, copy=True)
    x, y = before.obsm["X_scgp"], after.obsm["X_scgp"]
    np.testing.assert_allclose(found.shift, y - x, atol=1e-6)
    cosine = 1 - (x.astype(float) * y).sum(axis=1)
    np.testing.assert_allclose(found.cells["cosine_distance"], cosine, atol=1e-6)
    for column, adata in (("label", before), ("label_after", after)):
        labels = adata.obs["scgp_cell_type"].astype(object)
        assert found.cells[column].tolist() == labels.tolist()
    changed = count_of(blood, GENE) > 0
    assert 5 < changed.sum() < 100
    np.testing.assert_array_equal(found.cells["changed"], changed)
    assert found.cells.index.equals(blood.obs_names)
    assert found.cells.loc[changed, "cosine_distance"].min() > 0


def test_where_nothing_changed_nothing_shifts_to_the_last_bit(found):
    same = found.cells[~found.cells["changed"]]
    assert (same["cosine_distance"] == 0).all()
    assert (same["probability"] == same["probability_after"]).all()
    assert (same["label"] == same["label_after"]).all()
    assert same["gained"].isna().all()
    assert (same["loss"] == 0).all()
    assert not found.shift[~found.cells["changed"]].any()


def test_a_factor_of_one_changes_nothing(ask, blood):
    same = ask(blood, {GENE: 1.0}, genes=["CD79B", "LYZ"])
    assert not same.cells["changed"].any()
    assert same.expression["shift"].tolist() == [0.0, 0.0]
    assert same.expression["p"].isna().all()
    assert (same.posterior["change"] == 0).all()
    assert same.null.empty


def read_without(tiny, adata, genes):
    counts = choose_counts(adata)
    match = tiny.genes.match(counts.var_names)
    token_Q = tiny.genes.match(genes).token_of_column
    rows = [counts.rows(0, adata.n_obs)]
    reads = list(read_genes(tiny, iter(rows), match.token_of_column, always(token_Q)))
    table = pd.DataFrame(
        {
            "gene": np.concatenate([r.gene_M for r in reads]),
            "rate": np.concatenate([r.log_rate_M for r in reads]).astype(float),
        }
    )
    return table.groupby("gene")["rate"].mean()[token_Q].to_numpy()


def test_shifts_are_those_of_cells_read_without_the_gene(found, tiny, blood):
    group = blood[:60]
    cells = group[count_of(group, GENE) > 0].copy()
    own = found.expression[found.expression["group"] == "first"]
    assert set(own["n_read"]) == {cells.n_obs}
    assert GENE not in set(own["gene"])
    genes = own["gene"].head(40).tolist()
    before, after = (read_without(tiny, x, genes) for x in (cells, without(cells, GENE)))
    told = own.set_index("gene").loc[genes]
    np.testing.assert_allclose(told["before"], before, atol=1e-4)
    np.testing.assert_allclose(told["shift"], after - before, atol=1e-4)
    assert told["shift"].abs().iloc[0] > 1e-3, "or the comparison would say nothing"
    assert own["z"].abs().is_monotonic_decreasing
    assert not told["shift"].abs().is_monotonic_decreasing, "or the order would say nothing"
    share = cells.n_obs / 60
    np.testing.assert_allclose(told["shift_all"], told["shift"] * share)


def test_factors_scale_counts(ask, tiny, blood):
    told = ask(blood, {GENE: 5.0}, genes=["CD79B", "LYZ"], max_cells=200)
    cells = blood[count_of(blood, GENE) > 0].copy()
    after = read_without(tiny, without(cells, GENE, 5.0), ["CD79B", "LYZ"])
    np.testing.assert_allclose(
        told.expression.set_index("gene").loc[["CD79B", "LYZ"], "after"], after, atol=1e-4
    )


def test_several_genes_go_together(ask, blood):
    two = ask(blood, {GENE: 0.0, "LYZ": 0.5}, genes=["CD79B"])
    changed = (count_of(blood, GENE) > 0) | (count_of(blood, "LYZ") > 0)
    np.testing.assert_array_equal(two.cells["changed"], changed)
    assert two.perturbed["factor"].tolist() == [0.0, 0.5]
    assert two.null.groupby("set")["like"].apply(list).tolist() == [[GENE, "LYZ"]] * 3
    assert two.null["gene"].is_unique
    assert not set(two.null["gene"]) & {GENE, "LYZ"}


def test_nothing_is_written_and_blocks_do_not_matter(ask, blood, state):
    before = state(blood)
    one = ask(blood, {GENE: 0.0}, genes=["CD79B", "LYZ"])
    two = ask(blood, {GENE: 0.0}, genes=["CD79B", "LYZ"], batch_size=17)
    assert state(blood) == before
    pd.testing.assert_frame_equal(one.expression, two.expression, rtol=1e-4, atol=1e-5)
    pd.testing.assert_frame_equal(one.cells, two.cells, rtol=1e-4, atol=1e-5)
    assert next(ask(blood, {GENE: 0.0}, genes=[]).expression.itertuples(), None) is None
    assert "CD79A x 0: " in repr(one)


@pytest.mark.filterwarnings("ignore:genes of the null")  # that cell has 10,000 CP10k
def test_a_cell_of_that_gene_alone_is_empty_without_it(ask, blood):
    x = blood.X.toarray()
    x[0] = 0
    x[0, list(blood.var_names).index(GENE)] = 3
    blood.X = sp.csr_matrix(x)
    alone = ask(blood, {GENE: 0.0}, genes=["CD79B"])
    assert alone.cells["label_after"].iloc[0] is None
    assert np.isnan(alone.cells["cosine_distance"].iloc[0])
    assert np.isfinite(alone.groups["cosine_distance"]).all()
    assert np.isfinite(alone.expression["shift"]).all()


@pytest.mark.parametrize("factor", [-1, float("nan"), float("inf"), "0", None, True])
def test_factors_that_are_none(ask, blood, factor):
    with pytest.raises(ArgumentError, match="factor of 'CD79A' is"):
        ask(blood, {GENE: factor})


@pytest.mark.parametrize(
    ("what", "options", "error", "words"),
    [
        ({}, {}, ArgumentError, "expected a dict"),
        ("CD79A", {}, ArgumentError, "expected a dict"),
        ({"CD79X": 0.0}, {}, GeneError, "near: .*CD79"),
        ({5: 0.0}, {}, GeneError, "'5'"),
        ({"VWF": 0.0}, {}, GeneError, "not measured in these data: 'VWF'"),
        ({GENE: 0.0, "ENSG00000105369": 0.0}, {}, GeneError, "are one gene"),
        ({GENE: 0.0}, {"genes": [GENE]}, ArgumentError, "is perturbed itself"),
        ({GENE: 0.0}, {"genes": "nonsense_gene"}, GeneError, "not among the model"),
        ({GENE: 0.0}, {"groupby": "x"}, MissingColumnError, "no column 'x'"),
        ({GENE: 0.0}, {"n_null": -1}, ArgumentError, "n_null is -1"),
        ({GENE: 0.0}, {"max_cells": 0}, ArgumentError, "max_cells is 0"),
    ],
)
def test_what_cannot_be_asked(ask, blood, what, options, error, words):
    with pytest.raises(error, match=words):
        ask(blood, what, **options)


def test_genes_and_cells_without_counts(ask, blood):
    silent = without(blood, GENE)
    with pytest.raises(GeneError, match="no cell has a count of 'CD79A'"):
        ask(silent, {GENE: 0.0})
    blood.X = sp.csr_matrix(sp.diags([0.0, *[1.0] * 119]) @ blood.X).astype(np.float32)
    with pytest.warns(ScgpWarning, match="1 of 120 cells have no count"):
        one = ask(blood, {GENE: 0.0}, genes=["LYZ"])
    assert one.cells["label"].iloc[0] is None
    assert one.groups["n_cells"].tolist() == [119]
    blood.X = sp.csr_matrix(blood.shape, dtype=np.float32)
    with pytest.raises(CountsError, match="none of 120 cells has a count"):
        ask(blood, {GENE: 0.0})


def test_cells_without_a_group_are_in_none(ask, blood):
    blood.obs["half"] = [None] * 20 + ["a"] * 100
    with pytest.warns(ScgpWarning, match="20 of 120 cells have no obs"):
        some = ask(blood, {GENE: 0.0}, groupby="half", genes=["LYZ"])
    assert some.groups["n_cells"].tolist() == [100]
    assert some.cells["group"].isna().sum() == 20


def test_a_model_without_a_context_still_tells_labels(blood):
    older = Path(__file__).parents[1] / "releases" / "0.7.0" / "model"
    with pytest.raises(CheckpointError, match=r"genes=\[\] leaves expression out"):
        perturb(blood, {GENE: 0.0}, model=older, progress=False)
    told = perturb(blood, {GENE: 0.0}, genes=[], n_null=2, model=older, progress=False)
    assert told.groups["null_distance"].notna().all()


def test_fewer_genes_than_asked_for_the_null_are_said(ask, blood):
    few = blood[:, [GENE, "LYZ", "CD79B"]].copy()
    few = few[np.asarray(few.X.sum(axis=1)).ravel() > 0].copy()
    with pytest.warns(ScgpWarning) as warned:
        ask(few, {GENE: 0.0}, n_null=5)
    assert any("fewer genes for the null than n_null=5: 'all' 2" in str(w.message) for w in warned)
