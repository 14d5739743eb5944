"""Genes that are known to mark ontology terms: which gene for which term, and nothing more.

Knows terms and columns of the vocabulary; neither cells nor where the knowledge comes from.

Shape suffixes: D terms asked for, G genes of the vocabulary, M pairs of a term and a gene.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from scgp.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


@dataclass(frozen=True, eq=False)
class Markers:
    """Marker genes of terms.

    Attributes
    ----------
    ids
        Ontology term ids, each once.
    term_M, gene_M
        Pairs: rows of ``ids``, and columns of the vocabulary; int32.
    """

    ids: tuple[str, ...]
    term_M: np.ndarray
    gene_M: np.ndarray

    def __post_init__(self) -> None:
        """Refuse pairs that name no term, or no gene."""
        sizes = {self.term_M.shape, self.gene_M.shape}
        whole = all(x.ndim == 1 and x.dtype.kind in "iu" for x in (self.term_M, self.gene_M))
        if len(set(self.ids)) != len(self.ids) or len(sizes) != 1 or not whole:
            msg = "marker genes hold a term twice, or pairs of which one half is missing"
            raise CheckpointError(msg)
        named = np.isin(self.term_M, np.arange(len(self.ids)))
        if not named.all() or np.any(self.gene_M < 0):
            msg = "marker genes name terms or genes that are not there"
            raise CheckpointError(msg)

    @classmethod
    def none(cls) -> Markers:
        """Return the table of no term."""
        nothing = np.zeros(0, np.int32)
        return cls((), nothing, nothing)

    @classmethod
    def from_columns(cls, columns_of: Mapping[str, Iterable[int]]) -> Markers:
        """Build the table from the columns of the vocabulary that mark each term.

        Examples
        --------
        >>> Markers.from_columns({"CL:0000236": [4, 2], "CL:0000084": [7]}).gene_M.tolist()
        [2, 4, 7]
        """
        pairs = [(t, g) for t, genes in enumerate(columns_of.values()) for g in sorted(set(genes))]
        pair_M2 = np.array(pairs, np.int32).reshape(-1, 2)
        return cls(tuple(columns_of), pair_M2[:, 0].copy(), pair_M2[:, 1].copy())

    def __len__(self) -> int:
        return len(self.ids)

    @functools.cached_property
    def _row(self) -> dict[str, int]:
        return {term: row for row, term in enumerate(self.ids)}

    def weights(self, term_ids: Sequence[str], n_genes: int) -> sp.csr_matrix:
        """Return unit rows over the genes, D x G float32; a zero row for a term without markers.

        A gene counts by the logarithm of how few terms it marks (inverse document frequency); one
        that marks all terms counts nothing, as do all in a table of one term.

        Raises
        ------
        CheckpointError
            A marker is none of `n_genes` genes.
        """
        if len(self.gene_M) and self.gene_M.max() >= n_genes:
            msg = f"marker genes name column {self.gene_M.max()} of {n_genes} genes"
            raise CheckpointError(msg)
        rarity_G = np.log((1 + len(self)) / (1 + np.bincount(self.gene_M, minlength=n_genes)))
        pairs = (np.ones(len(self.gene_M)), (self.term_M, self.gene_M))
        marks_TG = sp.csr_matrix(pairs, shape=(len(self), n_genes)) @ sp.diags(rarity_G)
        length_T = sp.linalg.norm(marks_TG, axis=1) if len(self) else np.zeros(0)
        marks_TG = sp.diags(1 / np.maximum(length_T, 1e-9)) @ marks_TG
        known = [(d, self._row[term]) for d, term in enumerate(term_ids) if term in self._row]
        place = np.array(known, int).reshape(-1, 2)
        chosen = (np.ones(len(place)), (place[:, 0], place[:, 1]))
        chosen_DT = sp.csr_matrix(chosen, shape=(len(term_ids), len(self)))
        return sp.csr_matrix(chosen_DT @ marks_TG, dtype=np.float32)
