"""How sure a term above the labels is: fitted to cells in doubt, and used for them alone.

Shape suffixes: B held-out cells, T classes.
"""

import dataclasses

import numpy as np
import pytest

import scgp
from scgp.errors import ArgumentError
from scgp.own import model_index
from scgp.phenotypes.ontology import Ontology
from scgp.reference.broad_terms import breadth
from scgp.reference.decision import decide
from scgp.reference.evidence import pool
from scgp.reference.fitting import HeldOut, fit_answers
from scgp.reference.fitting_above import SURE_ABOVE, fit_above
from scgp.reference.fusion import THRESHOLD_ABOVE, Fusion

CELLS = Ontology("CL")
LABELS = [
    "CD4-positive, alpha-beta T cell", "CD8-positive, alpha-beta T cell", "B cell",
    "natural killer cell", "classical monocyte",
]  # fmt: skip
IDS = CELLS.resolve(LABELS)
T_CELL, LYMPHOCYTE = CELLS.id_of("mature alpha-beta T cell"), CELLS.id_of("lymphocyte")


def doubted(n_cells=3000, seed=0, shuffled=False):
    """Synthetic: all cells look like CD4 or CD8 T cells; 6 in 10 are, the rest B and NK cells."""
    rng = np.random.default_rng(seed)
    share_T = np.array([0.45, 0.4, 0.06, 0.06, 0.03])
    logit_BT = np.log(share_T) + rng.normal(0, 0.1, (n_cells, 5))
    stream_BT = np.exp(logit_BT) / np.exp(logit_BT).sum(axis=1, keepdims=True)
    class_B = rng.choice(5, n_cells, p=[0.3, 0.3, 0.2, 0.2, 0.0])
    if shuffled:
        class_B = rng.choice(5, n_cells)
    streams = {"head": stream_BT, "described": stream_BT}
    known_B, novel_B = np.ones(n_cells, bool), np.arange(n_cells) % 4 == 0
    nearest_B, text_B = rng.uniform(0.5, 1, n_cells), np.full(n_cells, 0.8)
    return HeldOut(streams, nearest_B, text_B, class_B, known_B, rng.choice(3, n_cells), novel_B)


def fitted(cells):
    sure_B = np.full(len(cells.class_B), 0.45)
    return fit_above(Fusion(), cells, sure_B, label_ids=IDS, ontology=CELLS)


def told(fusion, term_id, cells):
    below_T = CELLS.relation([term_id, *IDS])[0, 1:]
    mass_B = pool(cells.streams, fusion) @ below_T
    width_1 = breadth([term_id], CELLS)
    return fusion.confidence_above(mass_B[:, None], cells.nearest_B, width_1)[:, 0]


def test_breadth_grows_up_the_ontology():
    names = ["classical monocyte", "monocyte", "mononuclear cell", "leukocyte"]
    width = breadth(CELLS.resolve(names), CELLS)
    assert (np.diff(width) > 0).all()
    assert abs(width[-1]) < 1.0


def test_a_narrow_term_is_as_sure_as_it_was_right_among_cells_in_doubt():
    cells, fresh = doubted(), doubted(seed=1)
    fusion = fitted(cells)
    assert fusion.threshold_above == SURE_ABOVE
    assert told(fusion, T_CELL, fresh).mean() == pytest.approx(0.6, abs=0.08)  # its mass is .85
    assert told(fusion, LYMPHOCYTE, fresh).mean() > 0.97
    old = dataclasses.replace(fusion, above=())
    assert told(old, T_CELL, fresh).mean() > 0.8


def test_where_nothing_tells_the_cells_no_term_is_sure_but_the_broadest():
    fusion = fitted(doubted(shuffled=True))
    assert told(fusion, T_CELL, doubted(seed=1)).mean() < 0.6
    assert told(fusion, LYMPHOCYTE, doubted(seed=1)).mean() < SURE_ABOVE


def test_too_few_cells_in_doubt_leave_the_fusion_as_it_was():
    cells = doubted(40)
    fusion = Fusion()
    sure_B = np.full(len(cells.class_B), 0.9)
    assert fit_above(fusion, cells, sure_B, label_ids=IDS, ontology=CELLS) == fusion


def test_a_study_with_few_cells_in_doubt_counts_by_these_alone():
    """Synthetic: of one study a tenth is in doubt and true, of the other all is, and wrong."""
    cells = doubted(2000)
    study_B = np.repeat([0, 1], 1000)
    class_B = np.where(study_B == 0, 0, 3)  # CD4 T cells; natural killer cells
    cells = dataclasses.replace(
        cells, class_B=class_B, study_B=study_B, novel_B=np.zeros(2000, bool)
    )
    sure_B = np.where((study_B == 1) | (np.arange(2000) < 100), 0.45, 0.95)
    fusion = fit_above(Fusion(), cells, sure_B, label_ids=IDS, ontology=CELLS)
    assert told(fusion, T_CELL, cells).mean() == pytest.approx(1 / 11, abs=0.05)


def test_a_term_is_surer_the_nearer_the_reference_if_that_told_in_the_fit():
    """Synthetic: of the cells near to the reference all are T cells, of the others none is."""
    cells = doubted()
    near_B = cells.nearest_B > 0.75
    fusion = fitted(dataclasses.replace(cells, class_B=np.where(near_B, 0, 2)))
    sure_B = told(fusion, T_CELL, cells)
    assert sure_B[cells.nearest_B > 0.85].min() > 0.8
    assert sure_B[cells.nearest_B < 0.65].max() < 0.2


def test_the_whole_fit_has_it():
    fusion = fit_answers(doubted(), label_ids=IDS, ontology=CELLS)
    assert len(fusion.above) == 5
    assert Fusion.from_dict(fusion.to_dict()) == fusion


def test_the_decision_takes_the_term_that_is_sure_enough():
    posterior = np.array([[0.45, 0.4, 0.06, 0.06, 0.03]])
    ask = (posterior, LABELS, IDS, CELLS, np.array([0.8]))
    found = decide(*ask, threshold_above=0.8)
    assert (found.status[0], found.ontology_id[0]) == ("ancestor", T_CELL)
    fusion = fitted(doubted())
    found = decide(*ask, threshold_above=0.8, confidence_above=fusion.confidence_above)
    assert (found.status[0], found.ontology_id[0]) == ("ancestor", LYMPHOCYTE)
    assert found.confidence[0] == pytest.approx(told_of(fusion, 0.97, LYMPHOCYTE), abs=1e-6)
    assert found.leaf_confidence[0] == np.float32(0.45)  # a label's is as it was


def told_of(fusion, mass, term_id):
    width_1 = breadth([term_id], CELLS)
    return fusion.confidence_above(np.array([[mass]]), np.array([0.8]), width_1)[0, 0]


def test_without_a_fit_a_term_is_as_sure_as_a_label():
    fusion = Fusion(slope=0.7, offset=0.2)
    assert told_of(fusion, 0.9, LYMPHOCYTE) == fusion.confidence(np.array([0.9]), np.array([0.8]))
    falling = Fusion(above=(1.0, -1.0, 0.0, 0.0, 0.0))  # the slope is held at 0
    assert told_of(falling, 0.99, CELLS.id_of("cell")) == 0.5


def test_numbers_that_are_not_five_are_refused_and_old_files_read():
    for above in ((1.0, 2.0), (1.0, 0.0, 0.0, 0.0, float("nan"))):
        with pytest.raises(ArgumentError, match="five numbers"):
            Fusion(above=above)
    fields = Fusion(threshold_above=THRESHOLD_ABOVE).to_dict()
    del fields["above"]
    assert Fusion.from_dict(fields).above == ()


def test_the_default_model_has_it_and_answers_above_its_labels_are_as_sure():
    assert len(model_index(scgp.Model.default()).calibration.above) == 5
    adata = scgp.demo.counts()
    scgp.annotate(adata, progress=False)
    broad = adata.obs["scgp_status"] == "ancestor"
    assert (adata.obs.loc[broad, "scgp_confidence"] >= SURE_ABOVE - 1e-6).all()
