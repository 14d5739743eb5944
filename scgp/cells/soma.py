"""Cells of a TileDB-SOMA experiment, as the CELLxGENE Census is; the one user of tiledbsoma.

Owns the opening of an experiment, the choice of its cells, columns and matrix, and the reading of
rows of counts. What is a count, it leaves to `counts`; what is a gene, to `genes`.

Shape suffixes: N cells chosen, B cells asked for, V columns of the matrix, E stored entries.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from scgp.cells.counts import CountMatrix, check_probe, holds_counts
from scgp.errors import ArgumentError, CountsError, GeneError, MissingColumnError

logger = logging.getLogger(__name__)

#: What a path or an address begins with that is read as a SOMA experiment.
SCHEME = "soma://"
#: Rows of a tile of the Census and of tiledbsoma's default: one row read is a tile read.
TILE_ROWS = 2048
#: Columns of ``var`` that name genes, the first that is there: the Census' and AnnData's, then what
#: an index with a name is called.
_GENE_COLUMNS = ("feature_id", "var_id", "feature_name", "symbol", "ensembl_id", "gene_id")
#: tiledbsoma's own are 1 GB for a column and 10 GB for tiles; these bound what a read takes beside
#: its result, and are no slower.
_CONFIG: Mapping[str, str | float] = {
    "soma.init_buffer_bytes": 2**25,
    "sm.mem.total_budget": 2**29,
}
#: Join ids that a table of places may span: 64 MB.
_MOST_PLACES = 2**24
_JOINID = "soma_joinid"


@dataclass(frozen=True)
class SomaSource:
    """Cells of a SOMA experiment on a disk or in a bucket, read as needed.

    Parameters
    ----------
    uri
        Folder or address of the experiment; ``soma://`` before it may stand or not.
    measurement
        Which measurement: ``ms[measurement]``.
    layer
        Which matrix of it holds raw counts: ``X[layer]``.
    obs_query
        Take the cells for which this holds, in the words of SOMA: ``"is_primary_data == True and
        tissue_general == 'blood'"``. None takes all.
    by_tiles
        Training draws the cells of a round of steps from some tiles of `TILE_ROWS` rows, which are
        drawn for the round, and not each cell from anywhere: much less is read for one step, and
        cells of one round are more alike (`scgp.cells.sampling.TILES`).
    config
        Settings of TileDB, such as ``{"vfs.s3.region": "us-west-2"}``.

    Examples
    --------
    >>> SomaSource("soma://atlas.soma", obs_query="tissue_general == 'blood'").address
    'atlas.soma'
    """

    uri: str | Path
    measurement: str = "RNA"
    layer: str = "raw"
    obs_query: str | None = None
    by_tiles: bool = False
    config: Mapping[str, str | float] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """What tiledbsoma opens."""
        return str(self.uri).removeprefix(SCHEME)

    @property
    def name(self) -> str:
        """The last part of the address, without an ending."""
        return Path(self.address.rstrip("/")).stem


def is_soma(source: object) -> bool:
    """Tell whether a source of cells is a SOMA experiment, or the address of one."""
    return isinstance(source, SomaSource) or (isinstance(source, str) and source.startswith(SCHEME))


class SomaCells:
    """The chosen cells of an experiment: their ``obs``, and counts in rising ``soma_joinid``.

    Parameters
    ----------
    source
        The experiment, or its address after ``soma://``.

    Attributes
    ----------
    n_obs
        Number of cells, N.
    obs
        ``obs[key]`` reads one column as a Series; ``key in obs`` and ``obs.columns`` ask for none.
    joinid_N
        ``soma_joinid`` of each cell, rising.

    Raises
    ------
    ArgumentError
        tiledbsoma is not installed; there is no experiment, measurement or layer of this name; or
        the query cannot be read.
    """

    def __init__(self, source: SomaSource | str) -> None:
        self.source = SomaSource(source) if isinstance(source, str) else source
        self._experiment = _open(self.source)
        self._measurement = _member(
            self._experiment.ms, self.source.measurement, "measurement", self.source
        )
        self._layers = self._measurement.get("X", {})
        _member(self._layers, self.source.layer, "layer", self.source)
        self.obs = SomaColumns(self._experiment.obs, self.source.obs_query)
        self.joinid_N = self.obs.joinid_N
        self.n_obs = len(self.joinid_N)

    def counts(self) -> CountMatrix:
        """Return the counts, with their first, middle and last rows checked.

        Raises
        ------
        CountsError
            The layer holds no counts; the message names one that does.
        GeneError
            ``var`` has no column that names genes.
        """
        layer = self.source.layer
        if not _is_sparse(self._layers[layer]):
            msg = f"X[{layer!r}] of {self.source.address!r} is dense; expected a sparse array"
            raise CountsError(msg)
        counts = self._matrix(layer, self._genes())
        check_probe(counts)
        return counts

    def identity(self) -> bytes:
        """Digest of where the counts lie and which cells are taken: the counts are not read."""
        matrix = self._layers[self.source.layer]
        text = f"{self.source.address}\t{self.source.measurement}\t{self.source.layer}"
        size = f"\t{matrix.shape}\t{matrix.nnz}\t{matrix.schema}"
        return hashlib.sha256((text + size).encode() + self.joinid_N.tobytes()).digest()

    def close(self) -> None:
        """Close the experiment."""
        if not self._experiment.closed:
            self._experiment.close()

    def _genes(self) -> pd.DataFrame:
        var = self._measurement.var.read().concat().to_pandas().sort_values(_JOINID)
        found = [name for name in _GENE_COLUMNS if name in var]
        if not found:
            msg = (
                f"var of ms[{self.source.measurement!r}] in {self.source.address!r} has none of "
                f"the columns {', '.join(_GENE_COLUMNS)} that name genes; it has "
                f"{', '.join(map(str, var.columns))}"
            )
            raise GeneError(msg)
        return var.set_index(found[0])

    def _matrix(self, layer: str, var: pd.DataFrame) -> CountMatrix:
        where = f"ms[{self.source.measurement!r}].X[{layer!r}]"
        matrix = SomaMatrix(self._layers[layer], self.joinid_N, len(var))
        names = pd.Index(self.joinid_N)

        def advice() -> str:
            held = [
                f"X[{other!r}] does hold counts: pass SomaSource(layer={other!r})"
                for other in self._layers
                if other != layer
                and _is_sparse(self._layers[other])
                and holds_counts(self._matrix(other, var))
            ]
            others = ", ".join(repr(name) for name in self._layers if name != layer) or "no other"
            return f". {'; '.join(held)}" if held else f". No counts elsewhere either ({others})"

        return CountMatrix(matrix, var=var, obs_names=names, where=where, advice=advice)


class SomaColumns:
    """Columns of ``obs`` for the cells of a query, each read when it is asked for."""

    def __init__(self, table: Any, query: str | None) -> None:
        self._table = table
        self._query = query
        self.columns = list(table.schema.names)
        joinids = self._read([_JOINID])[_JOINID].to_numpy()
        self._order_N = None if np.all(joinids[1:] > joinids[:-1]) else np.argsort(joinids)
        self.joinid_N = joinids if self._order_N is None else joinids[self._order_N]

    def __contains__(self, key: str) -> bool:
        return key in self.columns

    def __getitem__(self, key: str) -> pd.Series:
        """Read one column, as a categorical where it is text."""
        if key not in self.columns:
            msg = f"obs has no column {key!r}; its columns: {', '.join(self.columns)}"
            raise MissingColumnError(msg)
        column = self._read([key])[key]
        if str(column.type) in {"string", "large_string"}:
            column = column.dictionary_encode()
        series = column.to_pandas()
        return series if self._order_N is None else series.iloc[self._order_N]

    def _read(self, names: list[str]) -> Any:
        tiledbsoma = _library()
        try:
            return self._table.read(column_names=names, value_filter=self._query).concat()
        except tiledbsoma.SOMAError as error:
            msg = (
                f"obs_query {self._query!r} cannot be read: {str(error).splitlines()[0]}. Expected "
                "words such as \"tissue_general == 'blood' and is_primary_data == True\"; "
                f"the columns of obs: {', '.join(self.columns)}"
            )
            raise ArgumentError(msg) from error


class SomaMatrix:
    """Rows of a sparse matrix of an experiment, as CSR in the stored type.

    Parameters
    ----------
    array
        The open array.
    joinid_N
        Which rows, rising.
    n_columns
        Number of columns, V.
    """

    def __init__(self, array: Any, joinid_N: np.ndarray, n_columns: int) -> None:
        self._array = array
        self._joinid_N = joinid_N
        self.shape = (len(joinid_N), n_columns)
        self.dtype = np.dtype(array.schema.field("soma_data").type.to_pandas_dtype())

    def __getitem__(self, rows: slice | np.ndarray) -> sp.csr_matrix:
        """Read rows, which rise."""
        joinid_B = self._joinid_N[rows]
        n_rows = len(joinid_B)
        if n_rows == 0:
            return sp.csr_matrix((0, self.shape[1]), dtype=self.dtype)
        row_of = _row_of(joinid_B)
        whole = int(joinid_B[-1] - joinid_B[0]) + 1 == n_rows
        coordinates = slice(int(joinid_B[0]), int(joinid_B[-1])) if whole else joinid_B
        parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for table in self._array.read((coordinates, slice(None))).tables():
            row_E = row_of(table["soma_dim_0"].to_numpy())
            column_E = table["soma_dim_1"].to_numpy().astype(np.int32)
            parts.append((row_E, column_E, table["soma_data"].to_numpy()))
        empty = np.zeros(0, np.int32)
        row_E, column_E, value_E = (
            np.concatenate(part)
            for part in zip(*parts or [(empty, empty, empty.astype(self.dtype))], strict=True)
        )
        shape = (n_rows, self.shape[1])
        return sp.csr_matrix((value_E.astype(self.dtype), (row_E, column_E)), shape=shape)


def _row_of(joinid_B: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return what finds the places of join ids among these: by a table, where it is small."""
    first, last = int(joinid_B[0]), int(joinid_B[-1])
    if last - first > _MOST_PLACES:
        return lambda joinid_E: np.searchsorted(joinid_B, joinid_E).astype(np.int32)
    place = np.zeros(last - first + 1, np.int32)
    place[joinid_B - first] = np.arange(len(joinid_B), dtype=np.int32)
    return lambda joinid_E: place[joinid_E - first]


def _is_sparse(array: Any) -> bool:
    return array.soma_type == "SOMASparseNDArray"


def _library() -> Any:
    try:
        import tiledbsoma
    except ImportError as error:
        msg = (
            "reading a SOMA experiment needs tiledbsoma, which is not installed; "
            "python -m pip install '.[census]' in a clone of scgp"
        )
        raise ArgumentError(msg) from error
    return tiledbsoma


def _open(source: SomaSource) -> Any:
    tiledbsoma = _library()
    context = tiledbsoma.SOMATileDBContext(tiledb_config={**_CONFIG, **source.config})
    try:
        return tiledbsoma.Experiment.open(source.address, context=context)
    except tiledbsoma.DoesNotExistError as error:
        msg = (
            f"there is no SOMA experiment at {source.address!r}; expected the folder or address of "
            "one, as tiledbsoma.io.from_anndata or the Census has it"
        )
        raise ArgumentError(msg) from error
    except tiledbsoma.SOMAError as error:
        msg = (
            f"{source.address!r} cannot be opened as a SOMA experiment: {error}. In the Census the "
            "experiment is <uri>/census_data/homo_sapiens"
        )
        raise ArgumentError(msg) from error


def _member(collection: Any, name: str, kind: str, source: SomaSource) -> Any:
    if name not in collection:
        there = ", ".join(map(repr, collection)) or "none"
        msg = (
            f"{source.address!r} has no {kind} {name!r}; there: {there}. Pass "
            f"SomaSource({kind}=...)"
        )
        raise ArgumentError(msg)
    return collection[name]
