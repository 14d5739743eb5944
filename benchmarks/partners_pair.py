"""Two studies that share cell types: their common genes, and what is said and measured of them.

Owns what is made once for a pair of studies and asked for many times. Knows no scores.

Shapes: G genes that are read in every context of both, V genes of the vocabulary, P processes, R
resamples.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.partners_cells import PAIRS, correlation, unit_columns
from benchmarks.partners_measure import FEWEST_OF_PROCESS, centred, role_profile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from benchmarks.partners_cells import Context, Matrix
    from benchmarks.partners_seed import Key, Said


@dataclass(frozen=True, eq=False)
class Genes:
    """What is known of genes: processes, those left out, and weights of the resamples.

    ``member_VP`` has the processes of 10 to 300 genes; ``weight_RV`` a weight of every gene for
    each resample (exponential: Rubin's Bayesian bootstrap).
    """

    member_VP: NDArray[np.bool_]
    left_out_V: NDArray[np.bool_]
    weight_RV: NDArray[np.float32]


@dataclass(eq=False)
class Pair:
    """Two studies on the types that both have.

    Attributes
    ----------
    studies
        The first is read; in the second it is measured, or read again.
    said, other
        What the methods say with this seed, and with another.
    whole
        All cells of every context, with all genes that are read anywhere.
    """

    studies: tuple[str, str]
    said: Said
    other: Said
    whole: dict[Key, Context]
    genes: Genes
    kept: dict[tuple[str, int, Key], NDArray[np.float32] | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Find the genes that are read in all contexts, with both seeds."""
        gene_G = np.flatnonzero(~self.genes.left_out_V)
        for study, kind in itertools.product(self.studies, self.kinds):
            for said in (self.said, self.other):
                gene_G = np.intersect1d(gene_G, said.contexts[study, kind].gene_G)
        self.gene_G = gene_G
        self.weight_RG = self.genes.weight_RV[:, gene_G]
        member_GP = self.genes.member_VP[gene_G]
        self.member_GP = member_GP[:, member_GP.sum(axis=0) >= FEWEST_OF_PROCESS]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The cell types that both studies have."""
        return PAIRS[self.studies]

    @property
    def unordered(self) -> list[tuple[str, str]]:
        """All pairs of types."""
        return list(itertools.combinations(self.kinds, 2))

    def of(self, method: str, key: Key, *, other: bool = False) -> NDArray[np.float32] | None:
        """Return the centred co-variation of a method and context, None where it says nothing."""
        place = (method, int(other), key)
        if place not in self.kept:
            found = (self.other if other else self.said).corr(method, key, self.gene_G)
            self.kept[place] = None if found is None else centred(found)
        return self.kept[place]

    def target(self, key: Key) -> Matrix:
        """Return co-expression (Pearson) measured in all cells of a context, centred."""
        place = ("measured in all cells", 0, key)
        if place not in self.kept:
            at = self.whole[key]
            value_NG = at.value_NG[:, np.searchsorted(at.gene_G, self.gene_G)]
            self.kept[place] = centred(correlation(unit_columns(value_NG, at.design_NC)))
        found = self.kept[place]
        assert found is not None
        return found

    def target_half(self, study: str, half: int) -> dict[str, NDArray[np.float32]]:
        """Return the same from every second cell of each type, the even or the odd ones."""
        found = {}
        for kind in self.kinds:
            at = self.whole[study, kind]
            value_NG = at.value_NG[half::2, np.searchsorted(at.gene_G, self.gene_G)]
            unit_NG = unit_columns(value_NG, at.design_NC[half::2])
            found[kind] = centred(correlation(unit_NG))
        return found

    def profiles(
        self, method: str | None, study: str, *, other: bool = False
    ) -> dict[str, NDArray[np.float64]]:
        """Return the role profiles of all genes by type; None asks for what is measured.

        All zero where a method says nothing.
        """
        found = {}
        for kind in self.kinds:
            key = (study, kind)
            matrix = self.target(key) if method is None else self.of(method, key, other=other)
            if matrix is None or not matrix.any():
                found[kind] = np.zeros(self.member_GP.shape)
            else:
                found[kind] = role_profile(matrix, self.member_GP)
        return found

    def levels(self) -> NDArray[np.float64]:
        """Return mean value and detection over the types, for both studies (columns)."""
        columns: list[NDArray[np.floating]] = []
        for study in self.studies:
            contexts = [self.said.contexts[study, kind] for kind in self.kinds]
            place = [np.searchsorted(c.gene_G, self.gene_G) for c in contexts]
            value = [c.value_NG.mean(axis=0)[i] for c, i in zip(contexts, place, strict=True)]
            detected = [c.detected_G[i] for c, i in zip(contexts, place, strict=True)]
            columns += [np.mean(value, axis=0), np.mean(detected, axis=0)]
        return np.column_stack(columns)

    def halves(self, method: str, study: str, *, other: bool = False) -> list[Sequence[Matrix]]:
        """Return the centred co-variation in each half of the cells, by type."""
        said = self.other if other else self.said
        parts = [
            [centred(half) for half in said.halves(method, (study, kind), self.gene_G)]
            for kind in self.kinds
        ]
        return [[part[half] for part in parts] for half in (0, 1)]
