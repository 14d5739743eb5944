"""The measure of labels that are asked for: panels, scores, tables; real cells."""

import json

import numpy as np
import pandas as pd
import pytest

from benchmarks import asked
from benchmarks.corpus import Split, read_pair_file, read_vocabulary
from benchmarks.run import lineage
from scgp.demo import BULK_LABEL_TO_CL
from scgp.own import model_index
from scgp.phenotypes.ontology import Ontology

B_CELL, T_CELL, CD4, EPITHELIAL = "CL:0000236", "CL:0000084", "CL:0000624", "CL:0000066"
UNSEEN = "CL:0000453"  # Langerhans cell


def test_the_other_study_is_the_next_by_name():
    types_of = {"a": [B_CELL], "c": [T_CELL]}
    assert [asked.partner(x, types_of) for x in ("a", "b", "c", "d")] == ["c", "c", "a", "a"]


def test_panels_are_asked_at_once_and_one_by_one():
    found = asked.panels([B_CELL, T_CELL], [CD4])
    assert [terms for _, terms in found] == [[B_CELL, T_CELL], [CD4], [B_CELL], [T_CELL], [CD4]]
    assert {kind for kind, _ in found} == set(asked.PANELS)


def test_only_types_that_have_cells_are_asked_for(model):
    index = model_index(model)
    assert asked.known([UNSEEN, T_CELL, B_CELL], index, lineage()) == [T_CELL, B_CELL]


@pytest.fixture
def cells():
    """Synthetic answers of one unit: asked for T cells, with and without the cost."""
    columns = {
        "unit": "u", "panel": asked.PANELS[3], "true": [CD4, CD4, B_CELL, B_CELL],
        "could": [True, True, False, False],
    }  # fmt: skip
    label = {"with the cost": [T_CELL, "", "", ""], "without it": [T_CELL] * 4}
    sure = {"with the cost": [0.9, 0, 0, 0], "without it": [0.9, 0.6, 0.6, 0.6]}
    parts = [
        pd.DataFrame({**columns, "way": way, "label": label[way], "confidence": sure[way]})
        for way in asked.WAYS
    ]
    whole = pd.concat(parts, ignore_index=True)
    others = [whole.assign(panel=panel) for panel in asked.PANELS[:3]]
    return pd.concat([*others, whole], ignore_index=True)


def test_scores_and_tables(cells):
    found = asked.summarised({0: cells, 1: cells}, lineage())
    costly, free = (found[asked.PANELS[3]][way] for way in asked.WAYS)
    assert costly["could"] == free["could"] == [0.5, 0.5]
    assert (costly["called"][0], free["called"][0]) == (0.25, 1.0)
    assert (costly["holds"][0], free["holds"][0]) == (1.0, 0.5)
    assert (costly["found"][0], free["found"][0]) == (0.5, 1.0)
    text = asked.report({"folds5": found}, "the command")
    assert text.count("| without it |") == len(asked.PANELS)
    json.dumps(found)


def test_nothing_labelled_is_nothing_measured(cells):
    none = asked.measured(cells.assign(label="", confidence=0.0), lineage())
    assert none["called"] == none["found"] == 0
    assert np.isnan(none["holds"])
    assert np.isnan(none["ece"])


def test_real_cells(all_blood, model, tmp_path, shared_data):
    adata = all_blood[:150].copy()
    adata.obs["label"] = adata.obs["bulk_labels"].astype(str).map(BULK_LABEL_TO_CL)
    path = tmp_path / "cells.h5ad"
    adata.write_h5ad(path)
    source = read_pair_file(
        path, label_key="label", ontology=Ontology("CL"), vocabulary=read_vocabulary(shared_data)
    )
    split = Split("folds5", "one", [], [source])
    types_of = {"other": [EPITHELIAL, B_CELL]}
    found = asked.ask(model, model_index(model), split, types_of, lineage())
    one = found[found["panel"] == asked.PANELS[3]].groupby("way")["label"].agg(set)
    assert one["with the cost"] == {"", B_CELL}, "no cell of the blood is epithelial"
    assert one["without it"] == {"", B_CELL, EPITHELIAL}
    summary = asked.summarised({0: found}, lineage())
    for panel in asked.PANELS:
        costly, free = (summary[panel][way] for way in asked.WAYS)
        assert costly["called"][0] <= free["called"][0]
    assert summary[asked.PANELS[0]]["with the cost"]["found"][0] > 0.5
