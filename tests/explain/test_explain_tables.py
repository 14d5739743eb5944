"""explain(): its answer is that of annotate(), and its tables are the evidence behind it."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import scgp
from scgp.cells.counts import choose_counts
from scgp.cells.genes import match_genes
from scgp.embed import embed_rows
from scgp.errors import ScgpWarning
from scgp.explaining.explanation import COLUMNS
from scgp.reference.answer import streams_of, unlike_reference, winners_of
from scgp.reference.evidence import fuse, nearest_text
from scgp.reference.fusion import STREAMS

sys.path.insert(0, str(Path(__file__).parent))
from explained_cells import TABLES, _counted, _same_tables


def _posterior(model, index, row, token_V):
    """Streams and fusion of one row, straight from their functions."""
    n_genes = model.config.n_genes
    read = []
    vectors = embed_rows(
        model, [row], token_V, watch=lambda _, t, __, g: read.append((t.values(n_genes), g))
    )
    value_BG, measured_G = read[0]
    score_BS = index.gene_head.scores(value_BG, measured_G)
    winner_B = winners_of(index, vectors.cell_BE, score_BS, value_BG, measured_G)
    streams, _ = streams_of(
        index, vectors.cell_BE, vectors.type_BE, score_BS, index.calibration, winner_B=winner_B
    )
    return streams, fuse(streams, index.calibration)[0]


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
    told = few.streams[few.streams["rank"] <= 2].groupby("stream").size()
    assert (told.drop("pairwise") >= 2).all()
    assert told["pairwise"] == 1  # which names one label
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
    assert list(dict.fromkeys(own["stream"])) == [*STREAMS, "pairwise", "fused"]
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
    heard = [*STREAMS, "pairwise"]
    assert sum(weight[name] for name in heard) == pytest.approx(1)
    assert weight["fused"] == 1
    assert weight["gene"] == pytest.approx(
        index.calibration.weight_gene / sum(index.calibration.weight(name) for name in heard)
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


def test_why_the_best_label_is_not_the_answer(blood, blood_index):
    """Doubt is told in the table and in words: too unsure, or unlike the reference."""
    calibration = blood_index.calibration
    bounds = {
        "": {"threshold": 0.0, "novelty_threshold": -1.0},
        "unsure": {"threshold": 1.0, "novelty_threshold": -1.0},
        "unlike": {"threshold": 0.0, "novelty_threshold": 2.0},
    }
    words = {"": "", "unsure": "not sure enough", "unlike": "the cell is unlike the reference"}
    sure = scgp.explain(blood, 0, index=blood_index).genes["confidence"].iloc[0]
    for doubt, other in bounds.items():
        other_index = dataclasses.replace(
            blood_index, calibration=dataclasses.replace(calibration, threshold_above=1.0, **other)
        )
        why = scgp.explain(blood, 0, index=other_index, n_genes=0)
        row = why.answer.iloc[0]
        assert row["doubt"] == doubt
        assert row["status"] == ("unknown" if doubt else "labelled")
        assert row["leaf_confidence"] == sure
        told = f"best label: {row['leaf']}, confidence {sure:.2f}: {words[doubt]}"
        assert (told in repr(why)) == bool(doubt)
        assert ("best label" in repr(why)) == bool(doubt)


def test_a_cell_at_a_bound_is_not_unlike_the_reference(blood, model, blood_index):
    """Below the bound of the nearest cell, or of the nearest text: either is enough."""
    counts = choose_counts(blood)
    token_V = match_genes(counts, model.genes).token_of_column
    vectors = embed_rows(model, [counts.take(np.arange(3))], token_V).type_BE
    nearest_B = np.array([0.5, np.nextafter(0.5, 0), 0.9])
    fusion = dataclasses.replace(blood_index.calibration, novelty_threshold=0.5, novelty_text=-1.0)
    found = unlike_reference(blood_index, vectors, nearest_B, fusion)
    assert found.tolist() == [False, True, False]
    text_B = nearest_text(vectors, blood_index.text_TD)
    by_text = dataclasses.replace(fusion, novelty_threshold=-1.0, novelty_text=float(text_B[2]))
    found = unlike_reference(blood_index, vectors, nearest_B, by_text)
    assert found.tolist() == (text_B < text_B[2]).tolist()
    assert not found[2]


def test_a_cell_outside_an_atlas_of_ones_own_is_told_as_such(all_blood):
    """The atlas has T cells alone: a B cell is read as a type that it lacks."""
    kind = all_blood.obs["bulk_labels"].astype(str)
    is_t = kind.str.startswith(("CD4", "CD8"))
    atlas = all_blood[is_t.to_numpy()].copy()
    b_cell = np.flatnonzero(kind == "CD19+ B")[:1]
    why = scgp.explain(all_blood, b_cell, reference=atlas, label_key="cell_type", n_genes=0)
    row = why.answer.iloc[0]
    assert row["status"] != "labelled"
    assert (row["doubt"], row["leaf_confidence"] < 0.5) == ("outside", True)
    assert "of a type that the reference lacks" in repr(why)


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
