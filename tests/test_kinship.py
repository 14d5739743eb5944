"""Gene weights of labels without cells: the closed form, and what it says of real cells."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import rankdata

import scgp
from scgp.describe import describe
from scgp.own import model_index
from scgp.phenotypes.markers import Markers
from scgp.phenotypes.ontology import Ontology
from scgp.reference.gene_head import GeneHead
from scgp.reference.kinship import (
    FEWEST_MARKERS,
    MARKER_SHARE,
    RIDGE,
    describing_head,
    likeness,
    shared_head,
)

B_CELL, NK, MONOCYTE = "CL:0000236", "CL:0000623", "CL:0000576"


def small_head(weight_HT):
    n_genes, n_labels = weight_HT.shape
    return GeneHead(
        gene_H=np.arange(n_genes, dtype=np.int32) + 1,
        scale_H=np.ones(n_genes, np.float32),
        mean_H=np.zeros(n_genes, np.float32),
        weight_HT=weight_HT.astype(np.float16),
        bias_T=np.full(n_labels, 0.5, np.float32),
    )


def no_markers(n_labels, n_genes=7):
    return sp.csr_matrix((n_labels, n_genes), dtype=np.float32)


def test_likeness_is_the_mean_of_text_lineage_and_markers():
    text = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 0.0]])
    lineage = np.array([[1.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 1.0]])
    marker = sp.csr_matrix([[0.0, 1.0], [0.0, 0.0], [0.0, 1.0]])
    found = likeness(text, lineage, marker)
    assert found[0, 1] == pytest.approx((0.6 + 0.5 + 0) / 3)
    assert found[0, 2] == pytest.approx((0 + 0 + 1) / 3)
    assert np.diagonal(found) == pytest.approx([1, 2 / 3, 1])
    np.testing.assert_allclose(found, found.T)


def test_weights_are_kernel_ridge_regression_over_the_labels_of_the_head():
    rng = np.random.default_rng(0)
    weight_HT = rng.normal(size=(6, 3)).astype(np.float16)
    likeness_DD = np.array([[1, 0.2, 0, 0.9], [0.2, 1, 0.1, 0.3], [0, 0.1, 1, 0], [0.9, 0.3, 0, 1]])
    head = describing_head(
        small_head(weight_HT), likeness_DD[:3, :3], likeness_DD[:3, 3:], no_markers(1)
    )
    own = likeness_DD[:3, :3] + RIDGE * np.eye(3)
    wanted = weight_HT.astype(float) @ np.linalg.inv(own) @ likeness_DD[:3, 3]
    assert head.weight_HT.shape == (6, 1)
    np.testing.assert_allclose(head.weight_HT[:, 0], wanted / np.linalg.norm(wanted), atol=1e-3)
    assert head.bias_T.tolist() == [0]


def test_known_markers_are_added_if_the_head_has_enough_of_them():
    weight_HT = np.eye(6, 2)
    likeness_DD = np.eye(4)
    likeness_DD[0, 2:] = likeness_DD[2:, 0] = 1
    marker_DG = np.zeros((4, 7), np.float32)
    marker_DG[2, [4, 5]] = np.sqrt(0.5)
    marker_DG[3, [0, 6]] = np.sqrt(0.5)  # of these two the head has the second
    head = describing_head(
        small_head(weight_HT),
        likeness_DD[:2, :2],
        likeness_DD[:2, 2:],
        sp.csr_matrix(marker_DG[2:]),
    )
    marked, unmarked = head.weight_HT.astype(float).T
    assert FEWEST_MARKERS == 2
    np.testing.assert_allclose(unmarked, np.eye(6)[0], atol=1e-3)
    assert marked[3] == pytest.approx(marked[4])
    assert marked[3] / marked[0] == pytest.approx(MARKER_SHARE * np.sqrt(0.5), abs=1e-2)


def test_a_label_that_nothing_describes_has_no_weights():
    head = describing_head(small_head(np.eye(6, 2)), np.eye(2), np.zeros((2, 1)), no_markers(1))
    assert not head.weight_HT.any()


def test_labels_that_are_alike_share_their_part_of_the_linear_head():
    """Three labels, of which the first two are alike; the third keeps its direction."""
    weight_TD = np.array([[1.0, 0], [0, 1.0], [-1.0, -1.0]])
    likeness_TT = np.array([[1, 0.8, 0], [0.8, 1, 0], [0, 0, 1.0]])
    weight, bias = shared_head(weight_TD, np.zeros(3), likeness_TT)
    np.testing.assert_allclose(weight[2], [-1, -1], atol=1e-6)
    assert weight[0] @ weight[1] > 0  # at right angles before
    assert weight[0, 0] > weight[0, 1]
    assert (weight.dtype, bias.dtype) == (np.float32, np.float32)


def test_what_all_labels_have_in_common_is_not_mixed_in():
    rng = np.random.default_rng(0)
    weight_TD, bias_T = rng.normal(size=(3, 2)), rng.normal(size=3)
    likeness_TT = np.array([[1, 0.8, 0], [0.8, 1, 0], [0, 0, 1.0]])
    own = shared_head(weight_TD, bias_T, likeness_TT)
    shifted = shared_head(weight_TD + np.array([5.0, -3.0]), bias_T + 7, likeness_TT)
    for found, expected in zip(shifted, own, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


# ---- real cells ----


def _auroc(score_B, is_B):
    n = is_B.sum()
    return (rankdata(score_B)[is_B].sum() - n * (n + 1) / 2) / (n * (~is_B).sum())


def _without_b_cells(model, all_blood):
    """The model with an index of blood cells as its only source, from which B cells were taken."""
    below = Ontology("CL").descendants(B_CELL)
    atlas = all_blood[~all_blood.obs["cell_type"].isin(below).to_numpy()].copy()
    bare = scgp.Model(
        model.config, model.network, model.genes, model.phenotypes, markers=model.markers
    )
    return bare, scgp.build_index(atlas, label_key="cell_type", model=model, progress=False)


def _scores_of(head, model, adata):
    genes = model.genes.match(adata.var_names).token_of_column
    measured_G = np.zeros(model.config.n_genes, bool)
    measured_G[genes[genes >= 0]] = True
    tokens = model.tokenizer.tokenize(adata.X[:, genes >= 0], genes[genes >= 0])
    return head.scores(tokens.values(model.config.n_genes), measured_G)


def test_b_cells_are_found_by_a_head_that_never_had_any(model, all_blood):
    """Six labels of blood are few relatives; markers do most here, as the second half shows."""
    bare, index = _without_b_cells(model, all_blood)
    is_b = (all_blood.obs["cell_type"] == B_CELL).to_numpy()
    vector = model.phenotypes.vectors([B_CELL])
    described = describe([B_CELL], vector, bare, index)
    assert _auroc(_scores_of(described, model, all_blood)[:, 0], is_b) > 0.9
    bare.markers = Markers.none()
    unmarked = describe([B_CELL], vector, bare, index)
    assert not np.allclose(unmarked.weight_HT, described.weight_HT)


def test_labels_that_the_head_has_cells_of_pay_the_penalty(model):
    ids = [B_CELL, "CL:0000453", ""]  # of Langerhans cells the default index has none
    vectors = model.phenotypes.vectors(ids)
    own = model_index(model)
    assert describe(ids, vectors, model, own).bias_T.tolist() == [0, 0, 0]
    assert describe(ids, vectors, model, own, penalty=2.0).bias_T.tolist() == [-2, 0, 0]


def test_without_any_gene_head_nothing_is_described(model):
    bare = scgp.Model(model.config, model.network, model.genes, model.phenotypes)
    assert describe([B_CELL], model.phenotypes.vectors([B_CELL]), bare, None) is None
