"""What the tests of perturb() share: the gene that goes, and cells without it."""

import numpy as np
import scipy.sparse as sp

GENE = "CD79A"


def count_of(adata, gene):
    return np.asarray(adata[:, gene].X.todense()).ravel()


def without(adata, gene, factor=0.0):
    scaled = adata.copy()
    scale = np.where(adata.var_names == gene, factor, 1.0)
    scaled.X = sp.csr_matrix(adata.X @ sp.diags(scale)).astype(np.float32)
    return scaled
