"""What telling the tissue is worth: pairs that are known, scores by row, tables; real cells."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scgp
from benchmarks import tissue
from benchmarks.corpus import Split, read_pair_file, read_vocabulary
from benchmarks.run import lineage
from scgp.demo import BULK_LABEL_TO_CL
from scgp.own import model_index
from scgp.phenotypes.ontology import Ontology

LIVER, LUNG, BLOOD = "UBERON:0002107", "UBERON:0002048", "UBERON:0000178"
HEPATOCYTE, B_CELL = "CL:0000182", "CL:0000236"


def test_pairs_are_those_of_the_training_cells():
    obs = pd.DataFrame(
        {
            "label": [B_CELL, B_CELL, "no term", HEPATOCYTE],
            tissue.TISSUE: [BLOOD, BLOOD, LIVER, "unknown"],
        }
    )
    found = tissue.known_places(
        [ad.AnnData(np.zeros((4, 1)), obs=obs.set_index(obs.index.astype(str)))]
    )
    assert found == {(B_CELL, BLOOD), ("no term", LIVER)}


def test_labels_elsewhere_are_those_of_the_pairs(model):
    index = model_index(model)
    known = {(HEPATOCYTE, LIVER), (B_CELL, LIVER), ("no term", LIVER)}
    of = {x: set(np.array(index.label_ids)[tissue.labels_elsewhere(index, known, x)])
          for x in (LIVER, LUNG)}  # fmt: skip
    epithelial = "CL:0000066"  # what is known of a hepatocyte is known of it
    assert of == {LIVER: set(), LUNG: {HEPATOCYTE, epithelial}}


@pytest.fixture
def cells():
    """Synthetic answers: two units, the second of a liver, of which half are said to be of lung."""
    rows = []
    for told in (False, True):
        for unit, place, n in (("blood", BLOOD, 4), ("liver", LIVER, 6)):
            true = B_CELL if unit == "blood" else HEPATOCYTE
            odd = [unit == "liver" and not told and i < 3 for i in range(n)]
            label = ["CL:0002062" if x else true for x in odd]
            rows.append(
                pd.DataFrame(
                    {
                        "cell": [f"{unit} {i}" for i in range(n)], "unit": unit, "true": true,
                        "tissue": place, "told": told, "label": label,
                        "confidence": np.float32(0.9), "label elsewhere": odd, "leaf": label,
                        "leaf confidence": np.float32(0.9), "leaf elsewhere": odd,
                    }
                )
            )  # fmt: skip
    return pd.concat(rows, ignore_index=True)


def test_scores_by_row_and_tables(cells):
    found = tissue.summarised({0: cells, 1: cells}, lineage())
    assert found["solid"] == ["liver"]
    of_liver = found["by_seed"][0]["liver"]
    assert of_liver["scgp"]["elsewhere"] == 0.5
    assert of_liver["scgp, tissue told"]["elsewhere"] == 0
    assert of_liver["scgp, forced, tissue told"]["soft"] == 1
    gap = found["differences"]["scgp"]["soft"]
    gain = np.mean([0, 1 - of_liver["scgp"]["soft"]])
    assert gap[0] == pytest.approx(gain)
    assert gap[1] <= gain <= gap[2]
    text = tissue.report({"folds5": found}, "the command")
    assert "## folds5 (2 units)" in text
    assert "## folds5, units with solid tissue (1 units)" in text
    lines = [line for line in text.splitlines() if line.startswith("| liver |")]
    assert len(lines) == 1
    assert lines[0].endswith("| .500 to .000 |")
    json.dumps(found)


def test_real_cells_are_asked_with_and_without(all_blood, model, tmp_path, shared_data):
    adata = all_blood[:200].copy()
    adata.obs["label"] = adata.obs["bulk_labels"].astype(str).map(BULK_LABEL_TO_CL)
    adata.obs[tissue.TISSUE] = BLOOD
    path = tmp_path / "cells.h5ad"
    adata.write_h5ad(path)
    source = read_pair_file(
        path, label_key="label", ontology=Ontology("CL"), vocabulary=read_vocabulary(shared_data)
    )
    split = Split("folds5", "one", [], [source])
    known = {(B_CELL, LIVER), (HEPATOCYTE, LIVER)}
    found = tissue.ask(model, model_index(model), split, known)
    assert len(found) == 2 * found["cell"].nunique()
    untold = found[~found["told"]].set_index("cell")
    here = adata.copy()
    scgp.annotate(here, progress=False)
    assert set(untold["label"]) <= set(here.obs["scgp_cell_type_ontology_term_id"]) | {""}
    assert not untold["label elsewhere"].any(), "no B cell is of the liver: leukocytes are anywhere"
