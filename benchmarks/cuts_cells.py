"""What is known of every asked cell beside its label, and what each method answered for it.

Owns the facts that the hard cuts choose by, read from the data and from who trained on what, and
lines them up with the committed runs. Knows nothing of which cuts there are.

Shapes: N asked cells of all splits, in the order of the splits and of the files within them.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from benchmarks.folds import SHIFT_GROUPS
from benchmarks.store import cells_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from benchmarks.corpus import Source, Split

    Ancestors = Callable[[str], frozenset[str]]
    # row of the table -> labels of the N cells, one array for each seed
    Answers = dict[str, list[np.ndarray]]

#: An assay that names the maker and not the chemistry.
OPEN_10X = "10x technology"
NOT_STATED = "not stated"
YES, NO, OPEN = "yes", "no", "open"


def training_counts(
    split: Split, most: int | None, ancestors: Ancestors
) -> tuple[Counter[str], Counter[str]]:
    """Count the training cells whose label is a term or lies below it.

    Parameters
    ----------
    most
        Cells of a study and type that `benchmarks.corpus.thin` keeps of each file; ``None``: all.
        Which cells are kept depends on the seed, how many does not.

    Returns
    -------
    Real and drawn cells together, then the real ones alone; each by term.
    """
    every: Counter[str] = Counter()
    real: Counter[str] = Counter()
    for source in split.train:
        obs = source.cells.obs
        n_cells = obs.groupby(["study", "label", "drawn"], observed=True).size()
        for (_, label, drawn), n in n_cells.clip(upper=most).items():
            for term in ancestors(label):
                every[term] += int(n)
                real[term] += 0 if drawn else int(n)
    return every, real


def trained_labels(split: Split) -> set[str]:
    """Return the labels of the training cells; thinning removes none."""
    return {label for source in split.train for label in source.cells.label_N}


def facts_of(split: Split, most: int | None, ancestors: Ancestors) -> pd.DataFrame:
    """Return one line for each asked cell of a split.

    Returns
    -------
    ``setting``, ``fold``, ``file``, ``study``, ``true``; ``unit`` (the file in ``eval``, else the
    study); ``shift``: the same study trains, on purpose; ``assay``; ``assay_trains``: whether a
    real training cell has that assay (`YES`, `NO`, or `OPEN`); ``n_genes``: columns of the file;
    ``condition``, ``stage`` (`NOT_STATED` where the file does not say); ``n_train``, ``n_real``:
    training cells at or below the true term, with and without the drawn ones.
    """
    every, real = training_counts(split, most, ancestors)
    trained = {assay for source in split.train for assay in _assays(source)}
    parts = []
    for source in split.queries:
        obs = source.cells.obs
        part = pd.DataFrame(
            {
                "file": source.name,
                "study": obs["study"].astype(str).to_numpy(),
                "true": obs["label"].astype(str).to_numpy(),
                "shift": (split.setting == "eval") & obs["group"].isin(SHIFT_GROUPS).to_numpy(),
                "assay": _stated(source, "assay"),
                "n_genes": source.adata.n_vars,
                "condition": _stated(source, "condition"),
                "stage": _stated(source, "development_stage"),
            }
        )
        parts.append(part)
    facts = pd.concat(parts, ignore_index=True).assign(setting=split.setting, fold=split.name)
    facts["unit"] = facts["file"] if split.setting == "eval" else facts["study"]
    facts["assay_trains"] = [assay_trains(assay, trained) for assay in facts["assay"]]
    facts["n_train"] = [every[term] for term in facts["true"]]
    facts["n_real"] = [real[term] for term in facts["true"]]
    return facts


def _stated(source: Source, column: str) -> np.ndarray:
    """Return a column of ``obs`` as text, `NOT_STATED` where there is none or it is empty."""
    obs = source.cells.obs
    if column not in obs:
        return np.full(len(obs), NOT_STATED, dtype=object)
    given = obs[column].astype(object).where(obs[column].notna(), "").astype(str)
    return given.replace("", NOT_STATED).to_numpy(dtype=object)


def _assays(source: Source) -> set[str]:
    """Return the assays of the real cells of a file; the data state none for drawn cells."""
    real_N = ~source.cells.obs["drawn"].to_numpy(bool)
    return set(_stated(source, "assay")[real_N])


def assay_trains(assay: str, trained: Iterable[str]) -> str:
    """Say whether an assay is among those of the training cells.

    A training file of an unstated 10x chemistry may have any of them, and one that says nothing
    any assay at all.

    Examples
    --------
    >>> assay_trains("inDrop", {"10x 3' v1", "10x technology"})
    'no'
    >>> assay_trains("10x 3' v2", {"10x 3' v1", "10x technology"})
    'open'
    """
    trained = set(trained)
    if assay in trained - {OPEN_10X, NOT_STATED}:
        return YES
    may_be_10x = OPEN_10X in trained and assay.startswith("10x")
    if assay in {OPEN_10X, NOT_STATED} or may_be_10x or NOT_STATED in trained:
        return OPEN
    return NO


def same_options(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the options that all runs were made with.

    Raises
    ------
    ValueError
        There is no run, or they were made with different options.
    """
    found = [dict(options) for options in {tuple(sorted(run["options"].items())) for run in runs}]
    if len(found) != 1:
        message = (
            f"the runs were made with {len(found)} sets of options: {found}; expected one. Pass "
            "as --runs a folder that one command of benchmarks/run.py filled"
        )
        raise ValueError(message)
    return found[0]


def line_up(facts: pd.DataFrame, runs: list[dict[str, Any]], splits: list[Split]) -> Answers:
    """Return the labels that each row of the tables gave to the cells of ``facts``, by seed.

    Raises
    ------
    ValueError
        A run is about other cells or was trained on other labels than the data have, or a method
        lacks a split that another has.
    """
    trained = {(split.setting, split.name): trained_labels(split) for split in splits}
    found: dict[tuple[str, int], np.ndarray] = {}
    given: dict[tuple[str, int], np.ndarray] = {}
    for run in runs:
        split = (run["setting"], run["fold"])
        at_N = ((facts["setting"] == split[0]) & (facts["fold"] == split[1])).to_numpy()
        _check(run, facts[at_N], trained[split])
        for row, part in cells_of(run).groupby("row", sort=False):
            key = (str(row), int(run["seed"]))
            label_N = found.setdefault(key, np.full(len(facts), "", dtype=object))
            label_N[at_N] = part["label"].to_numpy(dtype=object)
            given.setdefault(key, np.zeros(len(facts), bool))[at_N] = True
    answers: Answers = {}
    for (row, seed), label_N in sorted(found.items()):
        if not given[row, seed].all():
            lacks = facts.loc[~given[row, seed], ["setting", "fold"]].drop_duplicates()
            message = (
                f"{row!r}, seed {seed}, has no run for {lacks.agg(' '.join, axis=1).tolist()}; "
                "make it with benchmarks/run.py, or remove its others"
            )
            raise ValueError(message)
        answers.setdefault(row, []).append(label_N)
    return answers


def _check(run: Mapping[str, Any], facts: pd.DataFrame, trained: set[str]) -> None:
    """Refuse a run whose cells or training labels are not those of the data."""
    name = f"{run['method']}, seed {run['seed']}, of {run['setting']} {run['fold']}"
    columns = ["file", "study", "true"]
    for row, part in cells_of(run).groupby("row", sort=False):
        if not np.array_equal(part[columns].to_numpy(str), facts[columns].to_numpy(str)):
            message = f"{name}: the cells of {row!r} are not those of the data, or in another order"
            raise ValueError(message)
    if set(run["trained"]) != trained:
        message = (
            f"{name} was trained on {len(run['trained'])} labels, the data have {len(trained)}: "
            "made from other data or other folds; run benchmarks/run.py again"
        )
        raise ValueError(message)
