"""Fusion weights and confidence, fitted to evidence whose truth is known.

Shape suffixes: B held-out cells, T classes.
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.scores import counted_as, macro_f1, soft_scores
from scgp.phenotypes.ontology import Ontology
from scgp.reference.conformal import NEVER, label_sets, mass_for
from scgp.reference.evidence import fuse, pool
from scgp.reference.fitting import TOTAL, HeldOut, Scorer, fit_answers
from scgp.reference.fusion import STREAMS, Fusion
from scgp.reference.logistic import fit_logistic

# T cell > CD4, CD8; B cell; monocyte > classical monocyte; endothelial; a label that is no term
IDS = [
    "CL:0000084", "CL:0000115", "CL:0000236", "CL:0000576", "CL:0000624", "CL:0000625",
    "CL:0000860", "",
]  # fmt: skip
LEAVES = [1, 2, 4, 5, 6]
CL = Ontology("CL")


def make_cells(informative, n_cells=600, seed=0, sharpness=3.0):
    """Evidence that is noise in all streams but one; three studies of other sizes."""
    rng = np.random.default_rng(seed)
    class_B = rng.choice(LEAVES, n_cells)
    streams = {}
    for name in STREAMS:
        logit_BT = rng.normal(0, 1.5, (n_cells, len(IDS)))
        if name == informative:
            logit_BT[np.arange(n_cells), class_B] += sharpness
        power_BT = np.exp(logit_BT)
        streams[name] = power_BT / power_BT.sum(axis=1, keepdims=True)
    study_B = rng.choice(3, n_cells, p=[0.6, 0.3, 0.1])
    known_B, novel_B = np.ones(n_cells, bool), np.zeros(n_cells, bool)
    nearest_B, text_B = rng.uniform(0.5, 1, n_cells), rng.uniform(0.2, 0.9, n_cells)
    return HeldOut(streams, nearest_B, text_B, class_B, known_B, study_B, novel_B)


def fit(cells, **options):
    return fit_answers(cells, label_ids=IDS, ontology=CL, **options)


@pytest.mark.parametrize("informative", STREAMS)
def test_the_informative_stream_is_found(informative):
    fusion = fit(make_cells(informative))
    weights = {name: fusion.weight(name) for name in STREAMS}
    best = weights.pop(informative)
    assert best >= 3 * max(weights.values())


def test_two_streams_that_tell_different_things_are_both_used():
    cells = make_cells("text")
    other = make_cells("head", seed=0)
    np.testing.assert_array_equal(cells.class_B, other.class_B)
    streams = {**cells.streams, "head": other.streams["head"]}
    fusion = fit(dataclasses.replace(cells, streams=streams))
    assert min(fusion.weight_text, fusion.weight_head) > 0
    assert fusion.weight_neighbour < min(fusion.weight_text, fusion.weight_head)


def test_streams_count_the_same_unless_the_studies_say_clearly_otherwise():
    """One stream is a little better than another: no reason to count it more."""
    text, head = make_cells("text", sharpness=2.6), make_cells("head", sharpness=2.2)
    streams = {**text.streams, "head": head.streams["head"]}
    fusion = fit(dataclasses.replace(text, streams=streams))
    assert fusion.weight_text == fusion.weight_head > 0
    weights = [fusion.weight(name) for name in STREAMS]
    assert sum(weights) == pytest.approx(TOTAL)


@pytest.mark.parametrize("near", [0.5, 8.0])
def test_a_weight_of_nearness_that_is_given_is_not_chosen(near):
    assert fit(make_cells("text"), near=near).weight_near == near


def test_neighbours_count_like_the_head_alone_and_nothing_beside_more_streams():
    """Equally good streams: beside the head alone neighbours count, beside four they do not."""
    told = {name: make_cells(name).streams[name] for name in STREAMS}
    cells = make_cells("head")
    two = {name: told[name] for name in ("neighbour", "head")}
    both = fit(dataclasses.replace(cells, streams=two))
    assert both.weight_neighbour == both.weight_head > 0
    five = fit(dataclasses.replace(cells, streams=told))
    assert five.weight_neighbour == 0
    assert len({five.weight(name) for name in STREAMS if name != "neighbour"}) == 1


def answers(cells, fusion):
    """Leaf, whether it is right, and confidence, by the rule that annotate() follows."""
    scorer = Scorer(IDS, CL)
    posterior_BT = fuse(cells.streams, fusion)
    leaf_B = (posterior_BT @ scorer.worth(fusion.weight_near)).argmax(axis=1)
    mass_B = (pool(cells.streams, fusion) * scorer.right_TT[leaf_B]).sum(axis=1)
    right_B = scorer.right_TT[cells.class_B, leaf_B]
    return leaf_B, right_B, fusion.confidence(mass_B, cells.nearest_B)


@pytest.mark.parametrize("sharpness", [1.5, 3.0])
def test_confidence_is_how_often_an_answer_is_right(sharpness):
    fusion = fit(make_cells("head", 6000, sharpness=sharpness))
    fresh = make_cells("head", 6000, seed=1, sharpness=sharpness)
    _, right_B, confidence_B = answers(fresh, fusion)
    assert 0.3 < right_B.mean() < 0.99
    order = confidence_B.argsort()
    for part in np.array_split(order, 5):
        assert confidence_B[part].mean() == pytest.approx(right_B[part].mean(), abs=0.08)
    assert right_B[order[-1200:]].mean() > right_B[order[:1200]].mean() + 0.1


def test_likeness_to_the_reference_counts_where_it_tells():
    rng = np.random.default_rng(3)
    cells = make_cells("head", 2000)
    _, right_B, _ = answers(cells, Fusion(weight_neighbour=0, weight_text=0, weight_head=1))
    nearest_B = np.where(right_B, 0.9, 0.4) + rng.normal(0, 0.15, 2000)
    with_it = fit(dataclasses.replace(cells, nearest_B=nearest_B))
    assert with_it.slope_nearest > 3 * max(fit(cells).slope_nearest, 0.3)
    assert with_it.slope > 0


def planted(scale, n_cells=8000, seed=0):
    """Answers that hold as two features say, the second of a deviation of `scale` (synthetic)."""
    rng = np.random.default_rng(seed)
    feature_MF = np.column_stack(
        [rng.normal(1, 2, n_cells), 0.85 + scale * rng.normal(size=n_cells)]
    )
    odds_M = 0.5 * feature_MF[:, 0] + (feature_MF[:, 1] - 0.85) / scale + 0.3
    holds_M = rng.random(n_cells) < 1 / (1 + np.exp(-odds_M))
    return feature_MF, holds_M, np.full(n_cells, 1 / n_cells)


@pytest.mark.parametrize("scale", [0.02, 0.06, 1.0])
def test_a_feature_counts_whatever_its_scale(scale):
    """Cosines to the nearest cell deviate by .06: a prior on raw slopes took most of theirs."""
    bounds = [(0.0, None), (0.0, None)]
    slope, slope_scaled, offset = fit_logistic(*planted(scale), bounds=bounds, ridge=1e-3)
    assert slope == pytest.approx(0.5, abs=0.05)
    assert slope_scaled * scale == pytest.approx(1, abs=0.1)
    assert offset + 0.85 * slope_scaled == pytest.approx(0.3, abs=0.1)


def test_the_map_is_held_by_its_bounds_and_by_the_prior():
    feature_MF, holds_M, weight_M = planted(1.0)
    bounds = [(0.0, None), (None, 0.0)]
    _, held, _ = fit_logistic(feature_MF, holds_M, weight_M, bounds=bounds, ridge=1e-3)
    assert held == 0
    free = [(None, None)] * 2
    constant_MF = np.column_stack([feature_MF[:, 0], np.full(len(holds_M), 0.7)])
    slope, none, _ = fit_logistic(constant_MF, holds_M, weight_M, bounds=free, ridge=1e-3)
    assert none == 0
    assert slope > 0.2
    always = fit_logistic(
        feature_MF, np.ones(len(holds_M), bool), weight_M, bounds=free, ridge=1e-3
    )
    assert np.isfinite(always).all()


def test_no_label_that_the_reference_lacked_is_an_answer():
    cells = make_cells("head", 200)
    there_BT = np.ones((200, len(IDS)), bool)
    there_BT[:100, 4] = False  # CD4 T cells, near to what the first half is called
    streams = {name: np.where(there_BT, x_BT, 0.0) for name, x_BT in cells.streams.items()}
    lacking = dataclasses.replace(cells, streams=streams)
    np.testing.assert_array_equal(lacking.there(), there_BT)
    scorer = Scorer(IDS, CL)
    scorer._worth[4.0] = np.full((len(IDS), len(IDS)), 0.1, np.float32)
    scorer._worth[4.0][:, 4] = 1  # whatever is believed, this label is the nearest
    leaf_B = scorer.leaf(lacking, Fusion(weight_near=4.0), lacking.there())
    assert 4 not in leaf_B[:100]
    assert (leaf_B[100:] == 4).all()


def test_novelty_is_the_first_percentile_of_known_cells():
    cells = make_cells("head", 1000)
    known_B = np.arange(1000) % 4 > 0
    nearest_B = np.where(known_B, np.linspace(0.5, 0.9, 1000), -0.9)
    fusion = fit(dataclasses.replace(cells, known_B=known_B, nearest_B=nearest_B))
    assert fusion.novelty_threshold == pytest.approx(np.quantile(nearest_B[known_B], 0.01))
    none = fit(dataclasses.replace(cells, known_B=np.zeros(1000, bool)))
    assert none.novelty_threshold == -1


def test_text_novelty_is_a_low_quantile_with_studies_counting_the_same():
    cells = make_cells("head", 1000)
    study_B = np.repeat([0, 1], [900, 100])
    text_B = np.where(study_B == 0, 0.9, np.linspace(0.1, 0.5, 1000))
    text_B[study_B == 1] = np.linspace(0.1, 0.5, 100)  # its 2 % are 1 % of the whole
    fusion = fit(dataclasses.replace(cells, study_B=study_B, nearest_text_B=text_B))
    assert fusion.novelty_text == pytest.approx(np.quantile(text_B[study_B == 1], 0.02), abs=0.005)
    silent = fit(dataclasses.replace(cells, nearest_text_B=np.ones(1000)))
    none = fit(dataclasses.replace(cells, known_B=np.zeros(1000, bool)))
    assert silent.novelty_text == none.novelty_text == -1


def test_other_fields_are_kept_and_the_fit_is_reproducible():
    cells = make_cells("text", 200)
    start = Fusion(k=7, temperature_text=0.2, threshold=0.6)
    fusion = fit(cells, start=start)
    assert (fusion.k, fusion.temperature_text, fusion.threshold) == (7, 0.2, 0.6)
    assert fit(cells, start=start) == fusion


def test_studies_count_the_same_whatever_their_size():
    """Text is right in the large study, the head in the five small ones."""
    text, head = make_cells("text", 900), make_cells("head", 900)
    study_B = np.repeat([0, 1, 2, 3, 4, 5], [650, 50, 50, 50, 50, 50])
    in_large_B1 = (study_B == 0)[:, None]
    streams = {
        "neighbour": text.streams["neighbour"],
        "text": np.where(in_large_B1, text.streams["text"], head.streams["text"]),
        "head": np.where(in_large_B1, text.streams["head"], head.streams["head"]),
    }
    cells = dataclasses.replace(text, streams=streams, study_B=study_B)
    fusion = fit(cells)
    assert fusion.weight_head > fusion.weight_text


@pytest.mark.parametrize("n_classes", [1, 2])
def test_few_classes_and_one_study_are_fitted(n_classes):
    cells = make_cells("head", 50)
    class_B = np.arange(50) % n_classes + 1
    fusion = fit(dataclasses.replace(cells, class_B=class_B, study_B=np.zeros(50, int)))
    values = fusion.to_dict()
    assert values.pop("elsewhere") == [], "no tissue is told where nothing has been asked"
    assert np.isfinite([*values.pop("set_mass"), *values.pop("above"), *values.values()]).all()


def test_parts_are_joined_in_order():
    a, b = make_cells("text", 5), make_cells("head", 4, seed=1)
    joined = HeldOut.join([a, b])
    np.testing.assert_array_equal(joined.class_B, [*a.class_B, *b.class_B])
    np.testing.assert_array_equal(joined.nearest_B, [*a.nearest_B, *b.nearest_B])
    np.testing.assert_array_equal(joined.streams["head"][5:], b.streams["head"])


def by_benchmark(ids, answer_B, class_B, study_B):
    def ancestors(term):
        return CL.ancestors(term) if CL.is_term(term) else frozenset([term])

    names = np.array([name or "no term" for name in ids], dtype=object)
    f1, plain, soft = [], [], []
    for study in np.unique(study_B):
        true, said = names[class_B[study_B == study]], names[answer_B[study_B == study]]
        f1.append(macro_f1(true, counted_as(true, said, ancestors)))
        plain.append(macro_f1(true, said))
        soft.append(soft_scores(true, said, ancestors).mean())
    return np.mean(f1), np.mean(plain), np.mean(soft)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.integers(1, 40))
def test_scores_are_those_of_the_benchmark(seed, n_cells):
    rng = np.random.default_rng(seed)
    answer_B, class_B = rng.integers(0, len(IDS), (2, n_cells))
    study_B = rng.integers(0, 3, n_cells)
    found = Scorer(IDS, CL).mean_scores(answer_B, class_B, study_B)
    assert found == pytest.approx(by_benchmark(IDS, answer_B, class_B, study_B), abs=1e-6)


def test_depth_counts_all_ancestors_as_the_benchmark_does():
    # a Kupffer cell is below both; the deeper of the two is told by all of its ancestors
    ids = ["CL:0000091", "CL:0000113", "CL:0000766"]
    answer_B, class_B, study_B = np.array([0, 1, 2]), np.array([1, 1, 2]), np.zeros(3, int)
    found = Scorer(ids, CL).mean_scores(answer_B, class_B, study_B)
    assert found == pytest.approx(by_benchmark(ids, answer_B, class_B, study_B), abs=1e-6)


def test_cells_of_removed_types_lower_the_confidence_and_touch_nothing_else():
    cells = make_cells("head", sharpness=6.0)
    lost = dataclasses.replace(
        make_cells("text", seed=1),
        nearest_B=np.full(600, 0.3),
        known_B=np.zeros(600, bool),
        novel_B=np.ones(600, bool),
    )
    alone, both = fit(cells), fit(HeldOut.join([cells, lost]))
    weights = [f"weight_{name}" for name in (*STREAMS, "near")]
    for name in (*weights, "novelty_threshold"):
        assert getattr(alone, name) == getattr(both, name)
    mass, far = np.array([0.6]), np.array([0.3])
    assert 1 - both.confidence(mass, far) > 2 * (1 - alone.confidence(mass, far))


def alike(class_B, study_B, said_BT):
    """Return synthetic cells of which all streams say the same."""
    n_cells = len(class_B)
    streams = dict.fromkeys(STREAMS, said_BT / said_BT.sum(axis=1, keepdims=True))
    same_B, novel_B = np.full(n_cells, 0.8), np.zeros(n_cells, bool)
    return HeldOut(streams, same_B, same_B, class_B, ~novel_B, study_B, novel_B)


def test_confidence_and_sets_are_of_studies_and_not_of_cells():
    """Nine cells in ten are what they look like, but these are of one study of two."""
    study_B = np.repeat([0, 1], [900, 100])
    said_BT = np.where(np.arange(len(IDS)) == 4, 0.9, 0.01) * np.ones((1000, 1))
    fusion = fit(alike(np.where(study_B == 0, 4, 2), study_B, said_BT))
    assert fusion.confidence(np.array([0.9]), np.array([0.8]))[0] == pytest.approx(0.5, abs=0.02)
    assert fusion.set_mass[44] == 0
    assert fusion.set_mass[59] > 0.8


def test_a_label_holds_where_the_authors_named_a_type_below_it():
    """Whatever looks like a T cell is a CD4 T cell, and what looks like a B cell is none."""
    class_B = np.repeat([4, 6], 300)
    looks_B = np.where(class_B == 4, 0, 2)
    said_BT = np.full((600, len(IDS)), 0.005)
    said_BT[np.arange(600), looks_B] = np.where(class_B == 4, 0.97, 0.5)
    fusion = fit(alike(class_B, np.arange(600) % 2, said_BT))
    assert (Scorer(IDS, CL).right_TT[[0, 4], [4, 0]] == [True, False]).all()
    sure, unsure = fusion.confidence(np.array([0.97, 0.6]), np.array([0.8, 0.8]))
    assert sure > 0.9
    assert unsure < sure


@pytest.mark.parametrize("coverage", [0.7, 0.9])
def test_sets_cover_cells_of_new_draws(coverage):
    fusion = fit(make_cells("head", 1500))
    new = make_cells("head", 3000, seed=1)
    relation_TT = CL.relation(IDS)
    holds_BT = (relation_TT | relation_TT.T)[new.class_B]
    mass = mass_for(coverage, fusion.set_mass, fusion.set_cells)
    sets_BT = label_sets(pool(new.streams, fusion), mass)
    assert abs((sets_BT & holds_BT).any(axis=1).mean() - coverage) < 0.04
    assert fusion.set_cells == 1500


def test_classes_that_no_reference_had_take_no_mass_of_sets():
    """As many of them as the corpus may have: a label set holds what a reference knows."""
    cells = make_cells("head", 400)
    others = [term for term in CL.ids[::20] if term not in IDS]
    streams = {
        name: np.hstack([stream, np.zeros((400, len(others)))])
        for name, stream in cells.streams.items()
    }
    more = dataclasses.replace(cells, streams=streams)
    assert len(others) > 100
    found = fit_answers(more, label_ids=[*IDS, *others], ontology=CL)
    np.testing.assert_allclose(found.set_mass, fit(cells).set_mass, rtol=1e-6)


def test_a_class_that_the_reference_lacked_is_never_covered():
    cells = make_cells("head", 400)
    gone_T = np.arange(len(IDS)) == 6  # classical monocytes; monocytes, above them, are left

    def fit_without(gone_T):
        streams = {name: np.where(gone_T, 0.0, stream) for name, stream in cells.streams.items()}
        return fit(dataclasses.replace(cells, streams=streams))

    assert fit_without(gone_T).set_mass[89] <= 1
    gone_T[3] = True
    assert fit_without(gone_T).set_mass[89] == NEVER
