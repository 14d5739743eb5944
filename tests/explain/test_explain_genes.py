"""explain(): which genes speak for an answer and against it, by true removal and by screening."""

import dataclasses
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

import scgp
from scgp.cells.counts import choose_counts
from scgp.cells.genes import match_genes
from scgp.embed import embed_rows
from scgp.errors import ScgpWarning
from scgp.explaining import occlusion
from scgp.phenotypes.ontology import Ontology
from scgp.reference.answer import streams_of
from scgp.reference.evidence import fuse
from scgp.reference.fusion import Fusion
from scgp.reference.screening import log_posterior, removal_effects

sys.path.insert(0, str(Path(__file__).parent))
from explained_cells import B_CELL, _counted, _same_tables

# ---- genes ----


def test_genes_are_ordered_and_their_difference_is_that_of_the_probabilities(explained):
    for cell, genes in explained.genes.groupby("cell"):
        answer = explained.answer.set_index("cell").loc[cell]
        assert genes["difference"].is_monotonic_decreasing
        assert (genes["difference"] > 0).sum() <= 10
        assert (genes["difference"] < 0).sum() <= 10
        assert set(genes["probability"]) == {answer["probability"]}
        np.testing.assert_allclose(
            genes["probability"] - genes["probability_without"], genes["difference"]
        )
        assert genes["gene"].is_unique


def test_counts_and_values_are_those_of_the_cell(all_blood, explained):
    rows = explained.genes[explained.genes["gene"].isin(all_blood.var_names)]
    assert len(rows) > 60  # of 80: the others have a new symbol since
    for _, row in rows.iterrows():
        assert row["count"] == all_blood[row["cell"], row["gene"]].X.toarray()[0, 0]
    one = explained.genes.iloc[0]
    total = all_blood[one["cell"]].X.sum()  # nearly: the model knows 764 of the 765 genes
    assert one["value"] == pytest.approx(np.log1p(1e4 * one["count"] / total), rel=5e-3)


@pytest.mark.parametrize("which", ["first", "last"])
def test_a_removal_is_that_of_the_count_by_hand(all_blood, explained, index, which):
    """The strongest gene for, and the strongest against: zero the count and ask everything anew."""
    for cell, genes in explained.genes.groupby("cell"):
        row = genes.iloc[0 if which == "first" else -1]
        at = all_blood.obs_names.get_loc(cell)
        adata = all_blood[at : at + 1].copy()
        dense = adata.X.toarray()
        dense[0, adata.var_names.get_loc(row["gene"])] = 0
        adata.X = sp.csr_matrix(dense)
        again = scgp.explain(adata, cell, n=len(index.labels), n_genes=0)
        told = explained.answer.set_index("cell").loc[cell]
        fused = again.streams[again.streams["stream"] == "fused"].set_index("label")["probability"]
        counted = _counted(told["ontology_id"], index)
        expected = sum(fused[index.labels[t]] for t in np.flatnonzero(counted))
        assert row["probability_without"] == pytest.approx(expected, abs=1e-6)
        scgp.annotate(adata, progress=False)
        assert adata.obs["scgp_cell_type"].iloc[0] == row["label_without"]
        assert row["confidence"] == told["confidence"]
        if row["label_without"] == told["label"]:
            sure = adata.obs["scgp_confidence"].iloc[0]
            assert row["confidence_without"] == pytest.approx(sure, abs=1e-5)


def test_markers_of_b_cells_speak_for_b_cells(all_blood, explained):
    """CD20 (MS4A1), CD79A and CD79B are of B cells; the fourth cell is a monocyte, with CD16.

    Where the answer is the whole lineage, none of them is missed much by itself.
    """
    names = explained.answer["cell"].tolist()
    for cell in names[:3]:
        term = explained.answer.set_index("cell").loc[cell, "ontology_id"]
        assert B_CELL in Ontology("CL").ancestors(term)
        own = explained.genes[explained.genes["cell"] == cell].set_index("gene")
        assert own.index[0] in {"MS4A1", "CD79A", "CD79B"}
        assert own["difference"].iloc[0] > 0.01
        assert own["confidence_without"].iloc[0] < own["confidence"].iloc[0]
        if term != B_CELL:
            assert own.loc[["MS4A1", "CD79B"], "difference"].min() > 0.01
            sure = own.loc[["MS4A1", "CD79B"], "confidence_without"]
            assert (sure < own["confidence"].iloc[0]).all()
    own = explained.genes[explained.genes["cell"] == names[3]]
    assert own["gene"].iloc[0] == "FCGR3A"


def test_without_its_receptor_the_answer_changes(all_blood, b_cells):
    """A cell whose label hangs on one gene says what it would be without."""
    why = scgp.explain(all_blood, np.arange(0, 60), n_genes=10)
    label = why.answer.set_index("cell")["label"]
    changed = why.genes[why.genes["label_without"] != label.loc[why.genes["cell"]].to_numpy()]
    assert len(changed)
    row = changed.iloc[0]
    adata = all_blood[[row["cell"]]].copy()
    adata.X = sp.csr_matrix(adata.X.toarray() * (adata.var_names != row["gene"]))
    scgp.annotate(adata, progress=False)
    assert adata.obs["scgp_cell_type"].iloc[0] == row["label_without"] != label[row["cell"]]


def test_screening_finds_what_removing_every_gene_finds(all_blood, b_cells, monkeypatch):
    cells = [*b_cells[:1], 0, 4]
    quick = scgp.explain(all_blood, cells, n_genes=5)
    monkeypatch.setattr(occlusion, "SCREENED", 1000)
    every = scgp.explain(all_blood, cells, n_genes=5)
    pd.testing.assert_frame_equal(quick.genes, every.genes, atol=1e-6)


def test_several_columns_of_one_gene_are_one_gene(blood, ensembl_ids):
    """Half of the counts under the symbol, half under the Ensembl id."""
    whole = scgp.explain(blood, 0)
    gene = whole.genes["gene"].iloc[0]
    own = blood.X.toarray()
    at = blood.var_names.get_loc(gene)
    half = np.floor(own[:, [at]] / 2)
    own[:, [at]] -= half
    var = pd.DataFrame(index=[*blood.var_names, *ensembl_ids([gene])])
    twice = ad.AnnData(sp.csr_matrix(np.hstack([own, half])), obs=blood.obs, var=var)
    with pytest.warns(ScgpWarning, match="2 names stand for 1 genes"):
        found = scgp.explain(twice, 0)
    assert half[0] > 0
    _same_tables(found, whole)


def test_without_one_gene_only(blood):
    row = sp.csr_matrix(np.array([[3, 0, 2, 1]], np.float32))
    rows = occlusion.without(row, np.array([7, 8, 7, 5]), np.array([7, 5])).toarray()
    np.testing.assert_array_equal(rows, [[0, 0, 0, 1], [3, 0, 2, 0]])


# ---- screening ----


@pytest.mark.parametrize("silent", [(), ("text",), ("gene",), ("text", "gene"), ("a label",)])
def test_the_differentiable_fusion_is_the_fusion(blood, model, blood_index, silent):
    """Of all four streams with weight, and where a stream knows nothing or not all labels.

    Also where the tissue speaks against a label.
    """
    fusion = Fusion(weight_neighbour=0.3, weight_text=0.5, weight_head=0.2, weight_gene=0.4, k=20)
    text_TD = blood_index.text_TD.copy()
    text_TD[0 if "text" not in silent else slice(None)] = 0
    if "a label" in silent:
        fusion = dataclasses.replace(fusion, elsewhere=(blood_index.labels[1],))
    changed = {"calibration": fusion, "text_TD": text_TD}
    if "gene" in silent:
        changed["gene_head"] = None
    index = dataclasses.replace(blood_index, **changed)
    counts = choose_counts(blood)
    token_V = match_genes(counts, model.genes).token_of_column
    measured_G = np.zeros(model.config.n_genes, bool)
    measured_G[token_V[token_V >= 0]] = True
    for b in (0, 17):
        row = counts.take(np.array([b]))
        tokens = model.tokenizer.tokenize(row, token_V)
        vectors = embed_rows(model, [row], token_V)
        score_BT = None
        if index.gene_head is not None:
            score_BT = index.gene_head.scores(tokens.values(model.config.n_genes), measured_G)
        streams, _ = streams_of(index, vectors.cell_BE, vectors.type_BE, score_BT, fusion)
        with torch.no_grad():
            found_1T = log_posterior(
                model.network, tokens, index, score_BT,
                pool_N=torch.from_numpy(tokens.pool_value_N),
                value_BL=torch.from_numpy(tokens.value_BL),
            )  # fmt: skip
        np.testing.assert_allclose(found_1T.exp().numpy(), fuse(streams, fusion), atol=1e-5)
        counted_T = np.arange(len(index.labels)) == 1
        effect_N = removal_effects(
            model.network, tokens, index, None if score_BT is None else score_BT[0], counted_T
        )
        assert np.isfinite(effect_N).all()
        assert effect_N.any()


def test_labels_without_a_rival_have_no_effects(blood, model, blood_index):
    counts = choose_counts(blood)
    token_V = match_genes(counts, model.genes).token_of_column
    tokens = model.tokenizer.tokenize(counts.take(np.array([0])), token_V)
    every_T = np.ones(len(blood_index.labels), bool)
    effect_N = removal_effects(model.network, tokens, blood_index, None, every_T)
    assert not effect_N.any()


def test_inside_inference_mode(blood):
    expected = scgp.explain(blood, 0)
    with torch.inference_mode():
        _same_tables(scgp.explain(blood, 0), expected)
    with torch.no_grad():
        _same_tables(scgp.explain(blood, 0), expected)


def test_the_network_is_left_as_it_was(blood, model):
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    scgp.explain(blood, 0)
    assert all(parameter.grad is None for parameter in model.network.parameters())
    assert not model.network.training
    assert all(torch.equal(t, before[name]) for name, t in model.network.state_dict().items())
