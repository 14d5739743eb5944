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
    that), since each block of rows would otherwise read all of it. A dask array becomes
    `ChunkedRows`. Everything else stays as it is.

    Raises
    ------
    CountsError
        It is no matrix, or a dask array that cannot be read chunk by chunk.
    """
    if is_dask_array(matrix):
        return ChunkedRows(matrix, where)
    if isinstance(matrix, ad.abc.CSRDataset):
        return matrix
    if isinstance(matrix, ad.abc.CSCDataset):
        matrix = matrix.to_memory()
    if sp.issparse(matrix):
        return sp.csr_matrix(matrix)  # CSR and its views: the same arrays, never written to
    if not all(hasattr(matrix, name) for name in ("shape", "dtype", "__getitem__")):
        message = f"{where} is a {_type_name(matrix)}; expected a sparse matrix or an array"
        raise CountsError(message)
    if isinstance(matrix, np.ma.MaskedArray) and np.ma.is_masked(matrix):
        message = f"{where} is a masked array, and what is masked has no count; fill it in, or 0"
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
    if isinstance(matrix, ChunkedRows):
        return matrix.span(start, stop)
    return _in_memory(matrix[start:stop], where)


def peek_span(matrix: Any, start: int, stop: int, where: str) -> Block:
    """Read a few rows as `read_span` does, without keeping the chunk that they lie in."""
    if isinstance(matrix, ChunkedRows):
        return matrix.peek(start, stop)
    return read_span(matrix, start, stop, where)


def read_rows(matrix: Any, rows: np.ndarray, where: str) -> Block:
    """Read any rows in any order, also repeated; storage is read once, in rising order."""
    if isinstance(matrix, (np.ndarray, sp.csr_matrix)):
        return matrix[rows]
    rising, order = np.unique(rows, return_inverse=True)
    chunked = isinstance(matrix, ChunkedRows)
    block = matrix.take(rising) if chunked else _in_memory(matrix[rising], where)
    return block[order]


class ChunkedRows:
    """A dask array whose chunks are whole rows, read in order with each chunk computed once.

    Holds the chunk that was computed last, and no other.

    Attributes
    ----------
    array
        The dask array.
    first_C
        Row that each of the C chunks begins with, and behind them the number of rows.

    Raises
    ------
    CountsError
        The array is no matrix, is chunked across genes, or does not know how long its chunks are.
    """

    def __init__(self, array: Any, where: str) -> None:
        if fault := _chunk_fault(array, where):
            raise CountsError(fault)
        self.array = array
        self.first_C = np.concatenate([[0], np.cumsum(array.chunks[0], dtype=np.int64)])
        #: Whether the rows lie in the memory of this process, so that no other can read them.
        self.here = _lies_here(array)
        self._where = where
        self._last: tuple[int, Block] = (-1, np.zeros((0, array.shape[1])))

    def span(self, start: int, stop: int) -> Block:
        """Read the rows ``start`` to ``stop``; a copy."""
        if start >= stop:
            return self.peek(start, stop)
        first = int(np.searchsorted(self.first_C, start, side="right")) - 1
        last = int(np.searchsorted(self.first_C, stop, side="left")) - 1
        parts = []
        for c in range(first, last + 1):
            begin, end = self.first_C[c : c + 2]
            if begin < end:
                parts.append(self._chunk(c)[max(start - begin, 0) : stop - begin])
        return stack_rows(parts)

    def _chunk(self, c: int) -> Block:
        number, block = self._last
        if number != c:
            block = self._computed(self.array.blocks[c])
            self._last = (c, block)
        return block

    def peek(self, start: int, stop: int) -> Block:
        """Read a few rows without keeping the chunk that they lie in."""
        return self._computed(self.array[start:stop])

    def take(self, rows: np.ndarray) -> Block:
        """Read rows in rising order."""
        return self._computed(self.array[rows])

    def _computed(self, lazy: Any) -> Block:
        """Compute here what lies here: on a cluster, all of the matrix would be sent for it."""
        if self.here:
            return _in_memory(lazy.compute(scheduler="synchronous"), self._where)
        return _in_memory(lazy, self._where)


def stack_rows(blocks: list[Block]) -> Block:
    """Put blocks of rows together; a copy, also of a single one."""
    if len(blocks) == 1:
        return blocks[0].copy()
    if all(isinstance(block, np.ndarray) for block in blocks):
        return np.concatenate(blocks)
    return sp.csr_matrix(sp.vstack([sp.csr_matrix(block) for block in blocks], format="csr"))


def is_dask_array(matrix: object) -> bool:
    """Tell a dask array without importing dask, which is not always there."""
    return type(matrix).__module__.split(".")[0] == "dask" and hasattr(matrix, "chunks")


def _lies_here(array: Any) -> bool:
    """Tell whether the graph of the first chunk holds a matrix, and not where to read one."""
    from dask.core import flatten

    if not all(array.numblocks):
        return False
    chunk = array.blocks[0]
    graph = dict(chunk.__dask_graph__().cull(set(flatten(chunk.__dask_keys__()))))
    values = [getattr(node, "value", node) for node in graph.values()]
    return any(
        sp.issparse(value) or (isinstance(value, np.ndarray) and value.ndim == 2)
        for value in values
    )


def _chunk_fault(array: Any, where: str) -> str:
    """Say why a dask array cannot be read chunk by chunk, "" if it can."""
    place = f"adata.{where}"
    if array.ndim != 2:
        return f"{where} is a dask array of {array.ndim} dimensions; expected cells x genes"
    if any(np.isnan(n) for lengths in array.chunks for n in lengths):
        return (
            f"{where} is a dask array that does not know how long its chunks are, so no row can be "
            f"found in it; compute them once: {place}.compute_chunk_sizes()"
        )
    if len(array.chunks[1]) > 1:
        return (
            f"{where} is a dask array chunked across genes ({len(array.chunks[1])} chunks a row); "
            f"a cell is read whole: {place} = {place}.rechunk({{1: -1}})"
        )
    return ""


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
