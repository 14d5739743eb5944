"""Genes tested between contexts: from cells, contexts and donors to a table.

Owns the order of the work that `polyfunctionality` and `biomarkers` share: survey, panel, reading,
rows. Must not know where contexts come from, nor what is refused or told.

Shape suffixes: N cells, G genes of the model, T genes that can be tested, K contexts.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from scgp.context import READ_CELLS, count_blocks
from scgp.in_context.between import comparable
from scgp.in_context.gene_rows import COLUMNS, Cohort, measure, table_of
from scgp.in_context.panel import choose_panel
from scgp.in_context.reading import CellsToRead
from scgp.model.network import CellTransformer
from scgp.progress import progress_bar
from scgp.what_if.matched_genes import blocks_of

if TYPE_CHECKING:
    from scgp.model.checkpoint import Model
    from scgp.what_if.matched_genes import Rows

#: A gene needs two matched genes: each of them is held against the others, too.
LEAST_GENES = 3


@dataclass(frozen=True, eq=False)
class Contexts:
    """Cells, their contexts and donors, and how they are to be compared.

    Attributes
    ----------
    model, counts, token_V
        The model, the cells, and the gene of each column.
    group_N, names
        Context of each cell (-1: none), and the names of the contexts.
    donor_N
        Donor of each cell (-1: unknown); cells without one, or without a context, are not used.
    min_cells
        Cells that express a gene that a context needs, to count for it; of donors with two such
        contexts.
    seed
        Of permutations, of matched genes and of the untrained network.
    """

    model: Model
    counts: Rows
    token_V: np.ndarray
    group_N: np.ndarray
    names: tuple[str, ...]
    donor_N: np.ndarray
    min_cells: int
    seed: int

    @property
    def used_N(self) -> np.ndarray:
        """Whether a cell has a context and a donor."""
        return (self.group_N >= 0) & (self.donor_N >= 0)

    @property
    def size_K(self) -> np.ndarray:
        """Cells of each context."""
        return np.bincount(self.group_N[self.used_N], minlength=len(self.names))

    @property
    def large_N(self) -> np.ndarray:
        """Whether a cell is of a context that is large enough."""
        return self.used_N & (self.size_K[self.group_N] >= self.min_cells)

    @functools.cached_property
    def compared_N(self) -> np.ndarray:
        """Whether a cell can be compared within its donor (`comparable`)."""
        compared_N = self.used_N.copy()
        group_M, donor_M = self.group_N[compared_N], self.donor_N[compared_N]
        compared_N[compared_N] = comparable(group_M, donor_M, self.min_cells)
        return compared_N

    @property
    def confounded(self) -> bool:
        """Whether nothing can be compared within donors."""
        return not self.compared_N.any()

    @functools.cached_property
    def survey(self) -> tuple[np.ndarray, np.ndarray]:
        """The mean CP10k of each gene, and whether it has enough cells in two contexts."""
        n_genes, group_N = self.model.config.n_genes, np.where(self.used_N, self.group_N, -1)
        cells_KG, sum_G = np.zeros((int(group_N.max()) + 1, n_genes)), np.zeros(n_genes)
        for start, count_BG in blocks_of(self.counts, self.token_V, n_genes, READ_CELLS):
            code_B = group_N[start : start + count_BG.shape[0]]
            total_B = np.maximum(np.asarray(count_BG.sum(axis=1)).ravel(), 1)
            sum_G += np.asarray(count_BG.T @ (1e4 / total_B)).ravel()
            for k in np.unique(code_B[code_B >= 0]):
                cells_KG[k] += np.asarray((count_BG[code_B == k] > 0).sum(axis=0)).ravel()
        level_G = sum_G / max(self.counts.n_cells, 1)
        return level_G, (cells_KG >= self.min_cells).sum(axis=0) >= 2

    def table(
        self,
        tested: np.ndarray,
        *,
        n_permutations: int,
        controls: bool,
        device: torch.device | str,
        progress: bool,
    ) -> tuple[pd.DataFrame, list[int]]:
        """Measure genes that the survey says can be tested.

        Returns
        -------
        The table of `polyfunctionality`, and the genes whose cells cannot be compared within
        donors, which are not in it.
        """
        level_G, testable_G = self.survey
        gene_T = np.flatnonzero(testable_G)
        chosen = choose_panel(level_G[gene_T], gene_T, self.model.config.n_genes, self.seed)
        alone = self.confounded
        cohort = Cohort(
            self.group_N, np.zeros_like(self.donor_N) if alone else self.donor_N, self.used_N,
            self.names, min_cells=self.min_cells, n_permutations=0 if alone else n_permutations,
            seed=self.seed, counted_N=self.donor_N,
        )  # fmt: skip
        networks = [self.model.network] + ([_untrained(self.model, self.seed)] if controls else [])
        n_steps = self.counts.n_cells * 2 * len(networks)
        with progress_bar(n_steps, what="read", unit="cell", shown=progress) as advance:
            cells = CellsToRead(
                self.model,
                lambda: count_blocks(self.counts),
                self.token_V,
                self.counts.n_cells,
                device,
                advance,
            )
            parts = [
                measure(cells, tested, chosen, cohort, network, effect_alone=i > 0)
                for i, network in enumerate(networks)
            ]
        lost = [g for g in tested.tolist() if not parts[0].get(g)]
        if len(lost) == len(tested):
            return pd.DataFrame(columns=COLUMNS), lost
        return table_of(parts, self.model.genes)[COLUMNS], lost


def of_one_context(donor_M: np.ndarray, group_M: np.ndarray) -> np.ndarray:
    """Return of each donor whether all of its cells are of one context."""
    donor_M = np.unique(donor_M, return_inverse=True)[1]
    pairs = np.unique(np.stack([donor_M, group_M]), axis=1)
    return np.bincount(pairs[0].astype(np.int64)) == 1


def _untrained(model: Model, seed: int) -> CellTransformer:
    """Return a network of the same shape with random weights; torch's own random state is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CellTransformer(model.config).eval()
