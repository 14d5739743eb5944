"""biomarkers(): which labels are asked of which index, and what cannot be used."""

import dataclasses
import sys
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from scgp.annotate import model_index
from scgp.biomarkers import biomarkers
from scgp.errors import (
    ArgumentError,
    CountsError,
    FingerprintError,
    LabelError,
    MissingColumnError,
    ScgpWarning,
)
from scgp.leave_one_out import leave_one_out

sys.path.insert(0, str(Path(__file__).parent))
from asked_cells import B_CELL, DENDRITIC, NK, _asked

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
        ({"groups": 3}, r"groups is 3; expected values of obs\['cell_type'\]"),
        ({"beside": [1]}, "beside has the type list; expected a pandas.DataFrame"),
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
