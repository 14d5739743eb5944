"""One study as the whole reference, another as the query: pairs of studies held out of one fold.

Owns which pairs there are, and what a pair borrows from its fold: the network, which saw neither
study, and the settings of the baselines where the reference is too small to choose by itself. Knows
nothing of how a method works.
"""

from __future__ import annotations

import math
import re
from copy import copy
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np

from benchmarks.baselines import LogisticOnGenes
from benchmarks.corpus import Source, Split, join
from benchmarks.store import RunKey, is_done

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray

    from benchmarks.baselines import Method

    Ancestors = Callable[[str], frozenset[str]]

SETTING = "pairs"
#: What a section of the tables is called that has these cells alone.
REACHABLE_ONLY = "reachable cells only"
#: A pair with less says nothing.
MIN_CELLS = 50
MIN_TERMS = 3
#: With fewer donors in the reference, settings are those that the fold chose.
MIN_DONORS = 3
#: Steps of a method that is fitted by mini-batches: as many as on the training cells of a fold.
STEPS = 200


@dataclass(frozen=True)
class Pair(Split):
    """A split whose training side is one held-out study, and the fold that it was held out of."""

    unit: str
    fold: Split


def reachable_cells(
    true_N: NDArray[np.object_], trained: Iterable[str], ancestors: Ancestors
) -> NDArray[np.bool_]:
    """Whether the term of each cell, or a term below it, is a label of the reference."""
    closure = frozenset().union(*(ancestors(label) for label in set(trained)))
    return np.array([term in closure for term in true_N], dtype=bool)


def pair_splits(fold: Split, ancestors: Ancestors) -> Iterator[Pair]:
    """Yield every ordered pair of the study groups that a fold holds out.

    All cells of the query are asked. Pairs stay out where a side has fewer than `MIN_CELLS` cells,
    or where fewer than `MIN_TERMS` terms of the query are reachable.
    """
    groups = sorted({group for source in fold.queries for group in source.cells.obs["group"]})
    parts = {group: _of_group(fold.queries, group) for group in groups}
    labels = {
        group: np.concatenate([s.cells.label_N for s in sources])
        for group, sources in parts.items()
    }
    for one, other in permutations(groups, 2):
        terms = np.array(sorted(set(labels[other])), dtype=object)
        n_terms = int(reachable_cells(terms, labels[one], ancestors).sum())
        if min(len(labels[one]), len(labels[other])) < MIN_CELLS or n_terms < MIN_TERMS:
            continue
        name = f"{_slug(one)}--{_slug(other)}"
        yield Pair(SETTING, name, parts[one], parts[other], f"{one} -> {other}", fold)


def _of_group(sources: Iterable[Source], group: str) -> list[Source]:
    masks = [(source, (source.cells.obs["group"] == group).to_numpy()) for source in sources]
    return [source.take(mask_N) for source, mask_N in masks if mask_N.any()]


def _slug(name: str) -> str:
    """Return a name that can be that of a folder.

    Examples
    --------
    >>> _slug("Ding 2020 (SCP424)")
    'Ding-2020-SCP424'
    """
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")


def chooser(pair: Pair) -> Split:
    """Return the split on whose training side settings are chosen: the pair, or its fold.

    The donors of the reference are left out in turn; with fewer than `MIN_DONORS` the choice is
    that of the fold, whose training studies are neither of the two.
    """
    donors = {donor for source in pair.train for donor in source.cells.obs["donor"]}
    return pair if len(donors) >= MIN_DONORS else pair.fold


def enough_steps(method: Method, n_cells: int) -> Method:
    """Return the method, passing over few cells as often as makes `STEPS` steps.

    Four passes over a study of 300 cells are four steps, which fit nothing.
    """
    if not isinstance(method, LogisticOnGenes):
        return method
    method = copy(method)
    method.epochs = max(method.epochs, math.ceil(STEPS / math.ceil(n_cells / method.batch)))
    return method


def fold_model(
    pair: Pair,
    runs: Path,
    options: Mapping[str, Any],
    *,
    seed: int,
    train: Callable[[Split, Path], object],
) -> Path:
    """Return the fold's own model, trained on everything but the studies it holds out.

    Parameters
    ----------
    runs
        Folder of the fold's runs, with ``models`` in it.
    options
        What the fold's run must have been made with.
    train
        Trains the model on a split into a folder, where there is none.

    Raises
    ------
    ValueError
        The fold's run was made with other options.
    """
    fold = pair.fold
    folder = runs / "models" / fold.setting / fold.name / f"seed{seed}"
    if (folder / "config.json").is_file():
        is_done(runs, RunKey(fold.setting, fold.name, "scgp", seed), options, [])
    else:
        train(fold, folder)
    return folder


def as_reference(sources: list[Source]) -> ad.AnnData:
    """Return a study as one AnnData: its file as it came, or several joined as for the baselines.

    Joined files have the genes that any of them measured, zero where a file has none.
    """
    if len(sources) == 1:
        return sources[0].adata
    cells = join(sources)
    measured_G = np.flatnonzero(cells.measured_G)
    obs = cells.obs.copy()
    obs.index = [f"{i}" for i in range(len(obs))]
    adata = ad.AnnData(cells.count_NG[:, measured_G], obs=obs)
    adata.var_names = cells.gene_G[measured_G].astype(str)
    return adata
