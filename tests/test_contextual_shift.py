"""The columns of contextual shift in biomarkers(), held against polyfunctionality()."""

import copy
import dataclasses

import numpy as np
import pytest

import scgp
from scgp.biomarkers import biomarkers
from scgp.cells.counts import choose_counts
from scgp.cells.genes import match_genes
from scgp.errors import ArgumentError, CheckpointError
from scgp.what_if.cohorts import read_cohorts
from scgp.what_if.contextual_shift import SHIFT, contextual_shift
from scgp.what_if.removals import Cells

B_CELL = "CL:0000236"


@pytest.fixture(scope="module")
def thirds(all_blood):
    """The 700 blood cells, in three parts that stand for units."""
    adata = all_blood.copy()
    adata.obs["part"] = ["abc"[i % 3] for i in range(adata.n_obs)]
    adata.obs["of"] = np.where(adata.obs["cell_type"] == B_CELL, "B", "others")
    return adata


def asked(thirds, **options):
    return biomarkers(
        thirds, groupby="cell_type", across="part", groups=B_CELL, exact_cells=0, n_genes=6,
        progress=False, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def found(thirds):
    return asked(thirds, contextual=True, max_cells=700)


def test_it_is_what_polyfunctionality_says_of_the_phenotype_and_the_others(thirds, found):
    testable = found[found["contextual_effect"].notna()]
    assert len(testable) >= 3
    table = scgp.polyfunctionality(
        thirds, testable["gene"].tolist(), groupby="of", donor_key="part", controls=False,
        progress=False,
    ).set_index("gene")  # fmt: skip
    for name, source in SHIFT.items():
        expected = table.loc[testable["gene"], source].to_numpy()
        np.testing.assert_allclose(testable[name], expected, rtol=1e-5, atol=1e-6)


def test_the_other_columns_and_rows_are_as_without(thirds, found):
    plain = asked(thirds, max_cells=700)
    assert found.drop(columns=list(SHIFT)).equals(plain)
    assert not set(SHIFT) & set(plain.columns)


def test_genes_that_few_cells_express_have_none(thirds, model):
    counts = choose_counts(thirds)
    token_V = match_genes(counts, model.genes).token_of_column
    cohorts = read_cohorts(thirds, "cell_type", "part", B_CELL)
    inside_V = (thirds[thirds.obs["of"] == "B"].X > 0).sum(axis=0).A1
    rare = token_V[(inside_V < 10) & (token_V >= 0)]  # min_cells
    columns = contextual_shift(
        Cells(counts, token_V, model, "cpu"), cohorts,
        {(B_CELL, unit): cohorts.of(B_CELL, unit) for unit in "abc"}, B_CELL, rare,
        min_cells=10, max_cells=700, seed=0,
    )  # fmt: skip
    assert len(columns) == len(rare) > 3
    assert list(columns) == list(SHIFT)
    assert columns.isna().all(axis=None)


def test_fewer_cells_are_drawn_by_the_seed(thirds):
    few, again = (asked(thirds, contextual=True, max_cells=20, seed=3) for _ in range(2))
    assert few.equals(again)
    assert few["contextual_effect"].notna().any()
    assert few["contextual_p"].dropna().between(0.001, 1).all()


def test_not_by_unit_nor_with_a_model_without_contexts(thirds, model):
    with pytest.raises(ArgumentError, match="by_unit"):
        asked(thirds, contextual=True, by_unit=True)
    older = copy.copy(model)
    older.config = dataclasses.replace(model.config, context_layers=0)
    with pytest.raises(CheckpointError, match="context"):
        asked(thirds, contextual=True, model=older)
