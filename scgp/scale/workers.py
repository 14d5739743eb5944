"""Rows of a dask array to the workers of a dask.distributed client, answers back in order.

Owns the client's side: which client, what goes out, how many blocks are under way, what becomes of
lost ones. Must not know what is done with rows (`job`).
"""

import dataclasses
import logging
import pydoc
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import scgp
from scgp.cells.counts import CountMatrix
from scgp.cells.storage import ChunkedRows
from scgp.embed import CellVectors, rows_at_once
from scgp.errors import ArgumentError, CountsError, FingerprintError
from scgp.labelling import Labelled, Labeller, joined
from scgp.model.checkpoint import Model
from scgp.progress import progress_bar
from scgp.reference.index import ReferenceIndex
from scgp.scale.job import (
    Job,
    PackedRows,
    Place,
    place_of_index,
    place_of_mapped,
    place_of_model,
    work,
)

logger = logging.getLogger(__name__)

#: Blocks under way for each thread of the cluster: one is computed, one waits, one may be late.
AHEAD = 3
#: How often a job is sent again when all workers that held it are gone.
RESENDS = 3

_HERE = ("dask.distributed", "distributed")


def active_client(counts: CountMatrix) -> Any:
    """Return the client whose workers are to read these counts; None: this process reads them.

    That is dask's default client, where the counts are a dask array and dask's own setting
    ``scheduler`` names no other.

    Raises
    ------
    ArgumentError
        The client is an asynchronous one.
    """
    if counts.chunked is None or "distributed" not in sys.modules:
        return None
    import dask
    from distributed import default_client

    if dask.config.get("scheduler", None) not in (None, *_HERE):
        return None
    try:
        client = default_client()
    except ValueError:  # there is none
        return None
    if client.asynchronous:
        msg = (
            "the dask client is asynchronous, and this call waits for its answer; call it with a "
            "client that is not, or in a thread"
        )
        raise ArgumentError(msg)
    return client


def label_on_workers(
    client: Any,
    counts: CountMatrix,
    token_of_column: np.ndarray,
    labeller: Labeller,
    *,
    given_model: Model | str | Path | None,
    given_index: ReferenceIndex | str | Path | None,
    batch_size: int,
    device: str | None,
    progress: bool,
) -> Labelled:
    """Label cells on the workers of a client.

    Parameters
    ----------
    client, counts
        As `active_client` has them.
    token_of_column
        Gene of the model of each column.
    labeller
        What labels them, as it is in this process.
    given_model, given_index
        What the user named: directories are opened by the workers, objects are sent to them. With
        None, and without a model either, they open what their own installation has. An index that
        is mapped from a directory is named by it, and mapped by them.
    batch_size, device, progress
        As `scgp.annotate` has them; `device` is looked for on the workers.

    Returns
    -------
    The answers, equal to those of this process; ``vectors.type_BE`` has no columns.
    """
    index_place = _index_place(given_index, given_model)
    job = Job(
        version=scgp.__version__, model=_model_place(given_model) or labeller.model,
        where=counts.where, token_of_column=token_of_column, batch_size=batch_size, device=device,
        index=index_place or dataclasses.replace(labeller.index),
        calibration=labeller.index.calibration, candidates=labeller.candidates,
        set_mass=labeller.set_mass,
    )  # fmt: skip
    parts: list[Labelled] = []
    with progress_bar(counts.n_cells, what="annotate", unit="cell", shown=progress) as advance:
        for part in on_workers(client, job, counts):
            parts.append(part)
            advance(part.n_cells)
    return joined(parts, labeller)


def embed_on_workers(
    client: Any,
    counts: CountMatrix,
    token_of_column: np.ndarray,
    model: Model,
    *,
    given_model: Model | str | Path | None,
    batch_size: int,
    device: str | None,
    progress: bool,
) -> CellVectors:
    """Embed cells on the workers of a client, as `label_on_workers` labels them."""
    job = Job(
        version=scgp.__version__, model=_model_place(given_model) or model, where=counts.where,
        token_of_column=token_of_column, batch_size=batch_size, device=device,
    )  # fmt: skip
    parts: list[CellVectors] = []
    with progress_bar(counts.n_cells, what="embed", unit="cell", shown=progress) as advance:
        for part in on_workers(client, job, counts):
            parts.append(part)
            advance(len(part.total_B))
    return CellVectors.join(parts, model.config.embed_dim)


def _model_place(model: Model | str | Path | None) -> Place | None:
    """Return where workers find the model that was named; None: it is sent."""
    if not isinstance(model, Model):
        return place_of_model(model)
    return place_of_model(None) if model is Model.default() else None


def _index_place(
    index: ReferenceIndex | str | Path | None, model: Model | str | Path | None
) -> Place | None:
    """Return where workers find the index that was named, or the model's own; None: it is sent."""
    if isinstance(index, ReferenceIndex):
        return place_of_mapped(index)
    if index is None and isinstance(model, Model):
        return place_of_index(None, None) if model is Model.default() else None
    return place_of_index(index, None if isinstance(model, Model) else model)


def on_workers(client: Any, job: Job, counts: CountMatrix) -> Iterator[Any]:
    """Yield what `work` makes of the rows, block by block, in order.

    A block is one chunk, or as many small ones as make `batch_size` rows. Workers read it from
    where it lies. Only where it lies in the memory of this process are rows read, checked and sent
    from here, `batch_size` at a time.

    Raises
    ------
    FingerprintError
        A worker has no scgp, or another version of it, or another model or index.
    CountsError
        As :meth:`scgp.cells.counts.CountMatrix.rows` raises it.
    """
    client.wait_for_workers(1)
    assert counts.chunked is not None
    size = rows_at_once(job.batch_size, 1)
    blocks = _sent(counts, size) if counts.chunked.here else _named(counts.chunked, size)
    yield from _Run(client, job, counts, blocks)


class _Run:
    """The blocks of one job under way; futures that nobody waits for any more are cancelled."""

    def __init__(self, client: Any, job: Job, counts: CountMatrix, blocks: list["_Block"]) -> None:
        self._client, self._job, self._counts = client, job, counts
        self._waiting = deque(blocks)
        self._under_way: deque[tuple[_Block, Any]] = deque()
        self._resends = 0
        self._checked: set[str] = set()
        self._check()
        self._send()

    def _send(self) -> None:
        self._shared = self._client.scatter(self._job, broadcast=True, hash=False)

    def _check(self) -> int:
        """Refuse workers that do not fit, also such as came in between; return their threads."""
        threads = self._client.nthreads()
        new = sorted(threads.keys() - self._checked)
        if new:
            check_versions(self._client, new, self._job.version)
            self._checked.update(new)
        return sum(threads.values())

    def _submit(self, block: "_Block") -> Any:
        """Give a block to the cluster, and return its future."""
        chunked = self._counts.chunked
        if block.chunks is None or chunked is None:
            rows = PackedRows.pack(self._counts.rows(block.start, block.stop))
            return self._client.submit(work, self._shared, rows, pure=False)
        from dask import delayed

        chunks = chunked.array.blocks[block.chunks].to_delayed().ravel().tolist()
        return self._client.compute(delayed(work, pure=False)(self._shared, *chunks))

    def _fill(self) -> None:
        """Put blocks under way up to the bound, which follows the size of the cluster."""
        n_threads = self._check()
        while self._waiting and len(self._under_way) < AHEAD * max(n_threads, 1):
            block = self._waiting.popleft()
            self._under_way.append((block, self._submit(block)))

    def __iter__(self) -> Iterator[Any]:
        try:
            while self._waiting or self._under_way:
                self._fill()
                yield self._first_result()
                self._under_way.popleft()
        finally:
            self._client.cancel([future for _, future in self._under_way])

    def _first_result(self) -> Any:
        from distributed.client import FutureCancelledError

        while True:
            block, future = self._under_way[0]
            try:
                return future.result()
            except FutureCancelledError:
                # Every worker that held the job died: dask can compute anew what tasks made, but
                # not what was sent to workers alone.
                if self._resends == RESENDS:
                    raise
                self._resends += 1
                logger.warning("all workers that held the job are gone; it is sent again")
                self._client.wait_for_workers(1)
                self._check()
                self._send()
                again = [(block, self._submit(block)) for block, _ in self._under_way]
                self._under_way = deque(again)
            except CountsError:
                self._name_fault(block)
                raise
            except ModuleNotFoundError as error:
                if str(error.name).split(".")[0] != "scgp":
                    raise
                msg = f"a worker {_lacks(None, self._job.version)}"
                raise FingerprintError(msg) from error

    def _name_fault(self, block: "_Block") -> None:
        """Read the rows here: the error then names cell and gene, and where counts are."""
        size = rows_at_once(self._job.batch_size, 1)
        for start in range(block.start, block.stop, size):
            self._counts.rows(start, min(start + size, block.stop))


@dataclasses.dataclass(frozen=True)
class _Block:
    """Rows ``start`` to ``stop``: these chunks of the array, or (None) rows that are sent."""

    start: int
    stop: int
    chunks: slice | None


def _sent(counts: CountMatrix, size: int) -> list[_Block]:
    """Return the blocks whose rows are sent from here."""
    starts = range(0, counts.n_cells, size)
    return [_Block(start, min(start + size, counts.n_cells), None) for start in starts]


def _named(chunked: ChunkedRows, size: int) -> list[_Block]:
    """Return the blocks that workers read: chunks, small ones together."""
    blocks, begun = [], 0
    n_chunks = len(chunked.first_C) - 1
    for c in range(1, n_chunks + 1):
        start, stop = int(chunked.first_C[begun]), int(chunked.first_C[c])
        if stop > start and (stop - start >= size or c == n_chunks):
            blocks.append(_Block(start, stop, slice(begun, c)))
            begun = c
    return blocks


def check_versions(client: Any, addresses: list[str], version: str) -> None:
    """Refuse workers without scgp, or with another; asked by what every Python has."""
    found = client.run(pydoc.locate, "scgp.__version__", workers=addresses, on_error="return")
    for address, there in found.items():
        if isinstance(there, OSError):  # it is gone: its blocks go to others
            continue
        if there != version:
            msg = f"worker {address} {_lacks(there, version)}"
            raise FingerprintError(msg)


def _lacks(there: object, version: str) -> str:
    has = "no scgp" if there is None else f"scgp {there}"
    if isinstance(there, Exception):
        has = f"an scgp that cannot be imported ({there!r})"
    return (
        f"has {has}, this process has scgp {version}: install scgp=={version} in the environment "
        "of all workers"
    )
