"""Which cells a training step sees, and how they are altered; knows no network.

Shape suffixes: N cells of the corpus, B cells of a batch, G genes, S sources; and where tokens are
hidden: L tokens of a cell, H hidden tokens of the batch, N entries of the pool.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from scgp.cells.corpus import Corpus
from scgp.cells.queries import ContextSample, draw_queries
from scgp.cells.stored import StoredCounts
from scgp.cells.tokens import TokenBatch, Tokenizer
from scgp.errors import LabelError

#: Shares of the genes that one batch may lose, one drawn at random.
GENE_DROPOUT = (0.0, 0.2, 0.5, 0.8)
#: How often a batch takes the gene set of another platform, and how often a cell is thinned.
PLATFORM_RATE, THINNING_RATE = 0.25, 0.7
#: A thinned cell keeps this share of its counts at least.
LEAST_KEPT = 0.2
#: A batch keeps at least this many genes.
LEAST_GENES = 600
#: Share of a cell's tokens that masked expression hides.
HIDDEN_SHARE = 0.3
#: Share of the cells whose genes are predicted from their context that may be unlabelled.
ANY_SHARE = 0.3
#: A corpus that is drawn by tiles: steps of a round, and tiles that its cells are drawn from.
ROUND_STEPS, TILES = 64, 64
#: How often an unexpressed gene is drawn for one token; of genes that half the cells express, one
#: draw in two is in vain.
DRAWS = 4


@dataclass(frozen=True)
class Sample:
    """One training batch: tokens, and which rows of the corpus they are."""

    tokens: TokenBatch
    row_B: np.ndarray
    class_B: np.ndarray
    study_B: np.ndarray


def balance(class_N: np.ndarray, study_N: np.ndarray, donor_N: np.ndarray) -> np.ndarray:
    """Return the sampling probability of each cell.

    A class of n cells is drawn in proportion to sqrt(n); within it, a study of m cells in
    proportion to sqrt(m), and within that a donor likewise. Cells without a class get 0.
    """
    weight_N = np.where(class_N >= 0, 1.0, 0.0)
    nested = [donor_N, study_N, np.zeros_like(class_N)]
    key_N = class_N.astype(np.int64)
    keys = []
    for part_N in nested[::-1]:
        key_N = np.unique(np.stack([key_N, part_N]), axis=1, return_inverse=True)[1].ravel()
        keys.append(key_N)
    for key_N in keys[::-1]:  # donors within studies first, then studies, then classes
        total = np.bincount(key_N, weight_N)
        size = np.bincount(key_N)
        weight_N = weight_N / np.maximum(total[key_N], 1e-300) * np.sqrt(size[key_N])
        weight_N[class_N < 0] = 0.0
    if not weight_N.sum() > 0:
        msg = "no cell has a label; training needs labelled cells (label_key)"
        raise LabelError(msg)
    return weight_N / weight_N.sum()


def at_most(
    most: int, class_N: np.ndarray, study_N: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return positions of at most `most` cells of each class and study, drawn at random."""
    order = rng.permutation(len(class_N))
    pair = np.unique(np.stack([class_N, study_N]), axis=1, return_inverse=True)[1].ravel()[order]
    by_pair = np.argsort(pair, kind="stable")
    first = np.searchsorted(pair[by_pair], pair[by_pair])
    kept = order[by_pair[np.arange(len(pair)) - first < most]]
    return np.sort(kept)


@dataclass(frozen=True)
class MaskedSample:
    """Tokens with some values hidden, and what was hidden.

    About half of the hidden tokens are expressed genes, the others genes that the cell does not
    express: that a token is hidden says nothing of it. What can be seen is log1p(CP10k) of a cell
    without the hidden genes, targets are log1p(CP10k) of the whole cell.
    """

    tokens: TokenBatch
    hidden_BL: np.ndarray
    target_BL: np.ndarray


class Sampler:
    """Draw the batch of any step: the same seed and step give the same batch.

    Parameters
    ----------
    corpus, class_N
        What to draw from, and the class of each cell; cells without one (-1) are drawn for masked
        expression only.
    tokenizer
        Makes the tokens.
    batch_size, drawn_share
        Cells of a batch, and the share of them drawn from profiles.
    seed
        Seed of all draws.
    augment
        Thin counts, drop genes, take other platforms' gene sets.
    """

    def __init__(
        self,
        corpus: Corpus,
        class_N: np.ndarray,
        tokenizer: Tokenizer,
        *,
        batch_size: int,
        drawn_share: float,
        seed: int,
        augment: bool = True,
    ) -> None:
        self.corpus = corpus
        self.class_N = class_N
        self.tokenizer = tokenizer
        n_drawn = round(batch_size * drawn_share) if corpus.drawn_N.any() else 0
        self._quota = ((~corpus.drawn_N, batch_size - n_drawn), (corpus.drawn_N, n_drawn))
        self.seed = seed
        self.augment = augment
        self._balanced = [
            self._choice(balance(np.where(of_N, class_N, -1), corpus.study_N, corpus.donor_N), i)
            for i, (of_N, n_cells) in enumerate(self._quota)
            if n_cells
        ]
        real_N = np.where(corpus.drawn_N, -1, class_N)
        self._real = self._choice(balance(real_N, corpus.study_N, corpus.donor_N), 0)
        size_N = np.bincount(corpus.study_N)[corpus.study_N]
        weight_N = np.where(corpus.drawn_N, 0.0, 1 / np.sqrt(size_N))
        self._any = self._choice(weight_N / weight_N.sum(), 2)

    def ahead(
        self, rows_of: Callable[[int], np.ndarray], steps: range
    ) -> AbstractContextManager[None]:
        """Read ahead for `steps` while the context lasts, where counts are stored."""
        counts = self.corpus.count_NG
        if not isinstance(counts, StoredCounts):
            return nullcontext()
        together = 1 if self.corpus.tile_N is None else ROUND_STEPS
        return counts.ahead(rows_of, steps, together=together)

    def batch_rows(self, step: int) -> np.ndarray:
        """Return the rows that `batch` reads for a step."""
        return self._batch_rows(step)[0]

    def masked_rows(self, step: int, n_cells: int) -> np.ndarray:
        """Return the rows that `masked_batch` reads for a step."""
        return self._masked_rows(step, n_cells)[0]

    def context_rows(self, step: int, n_cells: int) -> np.ndarray:
        """Return the rows that `context_batch` reads for a step."""
        return self._context_rows(step, n_cells)[0]

    def batch(self, step: int, rows: slice | None = None) -> Sample:
        """Return the batch of a step; with `rows`, only these have tokens, others come empty."""
        row_B, rng = self._batch_rows(step)
        if rows is None:
            counts = self.corpus.count_NG[row_B].astype(np.float32)
        else:
            counts = _others_empty(self.corpus.count_NG[row_B[rows]], rows, len(row_B))
        tokens = self._tokens(counts, rng)
        return Sample(tokens, row_B, self.class_N[row_B], self.corpus.study_N[row_B])

    def masked_batch(self, step: int, n_cells: int) -> MaskedSample:
        """Return cells of a step, labelled or not, with part of their expression hidden."""
        row_B, rng = self._masked_rows(step, n_cells)
        counts = self.corpus.count_NG[row_B].astype(np.float32)
        return hide(self._tokens(counts, rng), self.tokenizer.n_genes, rng)

    def context_batch(self, step: int, n_cells: int, n_queries: int) -> ContextSample:
        """Return cells of a step and genes to predict from their context.

        Of the cells, `ANY_SHARE` are drawn whether labelled or not, the others as in `batch`.
        """
        row_B, rng = self._context_rows(step, n_cells)
        tokens = self._tokens(self.corpus.count_NG[row_B].astype(np.float32), rng)
        measured_BG = self.corpus.measured_SG[self.corpus.source_N[row_B]]
        return draw_queries(tokens, n_queries, measured_BG, rng)

    def _batch_rows(self, step: int) -> tuple[np.ndarray, np.random.Generator]:
        rng = np.random.default_rng([self.seed, step])
        sizes = [n_cells for _, n_cells in self._quota if n_cells]
        parts = [c.pick(rng, step, n) for c, n in zip(self._balanced, sizes, strict=True)]
        return np.concatenate(parts), rng

    def _masked_rows(self, step: int, n_cells: int) -> tuple[np.ndarray, np.random.Generator]:
        rng = np.random.default_rng([self.seed, step, 1])
        return self._any.pick(rng, step, n_cells), rng

    def _context_rows(self, step: int, n_cells: int) -> tuple[np.ndarray, np.random.Generator]:
        rng = np.random.default_rng([self.seed, step, 2])
        n_any = round(n_cells * ANY_SHARE)
        real_B = self._real.pick(rng, step, n_cells - n_any)
        return np.concatenate([real_B, self._any.pick(rng, step, n_any)]), rng

    def _choice(self, weight_N: np.ndarray, key: int) -> "_Choice":
        return _Choice(np.cumsum(weight_N), self.corpus.tile_N, (self.seed, key))

    def _tokens(self, counts: sp.csr_matrix, rng: np.random.Generator) -> TokenBatch:
        n_cells, n_genes = counts.shape
        if not self.augment:
            return self.tokenizer.tokenize(counts, np.arange(n_genes))
        thin_B = rng.random(n_cells) < THINNING_RATE
        keep_B = np.where(thin_B, rng.uniform(LEAST_KEPT, 1.0, n_cells), 1.0)
        gene_keep_G = self._genes_to_keep(rng, n_genes)
        seed = int(rng.integers(2**62))
        return self.tokenizer.augment(counts, keep_B=keep_B, gene_keep_G=gene_keep_G, seed=seed)

    def _genes_to_keep(self, rng: np.random.Generator, n_genes: int) -> np.ndarray:
        keep_G = rng.random(n_genes) > rng.choice(GENE_DROPOUT)
        if rng.random() < PLATFORM_RATE:
            panel_G = self.corpus.measured_SG[rng.integers(len(self.corpus.measured_SG))]
            both_G = keep_G & panel_G
            keep_G = both_G if both_G.sum() >= LEAST_GENES else panel_G
        return keep_G if keep_G.any() else np.ones(n_genes, dtype=bool)


def some_cells(tokens: TokenBatch, rows: slice) -> TokenBatch:
    """Return the tokens of consecutive cells of a batch, as wide as the batch's."""
    first, last = tokens.offset_B[rows.start], tokens.offset_B[rows.stop]
    return TokenBatch(
        gene_BL=tokens.gene_BL[rows],
        value_BL=tokens.value_BL[rows],
        pool_gene_N=tokens.pool_gene_N[first:last],
        pool_value_N=tokens.pool_value_N[first:last],
        offset_B=tokens.offset_B[rows.start : rows.stop + 1] - first,
        total_B=tokens.total_B[rows],
    )


def _others_empty(counts: sp.csr_matrix, rows: slice, n_cells: int) -> sp.csr_matrix:
    """Return a batch of which only some rows hold counts: draws depend on a cell's position."""
    indptr = np.zeros(n_cells + 1, counts.indptr.dtype)
    indptr[rows.start : rows.stop + 1] = counts.indptr
    indptr[rows.stop :] = counts.indptr[-1]
    parts = (counts.data.astype(np.float32), counts.indices, indptr)
    return sp.csr_matrix(parts, shape=(n_cells, counts.shape[1]))


@dataclass(frozen=True)
class _Choice:
    """Cells drawn by weight; by tiles, from those that are drawn for the round of the step.

    A tile is drawn in proportion to the weight of its cells, and a cell in proportion to its weight
    among those of the tile: each cell as often as without tiles, but those of a round together.
    """

    cumulative_N: np.ndarray
    tile_N: np.ndarray | None
    key: tuple[int, int]

    def pick(self, rng: np.random.Generator, step: int, n: int) -> np.ndarray:
        """Draw `n` cells for a step."""
        if self.tile_N is None:
            return _pick(self.cumulative_N, rng, n)
        seed, of = self.key
        round_rng = np.random.default_rng([seed, step // ROUND_STEPS, 3, of])
        tile_K = self.tile_N[_pick(self.cumulative_N, round_rng, TILES)]
        first_K = np.searchsorted(self.tile_N, tile_K)
        last_K = np.searchsorted(self.tile_N, tile_K, side="right") - 1
        low_K = np.where(first_K > 0, self.cumulative_N[first_K - 1], 0.0)
        span_K = self.cumulative_N[last_K] - low_K
        slot_B = rng.integers(TILES, size=n)
        place_B = low_K[slot_B] + rng.random(n) * span_K[slot_B]
        row_B = np.searchsorted(self.cumulative_N, place_B, side="right")
        return np.clip(row_B, first_K[slot_B], last_K[slot_B])


def _pick(cumulative: np.ndarray, rng: np.random.Generator, n: int) -> np.ndarray:
    """Draw `n` positions with the probabilities that `cumulative` sums up."""
    drawn = np.searchsorted(cumulative, rng.random(n), side="right")
    return np.minimum(drawn, len(cumulative) - 1)


def hide(tokens: TokenBatch, n_genes: int, rng: np.random.Generator) -> MaskedSample:
    """Hide tokens: an expressed gene leaves the pooled view, or an unexpressed one takes its place.

    Of each cell's tokens, `HIDDEN_SHARE` are hidden. Unexpressed genes are taken from what other
    cells of the batch express, so that they are genes which the data measure. Where none is found
    in `DRAWS` draws, the token stays an expressed gene.
    """
    B, L = tokens.gene_BL.shape
    pool_cell_N = np.repeat(np.arange(B), np.diff(tokens.offset_B))
    pool_key_N = pool_cell_N * np.int64(n_genes) + tokens.pool_gene_N  # sorted: cells, then genes
    real_BL = tokens.gene_BL < n_genes
    hidden_BL = (rng.random((B, L)) < HIDDEN_SHARE) & real_BL
    cell_H, place_H = np.nonzero(hidden_BL)
    wanted_H = rng.random(len(cell_H)) < 0.5
    other_H = _unexpressed(cell_H, wanted_H, tokens, pool_key_N, n_genes=n_genes, rng=rng)
    swap_H = other_H >= 0
    gene_BL, target_BL = tokens.gene_BL.copy(), tokens.value_BL.copy()
    stays = (cell_H[~swap_H], place_H[~swap_H])
    hidden_key = stays[0] * np.int64(n_genes) + gene_BL[stays]  # in the pool, being expressed
    gene_BL[cell_H[swap_H], place_H[swap_H]] = other_H[swap_H]
    target_BL[cell_H[swap_H], place_H[swap_H]] = 0.0
    seen_N = np.ones(len(pool_key_N), dtype=bool)
    seen_N[np.searchsorted(pool_key_N, hidden_key)] = False
    scale_B = _scale_without_hidden(tokens.pool_value_N, pool_cell_N, seen_N, B)
    value_BL = np.where(hidden_BL, 0.0, _rescaled(tokens.value_BL, scale_B[:, None]))
    pool_value_N = np.where(seen_N, _rescaled(tokens.pool_value_N, scale_B[pool_cell_N]), 0.0)
    altered = replace(
        tokens,
        gene_BL=gene_BL,
        value_BL=value_BL.astype(np.float32),
        pool_value_N=pool_value_N.astype(np.float32),
    )
    return MaskedSample(altered, hidden_BL, target_BL)


def _unexpressed(
    cell_H: np.ndarray,
    wanted_H: np.ndarray,
    tokens: TokenBatch,
    pool_key_N: np.ndarray,
    *,
    n_genes: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw genes that the cells do not express, where wanted; -1 elsewhere and where none came."""
    other_H = np.full(len(cell_H), -1, dtype=np.int64)
    open_H = np.flatnonzero(wanted_H)
    for _ in range(DRAWS):
        drawn = tokens.pool_gene_N[rng.integers(max(len(pool_key_N), 1), size=len(open_H))]
        key = cell_H[open_H] * np.int64(n_genes) + drawn
        place = np.minimum(np.searchsorted(pool_key_N, key), max(len(pool_key_N) - 1, 0))
        fits = pool_key_N[place] != key
        other_H[open_H[fits]] = drawn[fits]
        open_H = open_H[~fits]
    return other_H


def _scale_without_hidden(
    value_N: np.ndarray, cell_N: np.ndarray, seen_N: np.ndarray, n_cells: int
) -> np.ndarray:
    """Return what CP10k of each cell is multiplied by if hidden genes had not been counted.

    Otherwise the sum of what is hidden could be read off what is seen. 1 where nothing is hidden,
    or everything.
    """
    cp10k_N = np.expm1(value_N.astype(np.float64))
    total_B = np.bincount(cell_N, cp10k_N, minlength=n_cells)
    seen_B = np.bincount(cell_N, np.where(seen_N, cp10k_N, 0.0), minlength=n_cells)
    return np.divide(total_B, seen_B, out=np.ones(n_cells), where=seen_B > 0)


def _rescaled(value: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Multiply CP10k behind log1p(CP10k); float64, the same number to the bit for a scale of 1."""
    scaled = np.log1p(np.expm1(value.astype(np.float64)) * scale)
    return np.where(scale == 1.0, value, scaled)
