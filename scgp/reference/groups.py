"""Groups of cells with their mean profiles: what `profiles` are fitted to.

Knows labels, tissues and sources as names and genes as columns; neither cells nor descriptions.

Shapes: R rows (mean profiles as given), P groups (one label, tissue and source), G genes.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from scgp.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: A source that measures less than this share of the genes of the widest gives no level: CP10k over
#: a panel are others than CP10k over all genes.
WIDE = 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class Groups:
    """Mean profiles of groups of cells, each of one label, tissue and source.

    Attributes
    ----------
    mean_PG
        Mean over the rows of the group that measure the gene, log1p(CP10k), float32; else 0.
    measured_PG
        Whether any of them does.
    n_rows_P
        Rows of each group.
    label_ids, tissue_ids, sources
        Ontology ids ("" for an unknown tissue) and names, P each.
    """

    mean_PG: NDArray[np.float32]
    measured_PG: NDArray[np.bool_]
    n_rows_P: NDArray[np.int64]
    label_ids: list[str]
    tissue_ids: list[str]
    sources: list[str]

    @classmethod
    def of(
        cls,
        value_RG: Any,
        measured_RG: NDArray[np.bool_],
        keys: Sequence[tuple[str, str, str]],
    ) -> Groups:
        """Average rows of the same label, tissue and source (`keys`); groups come sorted.

        Parameters
        ----------
        value_RG
            log1p(CP10k) of mean expression: an array, or what gives one for the rows asked for.
        measured_RG
            Where False, the value is not zero but unknown.

        Raises
        ------
        ArgumentError
            There is no row, or sizes do not fit.
        """
        if not keys or not len(keys) == len(value_RG) == len(measured_RG):
            msg = (
                f"{len(keys)} labels for {len(value_RG)} mean profiles and {len(measured_RG)} "
                "rows of measured genes; expected one each, and one at least"
            )
            raise ArgumentError(msg)
        order = sorted(set(keys))
        place = {key: p for p, key in enumerate(order)}
        group_R = np.array([place[key] for key in keys])
        shape = (len(order), value_RG.shape[1])
        mean_PG, measured_PG = np.zeros(shape, np.float32), np.zeros(shape, bool)
        for p in range(len(order)):
            rows = np.flatnonzero(group_R == p)
            n_G = measured_RG[rows].sum(axis=0)
            sum_G = (value_RG[rows] * measured_RG[rows]).sum(axis=0)
            mean_PG[p], measured_PG[p] = sum_G / np.maximum(n_G, 1), n_G > 0
        labels, tissues, sources = (list(column) for column in zip(*order, strict=True))
        n_rows_P = np.bincount(group_R, minlength=len(order))
        return cls(mean_PG, measured_PG, n_rows_P, labels, tissues, sources)

    def rows_of(self, source: str) -> NDArray[np.int64]:
        """Return the groups of a source."""
        return np.flatnonzero(np.array(self.sources) == source)

    def source_mean(self, source: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return the mean profile of a source, every row the same, and which genes it measures."""
        rows = self.rows_of(source)
        weight_PG = self.measured_PG[rows] * self.n_rows_P[rows, None]
        total_G = weight_PG.sum(axis=0)
        mean_G = (self.mean_PG[rows] * weight_PG).sum(axis=0) / np.maximum(total_G, 1)
        return mean_G, total_G > 0

    def widest(self) -> list[str]:
        """Return the sources that measure the most genes (`WIDE`), that of most groups first."""
        names = sorted(set(self.sources))
        width = {name: self.measured_PG[self.rows_of(name)].any(axis=0).sum() for name in names}
        wide = [name for name in names if width[name] >= WIDE * max(width.values())]
        return sorted(wide, key=lambda name: (-len(self.rows_of(name)), name))
