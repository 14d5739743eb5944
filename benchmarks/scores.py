"""Scores of an annotation against authors' labels of other depth; the same for every method.

Owns the rule for what is right, and all numbers in the tables. Knows nothing of methods, files or
ontologies: ``ancestors`` is any function from a term to its ancestors, itself included.

A prediction is right when it is the true term or a descendant of it, and it holds when it is right
or an ancestor of the true term: "T cell" holds for a CD4 T cell, and is too broad to be right.
``UNKNOWN`` is an answer, and neither.

Shapes: N cells, P distinct (true, predicted) pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import ArrayLike, NDArray

    Ancestors = Callable[[str], frozenset[str]]

UNKNOWN = ""
OTHER = "other"
N_BINS = 15


@dataclass(frozen=True)
class Answer:
    """What one method says of N cells: a term (or `UNKNOWN`) and a confidence each."""

    label_N: NDArray[np.object_]
    confidence_N: NDArray[np.float32]
    status_N: NDArray[np.object_] | None = field(default=None)


def _by_pair(
    true_N: NDArray[np.object_], label_N: NDArray[np.object_], value: Callable[[str, str], object]
) -> NDArray[np.object_]:
    """Apply ``value(true, predicted)`` once per distinct pair."""
    pair_N, pairs = pd.factorize(pd.MultiIndex.from_arrays([true_N, label_N]))
    value_P = np.empty(len(pairs), dtype=object)
    value_P[:] = [value(true, label) for true, label in pairs]
    return value_P[pair_N]


def is_right(
    true_N: NDArray[np.object_], label_N: NDArray[np.object_], ancestors: Ancestors
) -> NDArray[np.bool_]:
    """Whether each prediction is the true term or a descendant of it."""

    def right(true: str, label: str) -> bool:
        return label != UNKNOWN and true in ancestors(label)

    return _by_pair(true_N, label_N, right).astype(bool)


def holds(
    true_N: NDArray[np.object_], label_N: NDArray[np.object_], ancestors: Ancestors
) -> NDArray[np.bool_]:
    """Whether each prediction is the true term, a descendant or an ancestor of it."""

    def on_one_line(true: str, label: str) -> bool:
        return label != UNKNOWN and (true in ancestors(label) or label in ancestors(true))

    return _by_pair(true_N, label_N, on_one_line).astype(bool)


def counted_as(
    true_N: NDArray[np.object_], label_N: NDArray[np.object_], ancestors: Ancestors
) -> NDArray[np.object_]:
    """Return the true term of the query that each prediction counts for, or `OTHER`.

    A right prediction counts for the cell's true term. A wrong one counts for the most specific
    true term of the query that is the prediction or an ancestor of it: the one with the most
    ancestors, ties by id.
    """
    terms = set(true_N)
    depth = {term: len(ancestors(term)) for term in terms}

    def counted(true: str, label: str) -> str:
        if label == UNKNOWN:
            return OTHER
        above = ancestors(label)
        if true in above:
            return true
        candidates = terms & above
        return min(candidates, key=lambda term: (-depth[term], term)) if candidates else OTHER

    return _by_pair(true_N, label_N, counted)


def macro_f1(
    true_N: NDArray[np.object_],
    counted_N: NDArray[np.object_],
    terms: Iterable[str] | None = None,
) -> float:
    """Return the mean F1 over ``terms`` (those of ``true_N``); other predictions only miss.

    With some of the terms, the cells of the others still count where they are called one of them.
    """
    scores = []
    for term in sorted(set(true_N) if terms is None else set(terms)):
        is_true_N, is_counted_N = true_N == term, counted_N == term
        both = int(np.sum(is_true_N & is_counted_N))
        scores.append(2 * both / (int(is_true_N.sum()) + int(is_counted_N.sum())))
    return float(np.mean(scores))


def soft_scores(
    true_N: NDArray[np.object_], label_N: NDArray[np.object_], ancestors: Ancestors
) -> NDArray[np.float64]:
    """Return |shared ancestors| / |union of ancestors| of each pair; unknown scores 0."""

    def soft(true: str, label: str) -> float:
        if label == UNKNOWN:
            return 0.0
        above_true, above_label = ancestors(true), ancestors(label)
        return len(above_true & above_label) / len(above_true | above_label)

    return _by_pair(true_N, label_N, soft).astype(np.float64)


def _sorted_with_ties(
    confidence_N: ArrayLike, right_N: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sort by falling confidence; equal confidences share their mean rightness.

    What comes out does not depend on the order of the cells.
    """
    confidence_N = np.asarray(confidence_N, dtype=np.float64)
    right_N = np.asarray(right_N, dtype=np.float64)
    _, tie_N, count = np.unique(-confidence_N, return_inverse=True, return_counts=True)
    mean = np.bincount(tie_N, weights=right_N) / count
    order_N = np.argsort(tie_N, kind="stable")
    return confidence_N[order_N], mean[tie_N[order_N]]


def calibration_error(
    confidence_N: ArrayLike, right_N: ArrayLike, *, n_bins: int = N_BINS
) -> float:
    """Return the expected calibration error over bins of equal numbers of cells; NaN without cells.

    Examples
    --------
    >>> calibration_error([0.5, 0.5, 0.5, 0.5], [1, 0, 1, 0])
    0.0
    """
    confidence_N, right_N = _sorted_with_ties(confidence_N, right_N)
    n_cells = len(confidence_N)
    if n_cells == 0:
        return float("nan")
    gaps = [
        abs(float(confidence_N[a:b].sum() - right_N[a:b].sum())) for a, b in _bins(n_cells, n_bins)
    ]
    return sum(gaps) / n_cells


def chance_calibration_error(confidence_N: ArrayLike, *, n_bins: int = N_BINS) -> float:
    """Return the calibration error that confidences would have if they were exactly true.

    A bin of few cells misses its mean by chance; its expected miss is that of a normal variable
    with the variance of its Bernoulli draws. NaN without cells.

    Examples
    --------
    >>> round(chance_calibration_error([0.5] * 150), 3)
    0.126
    """
    confidence_N = np.sort(np.asarray(confidence_N, dtype=np.float64))
    n_cells = len(confidence_N)
    if n_cells == 0:
        return float("nan")
    variance_N = confidence_N * (1 - confidence_N)
    gaps = [np.sqrt(2 / np.pi * variance_N[a:b].sum()) for a, b in _bins(n_cells, n_bins)]
    return float(sum(gaps)) / n_cells


def _bins(n_cells: int, n_bins: int) -> Iterable[tuple[int, int]]:
    return pairwise(np.linspace(0, n_cells, min(n_bins, n_cells) + 1).astype(int).tolist())


def risk_coverage_area(confidence_N: ArrayLike, right_N: ArrayLike) -> float:
    """Return the area under the risk-coverage curve: lower is better, 0 is never wrong.

    The mean, over k = 1 to N, of the share of wrong answers among the k most confident cells.

    Examples
    --------
    >>> risk_coverage_area([0.9, 0.8], [1, 0])
    0.25
    """
    _, right_N = _sorted_with_ties(confidence_N, right_N)
    if len(right_N) == 0:
        return float("nan")
    return float(np.mean(np.cumsum(1 - right_N) / np.arange(1, len(right_N) + 1)))


def score(true_N: NDArray[np.object_], answer: Answer, ancestors: Ancestors) -> dict[str, float]:
    """Return every score of one answer on one set of cells.

    Calibration is over the cells that got a label; in the risk-coverage area an unknown cell
    comes after every labelled one and counts as wrong, so abstaining is never free.
    """
    label_N = answer.label_N
    right_N = is_right(true_N, label_N, ancestors)
    holds_N = holds(true_N, label_N, ancestors)
    known_N = label_N != UNKNOWN
    rank_N = np.where(known_N, answer.confidence_N, -1.0)
    sure_N = answer.confidence_N[known_N]
    return {
        "cells": float(len(true_N)),
        "accuracy": float(right_N.mean()),
        "macro_f1": macro_f1(true_N, counted_as(true_N, label_N, ancestors)),
        "macro_f1_exact": macro_f1(true_N, label_N),
        "soft": float(soft_scores(true_N, label_N, ancestors).mean()),
        "unknown": float(1 - known_N.mean()),
        "ece": calibration_error(sure_N, right_N[known_N]),
        "aurc": risk_coverage_area(rank_N, right_N),
        "holds": float(holds_N.mean()),
        "ece_holds": calibration_error(sure_N, holds_N[known_N]),
        "aurc_holds": risk_coverage_area(rank_N, holds_N),
        "ece_chance": chance_calibration_error(sure_N),
    }


def reachable(true_N: NDArray[np.object_], trained: Iterable[str], ancestors: Ancestors) -> float:
    """Return the share of cells whose term, or a term below it, is a label of the training set.

    No method that answers with a training label can have a higher accuracy.
    """
    closure = frozenset().union(*(ancestors(label) for label in set(trained)))
    return float(np.mean([term in closure for term in true_N]))


def mean_over(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each score over rows (studies); NaN counts for nothing."""
    table = pd.DataFrame(list(rows))
    return {str(name): float(table[name].mean()) for name in table.columns}


def spread_over(rows: Iterable[Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    """Return mean and standard deviation (n - 1; NaN for one) of each score over seeds."""
    table = pd.DataFrame(list(rows))
    return {
        str(name): (float(table[name].mean()), float(table[name].std(ddof=1)))
        for name in table.columns
    }
