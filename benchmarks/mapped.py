"""Confidence after a logistic map of two parameters (Platt 1999), the same for every method.

scgp's confidence is fitted to whether a label holds; a peer's is the probability of one label.
With a map for each of them, what is compared is no longer who has one. Owns which answers a map is
fitted to: held-out cells, and never those of the fold that it is for. Knows nothing of tables.

Shapes: M answers that a map is fitted to, N answers that it is for.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from benchmarks.scores import UNKNOWN, Answer, calibration_error, holds
from benchmarks.store import cells_of
from scgp.reference.logistic import fit_logistic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import ArrayLike, NDArray

    Ancestors = Callable[[str], frozenset[str]]
    # setting, fold, row of the table, seed
    Key = tuple[str, str, str, int]

#: Nearest to 0 and to 1 that a confidence counts: runs hold three digits.
CLIP = 1e-3
#: Just enough for a fit to exist where all confidences are one.
RIDGE = 1e-6


@dataclass(frozen=True)
class Map:
    """The log odds of the confidence times ``slope``, plus ``offset``, as a probability."""

    slope: float
    offset: float

    def __call__(self, confidence_N: ArrayLike) -> NDArray[np.float64]:
        """Return the mapped confidences."""
        mapped_N: NDArray[np.float64] = expit(self.slope * _odds(confidence_N) + self.offset)
        return mapped_N


def _odds(confidence_N: ArrayLike) -> NDArray[np.float64]:
    clipped_N = np.clip(np.asarray(confidence_N, dtype=np.float64), CLIP, 1 - CLIP)
    odds_N: NDArray[np.float64] = logit(clipped_N)
    return odds_N


def fit_map(confidence_M: ArrayLike, holds_M: NDArray[np.bool_], study_M: ArrayLike) -> Map:
    """Fit a map to whether answers hold; each study counts the same, however many its cells.

    The slope is at least 0, so that a map never turns the order of the cells round.
    """
    _, code_M, n_cells = np.unique(study_M, return_inverse=True, return_counts=True)
    weight_M = 1 / (n_cells[code_M] * len(n_cells))
    odds_M1 = _odds(confidence_M)[:, None]
    holds_M = np.asarray(holds_M, dtype=bool)
    return Map(*fit_logistic(odds_M1, holds_M, weight_M, bounds=[(0.0, None)], ridge=RIDGE))


def leaves_out(setting: str) -> bool:
    """Whether a setting holds studies out of training in turn."""
    return setting == "each" or setting.startswith("folds")


def fit_maps(runs: Iterable[Mapping[str, Any]], ancestors: Ancestors) -> dict[Key, Map]:
    """Fit the maps of every fold, and of ``eval``, to left-out studies of the same row and seed.

    That of a fold is fitted to the answers of the other folds; that of ``eval`` to all of them (of
    the first setting by name, if several leave studies out). What has no such answers has no map.
    """
    held: dict[tuple[str, str, int], dict[str, pd.DataFrame]] = defaultdict(dict)
    for run in runs:
        if leaves_out(run["setting"]):
            for row, cells in _known(run, ancestors).groupby("row"):
                held[run["setting"], str(row), int(run["seed"])][run["fold"]] = cells
    maps: dict[Key, Map] = {}
    for (setting, row, seed), by_fold in sorted(held.items()):
        for fold in by_fold:
            others = [cells for name, cells in sorted(by_fold.items()) if name != fold]
            if others:
                maps[setting, fold, row, seed] = _fit(others)
        of_eval = ("eval", "all", row, seed)
        if of_eval not in maps:
            maps[of_eval] = _fit([cells for _, cells in sorted(by_fold.items())])
    return maps


def _known(run: Mapping[str, Any], ancestors: Ancestors) -> pd.DataFrame:
    """Return the cells of a run that got a label, and whether it holds."""
    cells = cells_of(run)
    cells = cells[cells["label"] != UNKNOWN]
    true_N, label_N = (cells[name].to_numpy(dtype=object) for name in ("true", "label"))
    kept = cells[["row", "study", "confidence"]]
    return kept.assign(holds=holds(true_N, label_N, ancestors))


def _fit(parts: list[pd.DataFrame]) -> Map:
    cells = pd.concat(parts, ignore_index=True)
    return fit_map(
        cells["confidence"].to_numpy(), cells["holds"].to_numpy(), cells["study"].to_numpy(str)
    )


def mapped_error(
    true_N: NDArray[np.object_], answer: Answer, by: Map | None, ancestors: Ancestors
) -> float:
    """Return the calibration error of *holds* after a map; NaN without one.

    As without a map, it is over the cells that got a label.
    """
    if by is None:
        return float("nan")
    known_N = answer.label_N != UNKNOWN
    holds_N = holds(true_N, answer.label_N, ancestors)
    return calibration_error(by(answer.confidence_N[known_N]), holds_N[known_N])
