"""What the contexts of a phenotype's genes say of them: columns of the table of biomarkers().

Owns which cells are compared. Must not know how (`contexts`), nor which genes were found.

Shape suffixes: N cells drawn, R genes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgp.in_context.contexts import LEAST_GENES, Contexts

if TYPE_CHECKING:
    from collections.abc import Mapping

    import scipy.sparse as sp

    from scgp.cells.counts import CountMatrix
    from scgp.what_if.cohorts import Cohorts
    from scgp.what_if.removals import Cells

#: The columns, and the column of `scgp.polyfunctionality` that each is.
SHIFT = {
    "contextual_effect": "effect",
    "contextual_excess": "excess",
    "contextual_p": "p",
    "contextual_replication": "replication",
}
#: Of the test; the smallest p is one over one more.
N_PERMUTATIONS = 999


@dataclass(frozen=True, eq=False)
class _Drawn:
    """Some rows of a count matrix."""

    counts: CountMatrix
    row_N: np.ndarray

    @property
    def n_cells(self) -> int:
        return len(self.row_N)

    def rows(self, start: int, stop: int) -> sp.csr_matrix:
        return self.counts.take(self.row_N[start:stop])


def contextual_shift(
    cells: Cells,
    cohorts: Cohorts,
    rows_of: Mapping[tuple[str, str], np.ndarray],
    phenotype: str,
    gene_R: np.ndarray,
    *,
    min_cells: int,
    max_cells: int,
    seed: int,
) -> pd.DataFrame:
    """Test whether genes have another contextual embedding inside a phenotype than outside it.

    Parameters
    ----------
    cells, cohorts
        The cells, and what they are of.
    rows_of
        Cells of each phenotype and unit. Those of `phenotype` are compared within each unit with at
        most `max_cells` of the others, drawn at random.
    gene_R
        Genes of the model.

    Returns
    -------
    The columns of `SHIFT` (R rows, by gene); NaN for a gene that cannot be tested.
    """
    rng = np.random.default_rng(seed)
    own = cohorts.phenotypes.index(phenotype)
    rows, groups, units = [], [], []
    for unit in (unit for name, unit in rows_of if name == phenotype):
        of_unit = cohorts.unit_B == cohorts.units.index(unit)
        others = np.flatnonzero(of_unit & (cohorts.phenotype_B != own))
        for group, drawn in enumerate((rows_of[phenotype, unit], rng.permutation(others))):
            rows.append(drawn[:max_cells])
            groups.append(np.full(len(rows[-1]), group))
            units.append(np.full(len(rows[-1]), cohorts.units.index(unit)))
    row_N, group_N, unit_N = (np.concatenate(x) for x in (rows, groups, units))
    order = np.argsort(row_N, kind="stable")
    contexts = Contexts(
        cells.model, _Drawn(cells.counts, row_N[order]), cells.token_V, group_N[order],
        (phenotype, "others"), unit_N[order], min_cells=min_cells, seed=seed,
    )  # fmt: skip
    columns = pd.DataFrame(np.nan, index=gene_R, columns=list(SHIFT))
    testable_G = contexts.survey[1]
    tested = gene_R[testable_G[gene_R]]
    if not len(tested) or testable_G.sum() < LEAST_GENES:
        return columns
    table, lost = contexts.table(
        tested, n_permutations=N_PERMUTATIONS, controls=False, device=cells.device, progress=False
    )
    names = cells.model.genes
    key_of = {g: f"{names.symbol[g]} {names.ensembl[g]}" for g in tested.tolist() if g not in lost}
    by_key = table.set_index(table["gene"] + " " + table["ensembl_id"])
    for name, source in SHIFT.items():
        columns.loc[list(key_of), name] = by_key[source].reindex(list(key_of.values())).to_numpy()
    return columns
