"""explain(): the tables behind an answer, held against annotate on real blood cells."""

import dataclasses

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

import scgp
from scgp.annotate import model_index
from scgp.cells.counts import choose_counts
from scgp.cells.genes import match_genes
from scgp.embed import embed_rows
from scgp.errors import (
    ArgumentError,
    CountsError,
    DeviceError,
    FingerprintError,
    GeneError,
    ScgpWarning,
)
from scgp.explaining import occlusion
from scgp.explaining.explanation import COLUMNS
from scgp.phenotypes.ontology import Ontology
from scgp.reference.answer import streams_of
from scgp.reference.evidence import STREAMS, Fusion, fuse
from scgp.reference.screening import log_posterior, removal_effects

TABLES = list(COLUMNS)
B_CELL = "CL:0000236"


@pytest.fixture(scope="module")
def index(model):
    """The reference of the checkpoint."""
    return model_index(model)


@pytest.fixture(scope="module")
def b_cells(all_blood):
    """Positions of cells that were sorted as B cells, with counts of both marker genes."""
    markers = all_blood[:, ["MS4A1", "CD79B"]].X.toarray() > 0
    sorted_b = (all_blood.obs["bulk_labels"] == "CD19+ B").to_numpy()
    return np.flatnonzero(sorted_b & markers.all(axis=1))[:3]


@pytest.fixture(scope="module")
def explained(all_blood, b_cells):
    """Three B cells of the 700, and one of another kind."""
    return scgp.explain(all_blood, [*b_cells, 0])


def _posterior(model, index, row, token_V):
    """Streams and fusion of one row, straight from their functions."""
    scores = []
    vectors = embed_rows(
        model, [row], token_V,
        watch=lambda _, t, g: scores.append(
            index.gene_head.scores(t.values(model.config.n_genes), g)
        ),
    )  # fmt: skip
    streams, _ = streams_of(index, vectors.cell_BE, vectors.type_BE, scores[0], index.calibration)
    return streams, fuse(streams, index.calibration)[0]


def _counted(term, index):
    below = Ontology("CL").descendants(term)
    return np.array([i in below for i in index.label_ids])


def _same_tables(found, expected):
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(found, name), getattr(expected, name), atol=1e-6)


# ---- the answer is annotate's ----


@pytest.mark.parametrize("n_obs", [1, 2, 3, 7, 40, 63, 64, 65, 300])
def test_the_answer_is_that_of_annotate_to_the_last_bit(all_blood, n_obs):
    """Also where annotate has few cells: products of other shapes round in another way."""
    adata = all_blood[:n_obs].copy()
    chosen = np.unique(np.linspace(0, n_obs - 1, 9).astype(int))[::-1]
    answer = scgp.explain(adata, chosen, n_genes=0).answer
    scgp.annotate(adata, progress=False)
    obs = adata.obs.iloc[chosen]
    assert answer["cell"].tolist() == obs.index.tolist()
    assert answer["label"].tolist() == obs["scgp_cell_type"].tolist()
    assert answer["ontology_id"].tolist() == obs["scgp_cell_type_ontology_term_id"].tolist()
    assert answer["status"].tolist() == obs["scgp_status"].tolist()
    assert answer["confidence"].dtype == np.float32
    np.testing.assert_array_equal(
        answer["confidence"].to_numpy().view(np.int32),
        obs["scgp_confidence"].to_numpy().view(np.int32),
    )


def test_the_answer_in_a_short_last_block(all_blood, monkeypatch):
    """Blocks of 512 cells in life; the last may hold one."""
    monkeypatch.setattr("scgp.reference.answer.BLOCK", 256)
    adata = all_blood[:259].copy()
    chosen = [258, 3, 200, 256]
    answer = scgp.explain(adata, chosen, n_genes=0).answer
    scgp.annotate(adata, progress=False)
    np.testing.assert_array_equal(
        answer["confidence"], adata.obs["scgp_confidence"].to_numpy()[chosen]
    )


def test_another_index_and_a_reference(blood, all_blood, blood_index, annotated):
    by_index = scgp.explain(blood, [0, 5], index=blood_index, n_genes=3)
    assert by_index.answer["label"].tolist() == annotated.obs["scgp_cell_type"].tolist()[:6:5]
    atlas = all_blood[120:].copy()
    by_reference = scgp.explain(blood, [0, 5], reference=atlas, label_key="cell_type", n_genes=3)
    _same_tables(by_reference, by_index)
    assert by_index.facts["index"] == repr(blood_index)
    assert set(by_index.neighbours["study"]) == {""}


# ---- the tables ----


def test_columns_types_and_rows(explained):
    for name in TABLES:
        table = getattr(explained, name)
        kinds = {c: "object" if kind == "str" else kind for c, kind in COLUMNS[name].items()}
        assert {c: str(table[c].dtype) for c in table} == kinds, name
        assert table.index.equals(pd.RangeIndex(len(table))), name
        assert list(dict.fromkeys(table["cell"])) == explained.answer["cell"].tolist(), name
    assert len(explained.neighbours) == len(explained.texts) == 4 * 5
    assert explained.neighbours["rank"].tolist() == [1, 2, 3, 4, 5] * 4
    assert (explained.answer["n_genes"] > 100).all()


def test_n_and_n_genes_say_how_many_rows(all_blood):
    few = scgp.explain(all_blood, 0, n=2, n_genes=3)
    assert len(few.neighbours) == len(few.texts) == 2
    assert len(few.genes) == 6
    assert (few.streams[few.streams["rank"] <= 2].groupby("stream").size() >= 2).all()
    none = scgp.explain(all_blood, 0, n_genes=0)
    assert none.genes.empty
    assert list(none.genes.columns) == list(COLUMNS["genes"])


def test_neighbours_are_those_of_the_index(all_blood, explained, model, index):
    adata = all_blood.copy()
    scgp.embed(adata, model=model, progress=False)
    cosine_1K, row_1K = index.search(adata[explained.answer["cell"][0]].obsm["X_scgp"], 5)
    own = explained.neighbours.iloc[:5]
    np.testing.assert_array_equal(own["cosine"], cosine_1K[0])
    assert own["label"].tolist() == [index.labels[index.code_N[i]] for i in row_1K[0]]
    assert own["study"].tolist() == [index.studies[index.study_N[i]] for i in row_1K[0]]
    assert own["drawn"].tolist() == index.drawn_N[row_1K[0]].tolist()
    assert own["cosine"].iloc[0] == explained.answer["nearest_cosine"][0]
    assert set(explained.neighbours["name"]) == {""}


def test_names_of_the_index_are_told(blood, blood_index):
    names = np.array([f"atlas {i}" for i in range(blood_index.n_cells)])
    named = dataclasses.replace(blood_index, names_N=names)
    told = scgp.explain(blood, 0, index=named, n_genes=0).neighbours["name"]
    assert told.str.fullmatch(r"atlas \d+").all()
    assert told.nunique() == 5


def test_streams_and_texts_are_those_of_the_answer(all_blood, explained, model, index):
    counts = choose_counts(all_blood)
    token_V = match_genes(counts, model.genes).token_of_column
    row = counts.take(all_blood.obs_names.get_indexer(explained.answer["cell"][:1]))
    streams, fused_T = _posterior(model, index, row, token_V)
    own = explained.streams[explained.streams["cell"] == explained.answer["cell"][0]]
    assert list(dict.fromkeys(own["stream"])) == [*STREAMS, "fused"]
    for name, told in own.groupby("stream"):
        p_T = fused_T if name == "fused" else streams[name][0]
        at = [index.labels.index(label) for label in told["label"]]
        np.testing.assert_allclose(told["probability"], p_T[at], atol=1e-6)
        assert told["probability"].is_monotonic_decreasing
        first = set(np.argsort(-p_T, kind="stable")[:5]) & set(np.flatnonzero(p_T))
        assert first <= set(at)
        assert told["rank"].tolist() == [(p_T > p_T[t]).sum() + 1 for t in at]
        assert told["ontology_id"].tolist() == [index.label_ids[t] for t in at]
    texts = explained.texts.iloc[:5]
    by_text = own[(own["stream"] == "text")].iloc[:5]
    assert texts["label"].tolist() == by_text["label"].tolist()
    np.testing.assert_array_equal(texts["probability"], by_text["probability"])
    ratio = np.exp(np.diff(texts["cosine"]) / index.calibration.temperature_text)
    steps = texts["probability"].to_numpy()[1:] / texts["probability"].to_numpy()[:-1]
    np.testing.assert_allclose(steps, ratio, rtol=1e-4)


def test_weights_are_the_shares_of_the_fusion(explained, index):
    weight = explained.streams.groupby("stream")["weight"].first()
    assert sum(weight[name] for name in STREAMS) == pytest.approx(1)
    assert weight["fused"] == 1
    assert weight["gene"] == pytest.approx(
        index.calibration.weight_gene / sum(index.calibration.weight(name) for name in STREAMS)
    )


def test_the_probability_is_the_fused_one_of_the_label_and_all_below(
    all_blood, explained, model, index
):
    counts = choose_counts(all_blood)
    token_V = match_genes(counts, model.genes).token_of_column
    for _, row in explained.answer.iterrows():
        at = all_blood.obs_names.get_indexer([row["cell"]])
        _, fused_T = _posterior(model, index, counts.take(at), token_V)
        expected = fused_T[_counted(row["ontology_id"], index)].sum()
        assert row["probability"] == pytest.approx(expected, abs=1e-6)
        told = explained.streams[explained.streams["cell"] == row["cell"]]
        below = _counted(row["ontology_id"], index)[[index.labels.index(x) for x in told["label"]]]
        assert told["counted"].tolist() == below.tolist()


def test_an_unknown_cell_is_explained_by_its_best_label(blood, blood_index):
    never = dataclasses.replace(blood_index.calibration, novelty_threshold=2.0, threshold=1.0)
    shy = dataclasses.replace(blood_index, calibration=never)
    answer = scgp.explain(blood, [0, 1], index=shy).answer
    assert answer["status"].tolist() == ["unknown"] * 2
    assert answer["label"].tolist() == ["unknown"] * 2
    assert answer["explained"].tolist() == answer["leaf"].tolist()
    assert (answer["probability"] > 0).all()
    assert (answer["confidence"] == 0).all()
    assert (scgp.explain(blood, 0, index=shy).genes["confidence"] > 0.5).all()


def test_a_broader_answer_counts_all_labels_below_it(all_blood, index):
    """An "ancestor" is no label of the reference, but the sum of some."""
    adata = all_blood.copy()
    scgp.annotate(adata, progress=False)
    broad = np.flatnonzero(adata.obs["scgp_status"] == "ancestor")[:3]
    why = scgp.explain(all_blood, broad, n_genes=0)
    for _, row in why.answer.iterrows():
        own = why.streams[(why.streams["cell"] == row["cell"]) & (why.streams["stream"] == "fused")]
        counted = own[own["counted"]]
        assert set(counted["label"]) <= {
            index.labels[t] for t in np.flatnonzero(_counted(row["ontology_id"], index))
        }
        assert row["probability"] >= counted["probability"].sum() - 1e-9
        assert row["explained"] == row["label"] != row["leaf"]


def test_labels_without_a_term(blood, all_blood):
    atlas = all_blood[120:].copy()
    own = atlas.obs["bulk_labels"].astype(str)
    atlas.obs["own"] = own.where(own != "Dendritic", "my own cells/1")
    with (
        pytest.warns(ScgpWarning, match="no Cell Ontology term"),
        pytest.warns(ScgpWarning, match="read as authors use them"),
    ):
        index = scgp.build_index(atlas, label_key="own", progress=False)
    rows = np.flatnonzero(blood.obs["bulk_labels"] == "Dendritic")[:3]
    why = scgp.explain(blood, rows, index=index)
    first = why.answer[why.answer["explained"] == "my own cells/1"].iloc[0]
    fused = why.streams[(why.streams["cell"] == first["cell"]) & (why.streams["stream"] == "fused")]
    p = fused.set_index("label")["probability"]["my own cells/1"]
    assert first["probability"] == pytest.approx(p, abs=1e-9)
    assert fused.set_index("label")["counted"].sum() == 1


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
    """CD20 (MS4A1) and CD79B are of B cells; the fourth cell is a monocyte, with CD16."""
    names = explained.answer["cell"].tolist()
    for cell in names[:3]:
        term = explained.answer.set_index("cell").loc[cell, "ontology_id"]
        assert B_CELL in Ontology("CL").ancestors(term)
        own = explained.genes[explained.genes["cell"] == cell].set_index("gene")
        assert own.loc[["MS4A1", "CD79B"], "difference"].min() > 0.01
        assert (own.loc[["MS4A1", "CD79B"], "confidence_without"] < own["confidence"].iloc[0]).all()
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


@pytest.mark.parametrize("silent", [(), ("text",), ("gene",), ("text", "gene")])
def test_the_differentiable_fusion_is_the_fusion(blood, model, blood_index, silent):
    """Of all four streams with weight, and where a stream knows nothing or not all labels."""
    fusion = Fusion(weight_neighbour=0.3, weight_text=0.5, weight_head=0.2, weight_gene=0.4, k=20)
    text_TD = blood_index.text_TD.copy()
    text_TD[0 if "text" not in silent else slice(None)] = 0
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


# ---- which cells ----


def test_names_positions_and_masks_are_the_same_cells(blood):
    names = blood.obs_names[[7, 90]].tolist()
    expected = scgp.explain(blood, names, n_genes=2)
    mask = np.isin(np.arange(120), [7, 90])
    series = pd.Series(mask, index=blood.obs_names)
    given = [np.array([7, 90]), pd.Index(names), mask, mask.tolist(), series, [np.int32(7), 90]]
    for cells in given:
        _same_tables(scgp.explain(blood, cells, n_genes=2), expected)
    turned = scgp.explain(blood, [90, 7], n_genes=2)
    assert turned.answer["cell"].tolist() == names[::-1]
    assert turned.genes["cell"].iloc[0] == names[1]
    assert len(scgp.explain(blood, 7, n_genes=0).answer) == 1
    assert len(scgp.explain(blood, names[0], n_genes=0).answer) == 1


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ("no such cell", r"'no such cell' is no name of obs_names \(120 names: 'AAAGCC"),
        (["AAAGCCTGGCTAAC-1", "x"], "'x' is no name"),
        (120, "no cell at position 120; positions are 0 to 119"),
        ([3, -1], "no cell at position -1"),
        ([], "cells is empty"),
        (np.array([], int), "cells is empty"),
        (np.zeros(120, bool), "the mask chooses no cell"),
        (np.ones(119, bool), "the mask has 119 values, and there are 120 cells"),
        ([3, 3], "two of the cells are called 'AAGTGCACGTGCTA-1'"),
        ([3, "AAAGCCTGGCTAAC-1"], r"cells holds 3 \(int\)"),
        ([1.0], r"cells holds 1.0 \(float\)"),
        (None, r"cells holds None \(NoneType\)"),
        (True, r"cells holds True \(bool\)"),
        ([True, 1], r"cells holds True \(bool\)"),
        (pd.Series(np.ones(120, bool)), "a Series whose index is not obs_names"),
    ],
)
def test_cells_that_cannot_be_chosen(blood, state, cells, words):
    before = state(blood)
    with pytest.raises(ArgumentError, match=words):
        scgp.explain(blood, cells)
    assert state(blood) == before


def test_too_many_cells(all_blood):
    with pytest.raises(ArgumentError, match="201 cells, expected at most 200"):
        scgp.explain(all_blood, np.arange(201))


def test_names_that_two_cells_share(blood):
    blood.obs_names = ["twin", "twin", *blood.obs_names[2:]]
    with pytest.raises(ArgumentError, match="2 cells are called 'twin'; pass their positions"):
        scgp.explain(blood, "twin")
    with pytest.raises(ArgumentError, match="two of the cells are called 'twin'"):
        scgp.explain(blood, [0, 1])
    assert scgp.explain(blood, 1, n_genes=0).answer["cell"].tolist() == ["twin"]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"n": 0}, ArgumentError, "n is 0"),
        ({"n_genes": -1}, ArgumentError, "n_genes is -1"),
        ({"layer": "log"}, CountsError, "use_raw=False"),
        ({"layer": "none"}, ArgumentError, "no layer 'none'"),
        ({"model": 1.5}, ArgumentError, "model is a float"),
        ({"label_key": "cell_type"}, ArgumentError, "go together"),
        ({"device": "abacus"}, DeviceError, "abacus"),
    ],
)
def test_errors_change_nothing(blood, state, options, error, words):
    blood.layers["log"] = blood.X.log1p()
    before = state(blood)
    with pytest.raises(error, match=words):
        scgp.explain(blood, 0, **options)
    assert state(blood) == before


def test_what_is_no_anndata_and_another_models_index(blood, blood_index):
    with pytest.raises(ArgumentError, match="expected an AnnData, found DataFrame"):
        scgp.explain(blood.obs, 0)
    foreign = dataclasses.replace(blood_index, model_fingerprint="0" * 64)
    with pytest.raises(FingerprintError):
        scgp.explain(blood, 0, index=foreign)
    blood.var_names = [f"gene_{i}" for i in range(blood.n_vars)]
    with pytest.raises(GeneError):
        scgp.explain(blood, 0)


# ---- containers, empty cells, text ----


@pytest.mark.parametrize("container", [sp.csc_matrix, sp.csr_array, lambda x: x.toarray()])
def test_containers_and_nothing_is_written(blood, state, container):
    expected = scgp.explain(blood, [0, 5], n_genes=3)
    blood.X = container(blood.X)
    blood.uns["mine"] = {"a": 1}
    before, matrix = state(blood), blood.X
    _same_tables(scgp.explain(blood, [0, 5], n_genes=3), expected)
    assert state(blood) == before
    assert blood.X is matrix


def test_a_view_a_layer_and_raw(blood, state):
    expected = scgp.explain(blood, [0, 5], n_genes=3)
    blood.layers["counts"] = blood.X.copy()
    blood.raw = blood
    blood.X = blood.X.log1p()
    _same_tables(scgp.explain(blood, [0, 5], n_genes=3, layer="counts"), expected)
    _same_tables(scgp.explain(blood, [0, 5], n_genes=3, use_raw=True), expected)
    view = blood[[9, 0, 5]]
    before = state(view)
    _same_tables(scgp.explain(view, [1, 2], n_genes=3, layer="counts"), expected)
    assert state(view) == before
    assert view.is_view


@pytest.mark.parametrize("container", [sp.csr_matrix, sp.csc_matrix, lambda x: x.toarray()])
def test_backed(blood, state, container, tmp_path):
    expected = scgp.explain(blood, [5, 0], n_genes=3)
    blood.X = container(blood.X)
    blood.write_h5ad(tmp_path / "blood.h5ad")
    content = (tmp_path / "blood.h5ad").read_bytes()
    backed = ad.read_h5ad(tmp_path / "blood.h5ad", backed="r")
    before = state(backed)
    _same_tables(scgp.explain(backed, [5, 0], n_genes=3), expected)
    assert state(backed) == before
    backed.file.close()
    assert (tmp_path / "blood.h5ad").read_bytes() == content


def test_an_empty_cell_is_in_the_answers_alone(blood):
    blood.X = sp.csr_matrix(sp.diags([1.0, 0.0, *[1.0] * 118]) @ blood.X).astype(np.float32)
    with pytest.warns(ScgpWarning, match="1 of 2 cells.*nothing to explain") as caught:
        why = scgp.explain(blood, [1, 0])
    assert [w.filename for w in caught] == [__file__]
    empty = why.answer.iloc[0]
    assert empty["label"] is None
    assert (empty["status"], empty["confidence"], empty["n_genes"]) == ("empty", 0, 0)
    assert (empty["explained"], empty["leaf"], empty["ontology_id"]) == ("", "", "")
    assert np.isnan(empty["probability"])
    assert np.isnan(empty["nearest_cosine"])
    for name in TABLES[1:]:
        assert set(getattr(why, name)["cell"]) == {blood.obs_names[0]}
    with pytest.warns(ScgpWarning, match="1 of 1 cells"):
        alone = scgp.explain(blood, 1)
    assert all(getattr(alone, name).empty for name in TABLES[1:])
    assert repr(alone) == f"{blood.obs_names[1]}: empty, no count in the genes of the model"


def test_a_cell_of_one_gene_has_no_answer_without_it(blood):
    own = blood.X.toarray()
    own[0] = 0
    own[0, blood.var_names.get_loc("CD79A")] = 5
    blood.X = own
    why = scgp.explain(blood, 0)
    assert why.genes["gene"].tolist() == ["CD79A"]
    assert why.genes["probability_without"].tolist() == [0]
    assert why.genes["label_without"].tolist() == [None]


def test_other_cells_do_not_matter(blood, all_blood):
    """Nor how many are asked for: removals of several cells share a chunk of the network."""
    together = scgp.explain(all_blood, np.arange(9), n_genes=20)  # 80 removals a cell
    alone = scgp.explain(all_blood, 6, n_genes=20)
    for name in TABLES:
        table = getattr(together, name)
        own = table[table["cell"] == all_blood.obs_names[6]].reset_index(drop=True)
        pd.testing.assert_frame_equal(own, getattr(alone, name), atol=1e-6)


def test_the_text_is_short_and_says_what_matters(explained, all_blood):
    text = repr(explained)
    row = explained.answer.iloc[0]
    assert text.splitlines()[0].startswith(f"{row['cell']}: {row['label']} ({row['ontology_id']})")
    assert "for it " in text
    assert "against it " in text
    assert str(explained) == text
    many = repr(scgp.explain(all_blood, np.arange(8), n_genes=0))
    assert many.endswith("... and 3 more cells")
    assert len(many.splitlines()) == 5 * 3 + 1


def test_real_cells_of_thousands_of_genes(shared_data):
    """B cells of a study that the model was not trained on, straight from the file."""
    backed = ad.read_h5ad(shared_data / "eval" / "zilionis2019_nsclc.h5ad", backed="r")
    chosen = np.flatnonzero(backed.obs["cell_type_ontology_term_id"] == B_CELL)[:3]
    with pytest.warns(ScgpWarning, match="counts are summed"):
        why = scgp.explain(backed, chosen)
    backed.file.close()
    assert (why.answer["n_genes"] > 300).all()
    assert len(why.genes) == 3 * 20
    known = {"CD79A", "CD79B", "MS4A1", "CD19", "BANK1", "TCL1A", "VPREB3", "IGHM", "IGHD", "CD22"}
    known |= {
        "IGKC"
    }  # the light chain; one of the cells has no other of these among its first five
    assert all(known & set(genes["gene"].head(5)) for _, genes in why.genes.groupby("cell"))
