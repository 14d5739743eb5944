"""Counts that stay where they are stored, and are read when asked for, some steps ahead.

Stands in for the matrix of a corpus: ``counts[rows]`` is a CSR matrix. Owns which rows are held in
memory. Must not know what a step is for, nor what the rows mean: it is told which rows the steps to
come will ask for.

Shape suffixes: N cells, B cells asked for, R cells of a round, G genes.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from scgp.cells.dataset import CellDataset

#: Cells of a round at most: some 0.2 GB of counts with 1,500 expressed genes a cell; two rounds are
#: held at a time.
ROUND_CELLS = 32_768
#: Of the first round, which is waited for: an eighth.
FIRST_SHARE = 8
#: Rows of one read: what it takes beside its result, some 100 bytes an entry, is bounded by it.
READ_ROWS = 2048


class _Round(NamedTuple):
    """Rows of some steps: the first step, and the rows, rising."""

    row_R: np.ndarray
    counts: "Future[sp.csr_matrix]"


@dataclass
class Reads:
    """How a stored matrix was read: rows asked for, rows read ahead, rows read for lack of them."""

    asked: int = 0
    ahead: int = 0
    missed: int = 0
    rounds: int = 0


class StoredCounts:
    """Counts of N cells over G genes that are read when asked for.

    Parameters
    ----------
    parts
        Data sets, one after another; they stay open.
    row_N
        Which rows of them; None takes all.

    Attributes
    ----------
    shape
        (N, G).
    reads
        What was read so far.
    """

    def __init__(self, parts: Sequence[CellDataset], row_N: np.ndarray | None = None) -> None:
        self._parts = tuple(parts)
        self._first_P = np.cumsum([0, *(part.n_cells for part in parts)])
        self._row_N = row_N
        n_cells = int(self._first_P[-1]) if row_N is None else len(row_N)
        self.shape = (n_cells, parts[0].vocabulary.n_genes)
        self.reads = Reads()
        self._held: _Round | None = None
        self._next: _Round | None = None
        self._rounds: Iterator[_Round] = iter(())

    def __repr__(self) -> str:
        return f"StoredCounts({self.shape[0]} cells x {self.shape[1]} genes)"

    def __getitem__(self, rows: slice | np.ndarray) -> sp.csr_matrix:
        """Return rows in the order given, float32; read them unless they were read ahead."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(self.shape[0]))
        row_B = self._in_parts(np.asarray(rows))
        self.reads.asked += len(row_B)
        if self._next is not None and not _has(self._held, row_B) and _has(self._next, row_B):
            self._held, self._next = self._next, next(self._rounds, None)
        if self._held is not None and _has(self._held, row_B):
            counts = self._held.counts.result()
            return counts[np.searchsorted(self._held.row_R, row_B)].astype(np.float32)
        row_R, order_B = np.unique(row_B, return_inverse=True)
        self.reads.missed += len(row_R)
        return self._read(row_R)[order_B].astype(np.float32)

    def part(self, rows: np.ndarray) -> "StoredCounts":
        """Return the counts of some cells, which stay where they are."""
        return StoredCounts(self._parts, self._in_parts(np.asarray(rows)))

    @contextmanager
    def ahead(
        self, rows_of: Callable[[int], np.ndarray], steps: range, *, together: int = 1
    ) -> Iterator[None]:
        """Read the rows of the steps to come in rounds, one round ahead, in a thread.

        What is read does not depend on it, only when. Each round is read once, in rising order.

        Parameters
        ----------
        rows_of
            The rows that a step will ask for.
        steps
            The steps, in the order in which they will ask.
        together
            Steps that are never parted: rounds end where ``step % together`` is 0.
        """
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="scgp-counts") as thread:
            self._rounds = self._planned(rows_of, steps, together, thread)
            self._next = next(self._rounds, None)
            try:
                yield
            finally:
                if self._next is not None:
                    self._next.counts.cancel()
                self._held, self._next, self._rounds = None, None, iter(())

    def identity(self) -> bytes:
        """Digest of what lies in the parts, and of which rows; see `CellDataset.identity`."""
        rows = b"" if self._row_N is None else self._row_N.tobytes()
        return b"".join([*(part.identity() for part in self._parts), rows])

    def close(self) -> None:
        """Close what the data sets opened."""
        for part in self._parts:
            part.close()

    def _planned(
        self,
        rows_of: Callable[[int], np.ndarray],
        steps: range,
        together: int,
        thread: ThreadPoolExecutor,
    ) -> Iterator[_Round]:
        """Start the reading of one round after another, each when the one before is taken."""
        row_R, most = np.zeros(0, np.int64), ROUND_CELLS // FIRST_SHARE
        for step in steps:
            of_step = np.unique(self._in_parts(rows_of(step)))
            joined = np.union1d(row_R, of_step)
            full = together == 1 and len(joined) > most and len(row_R)
            at_edge = together > 1 and step % together == 0 and len(row_R)
            if full or at_edge:
                yield self._begin(row_R, thread)
                joined, most = of_step, ROUND_CELLS
            row_R = joined
        if len(row_R):
            yield self._begin(row_R, thread)

    def _begin(self, row_R: np.ndarray, thread: ThreadPoolExecutor) -> _Round:
        self.reads.ahead += len(row_R)
        self.reads.rounds += 1
        return _Round(row_R, thread.submit(self._read, row_R))

    def _in_parts(self, rows: np.ndarray) -> np.ndarray:
        return rows if self._row_N is None else self._row_N[rows]

    def _read(self, row_R: np.ndarray) -> sp.csr_matrix:
        """Read rows that rise, some at a time: what a read takes beside its result is bounded."""
        blocks = []
        limit = np.iinfo(np.uint16).max
        for first, part in zip(self._first_P[:-1], self._parts, strict=True):
            low, high = np.searchsorted(row_R, [first, first + part.n_cells])
            for start in range(low, high, READ_ROWS):
                block = part.take(row_R[start : min(start + READ_ROWS, high)] - first)
                small = block.data.max(initial=0) <= limit
                blocks.append(block.astype(np.uint16) if small else block)
        empty = sp.csr_matrix((0, self.shape[1]), dtype=np.uint16)
        return sp.vstack(blocks, format="csr") if blocks else empty


def _has(round_: _Round | None, row_B: np.ndarray) -> bool:
    """Tell whether a round has all of these rows."""
    if round_ is None:
        return False
    place_B = np.searchsorted(round_.row_R, row_B)
    inside = place_B < len(round_.row_R)
    return bool(inside.all() and (round_.row_R[place_B] == row_B).all())
