"""biomarkers(): the table, its ranks and its statistics over units, each step by hand."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp

from scgp.biomarkers import biomarkers
from scgp.errors import ArgumentError, MissingColumnError, ScgpWarning
from scgp.what_if.marker_table import PSEUDO
from scgp.what_if.removals import Effects
from scgp.what_if.replication import adjusted, combined_z, random_effects_p, ranks
from scgp.what_if.unit_evidence import drawn, errors

sys.path.insert(0, str(Path(__file__).parent))
from asked_cells import B_CELL, DENDRITIC

# ---- the table ----


def test_the_table_is_made_of_the_units(found, units):
    for name, part in found.groupby("group"):
        own = units[units["group"] == name].pivot(index="gene", columns="unit")
        own = own.loc[part["gene"]]
        effect = own["effect"].to_numpy()
        np.testing.assert_allclose(part["effect"], np.nanmean(effect, axis=1))
        np.testing.assert_allclose(part["smallest_effect"], np.nanmin(effect, axis=1))
        np.testing.assert_array_equal(part["n_units"], np.isfinite(effect).sum(axis=1))
        np.testing.assert_array_equal(part["n_units_positive"], (effect > 0).sum(axis=1))
        top = (own["removal_rank"].to_numpy() <= 20) & (effect > 0)
        np.testing.assert_array_equal(part["n_units_top"], top.sum(axis=1))
        for column in ("detected", "detected_outside", "log2_fold_change", "effect_expressing"):
            np.testing.assert_allclose(part[column], own[column].mean(axis=1), atol=1e-9)
        n = own["n_cells"].max().to_numpy()
        z = own["wilcoxon_score"].to_numpy()
        np.testing.assert_allclose(part["wilcoxon_score"], combined_z(z.T, np.sqrt(n)), atol=1e-9)


def test_ranks_and_who_found_a_gene(found):
    for _, part in found.groupby("group"):
        assert part["removal_rank"].tolist() == list(range(1, len(part) + 1))
        assert part["effect"].is_monotonic_decreasing
        assert part.sort_values("wilcoxon_rank")["wilcoxon_score"].is_monotonic_decreasing
        removal = (part["removal_rank"] <= 20) & (part["effect"] > 0)
        wilcoxon = (part["wilcoxon_rank"] <= 20) & (part["wilcoxon_score"] > 0)
        assert (part["found_by"].isin(["both", "removal"]) == removal).all()
        assert (part["found_by"].isin(["both", "wilcoxon"]) == wilcoxon).all()
        assert part.loc[part["found_by"] == "neither", "n_exact"].eq(0).all()
        np.testing.assert_allclose(part["q"], adjusted(part["p"].to_numpy()))


def test_only_what_is_found_is_told_by_default(thirds, found):
    few = biomarkers(
        thirds, groupby="cell_type", across="part", groups=[B_CELL, DENDRITIC], max_cells=25,
        progress=False,
    )  # fmt: skip
    expected = found[found["found_by"] != "neither"].reset_index(drop=True)
    pd.testing.assert_frame_equal(few, expected)
    assert 40 <= len(few) <= 80
    assert few["group"].drop_duplicates().tolist() == [B_CELL, DENDRITIC]


def test_expression_and_wilcoxon_are_scanpys(thirds, units, model):
    """In one unit: detection and fold change by hand, z scores by scanpy."""
    token_V = model.genes.match(thirds.var_names).token_of_column
    known = thirds[thirds.obs["part"] == "b", token_V >= 0].copy()
    known.var_names = np.asarray(model.genes.symbol, object)[token_V[token_V >= 0]]
    sc.pp.normalize_total(known, target_sum=1e4)
    is_b = (known.obs["cell_type"] == B_CELL).to_numpy()
    scaled = known.X.toarray()
    part = units[(units["group"] == B_CELL) & (units["unit"] == "b")].set_index("gene")
    assert set(part.index) == {g for g in known.var_names if known[:, g].X.sum() > 0}
    genes = part.index
    at = known.var_names.get_indexer(genes)
    part = part.loc[genes]
    np.testing.assert_allclose(part["detected"], (scaled[is_b] > 0).mean(axis=0)[at])
    np.testing.assert_allclose(part["detected_outside"], (scaled[~is_b] > 0).mean(axis=0)[at])
    fold = np.log2((scaled[is_b].mean(axis=0) + PSEUDO) / (scaled[~is_b].mean(axis=0) + PSEUDO))
    np.testing.assert_allclose(part["log2_fold_change"], fold[at], atol=1e-4)
    sc.pp.log1p(known)
    known = known[:, genes].copy()  # the test's own correction counts those without a count, too
    known.obs["is"] = pd.Categorical(np.where(is_b, "b", "no"))
    sc.tl.rank_genes_groups(known, "is", groups=["b"], method="wilcoxon", use_raw=False)
    told = sc.get.rank_genes_groups_df(known, "b").set_index("names").loc[genes]
    np.testing.assert_allclose(part["wilcoxon_score"], told["scores"], atol=1e-2)  # ties of float32
    np.testing.assert_allclose(part["wilcoxon_q"], told["pvals_adj"], rtol=1e-2)
    assert part["wilcoxon_rank"].idxmin() == "CD79A"


@pytest.fixture
def thirds_without(thirds):
    """The three parts; in the third no cell has a count of MS4A1."""
    adata = thirds.copy()
    dense = adata.X.toarray()
    dense[np.ix_(adata.obs["part"] == "c", [adata.var_names.get_loc("MS4A1")])] = 0
    adata.X = sp.csr_matrix(dense)
    return adata


def test_a_gene_that_a_unit_did_not_measure_is_not_counted_there(thirds_without):
    """No cell of the unit has a count of it: unknown, and not an effect of zero."""
    table = biomarkers(
        thirds_without,
        groupby="cell_type",
        across="part",
        groups=B_CELL,
        progress=False,
        exact_cells=0,
    ).set_index("gene")
    assert table.loc["MS4A1", "n_units"] == table.loc["MS4A1", "wilcoxon_n_units"] == 2
    assert table.loc["CD79B", "n_units"] == 3
    assert table.loc["MS4A1", "smallest_effect"] > 0
    assert table["exact_effect"].isna().all()
    assert (table["n_exact"] == 0).all()


def test_a_unit_without_the_gene_says_nothing_of_its_error_either(thirds_without):
    """The p of a gene that the third unit lacks is that of the first two units alone."""
    given = {"groupby": "cell_type", "across": "part", "groups": B_CELL, "progress": False}
    given |= {"exact_cells": 0, "max_cells": 700}
    three = biomarkers(thirds_without, **given).set_index("gene")
    two = biomarkers(thirds_without[thirds_without.obs["part"] != "c"].copy(), **given).set_index(
        "gene"
    )
    assert three.loc["MS4A1", "p"] == pytest.approx(two.loc["MS4A1", "p"], rel=1e-6)
    assert three.loc["CD79B", "p"] != pytest.approx(two.loc["CD79B", "p"], rel=1e-3)


def test_true_removal_is_the_mean_over_units_with_the_gene(thirds_without):
    """Of all cells drawn, so that chance has no part: the third unit changes nothing."""
    given = {"groupby": "cell_type", "across": "part", "groups": B_CELL, "progress": False}
    given |= {"exact_cells": 10, "max_cells": 10}
    three = biomarkers(thirds_without, **given).set_index("gene").loc["MS4A1"]
    two = (
        biomarkers(thirds_without[thirds_without.obs["part"] != "c"].copy(), **given)
        .set_index("gene")
        .loc["MS4A1"]
    )
    assert three["n_exact"] == two["n_exact"] > 0
    for column in ("exact_effect", "exact_difference"):
        assert three[column] == pytest.approx(two[column], rel=1e-4)


def test_errors_are_of_the_units_with_the_gene():
    """Synthetic effects: the first gene is in all four units, the second in two of them."""
    rng = np.random.default_rng(0)
    there_UG = np.array([[True, True], [True, True], [True, False], [True, False]])
    n_U = [40, 60, 50, 500]
    parts = [rng.normal(0, 0.3, (n, 2)) * there for n, there in zip(n_U, there_UG, strict=True)]
    sums = [Effects(len(x), (x != 0).sum(axis=0), x.sum(axis=0), (x**2).sum(axis=0)) for x in parts]
    found_UG = errors(sums, there_UG)
    for gene, units in enumerate(([0, 1, 2, 3], [0, 1])):
        within = sum(((x := parts[u][:, gene]) - x.mean()) @ (x - x.mean()) for u in units)
        variance = within / sum(n_U[u] - 1 for u in units)
        expected = [np.sqrt(variance / n_U[u]) for u in units]
        np.testing.assert_allclose(found_UG[units, gene], expected)
    assert np.isnan(found_UG[2:, 1]).all()


def test_a_unit_with_just_enough_cells_is_asked():
    """Synthetic: five cells of the phenotype in one unit and four in the other."""
    rows_of = {"a": np.arange(5), "b": np.arange(5, 9)}
    cohorts = SimpleNamespace(asked=["x"], units=["a", "b"], of=lambda _, unit: rows_of[unit])
    found = drawn(cohorts, min_cells=5, max_cells=3, seed=0)
    assert list(found) == [("x", "a")]
    assert len(np.intersect1d(found["x", "a"], rows_of["a"])) == 3


def test_seed_and_number_of_cells(thirds):
    given = {"groupby": "cell_type", "across": "part", "groups": DENDRITIC, "progress": False}
    first = biomarkers(thirds, **given, max_cells=10)
    pd.testing.assert_frame_equal(first, biomarkers(thirds, **given, max_cells=10))
    other = biomarkers(thirds, **given, max_cells=10, seed=1)
    both = first.merge(other, on="gene")
    assert not np.allclose(both["effect_x"], both["effect_y"])
    # all cells have part in Wilcoxon's test, whatever is drawn
    np.testing.assert_array_equal(both["wilcoxon_score_x"], both["wilcoxon_score_y"])


def test_order_of_genes_and_container_do_not_matter(thirds, state):
    few = thirds[:240].copy()
    given = {"groupby": "cell_type", "across": "part", "groups": DENDRITIC, "progress": False}
    before = state(few)
    expected = biomarkers(few, **given)
    assert state(few) == before
    order = np.random.default_rng(0).permutation(few.n_vars)
    turned = few[:, order].copy()
    turned.layers["counts"] = turned.X.toarray()
    turned.X = turned.X / 2
    pd.testing.assert_frame_equal(
        biomarkers(turned, **given, layer="counts"), expected, check_exact=False, atol=1e-5
    )


def test_a_table_beside(thirds):
    shift = pd.DataFrame({"group": [B_CELL, B_CELL], "gene": ["MS4A1", "none"], "shift": [0.3, 1]})
    given = {"groupby": "cell_type", "across": "part", "groups": B_CELL, "exact_cells": 0}
    table = biomarkers(thirds, **given, beside=shift, progress=False)
    told = table.set_index("gene")["shift"].dropna()
    assert told.to_dict() == {"MS4A1": 0.3}
    with pytest.raises(MissingColumnError, match="beside has no column 'group'"):
        biomarkers(thirds, **given, beside=shift[["gene"]])
    with pytest.raises(ArgumentError, match="more than once"):
        biomarkers(thirds, **given, beside=pd.concat([shift, shift]))


def test_without_a_test_there_is_no_rank(thirds, tmp_path):
    """Real cells: one unit has B cells alone, so that there they are tested against nothing."""
    adata = thirds.copy()
    is_b = (adata.obs["cell_type"] == B_CELL).to_numpy()
    adata.obs.loc[is_b & (np.cumsum(is_b) <= 20), "part"] = "alone"
    given = {"groupby": "cell_type", "across": "part", "groups": B_CELL, "progress": False}
    given |= {"exact_cells": 0, "max_cells": 10}
    with pytest.warns(ScgpWarning, match=rf"no Wilcoxon test, .*: '{B_CELL}' in 'alone'$"):
        units = biomarkers(adata, **given, by_unit=True)
    alone = units[units["unit"] == "alone"]
    assert alone[["wilcoxon_score", "wilcoxon_rank", "wilcoxon_q"]].isna().all(axis=None)
    assert alone["removal_rank"].dtype == np.int64
    assert units[units["unit"] == "a"]["wilcoxon_rank"].notna().all()
    adata.obs["part"] = np.where(is_b, adata.obs["part"], "other cells")
    with pytest.warns(ScgpWarning, match=r"no Wilcoxon test"):
        table = biomarkers(adata, **given)
    assert set(table["found_by"]) == {"removal"}
    assert table["wilcoxon_rank"].isna().all()
    table.to_csv(tmp_path / "table.csv")
    assert pd.read_csv(tmp_path / "table.csv")["wilcoxon_rank"].isna().all()


# ---- statistics ----


def test_units_are_the_replicates_not_cells():
    """Under no effect, with units that differ: p below .05 in about a twentieth, or fewer."""
    rng = np.random.default_rng(0)
    for n_units in (2, 3, 6):
        true_UG = rng.normal(scale=1.0, size=(n_units, 4000))
        seen_UG = true_UG + rng.normal(scale=0.05, size=true_UG.shape)
        p_G = random_effects_p(seen_UG, np.full(seen_UG.shape, 0.05))
        assert 0.03 < (p_G < 0.05).mean() < 0.06, n_units


def test_p_is_that_of_random_effects_with_units_of_unequal_errors():
    """Against `combine_effects(method_re="dl", use_t=True)` of statsmodels 0.15."""
    effect_U = np.array([0.9, -0.6, 1.9, 0.4])
    p_1 = random_effects_p(effect_U[:, None], np.array([[0.1], [0.5], [0.3], [0.2]]))
    assert p_1[0] == pytest.approx(0.1119463346734597, rel=1e-9)


def test_an_error_of_nothing_is_a_thousandth_of_the_largest():
    """A unit without any spread is no proof: its weight has a bound."""
    effect_UG = np.array([[1.0, 1.0], [0.2, 0.2]])
    error_UG = np.array([[0.0, 0.4e-3], [0.4, 0.4]])
    none, bound = random_effects_p(effect_UG, error_UG)
    assert none == pytest.approx(bound, rel=1e-9)


def test_no_unit_is_sure_alone_and_agreement_by_chance_is_not_either():
    assert np.isnan(random_effects_p(np.array([[9.0]]), np.array([[0.1]]))[0])
    effect_UG = np.array([[0.10], [0.10], [0.10]])  # equal by chance: their errors are larger
    assert random_effects_p(effect_UG, np.full((3, 1), 0.2))[0] > 0.15
    assert random_effects_p(effect_UG, np.full((3, 1), 0.001))[0] < 0.001
    assert random_effects_p(-effect_UG, np.full((3, 1), 0.001))[0] > 0.999
    assert random_effects_p(0 * effect_UG, 0 * effect_UG)[0] == 1


def test_ranks_with_ties_and_missing():
    np.testing.assert_array_equal(ranks(np.array([1.0, np.nan, 3.0, 1.0])), [2, np.nan, 1, 3])
    assert np.isnan(adjusted(np.array([np.nan, np.nan]))).all()
