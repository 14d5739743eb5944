"""Genes of a like mean level over all cells, read in every cell: what any such gene shows there.

Owns which genes these are, the directions that embeddings are projected on, and the matched
genes' deviations. Must not know what is tested.

Shape suffixes: N cells, G genes of the model, T genes that can be tested, P genes of the panel,
D width of the contextual embeddings, R directions kept, M cells of one gene, Q mates.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from scgp.in_context.reading import CellsToRead, always

if TYPE_CHECKING:
    from scgp.model.network import CellTransformer

#: Bins of expression level, and panel genes of each.
N_BINS, PER_BIN = 20, 10
#: Directions on which embeddings are projected, and cells and genes that they are fitted to: with
#: trained weights they hold .96 or more of what varies.
N_DIRECTIONS, FIT_CELLS = 32, 400


@dataclass(frozen=True, eq=False)
class Panel:
    """The panel as read in the cells of a data set by one network.

    Attributes
    ----------
    gene_P, bin_P
        Genes of the panel and their bins of expression.
    bin_G
        Bin of every gene that can be tested, -1 for others.
    basis_DR
        Directions, orthonormal.
    shift_NPR
        Each panel gene's embedding in each cell, less its mean over cells, on these directions.
    """

    gene_P: np.ndarray
    bin_P: np.ndarray
    bin_G: np.ndarray
    basis_DR: np.ndarray
    shift_NPR: np.ndarray

    def mates(self, gene: int) -> np.ndarray:
        """Return places of the panel genes of the gene's bin and the two beside it, but itself."""
        near_P = np.abs(self.bin_P - self.bin_G[gene]) <= 1
        return np.flatnonzero(near_P & (self.gene_P != gene))

    def own_shift(
        self, context_MR: np.ndarray, cell_M: np.ndarray, gene: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return a gene's interaction (M x R), and that of its mates in the same cells (M x Q x R).

        An interaction is the embedding less what the (other) mates show in the cell on average.
        """
        mates_Q = self.mates(gene)
        mate_MQR = self.shift_NPR[cell_M][:, mates_Q].astype(np.float32)
        sum_MR = mate_MQR.sum(axis=1)
        own_MR = context_MR - sum_MR / len(mates_Q)
        others_MQR = (sum_MR[:, None] - mate_MQR) / (len(mates_Q) - 1)
        return own_MR.astype(np.float32), mate_MQR - others_MQR


def choose_panel(
    level_T: np.ndarray, gene_T: np.ndarray, n_genes: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bin genes by their mean expression and draw some of each bin.

    Returns
    -------
    ``gene_P``, ``bin_P`` and ``bin_G`` of :class:`Panel`.
    """
    n_bins = max(1, min(N_BINS, len(gene_T) // PER_BIN))
    order = np.lexsort([gene_T, level_T])
    bin_T = np.empty(len(gene_T), np.int64)
    bin_T[order] = np.arange(len(gene_T)) * n_bins // len(gene_T)
    rng = np.random.default_rng([seed, 11])
    drawn = [rng.permutation(np.sort(gene_T[bin_T == b]))[:PER_BIN] for b in range(n_bins)]
    bin_G = np.full(n_genes + 1, -1)
    bin_G[gene_T] = bin_T
    gene_P = np.concatenate(drawn)
    return gene_P, bin_G[gene_P], bin_G


def read_panel(
    cells: CellsToRead,
    chosen: tuple[np.ndarray, np.ndarray, np.ndarray],
    network: CellTransformer | None = None,
) -> Panel:
    """Read the panel in all cells, expressed there or not; twice in a few of them."""
    gene_P, bin_P, bin_G = chosen
    config = cells.model.config
    place_G = np.zeros(config.n_genes + 1, np.int64)
    place_G[gene_P] = np.arange(len(gene_P))
    basis_DR = _directions(cells, gene_P, network)
    at_NPR = np.zeros((cells.n_cells, len(gene_P), basis_DR.shape[1]), np.float32)
    sum_PR, n_P = np.zeros((len(gene_P), basis_DR.shape[1])), np.zeros(len(gene_P))
    for read in cells.read(always(gene_P), network, tell=True):
        place_M = place_G[read.gene_M]
        context_MR = read.context_MD @ basis_DR
        at_NPR[read.cell_M, place_M] = context_MR
        np.add.at(sum_PR, place_M, context_MR)
        n_P += np.bincount(place_M, minlength=len(gene_P))
    at_NPR -= (sum_PR / np.maximum(n_P, 1)[:, None]).astype(np.float32)
    return Panel(gene_P, bin_P, bin_G, basis_DR, at_NPR)


def _directions(
    cells: CellsToRead, gene_P: np.ndarray, network: CellTransformer | None
) -> np.ndarray:
    """Return the principal directions of the panel's shifts over cells spread through the data."""
    few = dataclasses.replace(cells, blocks=lambda: [_spread(cells)])
    reads = list(few.read(always(gene_P), network))
    context_MD = np.concatenate([read.context_MD for read in reads]).astype(np.float64)
    gene_M = np.concatenate([read.gene_M for read in reads])
    for gene in gene_P:
        context_MD[gene_M == gene] -= context_MD[gene_M == gene].mean(axis=0)
    vectors_DD = np.linalg.eigh(context_MD.T @ context_MD)[1][:, ::-1]
    return np.ascontiguousarray(vectors_DD[:, :N_DIRECTIONS], dtype=np.float32)


def _spread(cells: CellsToRead) -> sp.csr_matrix:
    """Return rows at one distance from each other, `FIT_CELLS` or a few more."""
    step = max(1, cells.n_cells // FIT_CELLS)
    parts, first = [], 0
    for block in cells.blocks():
        parts.append(block[-first % step :: step])
        first += block.shape[0]
    return sp.vstack(parts, format="csr")
