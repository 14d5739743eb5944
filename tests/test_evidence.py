"""Streams of evidence and their fusion."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scgp.errors import ArgumentError
from scgp.reference import head
from scgp.reference.evidence import (
    described_evidence,
    fuse,
    gene_evidence,
    head_evidence,
    nearest_text,
    neighbour_evidence,
    pool,
    text_evidence,
)
from scgp.reference.fusion import FLOOR, Fusion
from scgp.reference.head import fit_head


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def random_stream(rng, n_cells=40, n_labels=4):
    return rng.dirichlet(np.ones(n_labels), size=n_cells)


def test_neighbours_vote_by_similarity():
    similarity_BK = np.array([[0.9, 0.8, 0.8], [0.1, 0.1, 0.1]], np.float32)
    code_BK = np.array([[2, 0, 0], [1, 1, 3]])
    prob_BT = neighbour_evidence(similarity_BK, code_BK, 4, temperature=0.1)
    near, far = 1.0, 2 * np.exp(-1.0)
    np.testing.assert_allclose(
        prob_BT, [[far / (near + far), 0, near / (near + far), 0], [0, 2 / 3, 0, 1 / 3]], rtol=1e-5
    )


def test_neighbour_weights_multiply_votes():
    similarity_BK = np.full((2, 3), 0.5, np.float32)
    code_BK = np.array([[0, 1, 1], [0, 1, 1]])
    weight_BK = np.array([[2.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    prob_BT = neighbour_evidence(similarity_BK, code_BK, 2, temperature=0.1, weight_BK=weight_BK)
    np.testing.assert_allclose(prob_BT, [[0.5, 0.5], [0.5, 0.5]])


def test_a_sharp_temperature_leaves_the_nearest_alone_and_overflows_nowhere():
    similarity_BK = np.array([[1.0, 0.99], [-1.0, -0.99]], np.float32)
    prob_BT = neighbour_evidence(similarity_BK, np.array([[0, 1], [0, 1]]), 2, temperature=1e-4)
    np.testing.assert_allclose(prob_BT, [[1, 0], [0, 1]], atol=1e-12)
    similarity_BK = np.array([[-1.0, 1.0]], np.float32)
    prob_BT = neighbour_evidence(similarity_BK, np.array([[0, 1]]), 2, temperature=1e-4)
    np.testing.assert_array_equal(prob_BT, [[0, 1]])


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**31), st.integers(1, 7), st.integers(1, 9), st.integers(1, 6))
def test_every_stream_is_a_distribution(seed, n_cells, n_near, n_labels):
    rng = np.random.default_rng(seed)
    similarity_BK = np.sort(rng.uniform(-1, 1, (n_cells, n_near)).astype(np.float32))[:, ::-1]
    code_BK = rng.integers(0, n_labels, (n_cells, n_near))
    cell_BD, text_TD = unit(rng.normal(size=(n_cells, 5))), unit(rng.normal(size=(n_labels, 5)))
    streams = {
        "neighbour": neighbour_evidence(similarity_BK, code_BK, n_labels, temperature=0.05),
        "text": text_evidence(cell_BD, text_TD, temperature=0.07),
        "head": head_evidence(cell_BD, 20 * text_TD, rng.normal(size=n_labels)),
    }
    for stream in [*streams.values(), fuse(streams, Fusion())]:
        assert stream.shape == (n_cells, n_labels)
        assert (stream >= 0).all()
        np.testing.assert_allclose(stream.sum(axis=1), 1, rtol=1e-9)


def test_text_is_the_softmax_of_the_cosines():
    cell_BD = np.array([[1, 0]], np.float32)
    text_TD = np.array([[0.6, 0.8], [1, 0]], np.float32)
    expected = np.exp(np.array([0.6, 1.0]) / 0.1)
    prob_BT = text_evidence(cell_BD, text_TD, temperature=0.1)
    np.testing.assert_allclose(prob_BT, [expected / expected.sum()], rtol=1e-5)


def test_the_head_is_the_softmax_of_a_line():
    logit_BT = np.array([[1.0, 2.0]]) @ np.array([[0.5, 0.0], [0.0, 0.25]]) + [0.3, -0.3]
    prob_BT = head_evidence(
        np.array([[1, 2]], np.float32), np.array([[0.5, 0], [0, 0.25]]), np.array([0.3, -0.3])
    )
    np.testing.assert_allclose(prob_BT, np.exp(logit_BT) / np.exp(logit_BT).sum(), rtol=1e-6)


def test_the_nearest_text_and_what_has_none():
    type_BD = np.array([[1.0, 0.0], [0.6, 0.8]])
    text_TD = np.array([[0.0, 1.0], [1.0, 0.0]])
    np.testing.assert_allclose(nearest_text(type_BD, text_TD), [1.0, 0.8])
    with_none = np.array([[0.0, 1.0], [0.0, 0.0]])  # the cell may be of the label without a text
    np.testing.assert_array_equal(nearest_text(type_BD, with_none), [1, 1])
    np.testing.assert_array_equal(nearest_text(type_BD, text_TD[:0]), [1, 1])


def test_a_label_without_text_is_neither_favoured_nor_ruled_out():
    cell_BD = np.array([[1, 0]], np.float32)
    text_TD = np.array([[1, 0], [0, 0], [0, 1]], np.float32)
    text_BT = text_evidence(cell_BD, text_TD, temperature=0.1)
    assert np.isnan(text_BT[:, 1]).all()
    assert text_BT[0, 0] + text_BT[0, 2] == pytest.approx(1)
    for p in (0.02, 0.98):
        head_BT = np.array([[0.99 - p, p, 0.01]])
        with_text = fuse({"head": head_BT, "text": text_BT}, Fusion(weight_head=1, weight_text=1))
        assert with_text.argmax() == (1 if p > 0.5 else 0)


def test_without_any_text_the_other_streams_decide_alone():
    text_BT = text_evidence(np.ones((2, 3), np.float32), np.zeros((2, 3)), temperature=0.1)
    assert np.isnan(text_BT).all()
    head_BT = np.array([[0.8, 0.2], [0.3, 0.7]])
    fused = fuse({"head": head_BT, "text": text_BT}, Fusion(weight_head=1, weight_text=1))
    squared = (head_BT + FLOOR) ** 2
    np.testing.assert_allclose(fused, squared / squared.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(fuse({"text": text_BT}, Fusion()), 0.5)


def test_one_stream_of_weight_one_is_itself():
    stream = random_stream(np.random.default_rng(0)) * 0.9 + 0.025
    fused = fuse({"head": stream, "text": stream}, Fusion(weight_head=1.0, weight_text=0.0))
    np.testing.assert_allclose(fused, stream, atol=1e-3)


def test_no_stream_rules_a_label_out_alone():
    certain = np.array([[1.0, 0.0]])
    others = np.array([[0.001, 0.999]])
    streams = {"neighbour": certain, "text": others, "head": others}
    fused = fuse(streams, Fusion(weight_neighbour=1, weight_text=1, weight_head=1))
    assert fused.argmax() == 1


def test_fuse_refuses_what_it_does_not_know():
    stream = np.full((2, 2), 0.5)
    with pytest.raises(ArgumentError, match="expected some of"):
        fuse({"astrology": stream}, Fusion())
    with pytest.raises(ArgumentError, match="expected some of"):
        fuse({}, Fusion())
    with pytest.raises(ArgumentError, match="expected one"):
        fuse({"head": stream, "text": stream[:1]}, Fusion())


def clusters(rng, sizes, width=8):
    centre_TD = rng.normal(size=(len(sizes), width))
    code_N = np.repeat(np.arange(len(sizes)), sizes)
    return unit(centre_TD[code_N] + 0.3 * rng.normal(size=(len(code_N), width))), code_N


def test_the_head_learns_and_repeats():
    vector_ND, code_N = clusters(np.random.default_rng(0), [500, 60, 40])
    weight_TD, bias_T = fit_head(vector_ND, code_N, 3)
    prob_NT = head_evidence(vector_ND, weight_TD, bias_T)
    assert (prob_NT.argmax(axis=1) == code_N).mean() > 0.98
    again_TD, again_T = fit_head(vector_ND, code_N, 3)
    np.testing.assert_array_equal(weight_TD, again_TD)
    np.testing.assert_array_equal(bias_T, again_T)
    other_TD, _ = fit_head(vector_ND, code_N, 3, seed=1)
    assert not np.array_equal(weight_TD, other_TD)


def test_the_gradient_of_the_head_is_that_of_its_loss():
    rng = np.random.default_rng(0)
    vector_ND, code_N = clusters(rng, [6, 5, 4], width=3)
    share_N, at = rng.dirichlet(np.ones(15)), rng.normal(size=12)
    rest = (vector_ND, code_N, share_N, 0.3)
    _, slope = head._loss(at, *rest)
    steps = 1e-2 * np.eye(12)
    numeric = [
        (head._loss(at + step, *rest)[0] - head._loss(at - step, *rest)[0]) / 2e-2 for step in steps
    ]
    np.testing.assert_allclose(slope, numeric, atol=1e-3)


def test_the_head_counts_labels_the_same():
    rng = np.random.default_rng(0)
    vector_ND = unit(rng.normal(size=(330, 3)) * [0.1, 1, 1] + [2.0, 0, 0])
    code_N = np.repeat([0, 1], [300, 30])  # nothing tells them apart
    prob_NT = head_evidence(vector_ND, *fit_head(vector_ND, code_N, 2, l2=1.0))
    np.testing.assert_allclose(prob_NT.mean(axis=0), 0.5, atol=0.05)


def test_the_head_of_one_label_and_of_a_label_without_cells():
    vector_ND, _ = clusters(np.random.default_rng(0), [5])
    weight_TD, bias_T = fit_head(vector_ND, np.zeros(5, int), 1)
    np.testing.assert_allclose(head_evidence(vector_ND, weight_TD, bias_T), 1)
    weight_TD, bias_T = fit_head(vector_ND, np.full(5, 1), 3)
    prob_NT = head_evidence(vector_ND, weight_TD, bias_T)
    assert np.isfinite(prob_NT).all()
    assert (prob_NT[:, 1] >= prob_NT[:, 0]).all()


def test_without_a_gene_head_the_other_streams_decide_alone():
    silent = gene_evidence(None, (1, 2), temperature=0.25)
    assert np.isnan(silent).all()
    head = np.array([[0.8, 0.2]])
    fusion = Fusion(weight_head=0.5, weight_gene=0.5)
    np.testing.assert_allclose(fuse({"head": head, "gene": silent}, fusion), head, atol=1e-3)


def test_gene_evidence_is_the_softmax_of_the_scores():
    found = gene_evidence(np.array([[0.5, 0.25]]), (1, 2), temperature=0.25)
    np.testing.assert_allclose(found[0, 0] / found[0, 1], np.e)


def test_the_pool_is_sure_only_where_streams_agree():
    sure, other = np.array([[0.98, 0.01, 0.01]]), np.array([[0.01, 0.98, 0.01]])
    even = Fusion(weight_text=0.5, weight_head=0.5)
    assert pool({"text": sure, "head": sure}, even)[0, 0] > 0.95
    torn = pool({"text": sure, "head": other}, even)
    np.testing.assert_allclose(torn.sum(), 1)
    assert torn.max() < 0.55
    silent = np.array([[np.nan, 0.5, 0.5]])
    assert pool({"text": silent, "head": sure}, even)[0, 0] > 0.6
    text_alone = Fusion(weight_text=1.0, weight_head=0.0)
    assert 0.7 < pool({"text": sure, "head": other}, text_alone)[0, 0] < 0.8


def test_described_evidence_is_silent_where_nothing_describes():
    score_BT = np.array([[1.0, 2.0, 9.0]])
    found = described_evidence(score_BT, np.array([True, True, False]), temperature=0.5)
    np.testing.assert_allclose(found[0, :2], [1 / (1 + np.exp(2)), 1 / (1 + np.exp(-2))])
    assert np.isnan(found[0, 2])
    nothing = described_evidence(score_BT, np.zeros(3, bool), temperature=0.5)
    assert np.isnan(nothing).all()
