"""Scores of every method, context and pair of studies, each with its resamples over genes.

Owns which question is asked of which units. Knows neither files nor tables.

Shapes: G genes of a unit, V genes of the vocabulary, P processes, R resamples.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.partners_cells import ALONE
from benchmarks.partners_measure import (
    centred,
    changing,
    left_of,
    over_pairs,
    partial_spearman,
    partner_auroc,
    profile_agreement,
    role_profile,
    without_means,
)
from benchmarks.partners_seed import HALVES, METHODS, NETWORKS, PEARSON, STATIC, TRAINING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from benchmarks.partners_measure import Array, Moments
    from benchmarks.partners_pair import Genes, Pair
    from benchmarks.partners_seed import Key, Said

    Found = tuple[float, Array, int]


@dataclass(frozen=True, eq=False)
class Score:
    """One score of one unit.

    Attributes
    ----------
    unit
        A context, or two studies and one or two types.
    drawn
        What is resampled beside genes: names of types, or of a context.
    value, resampled_R
        As it is, and for each resample.
    n_genes
        Genes that it is of.
    """

    measure: str
    method: str
    unit: str
    drawn: tuple[str, ...]
    value: float
    resampled_R: Array
    n_genes: int


def _mean(value_G: Array, weight_RG: NDArray[np.float32]) -> Found:
    resampled_R = weight_RG @ value_G / weight_RG.sum(axis=1)
    return float(value_G.mean()), resampled_R, len(value_G)


def _of(moments: Moments, weight_RG: NDArray[np.float32]) -> Found:
    return moments.value(), moments.resampled(weight_RG), len(moments.xy_G)


def go_partners(said: Said, genes: Genes) -> Iterator[Score]:
    """Do genes that move together share processes: AUROC, matched for detection."""
    for key in ALONE:
        if key in said.contexts:
            yield from _partners_in(said, key, genes)


def _partners_in(said: Said, key: Key, genes: Genes) -> Iterator[Score]:
    context, name = said.contexts[key], ", ".join(key)
    known_G = genes.member_VP[context.gene_G].any(axis=1) & ~genes.left_out_V[context.gene_G]
    gene_G = context.gene_G[known_G]
    member_GP = genes.member_VP[gene_G].astype(np.float32)
    share_GG = member_GP @ member_GP.T > 0
    for method in METHODS:
        corr_GG = said.corr(method, key, gene_G)
        if corr_GG is None:
            continue
        for measure, matrix in (("GO, as is", corr_GG), ("GO", centred(corr_GG))):
            auroc_G = partner_auroc(matrix, share_GG, context.detected_G[known_G])
            there_G = np.isfinite(auroc_G)
            if not there_G.any():
                continue
            found = _mean(auroc_G[there_G], genes.weight_RV[:, gene_G[there_G]])
            yield Score(measure, method, name, (name,), *found)


def measured_elsewhere(pair: Pair) -> Iterator[Score]:
    """Hold co-variation in one study against what is measured in the other, over pairs of genes.

    Both ways between two shallow studies; nothing is asked to predict them from the deep one.
    """
    for way, method, unit in itertools.product(_ways(pair), METHODS, _units(pair)):
        yield from _elsewhere(pair, way, method, unit)


def _ways(pair: Pair) -> list[tuple[str, str]]:
    deep = "GeACT blood" in pair.studies
    return [pair.studies] if deep else [pair.studies, pair.studies[::-1]]


def _units(pair: Pair) -> list[tuple[str, ...]]:
    """Return types and pairs of them."""
    one: list[tuple[str, ...]] = [(kind,) for kind in pair.kinds]
    return [*one, *pair.unordered]


def reliability(pair: Pair) -> Iterator[Score]:
    """Ask how well halves of the cells agree in the study that is held against: a bound."""
    for a, b in _ways(pair):
        half = [pair.target_half(b, n) for n in (0, 1)]
        for kinds in _units(pair):
            x_GG, y_GG = (_difference([h[kind] for kind in kinds]) for h in half)
            assert x_GG is not None
            assert y_GG is not None
            found = over_pairs(x_GG, y_GG, pair.weight_RG)
            name = f"{a} -> {b}, {' / '.join(kinds)}"
            measure = "difference" if len(kinds) == 2 else "pairs"
            yield Score(measure, HALVES, name, kinds, *found, len(pair.gene_G))
        if (a, b) != pair.studies:
            continue
        profile = [{k: role_profile(h[k], pair.member_GP) for k in pair.kinds} for h in half]
        for t, u in pair.unordered:
            moments, rank_G = profile_agreement(*(without_means(p[t] - p[u]) for p in profile))
            name = f"{a} -> {b}, {t} / {u}"
            measure = "roles, measured"
            yield Score(measure, HALVES, name, (t, u), *_of(moments, pair.weight_RG))
            yield Score(f"{measure}, rank", HALVES, name, (t, u), *_mean(rank_G, pair.weight_RG))


def _elsewhere(
    pair: Pair, way: tuple[str, str], method: str, kinds: tuple[str, ...]
) -> Iterator[Score]:
    """Score one type, or the difference between two: as it is, and beyond the training studies."""
    said = [pair.of(method, (way[0], kind)) for kind in kinds]
    trained = [pair.of(TRAINING, (way[0], kind)) for kind in kinds]
    goal = [pair.target((way[1], kind)) for kind in kinds]
    x_GG, z_GG, y_GG = (_difference(parts) for parts in (said, trained, goal))
    if x_GG is None or y_GG is None or not x_GG.any():
        return
    measure = "difference" if len(kinds) == 2 else "pairs"
    name = f"{way[0]} -> {way[1]}, {' / '.join(kinds)}"
    found = over_pairs(x_GG, y_GG, pair.weight_RG)
    yield Score(measure, method, name, kinds, *found, len(pair.gene_G))
    if method != TRAINING and z_GG is not None and z_GG.any():
        found = over_pairs(left_of(x_GG, z_GG), left_of(y_GG, z_GG), pair.weight_RG)
        yield Score(f"{measure}, beyond", method, name, kinds, *found, len(pair.gene_G))


def _difference(parts: list[NDArray[np.float32] | None]) -> NDArray[np.float32] | None:
    there = [part for part in parts if part is not None]
    if len(there) < len(parts):
        return None
    return there[0] if len(parts) == 1 else np.asarray(there[0] - there[1])


def role_changes(pair: Pair) -> Iterator[Score]:
    """Ask whether the difference of role profiles between two types is found in the other study."""
    a, b = pair.studies
    measured = pair.profiles(None, b)
    for method in METHODS:
        first = pair.profiles(method, a)
        against = {"roles, measured": measured}
        if method not in STATIC:
            against["roles"] = pair.profiles(method, b)
        if method in NETWORKS:
            against["roles, other network"] = pair.profiles(method, b, other=True)
        for kinds, (measure, there) in itertools.product(pair.unordered, against.items()):
            x_GP, y_GP = (without_means(p[kinds[0]] - p[kinds[1]]) for p in (first, there))
            if not (x_GP.any() and y_GP.any()):
                continue
            moments, rank_G = profile_agreement(x_GP, y_GP)
            name = f"{a} -> {b}, {' / '.join(kinds)}"
            yield Score(measure, method, name, kinds, *_of(moments, pair.weight_RG))
            yield Score(f"{measure}, rank", method, name, kinds, *_mean(rank_G, pair.weight_RG))


def gene_scores(pair: Pair) -> Iterator[Score]:
    """Ask whether genes whose company changes in one study are those of the other, and of GO."""
    name, weight_RG, level_GC = " -> ".join(pair.studies), pair.weight_RG, pair.levels()
    n_processes_G = pair.genes.member_VP[pair.gene_G].sum(axis=1)
    known_G = n_processes_G > 0
    measured_G = changing(*pair.halves(PEARSON, pair.studies[1]))
    for method in METHODS:
        if method in STATIC or method not in pair.said.value:
            continue
        first_G, second_G = (changing(*pair.halves(method, study)) for study in pair.studies)
        against = {"gene score": second_G, "gene score, measured": measured_G}
        if method in NETWORKS and method in pair.other.value:
            there = pair.halves(method, pair.studies[1], other=True)
            against["gene score, other network"] = changing(*there)
        for measure, there_G in against.items():
            moments = partial_spearman(first_G, there_G, level_GC)
            yield Score(measure, method, name, (), *_of(moments, weight_RG))
        both_G = np.argsort(np.argsort(first_G)) + np.argsort(np.argsort(second_G))
        moments = partial_spearman(both_G[known_G], n_processes_G[known_G], level_GC[known_G])
        yield Score("gene score, GO", method, name, (), *_of(moments, weight_RG[:, known_G]))
