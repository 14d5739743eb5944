"""From rows of counts to what the model reads: the Tokenizer, compiled; knows no AnnData.

Shape suffixes: B cells of a batch, L tokens of a cell, G genes of the vocabulary, V columns of the
matrix, N expressed genes of all cells of a batch, one after another.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from scgp.cells.kernels import KEEP_ALL, fill_tokens
from scgp.errors import ArgumentError


@dataclass(frozen=True)
class TokenBatch:
    """What the model reads of a batch of cells.

    Attributes
    ----------
    gene_BL
        Genes of each cell, by falling value x gene weight; int64, padded with ``n_genes``. L is
        that of the longest cell of the batch: at least 1, at most ``n_tokens``.
    value_BL
        log1p(CP10k) of these genes; float32, padded with 0.
    pool_gene_N, pool_value_N
        All expressed genes of each cell, sorted by gene, and their log1p(CP10k); int64, float32.
    offset_B
        Cell b has entries ``offset_B[b]`` to ``offset_B[b + 1]`` of the pool; int64, B + 1 values.
    total_B
        Counts of each cell over the genes of the vocabulary; float32, 0 for an empty cell.
    """

    gene_BL: np.ndarray
    value_BL: np.ndarray
    pool_gene_N: np.ndarray
    pool_value_N: np.ndarray
    offset_B: np.ndarray
    total_B: np.ndarray

    @property
    def n_cells(self) -> int:
        """Number of cells, empty ones included."""
        return self.total_B.size

    def values(self, n_genes: int) -> sp.csr_matrix:
        """Return log1p(CP10k) of all expressed genes (B x G)."""
        parts = (self.pool_value_N, self.pool_gene_N, self.offset_B)
        return sp.csr_matrix(parts, shape=(self.n_cells, n_genes))


class Tokenizer:
    """Turn rows of counts into tokens; the same cell gives the same tokens in any company.

    Parameters
    ----------
    n_genes
        Genes of the vocabulary.
    n_tokens
        Most tokens of one cell.
    gene_weight_G
        What a gene's value is multiplied by when tokens are chosen; finite and >= 0.

    Raises
    ------
    ArgumentError
        An argument is out of range or has another shape.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> tokenizer = Tokenizer(3, 2, np.ones(3, dtype="float32"))
    >>> counts = sp.csr_matrix(np.array([[4, 0, 1, 2]], dtype="float32"))
    >>> batch = tokenizer.tokenize(counts, np.array([2, 1, 0, -1]))
    >>> batch.gene_BL.tolist(), float(batch.total_B[0])
    ([[2, 0]], 5.0)
    """

    def __init__(self, n_genes: int, n_tokens: int, gene_weight_G: np.ndarray) -> None:
        weight_G = np.ascontiguousarray(gene_weight_G, dtype=np.float32)
        if n_genes < 1 or n_tokens < 1:
            msg = f"n_genes is {n_genes} and n_tokens is {n_tokens}; expected at least 1 of each"
            raise ArgumentError(msg)
        if weight_G.shape != (n_genes,):
            msg = f"gene_weight_G has shape {weight_G.shape}; expected one per gene, ({n_genes},)"
            raise ArgumentError(msg)
        fits_G = np.isfinite(weight_G) & (weight_G >= 0)
        if not fits_G.all():
            msg = f"gene_weight_G holds {weight_G[~fits_G][0]}; expected finite weights >= 0"
            raise ArgumentError(msg)
        self.n_genes = n_genes
        self.n_tokens = n_tokens
        self.gene_weight_G = weight_G + np.float32(0)  # -0 becomes 0: scores are compared by bits

    def tokenize(self, counts: sp.csr_matrix, token_of_column: np.ndarray) -> TokenBatch:
        """Tokens of counts as they are: the entry for inference.

        Parameters
        ----------
        counts
            B x V counts; columns in any order, duplicate entries are summed.
        token_of_column
            Gene of each column (V integers), -1 where the vocabulary has none. Columns of one gene
            are summed.

        Returns
        -------
        The tokens; totals and CP10k are over the genes of the vocabulary.

        Raises
        ------
        ArgumentError
            `token_of_column` has another length or names a gene outside the vocabulary.
        """
        token_V = np.ascontiguousarray(token_of_column, dtype=np.int32)
        if token_V.shape != (counts.shape[1],):
            msg = (
                f"token_of_column has shape {token_V.shape}; "
                f"expected one per column of the counts, ({counts.shape[1]},)"
            )
            raise ArgumentError(msg)
        if token_V.size and not (token_V.min() >= -1 and token_V.max() < self.n_genes):
            msg = (
                f"token_of_column runs from {token_V.min()} to {token_V.max()}; "
                f"expected -1 to {self.n_genes - 1}"
            )
            raise ArgumentError(msg)
        everything = np.full(counts.shape[0], KEEP_ALL, dtype=np.int64)
        return self._run(counts, token_V, everything, seed=0)

    def augment(
        self, counts: sp.csr_matrix, *, keep_B: np.ndarray, gene_keep_G: np.ndarray, seed: int
    ) -> TokenBatch:
        """Tokens of thinned counts: the entry for training.

        Each count of cell b becomes a binomial draw of it with probability ``keep_B[b]``, and
        genes that `gene_keep_G` leaves out are dropped, both before totals are taken. A draw
        depends on the seed, the row and the gene alone.

        Parameters
        ----------
        counts
            B x G counts whose columns are the genes of the vocabulary.
        keep_B
            Share of each cell's counts to keep, 0 to 1 (resolved to 2**-16).
        gene_keep_G
            False for the genes to drop from this batch.
        seed
            The same seed and counts give the same tokens.

        Raises
        ------
        ArgumentError
            A shape does not fit, or a share is outside 0 to 1.
        """
        keep_B = np.asarray(keep_B, dtype=np.float64)
        gene_keep_G = np.asarray(gene_keep_G, dtype=bool)
        shapes = (counts.shape, keep_B.shape, gene_keep_G.shape)
        if shapes != ((keep_B.size, self.n_genes), (keep_B.size,), (self.n_genes,)):
            msg = (
                f"counts, keep_B and gene_keep_G have shapes {shapes}; "
                f"expected (B, {self.n_genes}), (B,) and ({self.n_genes},)"
            )
            raise ArgumentError(msg)
        if not ((keep_B >= 0) & (keep_B <= 1)).all():
            msg = f"keep_B runs from {keep_B.min()} to {keep_B.max()}; expected 0 to 1"
            raise ArgumentError(msg)
        token_V = np.where(gene_keep_G, np.arange(self.n_genes), -1).astype(np.int32)
        share_B = np.rint(keep_B * KEEP_ALL).astype(np.int64)
        return self._run(counts, token_V, share_B, seed=seed)

    def _run(
        self, counts: sp.csr_matrix, token_V: np.ndarray, share_B: np.ndarray, *, seed: int
    ) -> TokenBatch:
        """Allocate the batch, fill it in compiled code, and cut it to what was filled."""
        n_cells = counts.shape[0]
        longest = int(np.diff(counts.indptr).max(initial=0))
        width = max(1, min(self.n_tokens, longest))
        gene_BL = np.full((n_cells, width), self.n_genes, dtype=np.int64)
        value_BL = np.zeros((n_cells, width), dtype=np.float32)
        pool_gene_N = np.empty(counts.nnz, dtype=np.int64)
        pool_value_N = np.empty(counts.nnz, dtype=np.float32)
        offset_B = np.zeros(n_cells + 1, dtype=np.int64)
        total_B = np.zeros(n_cells, dtype=np.float32)
        fill_tokens(
            counts.indptr.astype(np.int64, copy=False),
            counts.indices.astype(np.int32, copy=False),
            counts.data.astype(np.float32, copy=False),
            token_V,
            share_B,
            np.uint64(seed % 2**64),
            self.gene_weight_G,
            (gene_BL, value_BL, pool_gene_N, pool_value_N, offset_B, total_B),
        )
        used = max(1, min(width, int(np.diff(offset_B).max(initial=0))))
        n_pool = int(offset_B[-1])
        return TokenBatch(
            gene_BL=np.ascontiguousarray(gene_BL[:, :used]),
            value_BL=np.ascontiguousarray(value_BL[:, :used]),
            pool_gene_N=pool_gene_N[:n_pool],
            pool_value_N=pool_value_N[:n_pool],
            offset_B=offset_B,
            total_B=total_B,
        )
