"""Scores of naming unseen types: choice, penalty, gate, and how sure a difference is.

Pure functions on arrays. Knows nothing of models, files or ontologies: ``distance`` is a function
of two terms.

Shapes: N cells, T terms of the corpus, C terms held out (all folds), R resamples.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    Distance = Callable[[str, str], float]
    Rule = Callable[["Question", float], NDArray[np.str_]]

UNKNOWN = ""
N_RESAMPLES = 1000
LEVEL = (2.5, 97.5)
#: What may be taken from the scores of seen terms (a cosine, or a z-score; wide: a score of the
#: describing head), and the novelty below which a cell may count as of a new type.
PENALTIES = tuple(np.round(np.arange(0.0, 2.02, 0.02), 2).tolist())
WIDE_PENALTIES = tuple(np.round(np.arange(0.0, 6.05, 0.1), 1).tolist())
GATES = tuple(np.round([*np.arange(0.0, 0.9, 0.02), *np.arange(0.9, 1.003, 0.004)], 3).tolist())
MEASURES = ("recall", "f1", "within_1", "within_2", "right")


@dataclass(frozen=True)
class Question:
    """Cells of one fold, what they are, and what may be answered.

    Parameters
    ----------
    score_NT
        A method's score of each term; NaN where it cannot name the term.
    terms
        The T terms.
    true_N
        The cells' terms.
    unseen_T
        Whether a term was held out of training.
    unseen_N
        Whether a cell is of a held-out term.
    novelty_N
        How near a cell is to what was seen, for `gated`.
    """

    score_NT: NDArray[np.floating]
    terms: NDArray[np.str_]
    true_N: NDArray[np.str_]
    unseen_T: NDArray[np.bool_]
    unseen_N: NDArray[np.bool_]
    novelty_N: NDArray[np.floating]

    @functools.cached_property
    def best(self) -> tuple[tuple[NDArray[np.str_], NDArray[np.floating]], ...]:
        """Return the best seen term of each cell with its score, and the best unseen one."""
        low_NT = np.where(np.isnan(self.score_NT), -np.inf, self.score_NT)
        silent_N = best_term(self.score_NT, self.terms) == UNKNOWN
        found = []
        for columns in (~self.unseen_T, self.unseen_T):
            best_N = self.terms[columns][low_NT[:, columns].argmax(axis=1)]
            top_N = low_NT[:, columns].max(axis=1)
            found.append((np.where(silent_N, UNKNOWN, best_N), top_N))
        return tuple(found)


def best_term(score_NT: NDArray[np.floating], terms: NDArray[np.str_]) -> NDArray[np.str_]:
    """Return the term of the highest score; `UNKNOWN` where no two scores differ.

    Examples
    --------
    >>> best_term(np.array([[0.1, 0.3, np.nan], [0.0, 0.0, 0.0]]), np.array(["a", "b", "c"]))
    array(['b', ''], dtype='<U1')
    """
    low_NT = np.where(np.isnan(score_NT), -np.inf, score_NT)
    said_N = terms[low_NT.argmax(axis=1)].copy()
    said_N[low_NT.max(axis=1) == low_NT.min(axis=1)] = UNKNOWN
    return said_N


def penalised(question: Question, gamma: float) -> NDArray[np.str_]:
    """Answer with ``gamma`` taken from the scores of seen terms (calibrated stacking).

    Chao et al. 2016, An empirical study and analysis of generalized zero-shot learning.
    """
    (seen_N, seen_top_N), (unseen_N, unseen_top_N) = question.best
    return np.where(unseen_top_N > seen_top_N - gamma, unseen_N, seen_N)


def gated(question: Question, gate: float) -> NDArray[np.str_]:
    """Answer with an unseen term where ``novelty_N`` is below the gate, else with a seen one."""
    (seen_N, _), (unseen_N, _) = question.best
    return np.where(question.novelty_N < gate, unseen_N, seen_N)


def recall_of(true_N: NDArray[np.str_], said_N: NDArray[np.str_]) -> float:
    """Return the share of right answers, as a mean over terms; NaN for no cell."""
    shares = [float(np.mean(said_N[true_N == term] == term)) for term in np.unique(true_N)]
    return float(np.mean(shares)) if shares else float("nan")


def seen_and_unseen(question: Question, said_N: NDArray[np.str_]) -> tuple[float, float, float]:
    """Return recall of seen terms, of unseen terms, and their harmonic mean."""
    unseen_N = question.unseen_N
    seen = recall_of(question.true_N[~unseen_N], said_N[~unseen_N])
    unseen = recall_of(question.true_N[unseen_N], said_N[unseen_N])
    return seen, unseen, harmonic(seen, unseen)


def harmonic(a: float, b: float) -> float:
    """Return the harmonic mean of two shares; 0 where either is.

    Examples
    --------
    >>> harmonic(0.5, 0.5), harmonic(0.9, 0.0)
    (0.5, 0.0)
    """
    return 2 * a * b / (a + b) if a > 0 and b > 0 else 0.0


def chosen_on_others(
    questions: Sequence[Question], rule: Rule, grid: Sequence[float]
) -> list[float]:
    """Choose a rule's value for each fold on all the other folds: the best mean harmonic mean.

    Ties go to the first of the grid. A fold's own cells have no part in its value.
    """
    found_FG = np.array(
        [[seen_and_unseen(q, rule(q, value))[2] for value in grid] for q in questions]
    )
    others_FG = found_FG.sum(axis=0) - found_FG
    return [grid[best] for best in np.round(others_FG, 12).argmax(axis=1)]


def rank_of_truth(question: Question) -> NDArray[np.float64]:
    """Return the place of the true term of each unseen cell; 1 is the best, ties share a mean."""
    rows = np.flatnonzero(question.unseen_N)
    place = {term: t for t, term in enumerate(question.terms.tolist())}
    column = np.array([place[term] for term in question.true_N[rows].tolist()], dtype=int)
    score_NT = np.where(np.isnan(question.score_NT[rows]), -np.inf, question.score_NT[rows])
    own_N1 = score_NT[np.arange(len(rows)), column][:, None]
    better_N = (score_NT > own_N1).sum(axis=1)
    equal_N = (score_NT == own_N1).sum(axis=1)
    rank_N: NDArray[np.float64] = better_N + (equal_N + 1) / 2
    return rank_N


def term_scores(
    true_N: NDArray[np.str_], said_N: NDArray[np.str_], distance: Distance, below: Distance
) -> dict[str, dict[str, float]]:
    """Return `MEASURES` of each true term of one fold.

    ``recall``; ``f1``; the share of answers at most one and two steps of the ontology away; the
    share of answers that are the term or lie below it (``below(term, answer)`` is then true).
    """
    found = {}
    for term in np.unique(true_N).tolist():
        answers, number = np.unique(said_N[true_N == term], return_counts=True)
        share = number / number.sum()
        steps = np.array([np.inf if a == UNKNOWN else distance(term, a) for a in answers.tolist()])
        right = np.array([a != UNKNOWN and bool(below(term, a)) for a in answers.tolist()])
        hits = float(number[answers == term].sum())
        found[term] = {
            "recall": float(share[answers == term].sum()),
            "f1": 2 * hits / float(number.sum() + (said_N == term).sum()),
            "within_1": float(share[steps <= 1].sum()),
            "within_2": float(share[steps <= 2].sum()),
            "right": float(share[right].sum()),
        }
    return found


def mean_scores(by_fold: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, float]:
    """Return the mean of each measure over all terms of all folds."""
    rows = [row for found in by_fold for row in found.values()]
    return {name: float(np.mean([row[name] for row in rows])) for name in MEASURES}


def resampled(
    true_N: NDArray[np.str_],
    said: Mapping[str, Sequence[NDArray[np.str_]]],
    *,
    rng: np.random.Generator,
    n_resamples: int = N_RESAMPLES,
) -> dict[str, NDArray[np.float64]]:
    """Draw cells within the terms of one fold with replacement, the same ones for every method.

    Returns
    -------
    For each method R x C x 2: recall and F1 of each term of the fold; the mean over its answers
    where it has several.
    """
    terms, code_N = np.unique(true_N, return_inverse=True)
    size_C = np.bincount(code_N)
    weight_RN = np.zeros((n_resamples, len(true_N)))
    for c, n in enumerate(size_C):
        weight_RN[:, code_N == c] = rng.multinomial(n, np.full(n, 1 / n), size=n_resamples)
    found = {}
    for name, turns in said.items():
        scores = []
        for said_N in turns:
            said_NC = said_N[:, None] == terms[None]
            hit_NC = said_NC & (code_N[:, None] == np.arange(len(terms)))
            hit_RC, said_RC = weight_RN @ hit_NC, weight_RN @ said_NC
            scores.append(np.stack([hit_RC / size_C, 2 * hit_RC / (said_RC + size_C)], axis=-1))
        found[name] = np.mean(scores, axis=0)
    return found


def leads(
    folds: Sequence[tuple[NDArray[np.str_], Mapping[str, Sequence[NDArray[np.str_]]]]],
    *,
    ours: str,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Compare one method with each other: terms are drawn with replacement, and cells within them.

    Parameters
    ----------
    folds
        Of each fold the true terms of its cells, and each method's answers (one array, or several
        whose mean counts).

    Returns
    -------
    For each other method the difference of ``recall`` and ``f1`` (means over terms), and the bounds
    of its 95 % interval.
    """
    rng = np.random.default_rng(seed)
    parts = [resampled(true_N, said, rng=rng, n_resamples=n_resamples) for true_N, said in folds]
    n_terms = sum(part[ours].shape[1] for part in parts)
    drawn_RC = rng.multinomial(n_terms, np.full(n_terms, 1 / n_terms), size=n_resamples)
    exact = [_exact(true_N, said) for true_N, said in folds]
    result = {}
    for name in parts[0]:
        if name == ours:
            continue
        gap_RC2 = np.concatenate([part[ours] - part[name] for part in parts], axis=1)
        gap_R2 = np.einsum("rc,rck->rk", drawn_RC, gap_RC2) / n_terms
        low_2, high_2 = np.percentile(gap_R2, LEVEL, axis=0)
        mean_2 = np.concatenate([part[ours] - part[name] for part in exact]).mean(axis=0)
        result[name] = {
            measure: (float(mean_2[i]), float(low_2[i]), float(high_2[i]))
            for i, measure in enumerate(("recall", "f1"))
        }
    return result


def _exact(
    true_N: NDArray[np.str_], said: Mapping[str, Sequence[NDArray[np.str_]]]
) -> dict[str, NDArray[np.float64]]:
    """Return C x 2 recall and F1 of each method, without resampling."""
    found = {}
    for name, turns in said.items():
        tables = [term_scores(true_N, said_N, _differ, _equal).values() for said_N in turns]
        rows = [[[row["recall"], row["f1"]] for row in table] for table in tables]
        found[name] = np.mean(rows, axis=0)
    return found


def _differ(a: str, b: str) -> float:
    return float(a != b)


def _equal(a: str, b: str) -> float:
    return float(a == b)


def permuted_columns(
    score_NT: NDArray[np.floating], *, rng: np.random.Generator
) -> NDArray[np.floating]:
    """Return the scores with the texts dealt to other terms: one cycle, no term keeps its own."""
    order = rng.permutation(score_NT.shape[1])
    dealt_NT = np.empty_like(score_NT)
    dealt_NT[:, np.roll(order, 1)] = score_NT[:, order]
    return dealt_NT
