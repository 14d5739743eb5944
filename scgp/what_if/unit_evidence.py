"""What each unit says of the genes of each phenotype: removal, expression, Wilcoxon.

Owns which cells are drawn, and the gathering. Must not know how genes are removed (`removals`), nor
what becomes of the numbers (`marker_table`).

Shape suffixes: B cells, P phenotypes, U units, G genes of the model, R genes removed.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from scgp.errors import warn_user
from scgp.progress import progress_bar
from scgp.what_if.marker_table import PSEUDO, Evidence
from scgp.what_if.removals import Cells, Effects, estimated, exact
from scgp.what_if.wilcoxon import rank_sums

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scgp.reference.index import ReferenceIndex
    from scgp.what_if.asked import Asked
    from scgp.what_if.cohorts import Cohorts

#: Rows that are read at once.
BLOCK = 4096


@dataclasses.dataclass(frozen=True, eq=False)
class Asking:
    """All that is needed to ask: cells, their phenotypes and units, and an index for each unit.

    Attributes
    ----------
    cells, cohorts
        The cells, and what they are of.
    value_BG
        log1p(CP10k) of all of them.
    index_of, asked_of
        The index of each unit, and what it is asked for each phenotype that it knows.
    rows_of
        The cells whose genes are removed, for each phenotype and unit with enough.
    """

    cells: Cells
    cohorts: Cohorts
    value_BG: sp.csr_matrix
    index_of: Mapping[str, ReferenceIndex]
    asked_of: Mapping[str, Mapping[str, Asked]]
    rows_of: Mapping[tuple[str, str], np.ndarray]

    def units(self, phenotype: str) -> tuple[str, ...]:
        """Return the units in which a phenotype is asked."""
        return tuple(unit for name, unit in self.rows_of if name == phenotype)


def values(cells: Cells) -> sp.csr_matrix:
    """Read log1p(CP10k) of all cells over the genes of the model (B x G)."""
    model = cells.model
    parts = []
    for start in range(0, cells.counts.n_cells, BLOCK):
        block_BV = cells.counts.rows(start, start + BLOCK)
        tokens = model.tokenizer.tokenize(block_BV, cells.token_V)
        parts.append(tokens.values(model.config.n_genes))
    return sp.vstack(parts, format="csr")


def drawn(
    cohorts: Cohorts, *, min_cells: int, max_cells: int, seed: int
) -> dict[tuple[str, str], np.ndarray]:
    """Draw at most ``max_cells`` cells of each phenotype asked and unit with enough of them."""
    rng = np.random.default_rng(seed)
    rows_of = {}
    for phenotype in cohorts.asked:
        for unit in cohorts.units:
            rows = cohorts.of(phenotype, unit)
            if len(rows) >= min_cells:
                rows_of[phenotype, unit] = np.sort(rng.permutation(rows)[:max_cells])
    return rows_of


def gathered(asking: Asking, *, min_cells: int, progress: bool) -> list[Evidence]:
    """Return what the units say of each phenotype asked that an index knows."""
    cohorts = asking.cohorts
    tests = {
        unit: _wilcoxon(asking, unit, min_cells)
        for unit in dict.fromkeys(unit for _, unit in asking.rows_of)
    }
    _say_untested(asking, tests, min_cells)
    n_cells = sum(map(len, asking.rows_of.values()))
    known = [name for name in cohorts.asked if asking.units(name)]
    with progress_bar(n_cells, what="remove genes", unit="cell", shown=progress) as advance:
        effects = {
            (phenotype, unit): estimated(
                asking.cells, rows, asking.index_of[unit],
                asking.asked_of[unit][phenotype], advance=advance,
            )
            for (phenotype, unit), rows in asking.rows_of.items()
        }  # fmt: skip
    return [
        _of_phenotype(asking, name, [effects[name, unit] for unit in asking.units(name)], tests)
        for name in known
    ]


def _wilcoxon(
    asking: Asking, unit: str, min_cells: int
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Test the phenotypes asked in one unit."""
    cohorts = asking.cohorts
    own = np.flatnonzero(cohorts.unit_B == cohorts.units.index(unit))
    asked = [cohorts.phenotypes.index(name) for name, of in asking.rows_of if of == unit]
    return rank_sums(asking.value_BG[own], cohorts.phenotype_B[own], asked, min_cells=min_cells)


def _say_untested(
    asking: Asking, tests: Mapping[str, Mapping[int, object]], min_cells: int
) -> None:
    """Name the phenotypes and units without a test, as when a unit has hardly any other cells."""
    untested = [
        f"{name!r} in {unit!r}"
        for name, unit in asking.rows_of
        if asking.cohorts.phenotypes.index(name) not in tests[unit]
    ]
    if untested:
        more = f" and {len(untested) - 5} more" if len(untested) > 5 else ""
        warn_user(
            f"no Wilcoxon test, for there are fewer than {min_cells} cells (min_cells) of other "
            f"phenotypes to test against: {', '.join(untested[:5])}{more}"
        )


def _of_phenotype(
    asking: Asking,
    phenotype: str,
    effects: list[Effects],
    tests: Mapping[str, dict[int, tuple[np.ndarray, np.ndarray]]],
) -> Evidence:
    """Gather what the units say of one phenotype."""
    units = asking.units(phenotype)
    code = asking.cohorts.phenotypes.index(phenotype)
    nothing_G = np.full(asking.value_BG.shape[1], np.nan)
    scores = [tests[unit].get(code, (nothing_G, nothing_G)) for unit in units]
    level = [_levels(asking, phenotype, unit) for unit in units]
    there_UG = np.stack([there_G for *_, there_G in level])
    first = asking.asked_of[units[0]][phenotype]

    def seen(rows: list[np.ndarray]) -> np.ndarray:
        return np.where(there_UG, np.stack(rows), np.nan)

    return Evidence(
        phenotype=phenotype,
        term=first.term,
        asked=first.name,
        units=units,
        n_U=np.array([len(asking.cohorts.of(phenotype, unit)) for unit in units]),
        effect_UG=seen([effect.mean_G for effect in effects]),
        expressing_UG=seen([effect.mean_expressing_G for effect in effects]),
        error_UG=errors(effects, there_UG),
        score_UG=np.stack([score_G for score_G, _ in scores]),
        adjusted_UG=np.stack([q_G for _, q_G in scores]),
        detected_UG=seen([x[0] for x in level]),
        outside_UG=seen([x[1] for x in level]),
        fold_UG=seen([x[2] for x in level]),
    )


def _levels(asking: Asking, phenotype: str, unit: str) -> tuple[np.ndarray, ...]:
    """Return detection inside and outside, log2 fold change, and whether the unit has the gene."""
    cohorts = asking.cohorts
    own_B = cohorts.unit_B == cohorts.units.index(unit)
    inside_B = own_B & (cohorts.phenotype_B == cohorts.phenotypes.index(phenotype))
    shares, means = [], []
    for rows in (np.flatnonzero(inside_B), np.flatnonzero(own_B & ~inside_B)):
        part = asking.value_BG[rows]
        scaled = np.bincount(part.indices, np.expm1(part.data.astype(float)), part.shape[1])
        n_G = np.bincount(part.indices, minlength=part.shape[1])
        shares.append(n_G / len(rows) if len(rows) else np.full(part.shape[1], np.nan))
        means.append(scaled / len(rows) if len(rows) else np.full(part.shape[1], np.nan))
    fold_G = np.log2((means[0] + PSEUDO) / (means[1] + PSEUDO))
    there_G = (shares[0] > 0) | (np.nan_to_num(shares[1]) > 0)
    return shares[0], shares[1], fold_G, there_G


def errors(effects: list[Effects], there_UG: np.ndarray) -> np.ndarray:
    """Return the standard errors of the means in each unit, of one variance within units.

    A unit in which few cells express a gene has hardly a variance of its own to be judged by. Units
    that do not have the gene (``there_UG`` is False) have no part in its variance, and NaN.
    """
    n_U1 = np.array([[effect.n_cells] for effect in effects])
    within_UG = np.stack([effect.square_G - effect.sum_G**2 / effect.n_cells for effect in effects])
    freedom_G = (there_UG * (n_U1 - 1)).sum(axis=0)
    variance_G = (there_UG * within_UG).sum(axis=0).clip(min=0) / np.maximum(freedom_G, 1)
    return np.where(there_UG, np.sqrt(variance_G / n_U1), np.nan)


def removed(
    asking: Asking, evidence: Evidence, gene_R: np.ndarray, *, n_cells: int, seed: int
) -> dict[str, np.ndarray]:
    """Truly remove some genes, from some cells of each unit; the exact columns, by name.

    Means over the units that have cells with a count of the gene; ``n_exact`` is of cells.
    """
    rng = np.random.default_rng(seed)
    found = [
        exact(
            asking.cells, asking.rows_of[evidence.phenotype, unit], asking.index_of[unit],
            asking.asked_of[unit][evidence.phenotype], gene_R, n_cells=n_cells, rng=rng,
        )
        for unit in evidence.units
    ]  # fmt: skip
    n_R = np.sum([x.n_R for x in found], axis=0)
    n_units_R = np.maximum(np.sum([x.n_R > 0 for x in found], axis=0), 1)

    def mean(rows: list[np.ndarray]) -> np.ndarray:
        return np.where(n_R > 0, np.nansum(rows, axis=0) / n_units_R, np.nan)

    return {
        "exact_effect": mean([x.odds_R for x in found]),
        "exact_difference": mean([x.probability_R for x in found]),
        "n_exact": n_R,
    }
