"""Inner validation: a method's settings, chosen by leaving out studies of the training side.

Owns the choice; the query's labels are never seen. Knows nothing of how a method works.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from benchmarks.corpus import join, on_query_genes, thin
from benchmarks.folds import assign_folds
from benchmarks.scores import mean_over, score

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.baselines import Method, Setting
    from benchmarks.corpus import Cells, Source
    from benchmarks.scores import Answer

    Ancestors = Callable[[str], frozenset[str]]

N_FOLDS = 3
# Choosing among settings needs fewer cells than the final fit.
MOST = 30
# A held-out file that measures fewer of the query's genes says little about the query.
MIN_SHARE_OF_GENES = 0.5


def choose_setting(
    method: Method,
    train: Sequence[Source],
    query: Cells,
    ancestors: Ancestors,
    *,
    seed: int,
) -> tuple[Setting, list[float]]:
    """Return the setting with the highest mean of macro-F1 and soft score over inner queries.

    Groups of training studies are left out in `N_FOLDS` folds, on the genes of ``query``; drawn
    cells always train. With one group, its donors are left out; with one donor, thirds of its
    cells. With one setting there is nothing to choose and the list of results is empty.
    """
    if len(method.grid) == 1:
        return method.grid[0], []
    thinned = [thin(source, most=MOST, seed=seed) for source in train]
    real = _with_parts([s for s in thinned if not s.cells.obs["drawn"].all()], seed=seed)
    drawn = [source for source in thinned if source.cells.obs["drawn"].all()]
    groups = [group for source in real for group in source.cells.obs["group"]]
    results = []
    for fold in assign_folds(groups, n_folds=min(N_FOLDS, len(set(groups)))):
        asked = _held(real, fold.held_out, inside=True, like=query)
        if not asked:
            continue
        taught = join(_held(real + drawn, fold.held_out, inside=False))
        taught_cells, asked_cells = _same_genes(taught, join(asked), query)
        rows = method.answers(taught_cells, asked_cells, method.grid, seed=seed)
        found = [row[method.name] for row in rows]
        results.append([_objective(asked_cells, answer, ancestors) for answer in found])
    if not results:
        return method.grid[0], []
    mean = np.mean(results, axis=0)
    return method.grid[int(mean.argmax())], [round(float(value), 4) for value in mean]


def _with_parts(sources: Sequence[Source], *, seed: int) -> list[Source]:
    """Return the sources with what can be left out as their groups: studies, donors or thirds."""
    obs = pd.concat([source.cells.obs for source in sources])
    part = obs["group"] if obs["group"].nunique() > 1 else obs["donor"]
    part_N = part.to_numpy(dtype=object)
    if part.nunique() == 1:
        part_N = np.random.default_rng(seed).integers(0, N_FOLDS, len(obs)).astype(str)
    edges = np.cumsum([0, *(len(source.cells.obs) for source in sources)])
    return [
        replace(s, cells=replace(s.cells, obs=s.cells.obs.assign(group=part_N[a:b])))
        for s, a, b in zip(sources, edges[:-1], edges[1:], strict=True)
    ]


def _held(
    sources: Sequence[Source],
    groups: frozenset[str],
    *,
    inside: bool,
    like: Cells | None = None,
) -> list[Source]:
    """Return the parts in (or not in) the groups; of files with most genes of ``like`` only."""
    parts = []
    for source in sources:
        keep_N = source.cells.obs["group"].isin(groups).to_numpy() == inside
        wide = like is None or _share(source.cells, like) >= MIN_SHARE_OF_GENES
        if wide and keep_N.any():
            parts.append(source.take(keep_N))
    return parts


def _share(cells: Cells, like: Cells) -> float:
    """Return the share of the genes of ``like`` that ``cells`` measure."""
    return float(cells.measured_G[like.measured_G].mean())


def _same_genes(taught: Cells, asked: Cells, query: Cells) -> tuple[Cells, Cells]:
    """Restrict both to the genes that training and the outer query share."""
    taught_cells, _ = on_query_genes(taught, query)
    gene_G = np.flatnonzero(taught.measured_G & query.measured_G)
    restricted = type(asked)(
        asked.count_NG[:, gene_G], asked.obs, asked.gene_G[gene_G], np.ones(len(gene_G), bool)
    )
    expressed_N = np.diff(restricted.count_NG.indptr) > 0
    return taught_cells, restricted.take(expressed_N)


def _objective(cells: Cells, answer: Answer, ancestors: Ancestors) -> float:
    """Return the mean over studies of (macro-F1 + soft score) / 2."""
    study_N = cells.obs["study"].to_numpy(dtype=object)
    rows = []
    for study in sorted(set(study_N)):
        keep_N = study_N == study
        part = type(answer)(answer.label_N[keep_N], answer.confidence_N[keep_N])
        rows.append(score(cells.label_N[keep_N], part, ancestors))
    mean = mean_over(rows)
    return (mean["macro_f1"] + mean["soft"]) / 2
