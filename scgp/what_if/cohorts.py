"""Which cells are of which phenotype and of which unit: two columns of obs, read and refused.

Owns the refusals of columns that cannot be compared. Knows neither genes nor what is asked of them.

Shape suffixes: B cells, P phenotypes, U units.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgp.errors import ArgumentError, LabelError, warn_user
from scgp.groups import column_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad


@dataclasses.dataclass(frozen=True, eq=False)
class Cohorts:
    """Cells by phenotype and unit (tissue, study, donor).

    Attributes
    ----------
    phenotypes, units
        Their names, sorted.
    phenotype_B, unit_B
        Code of each cell; -1 for a cell without a name in either column, in both.
    asked
        The phenotypes that markers are asked of, in the order asked; all of them by default. The
        others are compared with.
    """

    phenotypes: tuple[str, ...]
    units: tuple[str, ...]
    phenotype_B: np.ndarray
    unit_B: np.ndarray
    asked: tuple[str, ...]

    def of(self, phenotype: str, unit: str) -> np.ndarray:
        """Return the positions of the cells of a phenotype and unit."""
        own_B = self.phenotype_B == self.phenotypes.index(phenotype)
        return np.flatnonzero(own_B & (self.unit_B == self.units.index(unit)))

    def kept(self, kept_B: np.ndarray) -> Cohorts:
        """Return the same without some cells."""
        code_2B = (np.where(kept_B, x, -1) for x in (self.phenotype_B, self.unit_B))
        phenotype_B, unit_B = code_2B
        return dataclasses.replace(self, phenotype_B=phenotype_B, unit_B=unit_B)

    @property
    def n_PU(self) -> np.ndarray:
        """Cells of each phenotype and unit."""
        kept = self.phenotype_B >= 0
        pair = self.phenotype_B[kept] * len(self.units) + self.unit_B[kept]
        size = len(self.phenotypes) * len(self.units)
        return np.bincount(pair, minlength=size).reshape(len(self.phenotypes), -1)


def read_cohorts(
    adata: ad.AnnData,
    groupby: str,
    across: str,
    groups: str | Sequence[str] | None,
) -> Cohorts:
    """Read the columns.

    Raises
    ------
    MissingColumnError
        A column is not there.
    ArgumentError
        The columns are one, or one of them has fewer than two values among cells that have both.
    LabelError
        `groups` names what has no cell.

    Warns
    -----
    ScgpWarning
        Cells without a value.
    """
    if groupby == across:
        msg = f"groupby and across are both {groupby!r}; expected phenotypes, and what they hold in"
        raise ArgumentError(msg)
    columns = [column_text(adata, key) for key in (groupby, across)]
    kept_B = columns[0].notna() & columns[1].notna()
    if not kept_B.all():
        warn_user(
            f"{int((~kept_B).sum())} of {adata.n_obs} cells have no value in obs[{groupby!r}] or "
            f"obs[{across!r}]: left out"
        )
    codes, names = zip(*(_coded(column.where(kept_B, None)) for column in columns), strict=True)
    for key, found in zip((groupby, across), names, strict=True):
        if len(found) < 2:
            msg = f"obs[{key!r}] has {len(found)} value(s) ({', '.join(found)}); expected 2 or more"
            raise ArgumentError(msg)
    asked = _asked(names[0], groups, groupby)
    return Cohorts(names[0], names[1], codes[0], codes[1], asked)


def _coded(text: pd.Series) -> tuple[np.ndarray, tuple[str, ...]]:
    code_B, names = pd.factorize(text.to_numpy(dtype=object), sort=True)
    return code_B.astype(np.int64), tuple(map(str, names))


def _asked(
    phenotypes: tuple[str, ...], groups: str | Sequence[str] | None, groupby: str
) -> tuple[str, ...]:
    """Return the phenotypes named, each once."""
    if groups is None:
        return phenotypes
    if not isinstance(groups, Iterable):
        msg = (
            f"groups is {groups!r}; expected values of obs[{groupby!r}], such as {phenotypes[0]!r}"
        )
        raise ArgumentError(msg)
    given = (groups,) if isinstance(groups, str) else tuple(dict.fromkeys(map(str, groups)))
    odd = [name for name in given if name not in phenotypes]
    if odd or not given:
        found = f"{odd[0]!r} has no cell in" if odd else "groups is empty; name some of"
        msg = f"{found} obs[{groupby!r}], which has {', '.join(map(repr, phenotypes))}"
        raise LabelError(msg)
    return given


def with_enough(cohorts: Cohorts, across: str, *, min_cells: int) -> Cohorts:
    """Ask only phenotypes that some unit has enough cells of, and say what is not replicated.

    Raises
    ------
    LabelError
        No phenotype has enough cells.

    Warns
    -----
    ScgpWarning
        Phenotypes with too few cells, and phenotypes of one unit alone.
    """
    n_units = dict(
        zip(cohorts.phenotypes, (cohorts.n_PU >= min_cells).sum(axis=1).tolist(), strict=True)
    )
    few = [name for name in cohorts.asked if not n_units[name]]
    asked = tuple(name for name in cohorts.asked if n_units[name])
    if not asked:
        msg = (
            f"no phenotype has {min_cells} cells in any unit of obs[{across!r}]; lower min_cells, "
            "or pass a coarser groupby"
        )
        raise LabelError(msg)
    if few:
        warn_user(
            f"left out, for no unit of obs[{across!r}] has {min_cells} cells of them: "
            f"{', '.join(map(repr, few))}"
        )
    if alone := [name for name in asked if n_units[name] == 1]:
        warn_user(
            f"in one unit of obs[{across!r}] only, so that nothing is replicated (p is NaN): "
            f"{', '.join(map(repr, alone))}"
        )
    return dataclasses.replace(cohorts, asked=asked)
