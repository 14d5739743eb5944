"""The count matrix of an AnnData: choosing it, checking it, reading it in blocks of rows.

Owns the question "where are the raw counts?". Never changes the user's object, never makes a whole
matrix dense, and never takes another matrix than the one asked for, with one exception that is
logged: the CELLxGENE schema, which says where counts are. Knows nothing of genes as tokens.
"""

import logging
from collections.abc import Callable
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from scgp.cells.storage import ChunkedRows, peek_span, read_rows, read_span, row_readable
from scgp.errors import ArgumentError, CountsError

logger = logging.getLogger(__name__)

RAW = "raw.X"

# log2 of a million is 19.9: every usual log-normalisation stays below.
LARGEST_LOG = 20.0

# Rows looked at when a matrix is chosen, in each of three places: enough to tell counts from
# anything else. The check of record is the one of every block when it is read.
PROBE_ROWS = 256


class CountMatrix:
    """Raw counts of cells by genes, read in blocks of rows; made by :func:`choose_counts`.

    Attributes
    ----------
    n_cells
        Number of rows.
    var_names, var
        Names and table of the columns: of ``adata.var``, or of ``adata.raw.var``.
    where
        ``"X"``, ``"raw.X"`` or ``"layers['name']"``.
    """

    def __init__(
        self,
        matrix: Any,
        *,
        var: pd.DataFrame,
        obs_names: pd.Index,
        where: str,
        advice: Callable[[], str],
    ) -> None:
        self._matrix = row_readable(matrix, where)
        self._obs_names = obs_names
        self._advice = advice
        self.n_cells = len(obs_names)
        self.var = var
        self.var_names = var.index
        self.where = where

    def __repr__(self) -> str:
        return f"CountMatrix({self.where}: {self.n_cells} cells x {len(self.var_names)} genes)"

    def rows(self, start: int, stop: int) -> sp.csr_matrix:
        """Read the rows ``start`` to ``stop``, with the meaning of a slice.

        Returns
        -------
        float32, canonical: indices sorted, repeated entries summed, no explicit zeros. A copy.

        Raises
        ------
        CountsError
            If a value is no count: negative, not whole, NaN or infinite.
        """
        start, stop, _ = slice(start, stop).indices(self.n_cells)
        stop = max(start, stop)
        block = read_span(self._matrix, start, stop, self.where)
        return self._checked(block, np.arange(start, stop))

    def peek(self, start: int, stop: int) -> sp.csr_matrix:
        """Read a few rows as `rows` does, out of their turn: what is kept for `rows` stays."""
        start, stop, _ = slice(start, stop).indices(self.n_cells)
        stop = max(start, stop)
        block = peek_span(self._matrix, start, stop, self.where)
        return self._checked(block, np.arange(start, stop))

    @property
    def chunked(self) -> ChunkedRows | None:
        """The rows as chunks of a dask array; None where they are stored otherwise."""
        return self._matrix if isinstance(self._matrix, ChunkedRows) else None

    def take(self, row_indices: np.ndarray) -> sp.csr_matrix:
        """Read any rows in the order of the argument; otherwise like :meth:`rows`.

        Storage on disk is read in rising order, so rows far apart cost little more than near ones.

        Raises
        ------
        ArgumentError
            If an index is no whole number of 0 to ``n_cells - 1``.
        CountsError
            If a value is no count.
        """
        rows = np.asarray(row_indices)
        if rows.size == 0:
            return self.rows(0, 0)
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            message = (
                f"row indices must be a list of whole numbers; found {rows.dtype} {rows.shape}"
            )
            raise ArgumentError(message)
        if rows.min() < 0 or rows.max() >= self.n_cells:
            message = (
                f"row indices run from {rows.min()} to {rows.max()}; "
                f"expected 0 to {self.n_cells - 1}"
            )
            raise ArgumentError(message)
        rows = rows.astype(np.int64)
        return self._checked(read_rows(self._matrix, rows, self.where), rows)

    def _checked(self, block: Any, rows: np.ndarray) -> sp.csr_matrix:
        """Check a block that is ours to change and return it canonical."""
        fault = self._fault(block, rows)
        if fault:
            message = f"{self.where} does not hold raw counts: {fault}{self._advice()}"
            raise CountsError(message)
        # Sums of uint16 overflow, so the cast comes before anything is added.
        counts = sp.csr_matrix(block.astype(np.float32, copy=False))
        counts.sum_duplicates()
        counts.eliminate_zeros()
        return counts

    def _fault(self, block: Any, rows: np.ndarray) -> str:
        """Say what keeps a block from being counts, "" if nothing does."""
        values = block.data if sp.issparse(block) else block
        if values.dtype.kind not in "iuf":
            return f"its values are of type {values.dtype}"
        if sp.issparse(block):
            columns = block.indices
            if columns.size and (columns.min() < 0 or columns.max() >= block.shape[1]):
                return f"it names column {columns.max()} and has {block.shape[1]}; it is damaged"
        if is_counts(values):
            return ""
        row, column, value = _first_bad(block)
        cell, gene = self._obs_names[rows[row]], self.var_names[column]
        return f"cell {str(cell)!r}, gene {str(gene)!r} is {value:.6g}; {_looks_like(values)}"


def choose_counts(
    adata: ad.AnnData, *, layer: str | None = None, use_raw: bool | None = None
) -> CountMatrix:
    """Choose the matrix that holds raw counts, and check its first, middle and last rows.

    Parameters
    ----------
    adata
        Cells, in memory, backed or a view. It is not changed.
    layer
        Take ``adata.layers[layer]``.
    use_raw
        True takes ``adata.raw.X``, False takes ``adata.X``. None (default) takes ``adata.X``, but
        ``adata.raw.X`` in the CELLxGENE layout (``uns`` names the schema, or ``var_names`` are
        Ensembl ids beside a column ``feature_name``) when X holds no counts and ``raw`` does, as
        the schema has it; this is logged, and ``where`` of the result says so.

    Raises
    ------
    ArgumentError
        If ``layer`` and ``use_raw`` are both given, the layer is missing, or there is no ``raw``.
    CountsError
        If the matrix holds no counts. The message says what it looks like, and names the matrix
        that does hold counts, with the argument that takes it.

    Examples
    --------
    >>> import anndata as ad, numpy as np
    >>> choose_counts(ad.AnnData(np.array([[0.0, 3.0], [1.0, 0.0]])))
    CountMatrix(X: 2 cells x 2 genes)
    """
    _check_arguments(adata, layer=layer, use_raw=use_raw)
    if layer is None and use_raw is None and _is_cellxgene(adata):
        in_raw = _held_counts(adata, RAW)
        if in_raw is not None and _held_counts(adata, "X") is None:
            logger.info("counts are taken from adata.raw.X: CELLxGENE layout, X holds no counts")
            return in_raw
    where = _layer(layer) if layer is not None else RAW if use_raw else "X"
    counts = _open(adata, where, advice=lambda: _advice(adata, where))
    check_probe(counts)
    return counts


def is_counts(values: np.ndarray) -> bool:
    """Tell whether all values are whole, finite and not negative."""
    if values.dtype.kind == "u" or values.size == 0:
        return values.dtype.kind in "iuf"
    if values.dtype.kind == "i":
        return bool(values.min() >= 0)
    if values.dtype.kind != "f":
        return False
    # NaN fails both comparisons; the largest value must also fit float32.
    low, high = values.min(), values.max()
    return bool(low >= 0 and high < np.finfo(np.float32).max and (values == np.rint(values)).all())


def _check_arguments(adata: ad.AnnData, *, layer: str | None, use_raw: bool | None) -> None:
    if layer is not None and use_raw:
        message = f"layer={layer!r} and use_raw=True name two matrices; pass one of them"
        raise ArgumentError(message)
    if layer is not None and layer not in adata.layers:
        there = ", ".join(map(repr, adata.layers)) or "none"
        message = f"there is no layer {layer!r}; layers in this AnnData: {there}"
        raise ArgumentError(message)
    if use_raw and adata.raw is None:
        message = "use_raw=True, but adata.raw is None; leave use_raw out to take adata.X"
        raise ArgumentError(message)


def _is_cellxgene(adata: ad.AnnData) -> bool:
    if adata.raw is None:
        return False
    if "schema_version" in adata.uns or "schema_reference" in adata.uns:
        return True
    names = adata.var_names[:PROBE_ROWS].astype(str)
    return "feature_name" in adata.var and bool(names.str.startswith("ENS").all())


def _layer(name: str) -> str:
    return f"layers[{name!r}]"


def _open(adata: ad.AnnData, where: str, *, advice: Callable[[], str]) -> CountMatrix:
    if where == RAW:
        matrix, var = adata.raw.X, adata.raw.var
    elif where == "X":
        matrix, var = adata.X, adata.var
    else:
        matrix = next(adata.layers[name] for name in adata.layers if _layer(name) == where)
        var = adata.var
    if matrix is None:
        message = f"adata.{where} is None: there are no counts in it{advice()}"
        raise CountsError(message)
    if hasattr(var, "to_memory"):  # the table of a lazily read AnnData
        var = var.to_memory()
    return CountMatrix(matrix, var=var, obs_names=adata.obs_names, where=where, advice=advice)


def holds_counts(counts: CountMatrix) -> bool:
    """Tell whether the first, middle and last rows are counts, and not all zero."""
    try:
        return check_probe(counts) > 0
    except CountsError:
        return False


def check_probe(counts: CountMatrix) -> int:
    """Check the first, middle and last rows; return the number of values that are not zero.

    Raises
    ------
    CountsError
        A value of them is no count.
    """
    last = max(counts.n_cells - PROBE_ROWS, 0)
    starts = sorted({0, last // 2, last})
    return sum(counts.peek(start, start + PROBE_ROWS).nnz for start in starts)


def _held_counts(adata: ad.AnnData, where: str) -> CountMatrix | None:
    """Open the matrix if its probed rows are counts, and not all zero."""
    try:
        counts = _open(adata, where, advice=str)
    except CountsError:
        return None
    return counts if holds_counts(counts) else None


def _advice(adata: ad.AnnData, where: str) -> str:
    """Name the matrices that do hold counts, with the argument that takes each."""
    places = {"X": "use_raw=False"} | ({RAW: "use_raw=True"} if adata.raw is not None else {})
    places |= {_layer(name): f"layer={name!r}" for name in adata.layers}
    found = [
        f"adata.{place} does hold counts: pass {argument}"
        for place, argument in places.items()
        if place != where and _held_counts(adata, place) is not None
    ]
    looked = ", ".join(place for place in places if place != where) or "no other matrix is there"
    if found:
        return f". {'; '.join(found)}"
    return (
        f". No counts elsewhere either ({looked}): read them from the file as it came from the "
        "aligner, before normalisation, scaling or removal of ambient RNA"
    )


def _first_bad(block: Any) -> tuple[int, int, float]:
    """Row, column and value of the first value, in reading order, that is no count."""
    values = block.data if sp.issparse(block) else block.ravel()
    with np.errstate(invalid="ignore"):
        bad = ~np.isfinite(values) | (values < 0) | (values != np.rint(values))
    bad |= np.abs(values) >= np.finfo(np.float32).max
    place = int(np.argmax(bad))
    if sp.issparse(block):
        row = int(np.searchsorted(block.indptr, place, side="right")) - 1
        return row, int(block.indices[place]), float(values[place])
    row, column = divmod(place, block.shape[1])
    return row, column, float(values[place])


def _looks_like(values: np.ndarray) -> str:
    if np.isnan(values).any():
        return "values are missing (NaN)"
    if np.isinf(values).any():
        return "values are infinite"
    if values.min() < 0:
        return "values below zero: it looks scaled or centred"
    if values.max() < LARGEST_LOG:
        return f"no value is above {values.max():.3g}: it looks log-normalised"
    return "values are not whole: it looks normalised (CPM, TPM) or corrected for background"
