"""biomarkers(): effects of many cells at once, held against each cell and each removal by hand."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from scgp.cells.counts import choose_counts
from scgp.cells.genes import match_genes
from scgp.explaining.occlusion import embed_scored
from scgp.model.network import CellTransformer
from scgp.reference.answer import streams_of
from scgp.reference.evidence import fuse
from scgp.reference.screening import cell_of_pool, removal_effects
from scgp.what_if.removals import Cells, estimated, exact

sys.path.insert(0, str(Path(__file__).parent))
from asked_cells import B_CELL, DENDRITIC, _asked


def _cells(adata, model):
    counts = choose_counts(adata)
    return Cells(counts, match_genes(counts, model.genes).token_of_column, model, "cpu")


def _odds(adata, model, index, asked):
    """Log odds of the counted labels against their rivals, and their probability, straight on."""
    cells = _cells(adata, model)
    rows = cells.counts.rows(0, adata.n_obs)
    vectors, score_BS, _ = embed_scored(model, index, iter([rows]), cells.token_V, device="cpu")
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
    assert len(both) >= 60
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
