"""Which terms are held out together, and which cells of the other terms are kept for asking.

Owns the folds over Cell Ontology terms. Knows nothing of counts, models or scores; ``descendants``
and ``alike`` are functions of terms.

A term is held out with everything below it, so terms on one line of the ontology are one *unit* and
fall into one fold. Units that are alike (two kinds of T cell) go to different folds where numbers
allow: what a text means is learnt from the relatives that stay in training.

Shapes: N cells.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    Descendants = Callable[[str], frozenset[str]]

#: Fewer cells measure nothing; a larger closure would take away what there is to learn from.
MIN_CELLS = 30
MAX_SHARE = 0.15
#: Share of the cells of seen terms that is kept for asking.
ASKED_SHARE = 0.2
#: Fewer known donors than this, and cells are kept at random: one donor of two is half of a study.
MIN_DONORS = 3
UNKNOWN_DONORS = frozenset({"unknown", "nan", ""})


@dataclass(frozen=True)
class TermFold:
    """The terms of one fold.

    Parameters
    ----------
    name
        ``fold1of6``.
    asked
        Terms whose cells are named by text: enough cells, no broad term.
    closure
        They and all terms below them: no cell of these trains, real or drawn.
    """

    name: str
    asked: tuple[str, ...]
    closure: frozenset[str]


def eligible_terms(
    cells_of: Mapping[str, int],
    descendants: Descendants,
    *,
    min_cells: int = MIN_CELLS,
    max_share: float = MAX_SHARE,
) -> tuple[list[str], dict[str, str]]:
    """Choose the terms that can be held out.

    Parameters
    ----------
    cells_of
        Labelled cells of each term of the corpus (real ones).

    Returns
    -------
    The eligible terms, sorted; and for each other term the reason why not.

    Examples
    --------
    >>> below = {"T": frozenset({"T", "CD8"}), "CD8": frozenset({"CD8"}), "B": frozenset({"B"})}
    >>> eligible_terms({"T": 50, "CD8": 40, "B": 5}, below.__getitem__, max_share=0.5)
    (['CD8'], {'B': '5 cells', 'T': '90 of 95 cells are its own or below it'})
    """
    total = sum(cells_of.values())
    chosen, reason = [], {}
    for term in sorted(cells_of):
        closure = sum(cells_of.get(below, 0) for below in descendants(term))
        if cells_of[term] < min_cells:
            reason[term] = f"{cells_of[term]} cells"
        elif closure > max_share * total:
            reason[term] = f"{closure} of {total} cells are its own or below it"
        else:
            chosen.append(term)
    return chosen, reason


def units_of(terms: Sequence[str], descendants: Descendants) -> list[list[str]]:
    """Group terms that are on one line of the ontology, over however many steps.

    Examples
    --------
    >>> below = {"T": frozenset({"T", "CD8"}), "CD8": frozenset({"CD8"}), "B": frozenset({"B"})}
    >>> units_of(["B", "CD8", "T"], below.__getitem__)
    [['B'], ['CD8', 'T']]
    """
    units: list[set[str]] = []
    for term in terms:
        below = {other for other in terms if other in descendants(term)}
        met = [unit for unit in units if unit & below]
        units = [unit for unit in units if not unit & below]
        units.append(below.union(*met))
    return sorted(sorted(unit) for unit in units)


def term_folds(
    cells_of: Mapping[str, int],
    terms: Sequence[str],
    descendants: Descendants,
    alike: Callable[[str, str], float],
    *,
    n_folds: int,
) -> list[TermFold]:
    """Deal units to folds: the largest first, each where it costs least.

    The cost of a fold is its share of cells plus its share of terms (1 where they are even), plus
    how alike the unit is to each unit that is there.

    Parameters
    ----------
    alike
        0 to 1 for two terms, as `scgp.phenotypes.ontology.Ontology.soft_score`.

    Raises
    ------
    ValueError
        There are fewer units than folds.
    """
    units = units_of(terms, descendants)
    if not 2 <= n_folds <= len(units):
        message = f"{n_folds} folds from {len(units)} units of terms: expected 2 to {len(units)}"
        raise ValueError(message)
    closures = [frozenset().union(*map(descendants, unit)) for unit in units]
    cells = [sum(cells_of.get(term, 0) for term in closure) for closure in closures]
    even_cells, even_terms = sum(cells) / n_folds, len(terms) / n_folds
    members: list[list[int]] = [[] for _ in range(n_folds)]

    def cost(fold: int, unit: int) -> float:
        with_it = [*members[fold], unit]
        size = sum(cells[u] for u in with_it) / even_cells
        number = sum(len(units[u]) for u in with_it) / even_terms
        near = [max(alike(a, b) for a in units[unit] for b in units[u]) for u in members[fold]]
        return size + number + sum(near)

    for unit in sorted(range(len(units)), key=lambda u: (-len(units[u]), -cells[u], units[u])):
        cheapest = min(range(n_folds), key=lambda fold: (cost(fold, unit), fold))
        members[cheapest].append(unit)
    return [
        TermFold(
            f"fold{i + 1}of{n_folds}",
            tuple(sorted(term for u in chosen for term in units[u])),
            frozenset().union(*(closures[u] for u in chosen)),
        )
        for i, chosen in enumerate(members)
    ]


def kept_for_asking(
    obs: pd.DataFrame, *, share: float = ASKED_SHARE, seed: int
) -> NDArray[np.bool_]:
    """Choose cells that never train, whatever the fold, to ask about seen terms.

    Whole donors where a group of studies has `MIN_DONORS` known ones, in all files of the group;
    elsewhere cells of every study and label at random.

    Parameters
    ----------
    obs
        All real cells, with ``group``, ``study``, ``donor``, ``label``.

    Returns
    -------
    Mask (N,).
    """
    rng = np.random.default_rng(seed)
    kept_N = np.zeros(len(obs), bool)
    place_N = np.arange(len(obs))
    donor_N = obs["donor"].astype(str).to_numpy()
    for _, rows in obs.assign(place=place_N).groupby("group", sort=True, observed=True):
        place = rows["place"].to_numpy()
        donors = sorted(set(donor_N[place]) - UNKNOWN_DONORS)
        if len(donors) >= MIN_DONORS:
            chosen = rng.permutation(donors)[: max(1, round(share * len(donors)))]
            kept_N[place] = np.isin(donor_N[place], chosen)
            continue
        for _, cells in rows.groupby(["study", "label"], sort=True, observed=True):
            of_type = rng.permutation(cells["place"].to_numpy())
            kept_N[of_type[: round(share * len(of_type))]] = True
    return kept_N


def describe_kept(obs: pd.DataFrame, kept_N: NDArray[np.bool_]) -> dict[str, int]:
    """Count the kept cells by how they were chosen: as whole donors, or at random."""
    donors = obs.assign(donor=obs["donor"].astype(str)).groupby("group", observed=True)["donor"]
    whole = {
        group: len(set(names) - UNKNOWN_DONORS) >= MIN_DONORS
        for group, names in donors.unique().items()
    }
    by = Counter(
        "of whole donors" if whole[group] else "at random" for group in obs["group"][kept_N]
    )
    return dict(by)
