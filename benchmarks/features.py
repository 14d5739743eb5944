"""Log-normalised values, variable genes and principal components, from training cells alone.

Owns the preprocessing that baselines share. Knows nothing of labels, files or scores.

Shapes: N training cells, Q query cells, G genes, H variable genes, D components.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.sparse.linalg import eigsh

if TYPE_CHECKING:
    from numpy.typing import NDArray

CP10K = 1e4
# A batch smaller than this has no stable ranking of genes; such batches vote together.
MIN_BATCH = 50
# scanpy's usual bound on scaled values: one count of a rare gene must not decide a component.
CLIP = 10.0
BLOCK = 4096


def log_normalise(count_NG: sp.csr_matrix) -> sp.csr_matrix:
    """Return log(1 + counts per 10,000); rows without counts stay zero."""
    total_N = np.asarray(count_NG.sum(axis=1)).ravel()
    scale_N = np.divide(CP10K, total_N, out=np.zeros_like(total_N), where=total_N > 0)
    value_NG = sp.csr_matrix(sp.diags_array(scale_N) @ count_NG, dtype=np.float32)
    np.log1p(value_NG.data, out=value_NG.data)
    return value_NG


def variable_genes(
    value_NG: sp.csr_matrix, batch_N: NDArray[np.object_], *, n_top: int
) -> NDArray[np.int64]:
    """Return the genes that vary in most batches (scanpy, flavour seurat, by batch), sorted."""
    import anndata as ad
    import scanpy as sc

    if value_NG.shape[1] <= n_top:
        return np.arange(value_NG.shape[1])
    batch = pd.Series(batch_N).astype(str)
    small = batch.map(batch.value_counts()) < MIN_BATCH
    batch[small] = "small batches"
    obs = pd.DataFrame({"batch": pd.Categorical(batch)}, index=[str(i) for i in range(len(batch))])
    adata = ad.AnnData(value_NG, obs=obs)
    key = "batch" if batch.nunique() > 1 else None
    table = sc.pp.highly_variable_genes(adata, n_top_genes=n_top, batch_key=key, inplace=False)
    return np.flatnonzero(table["highly_variable"].to_numpy())


@dataclass(frozen=True)
class Components:
    """A linear map from log-normalised genes to principal components of the training cells."""

    gene_H: NDArray[np.int64]
    mean_H: NDArray[np.float32]
    scale_H: NDArray[np.float32]
    axis_HD: NDArray[np.float32]

    def standardise(self, value_NG: sp.csr_matrix) -> NDArray[np.float32]:
        """Return centred, scaled and clipped values, (N, H); dense."""
        value_NH = value_NG[:, self.gene_H].toarray()
        value_NH -= self.mean_H
        value_NH /= self.scale_H
        return np.clip(value_NH, -CLIP, CLIP, out=value_NH)

    def transform(self, value_NG: sp.csr_matrix) -> NDArray[np.float32]:
        """Return the components of each cell, (N, D)."""
        blocks = [
            self.standardise(value_NG[start : start + BLOCK]) @ self.axis_HD
            for start in range(0, value_NG.shape[0], BLOCK)
        ]
        return np.concatenate(blocks)


def principal_components(
    value_NG: sp.csr_matrix, gene_H: NDArray[np.int64], *, n_components: int, scaled: bool
) -> Components:
    """Fit principal components on variable genes by their exact covariance.

    ``scaled`` divides each gene by its standard deviation over the training cells.
    """
    value_NH = value_NG[:, gene_H]
    mean_H = np.asarray(value_NH.mean(axis=0), dtype=np.float64).ravel()
    square_H = np.asarray(value_NH.multiply(value_NH).mean(axis=0), dtype=np.float64).ravel()
    deviation_H = np.sqrt(np.maximum(square_H - mean_H**2, 0.0))
    scale_H = np.where(deviation_H > 0, deviation_H, 1.0) if scaled else np.ones_like(mean_H)
    n_components = min(n_components, len(gene_H), value_NG.shape[0])
    start = Components(
        gene_H, mean_H.astype(np.float32), scale_H.astype(np.float32), np.empty((0, 0), np.float32)
    )
    covariance_HH = np.zeros((len(gene_H), len(gene_H)), np.float64)
    for first in range(0, value_NG.shape[0], BLOCK):
        block_NH = start.standardise(value_NG[first : first + BLOCK])
        covariance_HH += block_NH.T @ block_NH
    axis_HD = _leading_axes(covariance_HH, n_components)
    # The sign of an axis is free, so the largest entry is made positive.
    largest_D = np.abs(axis_HD).argmax(axis=0)
    axis_HD = axis_HD * np.sign(axis_HD[largest_D, np.arange(n_components)])
    return Components(gene_H, start.mean_H, start.scale_H, axis_HD.astype(np.float32))


def _leading_axes(covariance_HH: NDArray[np.float64], n_components: int) -> NDArray[np.float64]:
    """Return the eigenvectors of the largest eigenvalues, largest first."""
    n_genes = len(covariance_HH)
    if n_components >= n_genes // 2:
        return np.linalg.eigh(covariance_HH)[1][:, ::-1][:, :n_components]
    # A fixed start: ARPACK's own is random.
    start_H = np.ones(n_genes) / np.sqrt(n_genes)
    return eigsh(covariance_HH, k=n_components, v0=start_H)[1][:, ::-1]
