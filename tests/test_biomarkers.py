"""biomarkers(): effects, replication and Wilcoxon, held against each step by hand."""

import dataclasses
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
import torch

from scgp.annotate import model_index
from scgp.biomarkers import biomarkers
from scgp.cells.counts import choose_counts
from scgp.cells.genes import match_genes
from scgp.errors import (
    ArgumentError,
    CountsError,
    FingerprintError,
    LabelError,
    MissingColumnError,
    ScgpWarning,
)
from scgp.explaining.occlusion import embed_scored
from scgp.leave_one_out import leave_one_out
from scgp.model.network import CellTransformer
from scgp.reference.answer import streams_of
from scgp.reference.evidence import fuse
from scgp.reference.screening import cell_of_pool, removal_effects
from scgp.what_if.asked import asked_of
from scgp.what_if.marker_table import PSEUDO
from scgp.what_if.removals import Cells, estimated, exact
from scgp.what_if.replication import adjusted, combined_z, random_effects_p, ranks

B_CELL, NK, DENDRITIC = "CL:0000236", "CL:0000623", "CL:0000451"


@pytest.fixture(scope="module")
def thirds(all_blood):
    """The 700 blood cells, in three parts that stand for units."""
    adata = all_blood.copy()
    adata.obs["part"] = ["abc"[i % 3] for i in range(adata.n_obs)]
    return adata


@pytest.fixture(scope="module")
def found(thirds):
    """All genes of B cells and dendritic cells over the thirds."""
    return biomarkers(
        thirds, groupby="cell_type", across="part", groups=[B_CELL, DENDRITIC], all_genes=True,
        max_cells=25, progress=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def units(thirds):
    """The same by unit."""
    return biomarkers(
        thirds, groupby="cell_type", across="part", groups=[B_CELL, DENDRITIC], by_unit=True,
        max_cells=25, progress=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def index(model):
    """The reference of the checkpoint."""
    return model_index(model)


def _cells(adata, model):
    counts = choose_counts(adata)
    return Cells(counts, match_genes(counts, model.genes).token_of_column, model, "cpu")


def _asked(adata, index, name=B_CELL, rivals="phenotypes"):
    phenotypes = sorted(adata.obs["cell_type"].unique())
    asked = asked_of({"a": [name]}, {"a": index}, phenotypes=phenotypes, rivals=rivals)
    return asked["a"][name]


def _odds(adata, model, index, asked):
    """Log odds of the counted labels against their rivals, and their probability, straight on."""
    cells = _cells(adata, model)
    rows = cells.counts.rows(0, adata.n_obs)
    vectors, score_BS = embed_scored(model, index, iter([rows]), cells.token_V, device="cpu")
    streams, _ = streams_of(index, vectors.cell_BE, vectors.type_BE, score_BS, index.calibration)
    fused_BT = fuse(streams, index.calibration)
    own_B = fused_BT[:, asked.counted_T].sum(axis=1)
    return np.log(own_B / fused_BT[:, asked.rival_T].sum(axis=1)), own_B


# ---- screening of many cells at once ----


@pytest.mark.parametrize("slots", ["pooled", "tokens"])
@pytest.mark.parametrize("weight_neighbour", [0.0, 0.3])
def test_cells_together_are_as_cells_alone(blood, model, index, slots, weight_neighbour):
    """Labels, rivals and numbers of genes differ between the cells; one cell is empty."""
    fusion = dataclasses.replace(index.calibration, weight_neighbour=weight_neighbour)
    index = dataclasses.replace(index, calibration=fusion)
    network = model.network
    if slots == "tokens":
        torch.manual_seed(0)
        config = dataclasses.replace(model.config, token_slots=True, n_layers=1, context_layers=0)
        network = CellTransformer(config).eval()
        torch.nn.init.normal_(network.to_slots, std=0.1)
    cells = _cells(blood, model)
    rows = cells.counts.rows(0, 12).tolil()
    rows[5] = 0
    rows[7, 300:] = 0
    rows = rows.tocsr()
    rng = np.random.default_rng(0)
    counted_BT = rng.random((12, len(index.labels))) < 0.1
    rival_BT = ~counted_BT & (rng.random(counted_BT.shape) < 0.5)
    tokens = model.tokenizer.tokenize(rows, cells.token_V)
    score_BS = index.gene_head.scores(tokens.values(model.config.n_genes), cells.measured_G)
    together_N = removal_effects(network, tokens, index, score_BS, counted_BT, rival_BT=rival_BT)
    for b in range(12):
        alone = model.tokenizer.tokenize(rows[b], cells.token_V)
        effect_N = removal_effects(
            network, alone, index, score_BS[b], counted_BT[b], rival_BT=rival_BT[b]
        )
        own_N = together_N[tokens.offset_B[b] : tokens.offset_B[b + 1]]
        np.testing.assert_allclose(own_N, effect_N, atol=2e-5)
        assert effect_N.any() == (b != 5)
    assert np.abs(together_N).max() > 0.05


def test_rivals_are_all_other_labels_unless_named(blood, model, index):
    cells = _cells(blood, model)
    tokens = model.tokenizer.tokenize(cells.counts.rows(0, 3), cells.token_V)
    score_BS = index.gene_head.scores(tokens.values(model.config.n_genes), cells.measured_G)
    counted_T = np.arange(len(index.labels)) < 40
    given = (model.network, tokens, index, score_BS, counted_T)
    np.testing.assert_array_equal(
        removal_effects(*given), removal_effects(*given, rival_BT=~counted_T)
    )
    assert not np.allclose(
        removal_effects(*given), removal_effects(*given, rival_BT=np.arange(len(counted_T)) == 50)
    )
    assert cell_of_pool(tokens).tolist() == sorted(cell_of_pool(tokens).tolist())


# ---- effects ----


def test_sums_over_cells_are_those_of_the_cells(thirds, model, index):
    cells, asked = _cells(thirds, model), _asked(thirds, index)
    rows = np.flatnonzero(thirds.obs["cell_type"] == B_CELL)[:6]
    effects = estimated(cells, rows, index, asked, advance=lambda _: None)
    lost_BG = np.zeros((6, model.config.n_genes))
    for b, row in enumerate(rows):
        tokens = model.tokenizer.tokenize(cells.counts.take(np.array([row])), cells.token_V)
        values = tokens.values(model.config.n_genes)
        score = index.gene_head.scores(values, cells.measured_G)
        lost_BG[b, tokens.pool_gene_N] = -removal_effects(
            model.network, tokens, index, score, asked.counted_T, rival_BT=asked.rival_T
        )
    np.testing.assert_allclose(effects.mean_G, lost_BG.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(effects.square_G, (lost_BG**2).sum(axis=0), atol=1e-6)
    assert effects.n_cells == 6
    gene = model.genes.match(["MS4A1"]).token_of_column[0]
    expressing = thirds[rows, "MS4A1"].X.toarray().ravel() > 0
    assert effects.n_G[gene] == expressing.sum()
    assert effects.mean_expressing_G[gene] == pytest.approx(lost_BG[expressing, gene].mean(), 1e-4)


def test_true_removal_is_that_of_the_counts_by_hand(thirds, model, index):
    """Zero the counts of one gene in the AnnData, and ask the posterior anew."""
    asked = _asked(thirds, index)
    few = thirds[np.flatnonzero(thirds.obs["cell_type"] == B_CELL)[:8]].copy()
    genes = ["MS4A1", "CD74", "GNLY"]
    gene_R = model.genes.match(genes).token_of_column
    found = exact(
        _cells(few, model), np.arange(8), index, asked, gene_R, n_cells=8,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    odds_B, own_B = _odds(few, model, index, asked)
    for r, gene in enumerate(genes):
        there = few[:, gene].X.toarray().ravel() > 0
        cut = few.copy()
        dense = cut.X.toarray()
        dense[:, cut.var_names.get_loc(gene)] = 0
        cut.X = sp.csr_matrix(dense)
        odds_cut_B, own_cut_B = _odds(cut, model, index, asked)
        assert found.n_R[r] == there.sum()
        if there.any():
            assert found.odds_R[r] == pytest.approx((odds_B - odds_cut_B)[there].mean(), abs=1e-4)
            lost = (own_B - own_cut_B)[there].mean()
            assert found.probability_R[r] == pytest.approx(lost, abs=1e-5)
        else:
            assert np.isnan(found.odds_R[r])


def test_the_estimate_is_near_true_removal(found):
    both = found.dropna(subset="exact_effect")
    assert len(both) > 60
    assert both["effect_expressing"].corr(both["exact_effect"]) > 0.85
    strong = both[both["effect_expressing"].abs() > 0.05]
    assert (np.sign(strong["effect_expressing"]) == np.sign(strong["exact_effect"])).mean() > 0.95


def test_markers_of_b_cells_and_of_dendritic_cells(found):
    by_both = found[found["found_by"] == "both"].groupby("group")["gene"].agg(set)
    assert {"MS4A1", "CD79B"} <= by_both[B_CELL]
    assert {"FCER1A", "CST3", "HLA-DQA1"} <= by_both[DENDRITIC]
    b_cells = found[found["group"] == B_CELL].set_index("gene")
    assert b_cells.loc["MS4A1", "removal_rank"] == 1
    assert b_cells.loc["MS4A1", "n_units_top"] == b_cells.loc["MS4A1", "n_units"] == 3
    assert b_cells.loc["MS4A1", "exact_difference"] > 0.01


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


def test_a_gene_that_a_unit_did_not_measure_is_not_counted_there(thirds):
    """No cell of the unit has a count of it: unknown, and not an effect of zero."""
    adata = thirds.copy()
    dense = adata.X.toarray()
    dense[np.ix_(adata.obs["part"] == "c", [adata.var_names.get_loc("MS4A1")])] = 0
    adata.X = sp.csr_matrix(dense)
    table = biomarkers(
        adata, groupby="cell_type", across="part", groups=B_CELL, progress=False, exact_cells=0
    ).set_index("gene")
    assert table.loc["MS4A1", "n_units"] == table.loc["MS4A1", "wilcoxon_n_units"] == 2
    assert table.loc["CD79B", "n_units"] == 3
    assert table.loc["MS4A1", "smallest_effect"] > 0
    assert table["exact_effect"].isna().all()
    assert (table["n_exact"] == 0).all()


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


# ---- statistics ----


def test_units_are_the_replicates_not_cells():
    """Under no effect, with units that differ: p below .05 in about a twentieth, or fewer."""
    rng = np.random.default_rng(0)
    for n_units in (2, 3, 6):
        true_UG = rng.normal(scale=1.0, size=(n_units, 4000))
        seen_UG = true_UG + rng.normal(scale=0.05, size=true_UG.shape)
        p_G = random_effects_p(seen_UG, np.full(seen_UG.shape, 0.05))
        assert 0.03 < (p_G < 0.05).mean() < 0.06, n_units


def test_no_unit_is_sure_alone_and_agreement_by_chance_is_not_either():
    assert np.isnan(random_effects_p(np.array([[9.0]]), np.array([[0.1]]))[0])
    effect_UG = np.array([[0.10], [0.10], [0.10]])  # equal by chance: their errors are larger
    assert random_effects_p(effect_UG, np.full((3, 1), 0.2))[0] > 0.15
    assert random_effects_p(effect_UG, np.full((3, 1), 0.001))[0] < 0.001
    assert random_effects_p(-effect_UG, np.full((3, 1), 0.001))[0] > 0.999
    assert random_effects_p(0 * effect_UG, 0 * effect_UG)[0] == 1


def test_ranks_with_ties_and_missing():
    assert ranks(np.array([1.0, np.nan, 3.0, 1.0])).tolist() == [2, 4, 1, 3]
    assert np.isnan(adjusted(np.array([np.nan, np.nan]))).all()


# ---- which labels are asked ----


def test_a_term_is_asked_with_all_below_it_against_the_others(thirds, index):
    asked = _asked(thirds, index)
    names = np.array(index.labels)
    assert {"naive B cell", "memory B cell"} <= set(names[asked.counted_T])
    assert not (asked.counted_T & asked.rival_T).any()
    rivals = set(names[asked.rival_T])
    assert "natural killer cell" in rivals
    assert not {"fibroblast", "lymphocyte"} & rivals
    every = _asked(thirds, index, rivals="labels")
    np.testing.assert_array_equal(every.rival_T, ~asked.counted_T)


def test_a_phenotype_below_all_labels_is_asked_by_a_broader_one(thirds, blood_index):
    adata = thirds.copy()
    adata.obs["type"] = adata.obs["cell_type"].astype(str).replace(NK, "CL:0000939")  # CD56-dim NK
    with pytest.warns(ScgpWarning, match="'CL:0000939' by 'natural killer cell'"):
        table = biomarkers(
            adata, groupby="type", across="part", groups="CL:0000939", index=blood_index,
            min_cells=5, progress=False, exact_cells=0,
        )  # fmt: skip
    assert set(table["asked"]) == {"natural killer cell"}
    assert set(table["ontology_id"]) == {"CL:0000939"}


def test_an_unknown_phenotype_is_told_with_what_is_near(thirds):
    adata = thirds.copy()
    adata.obs["type"] = adata.obs["cell_type"].astype(str).replace(NK, "my cells")
    adata.obs["type"] = adata.obs["type"].replace(B_CELL, "B lymphocite")
    given = {"groupby": "type", "across": "part", "progress": False, "exact_cells": 0}
    with pytest.raises(LabelError, match=r"knows none.*'my cells' .no cell type.*leave_one_out"):
        biomarkers(adata, groups="my cells", min_cells=5, **given)
    with pytest.warns(ScgpWarning, match=r"'B lymphocite' .near: 'B cell'.*leave_one_out"):
        table = biomarkers(adata, groups=["B lymphocite", DENDRITIC], **given)
    assert set(table["group"]) == {DENDRITIC}


def test_an_index_of_the_other_units(thirds):
    """Phenotypes of one's own, which no reference knows."""
    adata = thirds.copy()
    own = {B_CELL: "mine/1", DENDRITIC: "mine/2"}
    adata.obs["own"] = adata.obs["cell_type"].astype(str).map(own)
    with (
        pytest.warns(ScgpWarning, match="no Cell Ontology term"),
        pytest.warns(ScgpWarning, match="cells have no label in obs"),
    ):
        indexes = leave_one_out(adata, label_key="own", unit_key="part", progress=False)
    n_of = adata.obs.dropna(subset="own").groupby("part").size()
    assert {u: i.n_cells for u, i in indexes.items()} == {u: n_of.sum() - n_of[u] for u in "abc"}
    assert all(unit not in index.studies for unit, index in indexes.items())
    given = {"groupby": "own", "across": "part", "exact_cells": 0, "progress": False}
    with pytest.warns(ScgpWarning, match="no value in obs"):
        table = biomarkers(adata, index=indexes, **given)
    assert set(table["group"]) == set(own.values())
    assert set(table["ontology_id"]) == {""}
    first = table[table["removal_rank"] <= 12].groupby("group")["gene"].agg(set)
    assert {"MS4A1", "CD79A", "CD79B"} & first["mine/1"]
    with (
        pytest.warns(ScgpWarning, match="no value in obs"),
        pytest.raises(ArgumentError, match="none for the unit 'c'; it has 'a', 'b'"),
    ):
        biomarkers(adata, index={u: indexes[u] for u in "ab"}, **given)


# ---- what cannot be used ----


def _refused(adata, error, match, **changed):
    given = {"groupby": "cell_type", "across": "part", "progress": False, **changed}
    with pytest.raises(error, match=match):
        biomarkers(adata, **given)


def test_columns_that_are_not_there_or_not_two(thirds):
    _refused(thirds, MissingColumnError, "no column 'nothing'.*'bulk_labels'", groupby="nothing")
    _refused(thirds, MissingColumnError, "no column 'nothing'", across="nothing")
    _refused(thirds, ArgumentError, "groupby and across are both 'part'", groupby="part")
    one = thirds[thirds.obs["cell_type"] == B_CELL]
    _refused(one, ArgumentError, r"obs\['cell_type'\] has 1 value.*expected 2", groups=B_CELL)
    one = thirds[thirds.obs["part"] == "a"]
    _refused(one, ArgumentError, r"obs\['part'\] has 1 value")
    _refused(thirds, LabelError, "'plasma' has no cell in", groups=["plasma"])
    _refused(thirds, LabelError, "groups is empty", groups=[])


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"n_genes": 0}, "n_genes is 0; expected a whole number of at least 1"),
        ({"min_cells": 1}, "min_cells is 1; expected a whole number of at least 2"),
        ({"max_cells": 5.5}, "max_cells is 5.5; expected a whole number of at least 2"),
        ({"max_cells": 0}, "max_cells is 0"),
        ({"exact_cells": -1}, "exact_cells is -1"),
        ({"rivals": "none"}, "rivals is 'none'; expected 'phenotypes' or 'labels'"),
    ],
)
def test_numbers_that_cannot_be_used(thirds, changed, match):
    _refused(thirds, ArgumentError, match, **changed)


def test_no_anndata_no_counts_another_model(thirds, model):
    _refused([1, 2], ArgumentError, "expected an AnnData")
    halved = thirds[:60].copy()
    halved.X = halved.X * 0.5
    _refused(halved, CountsError, "does not hold raw counts")
    foreign = dataclasses.replace(model_index(model), model_fingerprint="another")
    _refused(thirds, FingerprintError, "model", index=foreign)


def test_missing_values_and_empty_cells_are_left_out(thirds):
    adata = thirds.copy()
    adata.obs["type"] = adata.obs["cell_type"].astype(object)
    adata.obs.iloc[:50, adata.obs.columns.get_loc("type")] = None
    dense = adata.X.toarray()
    dense[50:60] = 0
    adata.X = sp.csr_matrix(dense)
    given = {"across": "part", "groups": DENDRITIC, "exact_cells": 0, "progress": False}
    with (
        pytest.warns(ScgpWarning, match="50 of 700 cells have no value"),
        pytest.warns(ScgpWarning, match="10 of 700 cells have no count"),
    ):
        table = biomarkers(adata, groupby="type", **given)
    expected = biomarkers(thirds[60:].copy(), groupby="cell_type", **given)
    pd.testing.assert_frame_equal(table, expected, atol=1e-6)


def test_one_unit_is_no_replication(thirds):
    adata = thirds[(thirds.obs["cell_type"] != B_CELL) | (thirds.obs["part"] == "a")].copy()
    given = {"groupby": "cell_type", "across": "part", "exact_cells": 0, "progress": False}
    with pytest.warns(ScgpWarning, match=f"one unit .* only.*'{B_CELL}'"):
        table = biomarkers(adata, groups=B_CELL, **given)
    assert (table["n_units"] == 1).all()
    assert table[["p", "q"]].isna().all(axis=None)
    assert np.isfinite(table["effect"]).all()
    assert np.isfinite(table["wilcoxon_q"]).all()


def test_phenotypes_with_few_cells(thirds):
    given = {"groupby": "cell_type", "across": "part", "exact_cells": 0, "progress": False}
    with pytest.warns(ScgpWarning, match="left out, for no unit .* has 40 cells.*'CL:0000623'"):
        table = biomarkers(thirds, groups=[NK, DENDRITIC], min_cells=40, **given)
    assert set(table["group"]) == {DENDRITIC}
    one_each = ad.concat([thirds[thirds.obs["part"] == p][:4] for p in "ab"])
    _refused(one_each, LabelError, "no phenotype has 10 cells in any unit", exact_cells=0)


def test_the_networks_gradients_and_device_are_left(thirds, model):
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    with torch.inference_mode():
        biomarkers(
            thirds[:240], groupby="cell_type", across="part", groups=DENDRITIC, progress=False,
            exact_cells=0, model=model,
        )  # fmt: skip
    assert all(parameter.grad is None for parameter in model.network.parameters())
    assert all(torch.equal(t, before[name]) for name, t in model.network.state_dict().items())


def test_real_studies(shared_data):
    """NK cells of one study of blood and of one of tumour: known markers come first."""
    files = ("eval/zilionis2019_nsclc.h5ad", "eval/kang2018_stim_harmony.h5ad")
    parts = [ad.read_h5ad(shared_data / name) for name in files]
    adata = ad.concat(parts, join="inner")
    adata.obs_names_make_unique()
    adata.obs["type"] = adata.obs["cell_type_ontology_term_id"].astype(str)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=ScgpWarning)
        table = biomarkers(
            adata, groupby="type", across="study", groups=NK, min_cells=15, progress=False
        )
    known = {"GNLY", "NKG7", "GZMB", "PRF1", "KLRD1", "KLRF1", "FGFBP2", "TYROBP", "CD247", "CTSW"}
    first = table[table["removal_rank"] <= 10]
    assert len(known & set(first["gene"])) >= 3
    assert (first["n_units"] == 2).all()
