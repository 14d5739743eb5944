"""How sure a label is that was asked for, beside likelier labels that exclude it.

Synthetic evidence of four labels without terms, and of the terms of `test_candidates`.

Shape suffixes: B cells, T labels, C candidates.
"""

import numpy as np
import pytest

from scgp.phenotypes.ontology import Ontology
from scgp.reference.candidates import choose, make_candidates
from scgp.reference.evidence import pool
from scgp.reference.fitting import HeldOut, Scorer
from scgp.reference.fitting_among import fit_among
from scgp.reference.fusion import Fusion
from scgp.reference.rivals import rival_mass

CL = Ontology("CL")
T_CELL, CD4, CD8, B_CELL = "CL:0000084", "CL:0000624", "CL:0000625", "CL:0000236"
IDS = [T_CELL, CD4, CD8, B_CELL]
FLAT = Fusion(weight_head=1.0, slope=0.4, offset=0.5)


def held_out(n_cells=4000, seed=0):
    """Two studies of cells whose head is right as often as it says (synthetic)."""
    rng = np.random.default_rng(seed)
    n_labels = 12
    power_BT = np.exp(rng.normal(0, 2.5, (n_cells, n_labels)))
    prob_BT = power_BT / power_BT.sum(axis=1, keepdims=True)
    class_B = (rng.random((n_cells, 1)) > prob_BT.cumsum(axis=1)).sum(axis=1).clip(0, 11)
    one_B, study_B = np.ones(n_cells), np.arange(n_cells) % 2
    known_B, novel_B = np.ones(n_cells, bool), np.zeros(n_cells, bool)
    return HeldOut({"head": prob_BT}, one_B, one_B, class_B, known_B, study_B, novel_B)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_what_is_asked_for_holds_as_often_as_it_says(size):
    """By the map of best labels alone, which is flat, most of a panel's labels are too sure."""
    cells, scorer = held_out(), Scorer([""] * 12, CL)
    fusion = fit_among(FLAT, cells, scorer)
    fresh = held_out(seed=1)
    rng, rows = np.random.default_rng(2), np.arange(4000)
    mass_BT = pool(fresh.streams, fusion)
    panel_BT = rng.random(mass_BT.shape).argsort(axis=1) < size
    best_B = np.where(panel_BT, mass_BT, -1).argmax(axis=1)
    other_BT = np.where(np.arange(12) == best_B[:, None], 0, mass_BT)
    asked = (mass_BT[rows, best_B], fresh.nearest_B)
    holds = (fresh.class_B == best_B).mean()
    with_rival = fusion.confidence(*asked, other_BT.max(axis=1)).mean()
    assert fusion.slope_rival > 0.2
    assert with_rival == pytest.approx(holds, abs=0.07)
    assert fusion.confidence(*asked).mean() > holds + 0.08


def test_a_best_label_is_as_sure_as_it_was():
    asked = (np.array([0.4]), np.ones(1))
    costly = Fusion(slope=0.4, slope_rival=2.0)
    assert costly.confidence(*asked, np.array([0.3])) == costly.confidence(*asked)
    assert costly.confidence(*asked, np.array([0.5])) < costly.confidence(*asked)


def test_more_labels_than_a_panel_has():
    assert fit_among(FLAT, held_out(200), Scorer([""] * 12, CL)).slope_rival >= 0


def candidates_of(ids):
    text_CD = np.zeros((len(ids), 2), np.float32)
    names = [CL.label(i) for i in ids]
    return make_candidates(
        names, ids, text_CD, labels=[CL.label(i) for i in IDS], label_ids=IDS, ontology=CL
    )


def test_rivals_are_labels_on_other_lines_with_all_below_them():
    candidates = candidates_of([CD4, T_CELL, B_CELL])
    mass_BT = np.array([[0.1, 0.2, 0.3, 0.4]])
    rolled_BT = mass_BT @ candidates.below_TT
    np.testing.assert_allclose(rolled_BT, [[0.6, 0.2, 0.3, 0.4]])
    found = dict(zip(candidates.ids, rival_mass(rolled_BT, candidates.rival_TC)[0], strict=True))
    # not the T cells of a CD4 T cell, nor the CD4 T cells of a T cell
    assert found == pytest.approx({CD4: 0.4, T_CELL: 0.4, B_CELL: 0.6})
    nobody = np.zeros((4, 1), bool)
    assert rival_mass(rolled_BT, nobody).tolist() == [[0.0]]


@pytest.mark.parametrize(("slope", "said"), [(0.0, "B cell"), (1.0, "unknown")])
def test_a_cell_of_another_label_is_unknown(slope, said):
    """B cells, asked of a T cell: a flat map gives them a probability of .05 and says .5."""
    streams = {"head": np.array([[0.05, 0.85, 0.05, 0.05]])}
    fusion = Fusion(weight_head=1.0, slope=0.1, offset=0.3, slope_rival=slope)
    found = choose(
        streams, candidates_of([B_CELL]), np.zeros((1, 2), np.float32),
        np.zeros((4, 2), np.float32), nearest_B=np.ones(1), fusion=fusion,
        empty_B=np.zeros(1, bool),
    )  # fmt: skip
    assert found.label.tolist() == [said]


def test_calibrations_of_earlier_versions_know_no_rivals():
    before = {name: x for name, x in Fusion().to_dict().items() if name != "slope_rival"}
    assert Fusion.from_dict(before).slope_rival == 0
    with pytest.raises(ValueError, match="weights >= 0"):
        Fusion(slope_rival=-0.1)


TREG, CD4_TREG, NAIVE_CD4 = "CL:0000815", "CL:0000792", "CL:0000895"


def test_a_broad_label_is_as_sure_as_the_surest_that_it_covers():
    """ "CD4 T cell" is a rival of "regulatory T cell", and holds the CD4 regulatory T cells."""
    ids = [CD4, CD4_TREG, NAIVE_CD4, B_CELL]

    def sure(asked):
        found = choose(
            {"head": np.array([[0.1, 0.5, 0.3, 0.1]])},
            make_candidates(
                [CL.label(asked)], [asked], np.zeros((1, 2), np.float32),
                labels=[CL.label(i) for i in ids], label_ids=ids, ontology=CL,
            ),
            np.zeros((1, 2), np.float32), np.zeros((4, 2), np.float32), nearest_B=np.ones(1),
            fusion=Fusion(weight_head=1.0, slope_rival=1.0), empty_B=np.zeros(1, bool),
        )  # fmt: skip
        return float(found.leaf_confidence[0])

    assert sure(TREG) == sure(CD4_TREG)
    assert sure(CD4) > sure(CD4_TREG)
    narrow = Fusion(weight_head=1.0, slope_rival=1.0).confidence(np.array([0.5]), np.ones(1))
    assert sure(CD4_TREG) <= float(narrow[0])
