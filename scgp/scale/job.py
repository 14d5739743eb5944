"""A job on a worker of a cluster: what is sent to it once, and what it does with rows.

Owns the worker's side: opening model and index there, once a process, and refusing those that are
not the client's. Knows neither AnnData nor how blocks are given out (`workers`).

Shape suffixes: B cells of a block, V columns of the counts, N nonzero counts.
"""

import contextlib
import functools
import hashlib
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

import scgp
from scgp.cells.counts import CountMatrix
from scgp.cells.storage import stack_rows
from scgp.device import resolve_device
from scgp.embed import CHUNK, CellVectors, embed_rows, rows_at_once
from scgp.errors import ArgumentError, CheckpointError, DeviceError, FingerprintError
from scgp.labelling import Labelled, Labeller, joined, label_blocks
from scgp.model.checkpoint import DEFAULT_DIRECTORY, Model
from scgp.model.checkpoint import MANIFEST as MODEL_MANIFEST
from scgp.own import INDEX, own_index
from scgp.reference.candidates import Candidates
from scgp.reference.fusion import Fusion
from scgp.reference.index import MANIFEST as INDEX_MANIFEST
from scgp.reference.index import ReferenceIndex
from scgp.reference.saved import check_place


@dataclass(frozen=True)
class Place:
    """A saved model or index that every worker opens for itself.

    Attributes
    ----------
    path
        Its directory; None: that of the worker's own installation.
    digest
        sha256 of its manifest, which has the sha256 of every other file.
    memory_map
        Leave the vectors and lists of an index on disk, as ``ReferenceIndex.load`` does if asked.
    """

    path: str | None
    digest: str
    memory_map: bool = False

    @classmethod
    def of(cls, path: str | Path, manifest: str, *, own: bool = False) -> "Place":
        """Name a directory that this process has opened; `own`: each has it in its installation."""
        whole = Path(path).expanduser().resolve()
        return cls(None if own else str(whole), _digest(whole / manifest))


def place_of_model(path: str | Path | None) -> Place:
    """Name the model of a directory, or (None) the default checkpoint."""
    return Place.of(path or DEFAULT_DIRECTORY, MODEL_MANIFEST, own=path is None)


def place_of_index(path: str | Path | None, model_path: str | Path | None) -> Place:
    """Name the index of a directory, or (None) the one that the model of a directory has."""
    own = path is None and model_path is None
    return Place.of(path or Path(model_path or DEFAULT_DIRECTORY) / INDEX, INDEX_MANIFEST, own=own)


def place_of_mapped(index: ReferenceIndex) -> Place | None:
    """Name the directory that an index is mapped from; None: it can be sent.

    Raises
    ------
    CheckpointError
        The directory is no longer the one that was opened.
    ArgumentError
        The index was made of mapped ones, so that no directory holds it, and cannot be sent.
    """
    if index.opened is not None and index.store.is_mapped:
        path, checksum = index.opened
        check_place(path, checksum)
        place = replace(Place.of(path, INDEX_MANIFEST), memory_map=True)
        check_place(path, checksum)  # the digest is of the directory checked
        return place
    if index.store.has_mapped_lists:
        msg = (
            "the index was made of one opened with memory_map=True (add, remove or merge), and its "
            "lists, which are in a file, cannot be sent to workers. Save it where all workers see "
            "it, and pass the path as index="
        )
        raise ArgumentError(msg)
    return None


@dataclass(frozen=True, eq=False)
class Job:
    """What a worker must know before the first row comes; sent to it once.

    Attributes
    ----------
    version
        The client's version of scgp.
    model, index
        The objects, or where a worker finds them. Without an index cells are embedded, no more.
    calibration
        What the index is to answer with.
    candidates, set_mass
        As in `scgp.labelling.Labeller`.
    token_of_column
        Gene of the model of each column (V int32).
    where
        Name of the matrix, for errors.
    batch_size, device
        As `scgp.annotate` has them.
    """

    version: str
    model: Model | Place
    token_of_column: np.ndarray
    where: str
    batch_size: int
    device: str | None
    index: ReferenceIndex | Place | None = None
    calibration: Fusion | None = None
    candidates: Candidates | None = None
    set_mass: float | None = None


@dataclass(frozen=True)
class PackedRows:
    """Canonical counts in half the bytes of float32 CSR, where they are small enough for that.

    Attributes
    ----------
    value_N, column_N
        Counts and columns; uint16 where they fit.
    start_B
        Where each row starts, and behind them N.
    n_columns
        V.
    """

    value_N: np.ndarray
    column_N: np.ndarray
    start_B: np.ndarray
    n_columns: int

    @classmethod
    def pack(cls, counts: sp.csr_matrix) -> "PackedRows":
        """Pack counts, which are whole and not negative."""
        most, small = np.iinfo(np.uint16).max, np.uint16
        fits = counts.nnz == 0 or counts.data.max() <= most
        return cls(
            counts.data.astype(small) if fits else counts.data,
            counts.indices.astype(small) if counts.shape[1] <= most else counts.indices,
            counts.indptr,
            counts.shape[1],
        )

    def unpack(self) -> sp.csr_matrix:
        """Return the counts as they were packed: float32."""
        parts = (self.value_N.astype(np.float32), self.column_N.astype(np.int32), self.start_B)
        return sp.csr_matrix(parts, shape=(len(self.start_B) - 1, self.n_columns))


def work(job: Job, *blocks: Any) -> Labelled | CellVectors:
    """Label, or embed, the rows of blocks that follow each other.

    Returns
    -------
    The answers without the vectors of the type slot, which no verb writes: ``type_BE`` has no
    columns.

    Raises
    ------
    FingerprintError
        This worker has another scgp, or another model or index in the place named.
    CheckpointError
        It has none there.
    DeviceError
        It has no such device.
    CountsError
        A value is no count. Cells and genes are named by number: their names are not sent.
    """
    ready = _ready(job)
    device = _device(job.device)
    counts = _counts(blocks, job.where)
    with _alone(device):
        if isinstance(ready, Labeller):
            parts = [
                part
                for _, part in label_blocks(
                    ready, counts.rows, counts.n_cells, job.token_of_column,
                    batch_size=job.batch_size, device=device,
                )
            ]  # fmt: skip
            whole = joined(parts, ready)
            return replace(whole, vectors=_without_type(whole.vectors))
        size = rows_at_once(job.batch_size, CHUNK)
        rows = (counts.rows(first, first + size) for first in range(0, counts.n_cells, size))
        return _without_type(embed_rows(ready, rows, job.token_of_column, device=device))


def _without_type(vectors: CellVectors) -> CellVectors:
    return replace(vectors, type_BE=np.zeros((len(vectors.type_BE), 0), np.float32))


def _counts(blocks: tuple[Any, ...], where: str) -> CountMatrix:
    rows = [block.unpack() if isinstance(block, PackedRows) else block for block in blocks]
    matrix = rows[0] if len(rows) == 1 else stack_rows(rows)
    n_cells, n_genes = matrix.shape
    var = pd.DataFrame(index=pd.RangeIndex(n_genes))
    return CountMatrix(matrix, var=var, obs_names=pd.RangeIndex(n_cells), where=where, advice=str)


# ---- what a worker keeps ----

#: What each job needs, for as long as the worker holds the job.
_READY: weakref.WeakKeyDictionary[Job, Labeller | Model] = weakref.WeakKeyDictionary()
_OPENING = threading.RLock()
_ON_DEVICE = threading.Lock()


def _ready(job: Job) -> Labeller | Model:
    """Return what the job needs, made once a process; threads of a worker wait for each other."""
    with _OPENING:
        found = _READY.get(job)
        if found is None:
            found = _READY[job] = _made(job)
        return found


def _made(job: Job) -> Labeller | Model:
    if job.version != scgp.__version__:
        msg = (
            f"worker {_name()} has scgp {scgp.__version__}, the client has {job.version}: answers "
            "could differ. Install the client's version on all workers"
        )
        raise FingerprintError(msg)
    model = _opened(job.model, "model", DEFAULT_DIRECTORY, MODEL_MANIFEST, _load_model)
    if job.index is None:
        return model
    mapped = isinstance(job.index, Place) and job.index.memory_map
    index = _opened(
        job.index, "index", DEFAULT_DIRECTORY / INDEX, INDEX_MANIFEST,
        lambda path, digest: _load_index(path, digest, model.fingerprint, memory_map=mapped),
    )  # fmt: skip
    if job.calibration is not None:
        index = replace(index, calibration=job.calibration)
    return Labeller(model, index, job.candidates, job.set_mass)


def _opened(
    given: Any, what: str, own: Path, manifest: str, load: Callable[[Path, str], Any]
) -> Any:
    """Return a model or index: the one sent, or the one of a place, if it is the client's."""
    if not isinstance(given, Place):
        return given
    path = own if given.path is None else Path(given.path)
    try:
        found = _digest(path / manifest)
    except OSError as error:
        msg = (
            f"worker {_name()} cannot open the {what} {path}: {error}. Put it where all workers "
            f"see it under this path (a shared file system), or pass the loaded {what} (not with "
            "memory_map=True), which is then sent to them"
        )
        raise CheckpointError(msg) from error
    if found != given.digest:
        msg = (
            f"worker {_name()} (scgp {scgp.__version__}) has in {path} the {what} with the "
            f"manifest {found[:12]}, the client asks for {given.digest[:12]}: answers could "
            "differ. Put the same one on all workers"
        )
        raise FingerprintError(msg)
    return load(path, found)


@functools.lru_cache(maxsize=2)
def _load_model(path: Path, _digest: str) -> Model:
    return Model.default() if path == DEFAULT_DIRECTORY else Model.load(path)


@functools.lru_cache(maxsize=2)
def _load_index(path: Path, _digest: str, fingerprint: str, *, memory_map: bool) -> ReferenceIndex:
    own_path = not memory_map and path == DEFAULT_DIRECTORY / INDEX
    if own_path and Model.default().fingerprint == fingerprint:
        own = own_index(Model.default())
        if own is not None:
            return own
    return ReferenceIndex.load(path, model_fingerprint=fingerprint, memory_map=memory_map)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _device(device: str | None) -> torch.device:
    try:
        return resolve_device(device)
    except DeviceError as error:
        msg = f"worker {_name()}: {error}"
        raise DeviceError(msg) from error


@contextlib.contextmanager
def _alone(device: torch.device) -> Iterator[None]:
    """Let one task at a time lend the network to a GPU: the first to end would take it back."""
    with contextlib.nullcontext() if device.type == "cpu" else _ON_DEVICE:
        yield


def _name() -> str:
    from distributed import get_worker

    try:
        return str(get_worker().address)
    except ValueError:  # called outside a worker
        return "of this process"
