"""Fit how sure a term above the labels is, to cells of held-out studies whose label is in doubt.

A broader term is given where a label is not sure enough. There its rolled-up probability, held
against the map of labels, promised too much: in new studies 67 to 71 % of what it called .5 sure
held, and of the cells whose type no label was for, 81 % of what it called .85. What it lacks is how
narrow the term is: of two terms of one probability, the broader holds more often.

Shape suffixes: B held-out cells, T classes, A terms above them and themselves, M pairs of cell and
term, F features.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from scgp.reference.broad_terms import breadth, says_something
from scgp.reference.evidence import pool
from scgp.reference.fusion import Fusion, log_odds
from scgp.reference.logistic import fit_logistic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scgp.phenotypes.ontology import Ontology
    from scgp.reference.fitting import HeldOut

#: Pairs that are fitted: cells whose label is less sure than the first, with terms whose rolled-up
#: probability is more than the second. A surer cell gets its label, and no term.
DOUBTED, LEAST_MASS = 0.7, 0.3
#: What cells of types that the reference lacks weigh: a broader term is all they can get.
LACKING_WEIGHT = 0.5
#: The confidence that such a term needs: the choice is of the most specific that reaches it, so
#: that fewer are right than it says. Of the cells of left-out studies that get one, 95 % are of it,
#: and 91 % where the network, too, had never seen half of the types (docs/log.md).
SURE_ABOVE = 0.96
#: Strength of the prior on the map (`fit_logistic`), and fewest pairs.
_RIDGE, _FEWEST = 1e-4, 50


def fit_above(
    fusion: Fusion,
    cells: HeldOut,
    leaf_sure_B: NDArray[np.floating],
    *,
    label_ids: Sequence[str],
    ontology: Ontology,
) -> Fusion:
    """Fit `Fusion.above` (Platt scaling, with the breadth of the term).

    Parameters
    ----------
    cells
        Evidence on cells of held-out studies; those of `HeldOut.novel_B` weigh as much as others.
    leaf_sure_B
        The confidence in the best label of each.
    label_ids
        Term of each class, "" where it has none.

    Returns
    -------
    The fusion with ``above`` and its bound; as it was, where there are too few pairs to fit.
    """
    feature_MF, holds_M, weight_M = _pairs(fusion, cells, leaf_sure_B, label_ids, ontology)
    if len(holds_M) < _FEWEST or holds_M.all() or not holds_M.any():
        return fusion
    bounds = [(0.0, None), (None, None), (0.0, None), (0.0, None)]
    above = fit_logistic(feature_MF, holds_M, weight_M, bounds=bounds, ridge=_RIDGE)
    return dataclasses.replace(fusion, above=above, threshold_above=SURE_ABOVE)


def _pairs(
    fusion: Fusion,
    cells: HeldOut,
    leaf_sure_B: NDArray[np.floating],
    label_ids: Sequence[str],
    ontology: Ontology,
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """Return features of doubted cells and terms (M x F), whether the term is true, and weights."""
    term_ids = ontology.closure(label_ids)
    above_AT = ontology.relation([*term_ids, *label_ids])[: len(term_ids), len(term_ids) :]
    useful_A = np.array([says_something(i, ontology) for i in term_ids], bool)
    doubted = np.flatnonzero(leaf_sure_B < DOUBTED)
    asked = cells.take(doubted)
    mass_BA = pool(asked.streams, fusion) @ above_AT.T
    row_M, term_M = np.nonzero(useful_A & (mass_BA > LEAST_MASS))
    odds_M, breadth_M = log_odds(mass_BA[row_M, term_M]), breadth(term_ids, ontology)[term_M]
    features = [odds_M, breadth_M * odds_M, asked.nearest_B[row_M], breadth_M]
    holds_M = above_AT[term_M, asked.class_B[row_M]]
    weight_B = cells.weights(LACKING_WEIGHT)[doubted]
    weight_M = weight_B[row_M] / max(weight_B[row_M].sum(), 1e-300)
    return np.stack(features, axis=1), holds_M, weight_M
