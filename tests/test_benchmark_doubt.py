"""The measures of doubt and the ablations, on made-up (synthetic) answers and real cells."""

import json
from unittest import mock

import numpy as np
import pandas as pd
import pytest

import scgp
from benchmarks import ablations, doubt
from benchmarks.held_out import Evidence, embedded, streams
from scgp.cells.sampling import Sampler
from scgp.model.network import CellTransformer
from scgp.own import model_index

# synthetic: a tree of five terms
ABOVE = {
    "cell": {"cell"},
    "T": {"T", "cell"},
    "CD4": {"CD4", "T", "cell"},
    "CD8": {"CD8", "T", "cell"},
    "B": {"B", "cell"},
}


def ancestors(term):
    return frozenset(ABOVE.get(term, {term}))


@pytest.fixture
def answers():
    """Synthetic answers: 4 cells labelled (3 hold), 2 broader (1 holds), 1 unknown."""
    columns = {
        "unit": ["x", "x", "x", "x", "y", "y", "y"],
        "true": ["CD4", "CD4", "CD8", "B", "CD8", "B", "B"],
        "label": ["CD4", "T", "CD8", "CD8", "T", "T", ""],
        "confidence": [0.9, 0.9, 0.9, 0.9, 0.5, 0.5, 0.0],
        "status": ["labelled"] * 4 + ["ancestor", "ancestor", "unknown"],
        "fused": ["CD4", "CD4", "CD8", "CD8", "CD8", "CD8", "B"],
        "fused p": np.float32([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]),
        "text": ["B"] * 7,
        "text p": np.float32([0.5] * 7),
    }
    for coverage in doubt.COVERAGES:
        columns |= {f"hit {coverage:g}": [True] * 6 + [False], f"size {coverage:g}": [2] * 7}
    return pd.DataFrame(columns)


def test_what_is_measured_of_answers(answers):
    found = doubt.measured(answers, ancestors)
    assert found["holds"] == pytest.approx(4 / 6)
    assert found["above"] == pytest.approx(2 / 7)
    assert found["above_holds"] == 0.5
    assert found["unknown"] == pytest.approx(1 / 7)
    assert found["covered 0.9"] == pytest.approx(6 / 7)
    assert found["size 0.9"] == 2
    x = doubt.measured(answers[answers["unit"] == "x"], ancestors)
    assert x["ece"] == pytest.approx(0.15)  # confidence .9, three of four hold
    assert np.isnan(x["above_holds"])


def test_broader_terms_of_malignant_cells_are_told_apart(answers):
    answers.loc[5, "true"] = doubt.MALIGNANT  # called T, which it is not
    found = doubt.measured(answers, ancestors)
    assert (found["above_holds"], found["above_holds_named"]) == (0.5, 1.0)
    answers.loc[4, "true"] = doubt.MALIGNANT
    assert np.isnan(doubt.measured(answers, ancestors)["above_holds_named"])


def test_streams_are_scored_alone(answers):
    found = doubt.measured_streams(answers, ancestors)
    assert list(found) == ["fused", "text"]
    assert found["fused"]["macro_f1"] > found["text"]["macro_f1"] > 0


def test_means_over_units_and_over_all_cells_differ(answers):
    found = doubt.summarised({0: answers, 1: answers}, ancestors)
    assert found["units"][0]["holds"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert found["pooled"][1]["holds"] == pytest.approx(4 / 6)
    assert found["lowest"][0]["holds"] == 0.5
    text = doubt.report({"synthetic": found}, "a command")
    assert "| answers that hold, mean over units | .625 ± .000 |" in text
    assert "| broader terms that hold, all cells together | .500 ± .000 |" in text
    assert "| 0.9 | .833 ± .000 | .667 ± .000 | .857 ± .000 | 2.000 ± .000 |" in text
    json.dumps(found)
    assert doubt.shown([10.25, 10.25]) == "10.250 ± .000"


def test_a_set_covers_where_one_of_its_labels_holds(blood, blood_index, monkeypatch):
    model = scgp.Model.default()
    index = model_index(model)
    cells = embedded(model, index, blood[:50].copy())
    true_N = np.array(["CL:0000236"] * 50, dtype=object)  # B cell
    real = scgp.phenotypes.ontology.Ontology("CL").ancestors
    hit_N, size_N = doubt.covered(index, cells, true_N, real, 0.9)
    decision = doubt.one_answer(index, cells)
    is_b = np.array(["CL:0000236" in real(x) if x else False for x in decision.ontology_id])
    sure = decision.confidence > 0.9
    assert hit_N[is_b & sure].all()
    assert not hit_N[~is_b & sure & (size_N == 1)].any()


def test_evidence_is_kept_as_it_was(blood, tmp_path):
    model = scgp.Model.default()
    index = model_index(model)
    cells = embedded(model, index, blood[:20].copy())
    found, nearest_N = streams(index, cells)
    assert set(found) == set(ablations.ALL)
    names = np.array(["x"] * 20)
    evidence = Evidence(
        found, tuple(index.label_ids), names, names, cells.cell_NE, cells.type_NE, nearest_N
    )
    evidence.save(tmp_path / "deep" / "e.npz")
    again = Evidence.load(tmp_path / "deep" / "e.npz")
    assert again.ids == evidence.ids
    np.testing.assert_allclose(again.streams["head"], found["head"], atol=1e-3)
    assert again.true_N.tolist() == names.tolist()


def test_what_a_variant_takes_out_comes_back():
    pooled = CellTransformer.pooled
    with ablations.altered(ablations.VARIANTS["no pooled view"]):
        assert CellTransformer.pooled is not pooled
    assert CellTransformer.pooled is pooled
    with ablations.altered(ablations.VARIANTS["no augmentation"]):
        from scgp.training import loop

        with mock.patch.object(Sampler, "__init__", return_value=None) as made:
            loop._sampler(mock.Mock(), mock.MagicMock(), mock.Mock(), mock.Mock(), augment=True)
        assert made.call_args.kwargs["augment"] is False
    assert loop.Sampler is Sampler


def test_the_table_of_ablations(tmp_path):
    """Synthetic evidence: the full model knows every cell, the variant is uniform."""
    rng = np.random.default_rng(0)
    ids = ("CL:0000236", "CL:0000576", "CL:0000623")
    for name, right in {"full": 0.98, "no text": 1 / 3}.items():
        for fold in (1, 2, 3):
            class_N = np.arange(30) % 3
            stream = np.full((30, 3), (1 - right) / 2, np.float32)
            stream[np.arange(30), class_N] = right
            true_N = np.array(ids)[class_N]
            vectors = rng.normal(size=(30, 4)).astype(np.float32)
            Evidence(
                dict.fromkeys(ablations.ALL, stream), ids, true_N,
                np.array([f"study {fold}"] * 30), vectors, vectors, np.ones(30, np.float32),
            ).save(ablations.evidence_path(tmp_path / "a", name, f"fold{fold}of5", 0))  # fmt: skip
    text = ablations.report(tmp_path / "a", [0], [1, 2, 3], "a command")
    rows = {line.split(" | ")[0]: line for line in text.splitlines() if line.startswith("| ")}
    assert "3 studies held out" in text
    assert rows["| full"].count("1.000") == 6
    assert "1.000" not in rows["| no text"]
    assert rows["| no network"].count("1.000") == 3  # of full's evidence, gene streams alone
    assert "| - | - | - |" in rows["| no network"]
    assert "| with the transformer" not in rows  # there is no evidence of it
    content = json.loads((tmp_path / "ablations.json").read_text())
    alone = ["index only", "text only", "linear head only", "gene head only", "description only"]
    without = ["no network", "no pairwise stream", "no description"]
    assert list(content["variants"]) == ["full", "no text", *without, *alone]
    assert rows["| no pairwise stream"].count("1.000") == 6
    assert rows["| gene head only"].count("1.000") == 3
    assert rows["| text only"].count("1.000") == 6
