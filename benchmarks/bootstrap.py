"""How sure the difference between two methods is: a paired bootstrap over studies and cells.

Owns the resampling. Knows nothing of files or methods.

Shapes: N cells of a unit, R resamples, T terms of a unit, U units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks.scores import counted_as, soft_scores

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    Ancestors = Callable[[str], frozenset[str]]
    # Labels of the cells of a unit by row of the table, one array for each seed.
    Labels = Mapping[str, list[NDArray[np.object_]]]

SCORES = ("macro_f1", "macro_f1_exact", "soft")
N_RESAMPLES = 1000
LEVEL = (2.5, 97.5)


def resampled_scores(
    true_N: NDArray[np.object_],
    labels: Labels,
    ancestors: Ancestors,
    *,
    rng: np.random.Generator,
    n_resamples: int = N_RESAMPLES,
    asked_N: NDArray[np.bool_] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Score resamples of the cells of one unit, the same resamples for every method.

    Parameters
    ----------
    asked_N
        Cells that the scores are about: all cells of some terms. The others are resampled by
        themselves, and count only where they are called one of these terms.

    Returns
    -------
    For each row of the table R x 3: `SCORES`, means over its seeds. A term that a resample lacks
    is left out of that resample's macro-F1.
    """
    asked_N = np.ones(len(true_N), bool) if asked_N is None else asked_N
    weight_RN = _weights(asked_N, rng, n_resamples)
    return _weighted_scores(true_N, labels, ancestors, weight_RN=weight_RN, asked_N=asked_N)


def observed_scores(
    true_N: NDArray[np.object_],
    labels: Labels,
    ancestors: Ancestors,
    *,
    asked_N: NDArray[np.bool_] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Score the cells of one unit as they are: 1 x 3 for each row, as `resampled_scores`."""
    asked_N = np.ones(len(true_N), bool) if asked_N is None else asked_N
    weight_1N = np.ones((1, len(true_N)), np.float32)
    return _weighted_scores(true_N, labels, ancestors, weight_RN=weight_1N, asked_N=asked_N)


def _weighted_scores(
    true_N: NDArray[np.object_],
    labels: Labels,
    ancestors: Ancestors,
    *,
    weight_RN: NDArray[np.float32],
    asked_N: NDArray[np.bool_],
) -> dict[str, NDArray[np.float64]]:
    n_asked = int(asked_N.sum())
    term_T, code_N = np.unique(true_N.astype(str), return_inverse=True)
    was_RT = weight_RN @ _one_hot(code_N, len(term_T))
    there_RT = (was_RT > 0) & np.isin(np.arange(len(term_T)), code_N[asked_N])

    def macro_f1(said_N: NDArray[np.object_]) -> NDArray[np.float64]:
        return _macro_f1(weight_RN, was_RT, term_T, code_N, said_N, there_RT=there_RT)

    found = {}
    for row, by_seed in labels.items():
        seeds = []
        for label_N in by_seed:
            counted_N = counted_as(true_N, label_N, ancestors)
            soft_N = soft_scores(true_N, label_N, ancestors).astype(np.float32)
            seeds.append(
                np.stack(
                    [
                        macro_f1(counted_N),
                        macro_f1(label_N),
                        weight_RN @ (soft_N * asked_N) / n_asked,
                    ],
                    axis=1,
                )
            )
        found[row] = np.mean(seeds, axis=0)
    return found


def _weights(
    asked_N: NDArray[np.bool_], rng: np.random.Generator, n_resamples: int
) -> NDArray[np.float32]:
    """Return how often each cell is in each resample; asked cells and others drawn apart."""
    weight_RN = np.zeros((n_resamples, len(asked_N)), np.float32)
    for part_N in (asked_N, ~asked_N):
        n_cells = int(part_N.sum())
        if n_cells:
            share_N = np.full(n_cells, 1 / n_cells)
            weight_RN[:, part_N] = rng.multinomial(n_cells, share_N, size=n_resamples)
    return weight_RN


def _one_hot(code_N: NDArray[np.integer], n_terms: int) -> NDArray[np.float32]:
    return (code_N[:, None] == np.arange(n_terms)).astype(np.float32)


def _macro_f1(
    weight_RN: NDArray[np.float32],
    was_RT: NDArray[np.float32],
    term_T: NDArray[np.str_],
    code_N: NDArray[np.integer],
    said_N: NDArray[np.object_],
    *,
    there_RT: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Return the macro-F1 of each resample over the terms that are there.

    What is said and no term of the unit only misses.
    """
    place = {term: i for i, term in enumerate(term_T.tolist())}
    said = np.array([place.get(str(x), -1) for x in said_N])
    said_NT = _one_hot(said, len(term_T))
    said_RT = weight_RN @ said_NT
    hit_RT = weight_RN @ (said_NT * _one_hot(code_N, len(term_T)))
    f1_RT = np.where(there_RT, 2 * hit_RT / np.maximum(said_RT + was_RT, 1), 0.0)
    mean_R: NDArray[np.float64] = f1_RT.sum(axis=1) / there_RT.sum(axis=1)
    return mean_R


def differences(
    units: Mapping[str, tuple[NDArray[np.object_], Labels]],
    ancestors: Ancestors,
    *,
    ours: str,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
    asked: Mapping[str, NDArray[np.bool_]] | None = None,
) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Compare one row of the table with every other, on the units that both have.

    Units (studies) are drawn with replacement, and cells within each of them; a difference is that
    of the means over the drawn units. ``asked`` has the ``asked_N`` of `resampled_scores` for each
    unit.

    Returns
    -------
    For each other row and each of `SCORES`: the difference of the cells as they are, which is that
    of the tables, and the bounds of the 95 % interval over resamples.
    """
    rng = np.random.default_rng(seed)
    observed, resampled = {}, {}
    for name, (true_N, labels) in sorted(units.items()):
        asked_N = None if asked is None else asked[name]
        observed[name] = observed_scores(true_N, labels, ancestors, asked_N=asked_N)
        resampled[name] = resampled_scores(
            true_N, labels, ancestors, rng=rng, n_resamples=n_resamples, asked_N=asked_N
        )
    rows = sorted({row for found in resampled.values() for row in found} - {ours})
    result = {}
    for row in rows:
        both = [name for name, found in resampled.items() if row in found and ours in found]
        if not both:
            continue
        gap_3 = np.mean([observed[u][ours][0] - observed[u][row][0] for u in both], axis=0)
        gap_RU3 = np.stack([resampled[u][ours] - resampled[u][row] for u in both], axis=1)
        drawn_RU = rng.integers(len(both), size=(n_resamples, len(both)))
        gap_R3 = np.take_along_axis(gap_RU3, drawn_RU[:, :, None], axis=1).mean(axis=1)
        low_3, high_3 = np.percentile(gap_R3, LEVEL, axis=0)
        result[row] = {
            name: (float(gap_3[i]), float(low_3[i]), float(high_3[i]))
            for i, name in enumerate(SCORES)
        }
    return result
