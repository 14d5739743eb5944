"""Candidates: what covers what, how streams are shared out, what is answered."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scgp.errors import ArgumentError
from scgp.phenotypes.ontology import Ontology
from scgp.reference.candidates import choose, make_candidates, restrict, shares, text_support
from scgp.reference.evidence import fuse, pool
from scgp.reference.fusion import STREAMS, Fusion
from scgp.reference.kinship import TEMPERATURE

CL = Ontology("CL")
B_CELL, T_CELL, CD4, CD8 = "CL:0000236", "CL:0000084", "CL:0000624", "CL:0000625"
NAIVE_CD4, NK, LYMPHOCYTE, NEURON = "CL:0000895", "CL:0000623", "CL:0000542", "CL:0000540"
LABEL_IDS = [B_CELL, T_CELL, CD4, NAIVE_CD4, CD8, NK, ""]
LABELS = [*(CL.label(i) for i in LABEL_IDS[:-1]), "my cells"]
TEXT_TD = np.eye(7, 8, dtype=np.float32)
TEXT_TD[6] = 0  # no term, no text


def _candidates(ids, names=None, text_CD=None, labels=LABELS, label_ids=LABEL_IDS):
    names = names or [CL.label(i) for i in ids]
    text_CD = np.eye(len(ids), 8, dtype=np.float32)[:, ::-1] if text_CD is None else text_CD
    return make_candidates(names, ids, text_CD, labels=labels, label_ids=label_ids, ontology=CL)


def _covered(candidates):
    """Names of the reference labels that each candidate covers."""
    return {
        name: {LABELS[t] for t in np.flatnonzero(candidates.cover_TC[:, c])}
        for c, name in enumerate(candidates.names)
    }


def _shared(candidates):
    share_TC = shares(candidates.cover_TC, candidates.above_CC)
    return {name: dict(zip(LABELS, share_TC[:, c], strict=True))
            for c, name in enumerate(candidates.names)}  # fmt: skip


# ---- covering and sharing ----


def test_a_term_covers_itself_and_what_lies_below():
    covered = _covered(_candidates([T_CELL, CD4, NEURON]))
    below_cd4 = {CL.label(CD4), CL.label(NAIVE_CD4)}
    assert covered[CL.label(CD4)] == below_cd4
    assert covered["T cell"] == {"T cell", CL.label(CD8), *below_cd4}
    assert covered["neuron"] == set()


def test_a_label_without_a_term_is_covered_by_its_name_alone():
    candidates = _candidates([B_CELL, "", ""], ["B cell", "my cells", "T cell"])
    assert _covered(candidates) == {"B cell": {"B cell"}, "my cells": {"my cells"}, "T cell": set()}
    assert candidates.names[0] != "B cell"  # the narrowest come first
    assert candidates.in_reference_C.tolist() == [
        name != "T cell" for name in candidates.names]  # fmt: skip


def test_a_label_counts_for_the_most_specific_candidate():
    shared = _shared(_candidates([T_CELL, CD4]))
    assert shared["T cell"]["T cell"] == 1
    assert shared["T cell"][CL.label(CD8)] == 1
    assert shared["T cell"][CL.label(NAIVE_CD4)] == 0
    assert shared[CL.label(CD4)][CL.label(NAIVE_CD4)] == 1
    assert sum(shared[name]["B cell"] for name in shared) == 0


def test_unrelated_candidates_share_equally():
    """The naive CD4 cell is a CD4 T cell and a naive T cell; neither of these is the other."""
    naive = CL.id_of("naive T cell")
    shared = _shared(_candidates([T_CELL, CD4, naive]))
    assert [shared[CL.label(i)][CL.label(NAIVE_CD4)] for i in (T_CELL, CD4, naive)] == [0, 0.5, 0.5]


def test_three_levels_by_hand():
    """A chain top > middle > bottom: the middle label is the middle's, though the top covers it."""
    cover_TC = np.array([[0, 0, 1], [0, 1, 1], [1, 1, 1], [0, 0, 0]], bool)
    above_CC = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0]], bool)
    expected = [[0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert shares(cover_TC, above_CC).tolist() == expected


@pytest.mark.parametrize(("names", "n_texts"), [([], 0), (["B cell"], 2)])
def test_sizes_that_do_not_fit(names, n_texts):
    with pytest.raises(ArgumentError, match="candidates"):
        _candidates([B_CELL] * len(names), names or None, np.ones((n_texts, 8), np.float32))


# ---- streams ----


def test_a_stream_over_candidates_by_hand():
    share_TC = np.array([[1, 0], [0, 0.5], [0, 0.5], [0, 0]])
    stream_BT = np.array([[0.2, 0.1, 0.5, 0.2], [0, 0, 0, 1]])
    found_BC = restrict(stream_BT, share_TC)
    np.testing.assert_allclose(found_BC, [[0.4, 0.6], [0.5, 0.5]])  # no mass: uniform


def test_a_broad_candidate_with_nothing_left_is_no_unseen_one():
    """Its labels all count for narrower candidates; the streams know of it."""
    stream_BT, share_TC = np.array([[0.2, 0.6, 0.2]]), np.array([[1.0, 0], [1, 0], [0, 0]])
    found_BC = restrict(stream_BT, share_TC)
    np.testing.assert_allclose(found_BC, [[1, 0]])


def test_a_silent_stream_stays_silent():
    share_TC = np.array([[1.0, 0], [0, 1]])
    assert np.isnan(restrict(np.full((3, 2), np.nan), share_TC)).all()


@st.composite
def _asked(draw):
    ids = draw(st.lists(st.sampled_from([*LABEL_IDS[:-1], LYMPHOCYTE, "CL:0000898"]), min_size=1,
                        unique=True))  # fmt: skip
    seed = draw(st.integers(0, 10**6))
    return ids, np.random.default_rng(seed)


def _random_streams(rng, n=5):
    names = ("neighbour", "text", "head", "gene")
    streams = {name: rng.dirichlet(np.full(7, 0.2), n) for name in names}
    streams["neighbour"][rng.random(streams["neighbour"].shape) < 0.5] = 0
    streams["neighbour"] /= np.maximum(streams["neighbour"].sum(1, keepdims=True), 1e-9)
    return streams


@settings(deadline=None, max_examples=50)
@given(_asked())
def test_streams_stay_distributions(asked):
    ids, rng = asked
    candidates = _candidates(ids)
    share_TC = shares(candidates.cover_TC, candidates.above_CC)
    np.testing.assert_allclose(share_TC.sum(axis=1), candidates.cover_TC.any(axis=1))
    for stream_BT in _random_streams(rng).values():
        np.testing.assert_allclose(restrict(stream_BT, share_TC).sum(axis=1), 1)


# ---- the choice ----

FUSION = Fusion(threshold=0.5, temperature_text=0.1)


def _choose(candidates, streams, type_BD=None, fusion=FUSION, nearest=1.0, empty=None):
    n = len(next(iter(streams.values())))
    type_BD = np.zeros((n, 8), np.float32) if type_BD is None else type_BD
    empty_B = np.zeros(n, bool) if empty is None else np.array(empty)
    nearest_B = np.full(n, nearest)
    return choose(streams, candidates, type_BD, TEXT_TD, nearest_B=nearest_B, fusion=fusion,
                  empty_B=empty_B)  # fmt: skip


def _agreed(*rows):
    """Streams that all say the same."""
    row_BT = np.array(rows, float)
    return dict.fromkeys(("neighbour", "text", "head", "gene"), row_BT)


@settings(deadline=None, max_examples=50)
@given(_asked(), st.randoms(use_true_random=False))
def test_the_order_of_candidates_changes_nothing(asked, random):
    ids, rng = asked
    text_CD = rng.normal(size=(len(ids), 8)).astype(np.float32)
    streams, type_BD = _random_streams(rng), rng.normal(size=(5, 8)).astype(np.float32)
    order = random.sample(range(len(ids)), len(ids))
    first = _choose(_candidates(ids, text_CD=text_CD), streams, type_BD)
    again = _choose(_candidates([ids[c] for c in order], text_CD=text_CD[order]), streams, type_BD)
    for name in ("label", "ontology_id", "status", "leaf", "confidence", "leaf_confidence"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))


def test_the_best_candidate_with_the_mass_it_has_among_all_labels():
    streams = _agreed([0.7, 0, 0, 0, 0, 0.3, 0], [0.1, 0, 0, 0, 0, 0.1, 0.8])
    found = _choose(_candidates([B_CELL, NK]), streams)
    assert found.label.tolist() == ["B cell", "unknown"]
    assert found.ontology_id.tolist() == [B_CELL, ""]
    assert found.status.tolist() == ["labelled", "unknown"]
    expected_BT = pool(streams, FUSION)
    np.testing.assert_allclose(found.confidence, [expected_BT[0, 0], 0], rtol=1e-6)
    np.testing.assert_allclose(found.leaf_confidence[1], expected_BT[1, 0], rtol=1e-6)


def test_confidence_counts_narrower_candidates_too():
    """As without labels: the probability of the label with all terms below it."""
    streams = _agreed([0, 0.6, 0.3, 0.1, 0, 0, 0])
    found = _choose(_candidates([T_CELL, CD4]), streams)
    assert found.label.tolist() == ["T cell"]
    assert found.confidence[0] > 0.99


def test_the_broader_candidate_where_the_narrower_ones_are_not_sure():
    streams = _agreed([0, 0, 0.45, 0, 0.43, 0.12, 0])
    assert _choose(_candidates([CD4, CD8, NK]), streams).label.tolist() == ["unknown"]
    found = _choose(_candidates([LYMPHOCYTE, CD4, CD8, T_CELL, NK]), streams)
    assert found.leaf.tolist() == [CL.label(CD4)]
    assert (found.label.tolist(), found.status.tolist()) == (["T cell"], ["labelled"])


def test_a_cell_unlike_all_is_unknown():
    streams = _agreed([1, 0, 0, 0, 0, 0, 0])
    fusion = Fusion(novelty_threshold=0.7)
    candidates = _candidates([B_CELL])
    assert _choose(candidates, streams, fusion=fusion, nearest=0.69).label.tolist() == ["unknown"]
    assert _choose(candidates, streams, fusion=fusion, nearest=0.7).label.tolist() == ["B cell"]


def test_a_cell_unlike_all_texts_is_unknown():
    streams = _agreed([1, 0, 0, 0, 0, 0])
    candidates = _candidates([B_CELL], labels=LABELS[:-1], label_ids=LABEL_IDS[:-1])
    type_BD = np.full((1, 8), 8**-0.5, np.float32)  # a cosine of .35 with every text
    for bound, label in ((0.4, "unknown"), (0.3, "B cell")):
        fusion = dataclasses.replace(FUSION, novelty_text=bound)
        found = choose(streams, candidates, type_BD, TEXT_TD[:-1], nearest_B=np.ones(1),
                       fusion=fusion, empty_B=np.zeros(1, bool))  # fmt: skip
        assert found.label.tolist() == [label]


def test_empty_cells_and_no_cells():
    streams = _agreed([1, 0, 0, 0, 0, 0, 0])
    found = _choose(_candidates([B_CELL]), streams, empty=[True])
    assert (found.label.tolist(), found.status.tolist()) == ([None], ["empty"])
    assert (found.confidence[0], found.leaf[0], found.ontology_id[0]) == (0, "", "")
    nothing = {name: stream[:0] for name, stream in streams.items()}
    assert len(_choose(_candidates([B_CELL, NEURON]), nothing).label) == 0


def test_all_labels_of_the_reference_have_its_own_posterior():
    """Candidates that are the labels, with the labels' texts: fused as without candidates."""
    rng = np.random.default_rng(0)
    ids, label_ids = LABEL_IDS[:-1], LABEL_IDS[:-1]
    candidates = _candidates(ids, text_CD=TEXT_TD[:-1], labels=LABELS[:-1], label_ids=label_ids)
    type_BD = rng.normal(size=(20, 8)).astype(np.float32)
    streams = {name: rng.dirichlet(np.ones(6), 20) for name in ("neighbour", "head", "gene")}
    logit_BT = type_BD[:, :6] / FUSION.temperature_text
    power_BT = np.exp(logit_BT - logit_BT.max(1, keepdims=True))
    streams["text"] = power_BT / power_BT.sum(1, keepdims=True)
    found = choose(streams, candidates, type_BD, TEXT_TD[:-1], nearest_B=np.ones(20),
                   fusion=FUSION, empty_B=np.zeros(20, bool))  # fmt: skip
    best_B = fuse(streams, FUSION).argmax(axis=1)
    assert found.leaf.tolist() == [LABELS[t] for t in best_B]
    assert len(set(best_B)) > 2


# ---- candidates that only their text speaks for ----


def _cell(**cosines):
    """A type vector with the given cosines to dimensions d0 ... d7."""
    type_BD = np.zeros((1, 8), np.float32)
    for name, cosine in cosines.items():
        type_BD[0, int(name[1])] = cosine
    return type_BD


def test_support_is_a_softmax_with_the_strongest_rival():
    """The neuron's text is dimension 7; the B cell's is 0, the NK cell's 5."""
    candidates = _candidates([NEURON, B_CELL])
    candidates.text_CD[candidates.ids.index(B_CELL)] = TEXT_TD[0]
    candidates.text_CD[candidates.ids.index(NEURON)] = np.eye(8)[7]
    cell = _cell(d7=0.5, d0=0.1, d5=0.4)
    support_BC = text_support(cell, TEXT_TD, candidates, temperature=0.1)
    neuron = candidates.ids.index(NEURON)
    np.testing.assert_allclose(support_BC[0, neuron], 1 / (1 + np.exp(-1)), rtol=1e-5)
    assert np.isnan(support_BC[0, 1 - neuron])


def test_what_lies_above_is_no_rival():
    """An unseen kind of B cell beside the B cells of the reference."""
    naive_b = CL.id_of("naive B cell")
    candidates = _candidates([naive_b], text_CD=np.eye(8, dtype=np.float32)[[7]])
    cell = _cell(d7=0.5, d0=0.9, d5=0.5)
    support_BC = text_support(cell, TEXT_TD, candidates, temperature=0.1)
    np.testing.assert_allclose(support_BC, [[0.5]], rtol=1e-5)  # that of the NK cell alone
    only_b = _candidates([naive_b], text_CD=np.eye(8, dtype=np.float32)[[7]], labels=["B cell"],
                         label_ids=[B_CELL])  # fmt: skip
    support_BC = text_support(cell, TEXT_TD[:1], only_b, temperature=0.1)
    assert support_BC[0, 0] < 0.02  # without another rival, that of the B cell


def test_a_label_that_means_the_same_is_no_rival_of_free_text():
    """Nor are the kinds of it: "T cells" is beaten neither by "T cell" nor by "CD4 T cell"."""
    text_CD = np.array([[0, 0.7, 0, 0, 0, 0, 0, 0.7]], np.float32)  # cosine .7 with the T cell's
    for cell in (_cell(d1=1.0), _cell(d1=0.5, d2=0.9)):
        free = _candidates([""], ["T cells"], text_CD)
        assert text_support(cell, TEXT_TD, free, temperature=0.1)[0, 0] > 0.95
        term = _candidates([NEURON], text_CD=text_CD)
        assert text_support(cell, TEXT_TD, term, temperature=0.1)[0, 0] < 0.1
    nk_cell = text_support(_cell(d1=0.3, d5=0.9), TEXT_TD, free, temperature=0.1)
    assert nk_cell[0, 0] < 0.01


@pytest.mark.parametrize(("bound", "low"), [(0.54, False), (0.56, True), (0.6, True)])
def test_how_near_a_text_must_be_to_mean_the_same_is_the_calibration_s(bound, low):
    """Of .5 as of 0.7.0, of .6 for what earlier versions wrote."""
    text_CD = np.array([[0, 0.55, 0, 0, 0, 0, 0, np.sqrt(1 - 0.55**2)]], np.float32)
    free = _candidates([""], ["T cells"], text_CD)
    support_BC = text_support(_cell(d1=1.0), TEXT_TD, free, temperature=0.1, alike=bound)
    assert (support_BC[0, 0] < 0.1) == low
    assert Fusion().alike == 0.5
    before = {name: x for name, x in Fusion().to_dict().items() if name != "alike"}
    assert Fusion.from_dict(before).alike == 0.6


def test_an_unseen_candidate_wins_by_its_text_and_not_for_want_of_others():
    text_CD = np.eye(8, dtype=np.float32)[[7, 0]]
    candidates = _candidates([NEURON, B_CELL], text_CD=text_CD)
    b_cell = _agreed([0.9, 0, 0, 0, 0, 0.1, 0])
    assert _choose(candidates, b_cell, _cell(d0=0.9)).label.tolist() == ["B cell"]
    other = _agreed([0.05, 0, 0, 0, 0, 0.95, 0])
    assert _choose(candidates, other, _cell(d7=0.9)).label.tolist() == ["neuron"]
    nk = _choose(candidates, other, _cell(d5=0.9, d7=0.3))
    assert nk.label.tolist() == ["unknown"]


def test_text_is_heard_where_it_has_no_weight():
    """A fusion fitted without text would tie all candidates that have nothing else."""
    candidates = _candidates([NEURON, ""], ["neuron", "egg"], np.eye(8, dtype=np.float32)[[7, 6]])
    fusion = Fusion(weight_text=0.0)
    streams = _agreed([1, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0])
    type_BD = np.concatenate([_cell(d7=0.9), _cell(d6=0.9)])
    assert _choose(candidates, streams, type_BD, fusion).leaf.tolist() == ["neuron", "egg"]


def test_a_label_with_the_only_text_has_no_advantage():
    """A reference of one term and of a label that is none: its text would win for any cell."""
    candidates = _candidates(
        [B_CELL], text_CD=TEXT_TD[:1], labels=["B cell", "my cells"], label_ids=[B_CELL, ""]
    )
    streams = {name: np.array([[0.02, 0.98]]) for name in ("neighbour", "head", "gene")}
    streams["text"] = np.array([[1.0, np.nan]])
    found = choose(streams, candidates, _cell(d5=1), TEXT_TD[[0, 6]], nearest_B=np.ones(1),
                   fusion=FUSION, empty_B=np.zeros(1, bool))  # fmt: skip
    assert found.leaf_confidence[0] < 0.05


# ---- candidates without reference cells, beside a describing head ----


def _described(
    candidates, streams, type_BD=None, *, nearest=1.0, fusion=FUSION, text_TD=None, **scores
):
    """Choose, with scores of labels of the reference and of candidates by name; others have 0."""
    n = len(streams["head"])
    names = [*LABELS, *candidates.names]
    described_BX = np.zeros((n, len(names)), np.float32)
    for name, score in scores.items():
        described_BX[:, names.index(name)] = score
    type_BD = _cell(d6=1.0) if type_BD is None else type_BD
    every_TD = np.where(np.arange(7)[:, None] < 6, TEXT_TD, np.eye(7, 8)[6])  # all have a text
    text_TD = every_TD.astype(np.float32) if text_TD is None else text_TD
    return choose(streams, candidates, type_BD, text_TD, nearest_B=np.full(n, nearest),
                  fusion=fusion, empty_B=np.zeros(n, bool), described_BX=described_BX)  # fmt: skip


def test_a_described_candidate_has_the_odds_of_its_lead():
    """Streams that agree on a B cell have no say in what they know nothing of."""
    candidates = _candidates([NEURON, B_CELL])
    found = _described(candidates, _agreed([1, 0, 0, 0, 0, 0, 0]), neuron=5.0, **{"B cell": 2.0})
    assert (found.label.tolist(), found.ontology_id.tolist()) == (["neuron"], [NEURON])
    odds = np.exp((5.0 - 2.0) / TEMPERATURE)
    np.testing.assert_allclose(found.confidence, odds / (1 + odds), rtol=1e-5)


def test_the_streams_choose_among_covered_candidates():
    """Whatever the describing head says of these; it says how a described one does against all."""
    candidates = _candidates([NEURON, B_CELL, T_CELL])
    b_cell = _agreed([1, 0, 0, 0, 0, 0, 0])
    scores = {"B cell": 4.0, "T cell": 9.0}
    assert _described(candidates, b_cell, neuron=1.0, **scores).label.tolist() == ["B cell"]
    assert _described(candidates, b_cell, neuron=12.0, **scores).leaf.tolist() == ["neuron"]


def test_a_label_that_was_not_asked_for_speaks_against_a_described_one():
    candidates = _candidates([NEURON])
    nk_cell = _agreed([0, 0, 0, 0, 0, 1, 0])
    found = _described(candidates, nk_cell, neuron=2.0, **{CL.label(NK): 6.0})
    assert (found.leaf.tolist(), found.label.tolist()) == (["neuron"], ["unknown"])
    assert _described(candidates, nk_cell, neuron=6.0).label.tolist() == ["neuron"]


def test_free_text_is_no_described_candidate():
    """A describing head knows more of terms than of free text, which it would never let win."""
    text_CD = np.eye(8, dtype=np.float32)[[7]]
    candidates = _candidates([""], ["nerve"], text_CD)
    nk_cell = _agreed([0, 0, 0, 0, 0, 1, 0])
    assert _described(candidates, nk_cell, _cell(d7=0.9), nerve=-9.0).label.tolist() == ["nerve"]
    assert _described(candidates, nk_cell, _cell(d5=0.9), nerve=9.0).label.tolist() == ["unknown"]


def test_a_cell_unlike_all_the_reference_may_be_of_a_described_candidate():
    candidates = _candidates([NEURON, B_CELL])
    streams = _agreed([1, 0, 0, 0, 0, 0, 0])
    fusion = dataclasses.replace(FUSION, novelty_threshold=0.5)
    far = {"nearest": 0.1, "fusion": fusion}
    assert _described(candidates, streams, neuron=6.0, **far).label.tolist() == ["neuron"]
    assert _described(candidates, streams, neuron=-6.0, **far).label.tolist() == ["unknown"]
    assert _described(candidates, streams, neuron=-6.0).label.tolist() == ["B cell"]


def test_a_described_candidate_that_loses_leaves_the_others_as_they_are():
    """However many covered candidates share the streams: it stands against the best of them."""
    candidates = _candidates([NEURON, B_CELL, CD4, CD8])
    streams = _agreed([0.02, 0, 0.68, 0, 0.3, 0, 0])
    fusion = Fusion(**dict.fromkeys([f"weight_{name}" for name in STREAMS], 0.15))
    scores = {CL.label(CD4): 2.0, "neuron": 1.6}
    found = _described(candidates, streams, fusion=fusion, **scores)
    assert found.label.tolist() == [CL.label(CD4)]


def test_labels_without_a_text_keep_a_cell_unlike_all_unknown():
    """They may fit it, and cannot be compared with a description."""
    fusion = dataclasses.replace(FUSION, novelty_threshold=0.5)
    candidates = _candidates([NEURON, B_CELL])
    streams = _agreed([1, 0, 0, 0, 0, 0, 0])
    found = _described(candidates, streams, neuron=6.0, nearest=0.1, fusion=fusion, text_TD=TEXT_TD)
    assert found.label.tolist() == ["unknown"]
