"""Cells and published profiles as mean profiles; what makes labels and tissues alike."""

import tracemalloc

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from benchmarks.expression_methods import pearson
from scgp.cells.draw import read_profiles
from scgp.errors import ArgumentError, MissingColumnError
from scgp.phenotypes.ontology import Ontology
from scgp.training.mean_profiles import (
    FEWEST_CELLS,
    AveragedCells,
    CellMeans,
    make_profiles,
    rows_of_profiles,
)
from scgp.what_if.alike import group_likeness, label_likeness, tissue_likeness, usual_tissues

B_CELL, T_CELL, NK = "CL:0000236", "CL:0000084", "CL:0000623"
LUNG, LIVER, SPLEEN = "UBERON:0002048", "UBERON:0002107", "UBERON:0002106"


def test_means_over_cells_are_of_cp10k_and_need_enough_cells():
    linear = np.random.default_rng(0).poisson(1.0, (FEWEST_CELLS + 4, 5)).astype(np.float32)
    linear[:, 0] += 1
    linear[-1] = 0  # an empty cell says nothing
    code = np.array([0] * FEWEST_CELLS + [1, 1, -1, 0])
    means = CellMeans(code, 2, 5)
    for start in range(0, len(linear), 4):  # blocks that cut through groups
        means.add(start, sp.csr_matrix(np.log1p(linear[start : start + 4])))
    mean_RG, group_R = means.means()
    np.testing.assert_allclose(np.expm1(mean_RG[:][0]), linear[:FEWEST_CELLS].mean(0), rtol=1e-5)
    assert (mean_RG.shape, group_R.tolist()) == ((1, 5), [0])


def test_groups_of_few_cells_take_no_memory():
    """Synthetic: 4,000 donors of two cells, and one of 16, six of which have no count."""
    rng, n_genes = np.random.default_rng(0), 5000
    code = np.concatenate([np.repeat(np.arange(4000), 2), np.full(16, 4000)])
    value = sp.random(len(code), n_genes, 0.001, format="csr", random_state=rng, dtype=np.float32)
    value = sp.vstack([value[:-6], sp.csr_matrix((6, n_genes), dtype=np.float32)], format="csr")
    tracemalloc.start()
    means = CellMeans(code, 4001, n_genes)
    means.add(0, value)
    mean_RG, group_R = means.means()
    found = mean_RG[:]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6  # a row of each donor would be 80 MB
    assert group_R.tolist() == [4000]
    sum_G = np.asarray(value[-16:].expm1().sum(axis=0, dtype=np.float32)).ravel()
    np.testing.assert_array_equal(found[0], np.log1p(sum_G / np.int64(10)))


def test_profiles_are_those_of_all_rows_in_memory(all_blood, model):
    """Rows that are made when asked for give the same profiles, to the last bit."""
    label = all_blood.obs["cell_type"]
    averaged = AveragedCells(model, label, None, pd.Series(np.arange(700) % 3, label.index))
    token_V = model.genes.match(all_blood.var_names).token_of_column
    tokens = model.tokenizer.tokenize(all_blood.X, token_V)
    averaged.add(
        0, tokens.values(model.config.n_genes), np.isin(np.arange(model.config.n_genes), token_V)
    )
    value_RG, measured_RG, keys = averaged.rows()
    found = make_profiles(model, [(value_RG, measured_RG, keys)]).arrays()
    whole = make_profiles(model, [(value_RG[:], np.array(measured_RG), keys)]).arrays()
    assert found.keys() == whole.keys()
    assert all(found[name].tobytes() == whole[name].tobytes() for name in found)


def test_a_label_is_most_like_itself_and_free_text_less(model):
    labels = [B_CELL, NK, T_CELL]
    text = model.phenotypes.vectors([B_CELL, B_CELL])
    like_DP, share_DU, order = label_likeness([B_CELL, ""], text, labels, model)
    assert order == sorted(labels)
    b = order.index(B_CELL)
    assert share_DU[0, b] == pytest.approx(1, abs=1e-6)
    assert share_DU[1].argmax() == b
    assert share_DU[1, b] == pytest.approx(np.sqrt(1 / 6), abs=1e-3)
    np.testing.assert_allclose(like_DP[0], group_likeness(labels, [""] * 3, model)[0][0], atol=1e-6)


def test_no_tissue_is_like_none_and_unstored_ones_go_by_their_ancestors(model):
    tongue = "UBERON:0001723"
    assert tongue not in model.phenotypes
    found = tissue_likeness(["", LUNG, tongue], [LUNG, LIVER, ""], model)
    assert not found[0].any()
    assert not found[:, 2].any()
    assert found[1, 0] > found[1, 1]
    lineage = Ontology("UBERON").soft_score(tongue, LIVER)
    assert found[2, 1] == pytest.approx(lineage, abs=1e-6)


def test_without_a_tissue_those_of_alike_labels_count(model):
    like = np.array([[0.9, 0.3, -0.5]])
    usual = usual_tissues(like, [LUNG, LIVER, SPLEEN], model)
    each = tissue_likeness([LUNG, LIVER], [LUNG, LIVER, SPLEEN], model)
    np.testing.assert_allclose(usual[0], 0.9 * each[0] + 0.1 * each[1], atol=1e-9)
    assert not usual_tissues(-like.clip(0), [LUNG, LIVER, SPLEEN], model).any()


def small_profiles(**obs):
    genes = ["VWF", "ALB", "no such gene"]
    table = pd.DataFrame(obs or {"cell_type_ontology_term_id": [B_CELL]}, index=["p"])
    return ad.AnnData(np.array([[2.0, 6.0, 2.0]], np.float32), table, pd.DataFrame(index=genes))


def test_published_profiles_become_cp10k_over_all_their_genes(model):
    value, measured, keys = rows_of_profiles(model, small_profiles(), "x")
    vwf, alb = model.genes.match(["VWF", "ALB"]).token_of_column
    assert value[0, vwf] == pytest.approx(np.log1p(2000))
    assert value[0, alb] == pytest.approx(np.log1p(6000))
    assert measured.sum() == 2
    assert keys == [(B_CELL, "", "x")]


def test_profiles_without_usable_labels_or_values_are_refused(model):
    with pytest.raises(MissingColumnError, match="no column 'cell_type_ontology_term_id'"):
        rows_of_profiles(model, small_profiles(kind=["B"]), "x")
    with pytest.raises(ArgumentError, match=r"no live Cell Ontology ids: \['B cell'\]"):
        rows_of_profiles(model, small_profiles(cell_type_ontology_term_id=["B cell"]), "x")
    bad = small_profiles()
    bad.X[0, 0] = -1
    with pytest.raises(ArgumentError, match="negative or non-finite"):
        rows_of_profiles(model, bad, "x")


@pytest.fixture(scope="module")
def library_rows(model, shared_data):
    return rows_of_profiles(model, read_profiles(shared_data / "pseudobulk")[0], "library")


def test_real_profiles_of_types_never_shown_follow_from_their_descriptions(library_rows, model):
    value, measured, keys = library_rows
    found = {"ours": [], "tissue": [], "others": []}
    # B cell, endothelial cell, macrophage, fibroblast, smooth muscle cell
    for term in ("CL:0000236", "CL:0000115", "CL:0000235", "CL:0000057", "CL:0000192"):
        below = Ontology("CL").descendants(term)
        held = np.array([label in below for label, _, _ in keys])
        train = value[~held], measured[~held], [k for k, h in zip(keys, held, strict=True) if not h]
        profiles = make_profiles(model, [train])
        labels, tissues, _ = zip(*(k for k, h in zip(keys, held, strict=True) if h), strict=True)
        vector = model.phenotypes.vectors(labels)
        like = label_likeness(labels, vector, profiles.label_ids, model)[0]
        tissue = tissue_likeness(tissues, profiles.tissue_ids, model)
        counted = measured[held] & (profiles.n_groups_G > 0)
        apart = value[held] - profiles.mean_G
        for name, known in (("ours", like), ("tissue", 0 * like), ("others", like[:, ::-1])):
            found[name].append(pearson(profiles.deviation(known, tissue), apart, counted).mean())
    mean = {name: np.mean(values) for name, values in found.items()}
    assert mean["ours"] > 0.4
    assert mean["ours"] > mean["tissue"] + 0.05
    assert mean["ours"] > mean["others"] + 0.05
