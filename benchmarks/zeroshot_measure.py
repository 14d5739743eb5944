"""From what models and baselines say of the asked cells to the numbers of the tables.

Owns the three questions: among the held-out terms of the fold, among all terms of the corpus, among
those of drawn cells too. Trains and embeds nothing.

Shapes: N cells asked, T terms of the corpus, E width of the joint space.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import zeroshot_scores as zs
from benchmarks.zeroshot_baselines import MARKERS, z_scored
from scgp.phenotypes.ontology import Ontology

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from benchmarks.zeroshot_folds import TermFold

OURS = "scgp, description"
UNMARKED = "scgp, description without markers"
TEXT = "scgp, text"
SHUFFLED = "scgp, descriptions permuted when asked"
SCALED = "scgp, text, z-scored by file"
CONTROL = "scgp, trained with permuted texts"
ANNOTATE = "scgp.annotate(labels=)"
#: The penalty and the gates: on which scores, the rule, its grid and what novelty is.
RULES = (
    (f"{OURS}, penalty", OURS, zs.penalised, zs.WIDE_PENALTIES, "text"),
    (
        f"{UNMARKED}, penalty",
        UNMARKED,
        zs.penalised,
        zs.WIDE_PENALTIES,
        "text",
    ),
    ("scgp, text, penalty on seen terms", TEXT, zs.penalised, zs.PENALTIES, "text"),
    ("scgp, text, z-scored, penalty", SCALED, zs.penalised, zs.PENALTIES, "text"),
    ("scgp, text, gate by text", TEXT, zs.gated, zs.GATES, "text"),
    ("scgp, text, gate by nearest cell", TEXT, zs.gated, zs.GATES, "nearest"),
)
N_PERMUTATIONS = 20


@dataclass(frozen=True)
class Material:
    """All that is known of one seed.

    Parameters
    ----------
    true_N
        Terms of the asked cells.
    file_N
        Their files.
    never_trains_N
        Cells that may be asked about seen terms.
    real_terms, all_terms
        Terms of the real cells, and with those of the drawn ones (T).
    folds
        The folds over terms.
    says
        What the model of each fold says (`benchmarks.zeroshot.ask`).
    control
        The same of models trained with permuted texts; empty where there is none.
    baselines
        N x T scores by name, the same in every fold.
    """

    true_N: NDArray[np.str_]
    file_N: NDArray[np.str_]
    never_trains_N: NDArray[np.bool_]
    real_terms: Sequence[str]
    all_terms: Sequence[str]
    folds: Sequence[TermFold]
    says: Sequence[Mapping[str, NDArray[Any]]]
    control: Sequence[Mapping[str, NDArray[Any]]]
    baselines: Mapping[str, NDArray[np.floating]]


@dataclass(frozen=True)
class Part:
    """One fold of one question: its cells, its candidates, the methods' scores and answers."""

    rows: NDArray[np.int64]
    true_N: NDArray[np.str_]
    unseen_N: NDArray[np.bool_]
    unseen_T: NDArray[np.bool_]
    terms: NDArray[np.str_]
    scores: dict[str, NDArray[np.floating]]
    novelty: dict[str, NDArray[np.floating]]
    answers: dict[str, list[NDArray[np.str_]]]

    def question(self, name: str, novelty: str = "text") -> zs.Question:
        """Return the question as one method is asked it."""
        return zs.Question(
            self.scores[name], self.terms, self.true_N, self.unseen_T, self.unseen_N,
            self.novelty[novelty],
        )  # fmt: skip


def part_of(material: Material, fold: int, candidates: Sequence[str], *, with_seen: bool) -> Part:
    """Ask one fold's cells: those of its terms and, ``with_seen``, the kept ones of seen terms."""
    asked = material.folds[fold]
    unseen_N = np.isin(material.true_N, asked.asked)
    closed_N = np.isin(material.true_N, sorted(asked.closure))
    chosen_N = unseen_N | (with_seen & material.never_trains_N & ~closed_N)
    rows = np.flatnonzero(chosen_N)
    terms = np.array(candidates)
    place = {term: t for t, term in enumerate(material.all_terms)}
    columns = np.array([place[term] for term in candidates])
    said = material.says[fold]
    every_NT = (said["type_NE"] @ said["text_TE"].T).astype(np.float64)
    cosine_NT = every_NT[rows]
    scaled_NT = scaled_by_file(every_NT[:, columns], material.file_N)[rows]
    described = {OURS: "described_NT", UNMARKED: "unmarked_NT"}
    at = np.ix_(rows, columns)
    scores = {name: said[key][at].astype(np.float64) for name, key in described.items()}
    scores |= {TEXT: cosine_NT[:, columns], SCALED: scaled_NT}
    if material.control:
        other = material.control[fold]
        scores[CONTROL] = (other["type_NE"][rows] @ other["text_TE"].T)[:, columns]
    for name, score_NT in material.baselines.items():
        scores[name] = score_NT[at]
    unseen_T = np.isin(terms, sorted(asked.closure))
    seen = np.array([t for t, x in enumerate(material.all_terms) if x not in asked.closure])
    novelty = {"text": cosine_NT[:, seen].max(axis=1), "nearest": said["nearest_N"][rows]}
    rng = np.random.default_rng(fold)
    answers = {name: [zs.best_term(score_NT, terms)] for name, score_NT in scores.items()}
    answers[SHUFFLED] = [
        zs.best_term(zs.permuted_columns(scores[OURS], rng=rng), terms)
        for _ in range(N_PERMUTATIONS)
    ]
    return Part(
        rows, material.true_N[rows], unseen_N[rows], unseen_T, terms, scores, novelty, answers
    )


def scaled_by_file(
    score_NT: NDArray[np.floating], file_N: NDArray[np.str_]
) -> NDArray[np.floating]:
    """Scale each column over the cells of each file, as the marker scores are."""
    scaled_NT = np.empty_like(score_NT)
    for file in np.unique(file_N):
        scaled_NT[file_N == file] = z_scored(score_NT[file_N == file])
    return scaled_NT


def answer_by_rules(parts: Sequence[Part]) -> dict[str, list[float]]:
    """Add the answers of the penalty and the gates; return each fold's value, chosen on others."""
    values = {}
    for name, base, rule, grid, novelty in RULES:
        questions = [part.question(base, novelty) for part in parts]
        values[name] = zs.chosen_on_others(questions, rule, grid)
        for part, question, value in zip(parts, questions, values[name], strict=True):
            part.answers[name] = [rule(question, value)]
    return values


@functools.cache
def steps_between(a: str, b: str) -> float:
    """Return the steps between two terms over their nearest common ancestor."""
    return Ontology("CL").distance(a, b)


def is_below(term: str, answer: str) -> float:
    """Whether an answer is the term or lies below it, as a number."""
    return float(term in Ontology("CL").ancestors(answer))


def unseen_scores(parts: Sequence[Part], name: str) -> dict[str, float]:
    """Score one method on the cells of held-out terms; means over terms, and over permutations."""
    found = []
    for turn in range(len(parts[0].answers[name])):
        pairs = [(p.true_N[p.unseen_N], p.answers[name][turn][p.unseen_N]) for p in parts]
        scores = zs.mean_scores([zs.term_scores(*x, steps_between, is_below) for x in pairs])
        hit_N = np.concatenate([true_N == said_N for true_N, said_N in pairs])
        said_N = np.concatenate([said_N for _, said_N in pairs])
        found.append({"accuracy": hit_N.mean(), **scores, "unknown": np.mean(said_N == zs.UNKNOWN)})
    return {key: float(np.mean([row[key] for row in found])) for key in found[0]}


def seen_scores(parts: Sequence[Part], name: str) -> dict[str, float]:
    """Return recall of seen and unseen terms and the harmonic mean, as means over folds."""
    triples = [
        zs.seen_and_unseen(part.question(OURS), said_N)
        for part in parts
        for said_N in part.answers[name]
    ]
    seen, unseen, _ = np.mean(triples, axis=0)
    both = [zs.harmonic(s, u) for s, u, _ in triples]
    return {"seen": float(seen), "unseen": float(unseen), "harmonic": float(np.mean(both))}


def median_rank(parts: Sequence[Part], name: str) -> float:
    """Return the median, over terms, of the median rank of the true term."""
    medians = []
    for part in parts:
        rank_N = zs.rank_of_truth(part.question(name))
        true_N = part.true_N[part.unseen_N]
        medians += [float(np.median(rank_N[true_N == term])) for term in np.unique(true_N)]
    return float(np.median(medians))


def leads_of(parts: Sequence[Part]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Return the lead of scgp's descriptions over each method on the cells of held-out terms."""
    folds = [
        (
            part.true_N[part.unseen_N],
            {
                name: [said_N[part.unseen_N] for said_N in turns]
                for name, turns in part.answers.items()
            },
        )
        for part in parts
    ]
    return zs.leads(folds, ours=OURS)


def with_markers(material: Material, fold: TermFold) -> list[str]:
    """Return the terms of a fold for which any file has marker scores."""
    score_NT = material.baselines[MARKERS]
    known = {x for t, x in enumerate(material.all_terms) if not np.isnan(score_NT[:, t]).all()}
    return [term for term in fold.asked if term in known]


def among_held_out(material: Material, *, only_with_markers: bool) -> dict[str, Any]:
    """Ask among the held-out terms of each fold; folds of fewer than two are left out."""
    parts = []
    for i, fold in enumerate(material.folds):
        terms = with_markers(material, fold) if only_with_markers else list(fold.asked)
        if len(terms) < 2:
            continue
        part = part_of(material, i, terms, with_seen=False)
        if not only_with_markers:
            part.answers[ANNOTATE] = [material.says[i]["annotate_held_out"][part.rows]]
        part = restricted(part)
        parts.append(part)
    chance = np.mean([1 / len(p.terms) for p in parts for _ in np.unique(p.true_N)])
    return {
        "chance": float(chance),
        "terms": sum(len(np.unique(part.true_N)) for part in parts),
        "cells": sum(len(part.true_N) for part in parts),
        "scores": {name: unseen_scores(parts, name) for name in parts[0].answers},
        "lead": leads_of(parts),
        "per_term": dict(per_term(parts)) if not only_with_markers else {},
    }


def restricted(part: Part) -> Part:
    """Return the part with the cells of its candidates only."""
    keep_N = np.isin(part.true_N, part.terms)
    return Part(
        part.rows[keep_N], part.true_N[keep_N], part.unseen_N[keep_N], part.unseen_T, part.terms,
        {name: x[keep_N] for name, x in part.scores.items()},
        {name: x[keep_N] for name, x in part.novelty.items()},
        {name: [x[keep_N] for x in turns] for name, turns in part.answers.items()},
    )  # fmt: skip


def per_term(parts: Sequence[Part]) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield each held-out term with its cells and each method's recall."""
    for part in parts:
        for term in np.unique(part.true_N).tolist():
            of_term = part.true_N == term
            recall = {
                name: float(np.mean([np.mean(said_N[of_term] == term) for said_N in turns]))
                for name, turns in part.answers.items()
            }
            yield term, {"cells": float(of_term.sum()), "candidates": len(part.terms), **recall}


def among_all(
    material: Material, candidates: Sequence[str], *, with_annotate: bool
) -> dict[str, Any]:
    """Ask among terms of which most were seen: the generalised question."""
    parts = [part_of(material, i, candidates, with_seen=True) for i in range(len(material.folds))]
    chosen = answer_by_rules(parts)
    if with_annotate:
        for part, said in zip(parts, material.says, strict=True):
            part.answers[ANNOTATE] = [said["annotate_all"][part.rows]]
    return {
        "candidates": len(candidates),
        "cells": {
            "unseen": int(sum(part.unseen_N.sum() for part in parts)),
            "seen": int(sum((~part.unseen_N).sum() for part in parts)),
        },
        "scores": {
            name: {**unseen_scores(parts, name), **seen_scores(parts, name)}
            for name in parts[0].answers
        },
        "median_rank": {name: median_rank(parts, name) for name in parts[0].scores},
        "chosen": chosen,
        "lead": leads_of(parts),
    }


def measure(material: Material) -> dict[str, Any]:
    """Return all scores of one seed."""
    return {
        "held_out": among_held_out(material, only_with_markers=False),
        "held_out_with_markers": among_held_out(material, only_with_markers=True),
        "corpus": among_all(material, material.real_terms, with_annotate=True),
        "corpus_and_drawn": among_all(material, material.all_terms, with_annotate=False),
    }
