"""From posterior to answer, on real terms of the Cell Ontology."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scgp.errors import ArgumentError
from scgp.phenotypes.ontology import Ontology
from scgp.reference.background import Reading
from scgp.reference.broad_terms import ONE_TRAIT, says_something
from scgp.reference.decision import decide, roll_up

CELLS = Ontology("CL")
CD4 = "CD4-positive, alpha-beta T cell"
CD8 = "CD8-positive, alpha-beta T cell"
MEMORY_CD4 = "CD4-positive, alpha-beta memory T cell"
BLOOD = ["B cell", CD4, CD8, "classical monocyte", "natural killer cell", "platelet"]


def answer(labels, *rows, novelty=1.0, novelty_threshold=None, **options):
    """Answer rows; with a bound, those of a smaller cosine are novel, beside those said to be."""
    posterior_BT = np.array(rows, float)
    novelty_B = np.broadcast_to(np.asarray(novelty, float), len(rows))
    if novelty_threshold is not None:
        far_B = novelty_B < novelty_threshold
        options["novel_B"] = far_B | options.get("novel_B", far_B)
    return decide(posterior_BT, labels, CELLS.resolve(labels), CELLS, novelty_B, **options)


def row(labels, **shares):
    """Return a posterior row by words of the labels, the rest spread evenly."""
    values = [next((p for word, p in shares.items() if word in name), None) for name in labels]
    rest = (1 - sum(p for p in values if p is not None)) / max(values.count(None), 1)
    return [rest if p is None else p for p in values]


def test_a_sure_leaf_is_the_label():
    found = answer(BLOOD, row(BLOOD, B=0.9))
    assert (found.label[0], found.ontology_id[0]) == ("B cell", "CL:0000236")
    assert (found.status[0], found.leaf[0]) == ("labelled", "B cell")
    assert found.confidence[0] == found.leaf_confidence[0] == np.float32(0.9)
    assert found.confidence.dtype == found.leaf_confidence.dtype == np.float32


def test_cd4_or_cd8_undecided_is_a_t_cell():
    found = answer(BLOOD, row(BLOOD, CD4=0.45, CD8=0.4))
    assert found.status[0] == "ancestor"
    shared = CELLS.ancestors(CELLS.id_of(CD4)) & CELLS.ancestors(CELLS.id_of(CD8))
    assert found.ontology_id[0] == min(shared, key=lambda i: len(CELLS.descendants(i)))
    assert found.label[0] == "mature alpha-beta T cell"
    assert found.confidence[0] == pytest.approx(0.85)
    assert (found.leaf[0], found.leaf_confidence[0]) == (CD4, np.float32(0.45))


def test_a_term_above_the_labels_needs_its_own_probability():
    posterior = row(BLOOD, CD4=0.45, CD8=0.4)
    assert answer(BLOOD, posterior, threshold_above=0.85).label[0] == "mature alpha-beta T cell"
    found = answer(BLOOD, posterior, threshold_above=0.86)
    assert (found.status[0], found.label[0]) == ("ancestor", "lymphocyte")  # with B and NK cells
    assert found.confidence[0] > 0.86
    sure = answer(BLOOD, row(BLOOD, CD4=0.6), threshold_above=0.99)
    assert (sure.status[0], sure.label[0]) == ("labelled", CD4)  # a label needs the threshold only
    low = answer(BLOOD, posterior, threshold=0.86, threshold_above=0.1)
    assert low.confidence[0] > 0.86  # and a term that too


def test_gamma_delta_or_alpha_beta_undecided_is_called_by_the_references_own_name():
    labels = [*BLOOD, "gamma-delta T cell"]
    found = answer(labels, row(labels, CD4=0.4, gamma=0.4))
    assert found.label[0] in {"T cell", "mature T cell"}
    named = ["T lymphocyte", "mature T lymphocyte", *labels]  # synonyms, as an author may write
    ids = ["CL:0000084", "CL:0002419", *CELLS.resolve(labels)]
    p = [0.0, 0.0, *row(labels, CD4=0.4, gamma=0.4)]
    found = decide(np.array([p]), named, ids, CELLS, np.ones(1))
    assert found.label[0] in {"T lymphocyte", "mature T lymphocyte"}
    assert found.status[0] == "ancestor"


def test_lymphocytes_undecided():
    found = answer(BLOOD, row(BLOOD, B=0.3, CD4=0.2, CD8=0.2, killer=0.2))
    assert (found.label[0], found.status[0]) == ("lymphocyte", "ancestor")
    assert found.confidence[0] == pytest.approx(0.9)


def test_white_blood_cells_undecided():
    found = answer(BLOOD, row(BLOOD, monocyte=0.4, CD4=0.3, B=0.2), threshold=0.8)
    assert found.status[0] == "ancestor"
    assert "leukocyte" in found.label[0]


@pytest.mark.parametrize("pair", [("neuron", "B cell"), ("hepatocyte", "fibroblast")])
def test_nothing_in_common_is_unknown(pair):
    found = answer([*pair], [0.49, 0.51], threshold=0.6)
    assert (found.label[0], found.ontology_id[0]) == ("unknown", "")
    assert (found.status[0], found.confidence[0]) == ("unknown", 0)
    assert (found.leaf[0], found.leaf_confidence[0]) == (pair[1], np.float32(0.51))


def test_no_back_off_says_nothing():
    """Any two of some 60 terms of all lineages, undecided, give a kind of cell or "unknown"."""
    ids = CELLS.ids[::55]
    labels = [CELLS.label(i) for i in ids]
    first, second = np.triu_indices(len(ids), 1)
    posterior_BT = np.zeros((len(first), len(ids)))
    posterior_BT[np.arange(len(first)), first] = 0.5
    posterior_BT[np.arange(len(first)), second] = 0.5
    found = decide(posterior_BT, labels, ids, CELLS, np.ones(len(first)), threshold=0.8)
    assert set(found.status) >= {"ancestor", "unknown"}
    general = {"cell", "eukaryotic cell", *(CELLS.label(i) for i in ONE_TRAIT)}
    backed_off = found.status == "ancestor"
    assert not general & set(found.label[backed_off])
    true_ids = zip(found.ontology_id, first, second, strict=True)
    for term_id, a, b in [x for x, off in zip(true_ids, backed_off, strict=True) if off]:
        assert term_id in CELLS.ancestors(ids[a]) & CELLS.ancestors(ids[b])


def test_what_says_something():
    kinds = ["T cell", "leukocyte", "hematopoietic cell", "epithelial cell", "neuron",
             "neural cell", "endothelial cell", "connective tissue cell"]  # fmt: skip
    assert all(says_something(CELLS.id_of(kind), CELLS) for kind in kinds)
    empty = ["cell", "native cell", "eukaryotic cell", "nucleate cell", "motile cell",
             "secretory cell", "electrically active cell", "precursor cell"]  # fmt: skip
    assert not any(says_something(CELLS.id_of(kind), CELLS) for kind in empty)
    assert all(CELLS.is_term(term_id) for term_id in ONE_TRAIT)


def test_a_general_term_is_answered_where_the_reference_has_it_as_a_label():
    found = answer(["precursor cell", "B cell"], [0.8, 0.2])
    assert (found.label[0], found.status[0]) == ("precursor cell", "labelled")


def test_a_coarse_label_counts_its_descendants():
    labels = ["T cell", CD4, CD8, "B cell"]
    found = answer(labels, [0.35, 0.2, 0.2, 0.25])
    assert (found.label[0], found.status[0]) == ("T cell", "labelled")
    assert found.confidence[0] == pytest.approx(0.75)


def test_a_deeper_label_with_a_majority_is_preferred():
    labels = ["T cell", CD4, MEMORY_CD4, "B cell"]
    found = answer(labels, [0.4, 0.3, 0.25, 0.05], [0.4, 0.05, 0.5, 0.05])
    assert found.label.tolist() == [CD4, MEMORY_CD4]
    assert found.confidence[0] == pytest.approx(0.55)
    assert found.leaf.tolist() == ["T cell", MEMORY_CD4]
    low = answer(labels, [0.6, 0.2, 0.15, 0.05], threshold=0.0)
    assert low.label[0] == "T cell"


def test_where_nearness_counts_no_deeper_label_replaces_the_leaf():
    """Worth has weighed the depth already, though the deeper label alone has a majority."""
    labels = ["T cell", CD4, MEMORY_CD4, "B cell"]
    options = {"support_BT": np.array([[0.2, 0.1, 0.65, 0.05]]), "weight_near": 8.0}
    found = answer(labels, [0.4, 0.3, 0.25, 0.05], **options)
    assert (found.label[0], found.leaf[0]) == (CD4, CD4)
    assert found.confidence[0] == pytest.approx(0.75)


def test_of_terms_that_are_equally_specific_the_likelier_is_the_answer():
    labels = ["classical monocyte", "non-classical monocyte", "plasma cell", "plasmablast"]
    pair = ["monocyte", "antibody secreting cell"]
    assert len({len(CELLS.descendants(CELLS.id_of(name))) for name in pair}) == 1
    found = answer(labels, [0.22, 0.2, 0.3, 0.28], [0.3, 0.28, 0.22, 0.2], threshold=0.4)
    assert found.label.tolist() == pair[::-1]
    np.testing.assert_allclose(found.confidence, 0.58)


def test_a_term_is_called_by_the_first_of_its_names_in_the_reference():
    labels = ["alpha-beta T", "T cells (ab)", CD4, CD8, "B cell"]
    mature = CELLS.id_of("mature alpha-beta T cell")
    ids = [mature, mature, *CELLS.resolve(labels[2:])]
    found = decide(np.array([[0, 0, 0.45, 0.4, 0.15]]), labels, ids, CELLS, np.ones(1))
    assert (found.label[0], found.status[0]) == ("alpha-beta T", "ancestor")


def test_the_threshold_is_reached_by_sums_of_floats():
    labels = ["T cell", CD4, CD8, "B cell"]
    found = answer(labels, [0.1 + 0.2, 0.2, 0.2 - 1e-9, 0.3], threshold=0.7)
    assert found.label[0] == "T cell"
    assert answer(labels, [0.7, 0, 0, 0.3], threshold=0.71).status[0] != "labelled"


def test_threshold_zero_gives_every_cell_its_best_label():
    rng = np.random.default_rng(0)
    posterior_BT = rng.dirichlet(np.ones(len(BLOOD)), size=200)
    found = decide(posterior_BT, BLOOD, CELLS.resolve(BLOOD), CELLS, np.ones(200), threshold=0.0)
    assert set(found.status) == {"labelled"}
    assert found.label.tolist() == [BLOOD[i] for i in posterior_BT.argmax(axis=1)]


def test_labels_without_a_term_are_answered_by_name_only():
    labels = ["cluster/7 β", "ähnlich", "B cell"]
    found = answer(labels, [0.8, 0.1, 0.1], [0.4, 0.4, 0.2])
    assert found.label.tolist() == ["cluster/7 β", "unknown"]
    assert found.ontology_id.tolist() == ["", ""]
    assert found.status.tolist() == ["labelled", "unknown"]
    plain = answer(["x", "y"], [0.8, 0.2], [0.5, 0.5], threshold=0.6)
    assert plain.label.tolist() == ["x", "unknown"]
    assert answer(["only"], [1.0]).label[0] == "only"


def test_two_names_of_one_term_share_it():
    labels, ids = ["T-cell", "T cells", "B cell"], ["CL:0000084", "CL:0000084", "CL:0000236"]
    posterior_BT = np.array([[0.4, 0.35, 0.25], [0.35, 0.4, 0.25]])
    found = decide(posterior_BT, labels, ids, CELLS, np.ones(2), threshold=0.7)
    assert found.label.tolist() == ["T-cell", "T cells"]
    assert found.ontology_id.tolist() == ["CL:0000084"] * 2
    np.testing.assert_allclose(found.confidence, 0.75)


def test_a_cell_unlike_all_others_gets_no_leaf():
    sure = row(BLOOD, CD4=0.95)
    found = answer(BLOOD, sure, sure, novelty=[0.9, 0.3], novelty_threshold=0.5)
    assert found.label.tolist() == [CD4, "mature alpha-beta T cell"]
    assert found.status.tolist() == ["labelled", "ancestor"]
    assert found.ontology_id[1] in CELLS.ancestors(CELLS.id_of(CD4))
    torn = row(BLOOD, CD4=0.5, platelet=0.3)
    found = answer(BLOOD, torn, novelty=0.3, novelty_threshold=0.5, threshold=0.9)
    assert found.status[0] == "unknown"


def test_cells_said_to_be_novel_get_no_leaf_either():
    sure = row(BLOOD, CD4=0.95)
    told = np.array([False, True])
    found = answer(BLOOD, sure, sure, novelty=[0.9, 0.9], novel_B=told)
    assert found.status.tolist() == ["labelled", "ancestor"]
    both = answer(BLOOD, sure, sure, novelty=[0.1, 0.9], novelty_threshold=0.5, novel_B=told)
    assert both.status.tolist() == ["ancestor", "ancestor"]
    with pytest.raises(ArgumentError, match="novel"):
        answer(BLOOD, sure, sure, novelty=[0.9, 0.9], novel_B=told[:1])


def test_a_term_above_all_labels_is_no_answer_to_an_unlike_cell():
    labels = ["B cell", CD4, CD8]  # any cell at all would be a lymphocyte
    found = answer(labels, row(labels, B=0.9), novelty=0.1, novelty_threshold=0.5)
    assert (found.label[0], found.confidence[0]) == ("unknown", 0)
    undecided = answer(labels, [0.55, 0.25, 0.2], threshold=0.7, novelty_threshold=0.5)
    assert undecided.label[0] == "lymphocyte"
    alone = answer(["B cell"], [1.0], novelty=0.1, novelty_threshold=0.5)
    assert alone.status[0] == "unknown"


def test_an_unlike_cell_is_never_called_a_label_of_its_own_leaf():
    labels = ["T cell", CD4, CD8, "B cell", "natural killer cell"]
    found = answer(labels, [0.05, 0.9, 0.05, 0, 0], novelty=0.1, novelty_threshold=0.5)
    assert found.status[0] == "ancestor"
    assert CELLS.id_of(CD4) not in CELLS.ancestors(found.ontology_id[0])


def test_empty_cells_have_no_label():
    found = answer(BLOOD, row(BLOOD, B=0.9), row(BLOOD, B=0.9), empty_B=np.array([True, False]))
    assert found.label.tolist() == [None, "B cell"]
    assert found.ontology_id.tolist() == ["", "CL:0000236"]
    assert found.status.tolist() == ["empty", "labelled"]
    assert found.leaf.tolist() == ["", "B cell"]
    assert found.confidence[0] == found.leaf_confidence[0] == 0


def read_as(term, covered_B):
    """Return a synthetic reading: cells are of this term as far as the reference has no label."""
    covered_B = np.asarray(covered_B, float)
    terms = CELLS.closure(CELLS.resolve(BLOOD))
    mass_BA = np.outer(1 - covered_B, np.isin(terms, list(CELLS.ancestors(CELLS.id_of(term)))))
    return Reading(np.full((len(covered_B), len(BLOOD)), np.nan), covered_B, mass_BA)


def test_outside_the_labels_the_reading_needs_its_own_bound_synthetic():
    sure = row(BLOOD, B=0.95)
    bounds = {"threshold_above": 0.96, "threshold_outside": 0.85}
    reading = read_as("lymphocyte", [0.1, 0.2, 0.9])
    found = answer(BLOOD, sure, sure, sure, reading=reading, **bounds)
    assert found.label.tolist() == ["lymphocyte", "unknown", "B cell"]
    np.testing.assert_allclose(found.confidence, [0.9, 0, 0.9])


def test_the_reading_bounds_labels_and_no_term_above_them_synthetic():
    """That a cell may be of a type without a label says nothing against a term above it."""
    reading = read_as("lymphocyte", [0.6, 0.6])
    found = answer(BLOOD, row(BLOOD, B=0.95), row(BLOOD, CD4=0.45, CD8=0.4), reading=reading)
    assert found.label.tolist() == ["B cell", "mature alpha-beta T cell"]
    np.testing.assert_allclose(found.confidence, [0.6, 0.85])


def test_a_novel_cell_outside_the_labels_may_be_of_a_term_above_them_all_synthetic():
    labels = ["B cell", CD4, CD8]  # any cell of theirs is a lymphocyte
    terms = CELLS.closure(CELLS.resolve(labels))
    mass_1A = np.isin(terms, list(CELLS.ancestors(CELLS.id_of("lymphocyte"))))[None] * 0.9
    for covered, called in ((0.1, "lymphocyte"), (0.9, "unknown")):
        reading = Reading(np.full((1, 3), np.nan), np.array([covered]), mass_1A)
        found = answer(labels, row(labels, B=0.9), novel_B=np.array([True]), reading=reading)
        assert found.label[0] == called


def test_each_block_of_cells_has_its_own_reading_synthetic():
    covered_B = np.where(np.arange(8200) % 3 == 0, 0.9, 0.1)
    posterior_BT = np.tile(row(BLOOD, B=0.95), (8200, 1))
    ask = (BLOOD, CELLS.resolve(BLOOD), CELLS, np.ones(8200))
    found = decide(posterior_BT, *ask, reading=read_as("lymphocyte", covered_B))
    assert found.label.tolist() == np.where(covered_B > 0.5, "B cell", "lymphocyte").tolist()


def test_no_cells():
    found = decide(np.zeros((0, 6)), BLOOD, CELLS.resolve(BLOOD), CELLS, np.zeros(0))
    assert len(found.label) == len(found.confidence) == len(found.leaf) == 0


def test_cells_do_not_depend_on_each_other_nor_on_the_block():
    rng = np.random.default_rng(0)
    posterior_BT = rng.dirichlet(np.full(len(BLOOD), 0.3), size=8200)
    novelty_B = rng.uniform(size=8200)
    novel_B, ids = novelty_B < 0.3, CELLS.resolve(BLOOD)
    all_at_once = decide(posterior_BT, BLOOD, ids, CELLS, novelty_B, novel_B=novel_B, threshold=0.6)
    assert set(all_at_once.status) == {"labelled", "ancestor", "unknown"}
    for rows in (slice(0, 1), slice(8185, 8200)):
        part = decide(
            posterior_BT[rows], BLOOD, ids, CELLS, novelty_B[rows], novel_B=novel_B[rows],
            threshold=0.6,
        )  # fmt: skip
        assert part.label.tolist() == all_at_once.label[rows].tolist()
        np.testing.assert_allclose(part.confidence, all_at_once.confidence[rows], atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.floats(0.5, 1.0))
def test_every_answer_has_its_probability_behind_it(seed, threshold):
    rng = np.random.default_rng(seed)
    labels = [*BLOOD, "T cell", "neuron", "cluster 3"]
    label_ids = CELLS.resolve(labels)
    posterior_BT = rng.dirichlet(np.full(len(labels), 0.5), size=20)
    found = decide(posterior_BT, labels, label_ids, CELLS, np.ones(20), threshold=threshold)
    for b in range(20):
        below = CELLS.descendants(found.ontology_id[b]) if found.ontology_id[b] else set()
        under = [t for t, i in enumerate(label_ids) if i in below or labels[t] == found.label[b]]
        assert found.confidence[b] == pytest.approx(posterior_BT[b, under].sum(), abs=1e-6)
        assert found.status[b] == "unknown" or found.confidence[b] >= threshold - 1e-5
        assert (found.label[b] == "unknown") == (found.status[b] == "unknown")


def test_roll_up_sums_descendants():
    label_ids = [*CELLS.resolve([CD4, CD8, "B cell"]), ""]
    posterior_BA, term_ids = roll_up(np.array([[0.4, 0.3, 0.2, 0.1]]), label_ids, CELLS)
    mass = dict(zip(term_ids, posterior_BA[0], strict=True))
    assert set(term_ids) == set(CELLS.closure(label_ids))
    for label, expected in [(CD4, 0.4), ("T cell", 0.7), ("lymphocyte", 0.9), ("cell", 0.9)]:
        assert mass[CELLS.id_of(label)] == pytest.approx(expected)


def test_sizes_and_thresholds_are_checked():
    with pytest.raises(ArgumentError, match="probabilities between 0 and 1"):
        answer(BLOOD, row(BLOOD), threshold=1.5)
    with pytest.raises(ArgumentError, match=r"threshold_above -0\.1; expected prob"):
        answer(BLOOD, row(BLOOD), threshold_above=-0.1)
    with pytest.raises(ArgumentError, match="expected those of 1 cells and 5 labels"):
        decide(np.ones((1, 6)), BLOOD[:5], CELLS.resolve(BLOOD[:5]), CELLS, np.ones(1))
    with pytest.raises(ArgumentError, match="expected those of 1 cells"):
        answer(BLOOD, row(BLOOD), empty_B=np.zeros(2, bool))
