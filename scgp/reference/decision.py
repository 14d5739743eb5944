"""From a posterior over labels to one answer per cell: a label, a broader term, or "unknown".

Pure functions on arrays. Knows neither where the posterior comes from nor AnnData.

Shapes: B cells, T labels of the reference, A terms (those of the labels and all their ancestors).

The rule, for a threshold t:

1. The leaf is the label of the highest expected worth (`worth`); with no weight on nearness, that
   is the label of the highest probability. A label is rolled up: its descendants among the labels
   count for it. If the leaf's rolled-up probability reaches t, it is the answer, or (where nearness
   has no weight) the most specific label below it that alone has more than half (and t).
2. Otherwise the answer is the most specific term, of all ancestors of all labels, whose confidence
   (``confidence_above``) reaches t and a bound of its own (``threshold_above``), and that says
   something (`says_something`). A cell comes here because its label is in doubt: what is left of
   its probability is worth less than that of a label, and the narrower the term, the less.
3. Otherwise the cell is "unknown".

Where the reference has a background, a label, or a term below one, is no surer than that the cell
is of one of its types at all. If that is below t and below one half, the cell lies outside: 1 is
left out, and 2 holds what the background says of a term against t and ``threshold_outside``, for a
novel cell too.

A cell unlike every reference cell, or unlike the text of every label, can have no label of the
reference, so 1 is left out, and 2 is narrowed to proper ancestors of the leaf that more labels than
those of the leaf share and not every label: a term that all labels share has probability 1 whatever
the cell is.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scgp.errors import ArgumentError
from scgp.phenotypes.ontology import Ontology
from scgp.reference.background import Reading, beside, lies_outside
from scgp.reference.broad_terms import breadth, says_something
from scgp.reference.fusion import MAJORITY, SLACK
from scgp.reference.products import product

if TYPE_CHECKING:
    from collections.abc import Sequence

UNKNOWN = "unknown"
STATUSES = ("labelled", "ancestor", "unknown", "empty")
BLOCK = 8192


Confidence = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
ConfidenceAbove = Callable[
    [NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]
]


def _as_it_is(
    mass: NDArray[np.float64],
    nearest: NDArray[np.float64],
) -> NDArray[np.float64]:
    return mass


@dataclasses.dataclass(frozen=True)
class Decision:
    """One answer per cell; all arrays have length B.

    ``label`` (str objects; None for an empty cell), ``ontology_id`` (str objects, "" where there
    is none), ``confidence`` (float32: the rolled-up probability of the answer; 0 where there is
    none), ``status`` (str objects, one of `STATUSES`), and the best label whatever became of it:
    ``leaf`` (str objects, "" for an empty cell) and ``leaf_confidence`` (float32). Where sets were
    asked for, ``label_set`` (str objects, labels with " | " between them; None for an empty cell)
    and ``set_size`` (int32). ``novelty`` (float32, 0 to 2; NaN for an empty cell; None where it was
    not asked for) is 1 minus the cosine to the nearest reference cell.
    """

    label: NDArray[np.object_]
    ontology_id: NDArray[np.object_]
    confidence: NDArray[np.float32]
    status: NDArray[np.object_]
    leaf: NDArray[np.object_]
    leaf_confidence: NDArray[np.float32]
    label_set: NDArray[np.object_] | None = None
    set_size: NDArray[np.int32] | None = None
    novelty: NDArray[np.float32] | None = None

    @classmethod
    def join(cls, parts: Sequence[Decision], *, sets: bool = False) -> Decision:
        """Put the answers of blocks of cells together; ``sets``: whether they have label sets."""
        if not parts:
            nothing, zero = np.zeros(0, object), np.zeros(0, np.float32)
            label_set, set_size = (nothing, np.zeros(0, np.int32)) if sets else (None, None)
            return cls(nothing, nothing, zero, nothing, nothing, zero, label_set, set_size, zero)
        there = [f.name for f in dataclasses.fields(cls) if getattr(parts[0], f.name) is not None]
        return cls(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in there})


def roll_up(
    posterior_BT: NDArray[np.floating[Any]], label_ids: Sequence[str], ontology: Ontology
) -> tuple[NDArray[np.float64], list[str]]:
    """Sum a posterior up the ontology.

    Parameters
    ----------
    label_ids
        Term of each label, ``""`` where it has none; such labels count for no term.

    Returns
    -------
    Probabilities B x A and the A ids: those of the labels and all their ancestors.
    """
    below_TA, term_ids = _labels_below(label_ids, ontology)
    return posterior_BT.astype(np.float64) @ below_TA, term_ids


def worth(label_ids: Sequence[str], ontology: Ontology, weight_near: float) -> NDArray[np.float64]:
    """Return what the answer j is worth where label i is true (T x T).

    1 if the answer is the label or a term below it, and ``weight_near`` times the share of
    ancestors that the two have in common, so that a near answer counts more than a far one.
    """
    right_TT = ontology.relation(label_ids).astype(np.float64)
    return right_TT + weight_near * ontology.soft_scores(label_ids)


def _labels_below(
    label_ids: Sequence[str], ontology: Ontology
) -> tuple[NDArray[np.bool_], list[str]]:
    """Return which label counts for which term."""
    term_ids = ontology.closure(label_ids)
    is_ancestor = ontology.relation([*term_ids, *label_ids])
    n_terms = len(term_ids)
    below_TA: NDArray[np.bool_] = is_ancestor[:n_terms, n_terms:].T
    return below_TA, term_ids


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What the decision on every cell needs of labels and ontology."""

    below_TA: NDArray[np.bool_]  # label i counts for term j
    below_TT: NDArray[np.bool_]  # label i counts for label j
    deeper_TT: NDArray[np.bool_]  # label j lies below label i, and not the other way round
    narrower_TA: NDArray[np.bool_]  # term j may answer for a novel cell whose leaf is label i
    useful_A: NDArray[np.bool_]
    labelled_A: NDArray[np.bool_]  # term j is a label, or lies below one
    worth_TT: NDArray[np.float64] | None  # of the answer j where label i is true
    breadth_A: NDArray[np.float64]
    rank_A: NDArray[np.float64]  # the higher, the more specific; equal where equally so
    rank_T: NDArray[np.float64]


@functools.lru_cache(maxsize=4)
def _plan(label_ids: tuple[str, ...], prefix: str, weight_near: float) -> _Plan:
    """Make the plan of some labels once, not for every block of cells; nobody writes to it."""
    ontology = Ontology(prefix)
    below_TA, term_ids = _labels_below(label_ids, ontology)
    below_TT = ontology.relation(label_ids).T
    n_below_A = np.array([len(ontology.descendants(i)) for i in term_ids], int)
    n_below_T = np.array([len(ontology.descendants(i)) if i else 0 for i in label_ids], int)
    labels_A, labels_T = below_TA.sum(axis=0), below_TT.sum(axis=0)
    shared_by_more_TA = labels_A > labels_T[:, None]
    return _Plan(
        below_TA=below_TA,
        below_TT=below_TT,
        deeper_TT=below_TT.T & ~below_TT,
        narrower_TA=below_TA & shared_by_more_TA & (labels_A < len(label_ids)),
        useful_A=np.array([says_something(i, ontology) for i in term_ids], bool),
        labelled_A=np.any(
            ontology.relation([*label_ids, *term_ids])[: len(below_TA), len(below_TA) :], axis=0
        ),
        worth_TT=worth(label_ids, ontology, weight_near) if weight_near else None,
        breadth_A=breadth(term_ids, ontology),
        rank_A=_dense_rank(-n_below_A),
        rank_T=_dense_rank(-n_below_T),
    )


def _dense_rank(values: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    ranks: NDArray[np.float64] = np.unique(values, return_inverse=True)[1].astype(np.float64)
    return ranks


def _best(
    rank_A: NDArray[np.float64], mass_BA: NDArray[np.float64], allowed_BA: NDArray[np.bool_]
) -> NDArray[np.intp]:
    """Return the most specific allowed column of each row, by mass where equal; -1 for none."""
    if not mass_BA.shape[1]:
        return np.full(len(mass_BA), -1)
    order_BA = np.where(allowed_BA, rank_A + 0.999 * np.clip(mass_BA, 0, 1), -1.0)
    return np.where(allowed_BA.any(axis=1), order_BA.argmax(axis=1), -1)


class _Answers(NamedTuple):
    """Codes of the answers: a label, else a term, else -1 in both."""

    leaf_B: NDArray[np.intp]
    leaf_mass_B: NDArray[np.float64]
    label_B: NDArray[np.intp]
    term_B: NDArray[np.intp]
    mass_B: NDArray[np.float64]


def _decide_block(
    posterior_BT: NDArray[np.float64],
    support_BT: NDArray[np.float64],
    nearest_B: NDArray[np.float64],
    novel_B: NDArray[np.bool_],
    plan: _Plan,
    *,
    threshold: float,
    threshold_above: float,
    threshold_outside: float,
    confidence: Confidence,
    confidence_above: ConfidenceAbove | None,
    reading: Reading | None,
) -> _Answers:
    cells = np.arange(len(posterior_BT))
    mass_BT = confidence(product(support_BT, plan.below_TT), nearest_B[:, None])
    outside_B = np.zeros(len(cells), bool)
    if reading is not None:
        mass_BT = np.minimum(mass_BT, reading.covered_B[:, None])
        outside_B = lies_outside(reading, threshold)
    rolled_BA = product(support_BT, plan.below_TA)
    if confidence_above is None:
        mass_BA = confidence(rolled_BA, nearest_B[:, None])
    else:
        mass_BA = confidence_above(rolled_BA, nearest_B, plan.breadth_A)
    if reading is not None:
        mass_BA = beside(reading, mass_BA, plan.labelled_A, outside_B)
    worth_BT = posterior_BT if plan.worth_TT is None else product(posterior_BT, plan.worth_TT)
    leaf_B = worth_BT.argmax(axis=1)
    leaf_mass_B = mass_BT[cells, leaf_B]
    sure_B = (leaf_mass_B >= threshold - SLACK) & ~novel_B
    deeper_BT = plan.deeper_TT[leaf_B] & (mass_BT > max(threshold - SLACK, MAJORITY))
    deeper_BT &= plan.worth_TT is None  # worth has weighed the depth already
    deeper_B = _best(plan.rank_T, mass_BT, deeper_BT)
    label_B = np.where(sure_B, np.where(deeper_B >= 0, deeper_B, leaf_B), -1)
    bound_B = np.maximum(np.where(outside_B, threshold_outside, threshold_above), threshold)
    broad_BA = (mass_BA >= bound_B[:, None] - SLACK) & plan.useful_A
    broad_BA &= plan.narrower_TA[leaf_B] | (~novel_B | outside_B)[:, None]
    term_B = np.where(sure_B, -1, _best(plan.rank_A, mass_BA, broad_BA))
    mass_B = np.where(sure_B, mass_BT[cells, label_B], 0.0)
    backed_off = np.flatnonzero(term_B >= 0)
    mass_B[backed_off] = mass_BA[backed_off, term_B[backed_off]]
    return _Answers(leaf_B, leaf_mass_B, label_B, term_B, mass_B)


def decide(
    posterior_BT: NDArray[np.floating[Any]],
    labels: Sequence[str],
    label_ids: Sequence[str],
    ontology: Ontology,
    cosine_B: NDArray[np.floating[Any]],
    *,
    threshold: float = 0.5,
    threshold_above: float = 0.0,
    threshold_outside: float = 0.0,
    novel_B: NDArray[np.bool_] | None = None,
    empty_B: NDArray[np.bool_] | None = None,
    weight_near: float = 0.0,
    support_BT: NDArray[np.floating[Any]] | None = None,
    confidence: Confidence = _as_it_is,
    confidence_above: ConfidenceAbove | None = None,
    reading: Reading | None = None,
) -> Decision:
    """Give every cell a label, a broader term, or "unknown".

    Parameters
    ----------
    posterior_BT
        Probabilities of the labels, rows sum to 1.
    labels, label_ids
        The T labels and their terms; ``""`` where a label has none, which is then answered only
        by its own name.
    cosine_B
        Cosine of each cell to its nearest reference cell.
    threshold
        The probability that an answer needs.
    threshold_above
        The probability that a term which is not the label itself needs, if that is more.
    threshold_outside
        The same for a cell that lies outside, by the reading of the background.
    novel_B
        Cells that are unlike the reference: no label of it is theirs.
    empty_B
        Cells without a count: no answer.
    weight_near
        Weight of nearness in the ontology when the leaf is chosen (`worth`).
    support_BT
        Probabilities of the labels that the confidence is taken from; None: the posterior.
    confidence
        Turns rolled-up probabilities and cosines to the nearest reference cell into calibrated
        probabilities, which are what the threshold is held against.
    confidence_above
        The same for terms above the labels, of their rolled-up probabilities (B x A), these cosines
        (B) and their breadth (A, `broad_terms.breadth`); None: as for a label.
    reading
        What the background of the reference says of the cells; None: it has none.

    Returns
    -------
    A `Decision`; the module's text says by which rule.

    Raises
    ------
    ArgumentError
        The threshold is no probability, or the sizes do not fit together.
    """
    n_cells, n_labels = len(posterior_BT), len(labels)
    if not (0 <= threshold <= 1 and 0 <= threshold_above <= 1):
        given = f"threshold is {threshold} and threshold_above {threshold_above}"
        message = f"{given}; expected probabilities between 0 and 1"
        raise ArgumentError(message)
    empty_B = np.zeros(n_cells, bool) if empty_B is None else np.asarray(empty_B, bool)
    novel_B = np.zeros(n_cells, bool) if novel_B is None else np.asarray(novel_B, bool)
    support_BT = posterior_BT if support_BT is None else support_BT
    sizes = (len(cosine_B), len(novel_B), len(empty_B))
    found = (np.shape(posterior_BT), len(label_ids), *sizes)
    fits = found == ((n_cells, n_labels), n_labels, n_cells, n_cells, n_cells)
    if not fits or not n_labels or np.shape(support_BT) != (n_cells, n_labels):
        message = (
            f"posterior, label ids, novelty, novel and empty have the sizes {found}; expected "
            f"those of {n_cells} cells and {n_labels} labels"
        )
        raise ArgumentError(message)
    plan = _plan(tuple(label_ids), ontology.prefix, weight_near)
    nearest_B = np.asarray(cosine_B, float)
    blocks = [
        _decide_block(
            np.asarray(posterior_BT[i : i + BLOCK], float),
            np.asarray(support_BT[i : i + BLOCK], float),
            nearest_B[i : i + BLOCK],
            novel_B[i : i + BLOCK],
            plan,
            threshold=threshold,
            threshold_above=threshold_above,
            threshold_outside=threshold_outside,
            confidence=confidence,
            confidence_above=confidence_above,
            reading=None if reading is None else Reading(*(x[i : i + BLOCK] for x in reading)),
        )
        for i in range(0, max(n_cells, 1), BLOCK)
    ]
    answers = _Answers(*map(np.concatenate, zip(*blocks, strict=True)))
    names = _names(tuple(labels), tuple(label_ids), ontology.prefix)
    return _write_out(answers, empty_B, names)


class _Names(NamedTuple):
    """What the codes of answers stand for: labels, then terms, then "unknown", then nothing."""

    name_C: NDArray[np.object_]
    id_C: NDArray[np.object_]
    status_C: NDArray[np.object_]
    leaf_C: NDArray[np.object_]  # labels, then nothing
    n_labels: int


@functools.lru_cache(maxsize=4)
def _names(labels: tuple[str, ...], label_ids: tuple[str, ...], prefix: str) -> _Names:
    """Name the codes of some labels once, not for every block of cells."""
    ontology = Ontology(prefix)
    term_ids = ontology.closure(label_ids)
    own_name = dict(zip(reversed(label_ids), reversed(labels), strict=True))
    term_names = [own_name.get(i) or ontology.label(i) for i in term_ids]
    kind_C = np.repeat([0, 1, 2, 3], [len(labels), len(term_ids), 1, 1])
    return _Names(
        name_C=np.array([*labels, *term_names, UNKNOWN, None], object),
        id_C=np.array([*label_ids, *term_ids, "", ""], object),
        status_C=np.array(STATUSES, object)[kind_C],
        leaf_C=np.array([*labels, ""], object),
        n_labels=len(labels),
    )


def _write_out(answers: _Answers, empty_B: NDArray[np.bool_], names: _Names) -> Decision:
    """Turn codes into names."""
    n_named = len(names.name_C) - 2
    code_B = np.where(answers.term_B >= 0, names.n_labels + answers.term_B, n_named)
    code_B = np.where(answers.label_B >= 0, answers.label_B, code_B)
    code_B = np.where(empty_B, n_named + 1, code_B)
    return Decision(
        label=names.name_C[code_B],
        ontology_id=names.id_C[code_B],
        confidence=np.where(empty_B, 0, answers.mass_B).astype(np.float32),
        status=names.status_C[code_B],
        leaf=names.leaf_C[np.where(empty_B, names.n_labels, answers.leaf_B)],
        leaf_confidence=np.where(empty_B, 0, answers.leaf_mass_B).astype(np.float32),
    )
