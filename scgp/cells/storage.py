"""Rows of a matrix, whatever it is stored in.

Owns the differences between containers: CSR, CSC, dense, ``np.matrix``, views, on disk, dask. Gives
rows in the stored dtype and never changes, or hands out, the user's arrays. Knows nothing of
AnnData or of what the values mean.
"""

from typing import Any, TypeAlias

import anndata as ad
import numpy as np
import scipy.sparse as sp

from scgp.errors import CountsError

Block: TypeAlias = np.ndarray | sp.csr_matrix


def row_readable(matrix: Any, where: str) -> Any:
    """Return the matrix in a form that gives rows quickly.

    A CSC matrix is turned into CSR once (as large as itself; on disk it is read into memory for
    that), since each block of rows would otherwise read all of it. Everything else stays as it is.
    """
    if isinstance(matrix, ad.abc.CSRDataset):
        return matrix
    if isinstance(matrix, ad.abc.CSCDataset):
        matrix = matrix.to_memory()
    if sp.issparse(matrix):
        return sp.csr_matrix(matrix)  # CSR and its views: the same arrays, never written to
    if not all(hasattr(matrix, name) for name in ("shape", "dtype", "__getitem__")):
        message = f"{where} is a {_type_name(matrix)}; expected a sparse matrix or an array"
        raise CountsError(message)
    return np.asarray(matrix) if isinstance(matrix, np.ndarray) else matrix


def read_span(matrix: Any, start: int, stop: int, where: str) -> Block:
    """Read rows ``start`` to ``stop`` of what :func:`row_readable` returned; a copy if sparse."""
    if isinstance(matrix, sp.csr_matrix):
        first, last = int(matrix.indptr[start]), int(matrix.indptr[stop])
        parts = (
            matrix.data[first:last].copy(),
            matrix.indices[first:last].copy(),
            matrix.indptr[start : stop + 1] - matrix.indptr[start],
        )
        return sp.csr_matrix(parts, shape=(stop - start, matrix.shape[1]))
    return _in_memory(matrix[start:stop], where)


def read_rows(matrix: Any, rows: np.ndarray, where: str) -> Block:
    """Read any rows in any order, also repeated; storage is read once, in rising order."""
    if isinstance(matrix, (np.ndarray, sp.csr_matrix)):
        return matrix[rows]
    rising, order = np.unique(rows, return_inverse=True)
    block = _in_memory(matrix[rising], where)
    return block[order]


def _in_memory(block: Any, where: str) -> Block:
    if hasattr(block, "compute"):  # dask
        block = block.compute()
    if sp.issparse(block):
        return sp.csr_matrix(block)
    if isinstance(block, np.ndarray):
        return np.asarray(block)
    message = (
        f"{where} gives its rows as {_type_name(block)}; expected numpy or scipy.sparse. "
        "Move it to the CPU first, for example adata.X = adata.X.get() for cupy"
    )
    raise CountsError(message)


def _type_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
