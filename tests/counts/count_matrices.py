"""Small matrices of counts in every container, and with one value that is no count."""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

RNG = np.random.default_rng(0)
DENSE = RNG.poisson(0.8, size=(23, 7)).astype(np.float32)
LOG = np.log1p(DENSE)


def make(x, **kwargs):
    """AnnData with named cells c0.. and genes g0.. around a matrix."""
    n_cells, n_genes = x.shape
    obs = pd.DataFrame(index=[f"c{i}" for i in range(n_cells)])
    var = pd.DataFrame(index=[f"g{i}" for i in range(n_genes)])
    return ad.AnnData(x, obs=obs, var=var, **kwargs)


def with_raw(x, raw):
    adata = make(x)
    adata.raw = make(raw)
    return adata


def backed(adata, folder):
    path = Path(folder) / "cells.h5ad"
    adata.write_h5ad(path)
    return ad.read_h5ad(path, backed="r")


def messy(dense):
    """CSR of the same counts with repeated, unsorted and explicit-zero entries."""
    coo, zero = sp.coo_matrix(dense), np.argwhere(dense == 0)[:3]
    rows = np.concatenate([coo.row, coo.row, zero[:, 0]])
    cols = np.concatenate([coo.col, coo.col, zero[:, 1]])
    data = np.concatenate([coo.data - 1, np.ones_like(coo.data), np.zeros(len(zero))])
    order = np.lexsort((-cols, rows))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(dense)))])
    parts = (data[order].astype(dense.dtype), cols[order], indptr)
    return sp.csr_matrix(parts, shape=dense.shape)


CONTAINERS = {
    "csr": lambda x, _: make(sp.csr_matrix(x)),
    "csr_array": lambda x, _: make(sp.csr_array(x)),
    "csc": lambda x, _: make(sp.csc_matrix(x)),
    "csc_array": lambda x, _: make(sp.csc_array(x)),
    "dense": lambda x, _: make(x.copy()),
    "fortran": lambda x, _: make(np.asfortranarray(x)),
    "float64": lambda x, _: make(sp.csr_matrix(x.astype(np.float64))),
    "float16": lambda x, _: make(x.astype(np.float16)),
    "float16 csc": lambda x, _: make(half(x)),
    "int64": lambda x, _: make(sp.csr_matrix(x.astype(np.int64))),
    "uint16": lambda x, _: make(sp.csr_matrix(x.astype(np.uint16))),
    "uint8 dense": lambda x, _: make(x.astype(np.uint8)),
    "int64 indices": lambda x, _: make(long_indices(x)),
    "messy": lambda x, _: make(messy(x)),
    "messy csc": lambda x, _: make(messy(x).tocsc()),
    "view of csr": lambda x, _: make(sp.csr_matrix(np.vstack([x[::-1], x])))[len(x) :],
    "view of dense": lambda x, _: make(np.hstack([x, x[:, :2]]))[:, : x.shape[1]],
    "view by mask": lambda x, _: make(sp.csc_matrix(np.repeat(x, 2, axis=0)))[::2],
    "backed csr": lambda x, folder: backed(make(sp.csr_matrix(x)), folder),
    "backed csc": lambda x, folder: backed(make(sp.csc_matrix(x)), folder),
    "backed dense": lambda x, folder: backed(make(x.copy()), folder),
    "backed uint16": lambda x, folder: backed(make(sp.csr_matrix(x.astype("u2"))), folder),
    "backed view": lambda x, folder: backed(make(sp.csr_matrix(np.vstack([x, x]))), folder)[
        : len(x)
    ],
    "backed dense view": lambda x, folder: backed(make(np.vstack([x, x])), folder)[: len(x)],
}


def half(dense):
    matrix = sp.csc_matrix(dense)
    parts = (matrix.data.astype(np.float16), matrix.indices, matrix.indptr)
    return sp.csc_matrix(parts, shape=dense.shape)


def long_indices(dense):
    matrix = sp.csr_matrix(dense)
    matrix.indices, matrix.indptr = matrix.indices.astype("i8"), matrix.indptr.astype("i8")
    return matrix


def spoiled(value, row=4, column=2, n_cells=23):
    x = np.resize(DENSE, (n_cells, 7)).astype(np.float64)
    x[row, column] = value
    return x
