"""The vectors of an index in segments: searched together, added to, thinned out, joined.

A segment is compared as a whole, or holds lists (`nearest.Lists`) that name candidates. Either way
the similarities are those of the stored float32 vectors. A segment is never changed: an index with
more cells shares the segments of the one before. Knows vectors and rows, not labels.

Shapes: N vectors of the store, M vectors of a segment, D width, B queries, K neighbours,
C candidates.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from scgp.errors import ArgumentError, CheckpointError
from scgp.number import whole_number
from scgp.reference.contents import UNIT_SLACK, vector_fault
from scgp.reference.nearest import ROWS, Lists, exact_rows, make_lists, nearest_of, rows_on_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SEARCHES = ("auto", "exact", "lists")
# Up to here all cells are compared. Why here: docs/formats.md.
EXACT_CELLS = 50_000
# More are asked for than k, so that rounding cannot decide which of several equally near cells are
# among the k, and 8-bit vectors not which are the nearest.
SPARE = 16
SEARCH_BLOCK = 1024
# How the number of lists that are read is chosen: of the nearest `NEAREST` of `SAMPLE` cells, and
# of as many moved to the cosine `MOVED` with themselves, `RECALL` must be found.
NEAREST, SAMPLE, MOVED, RECALL = 15, 500, 0.8, 0.99
PROBES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


@dataclasses.dataclass(frozen=True, eq=False)
class Segment:
    """Vectors that are never changed.

    Attributes
    ----------
    vectors_MD
        Unit vectors, float32, read-only; in memory or mapped from a file.
    lists
        Their lists, or None: all are compared.
    kept
        Those of the M that were not removed, ascending; None: all. Only where there are lists.
    device
        Where all are compared (torch's name), or None: by FAISS, on the CPU.
    """

    vectors_MD: NDArray[np.float32]
    lists: Lists | None = None
    kept: NDArray[np.int64] | None = None
    device: str | None = None

    @property
    def n_cells(self) -> int:
        """Number of vectors that were not removed."""
        return len(self.vectors_MD if self.kept is None else self.kept)

    @functools.cached_property
    def _on_device(self) -> Any:
        import torch

        return torch.tensor(self.vectors_MD, device=self.device)  # a copy: it may be read-only

    @functools.cached_property
    def _bits(self) -> NDArray[np.uint8] | None:
        if self.kept is None:
            return None
        kept_M = np.zeros(len(self.vectors_MD), bool)
        kept_M[self.kept] = True
        return np.packbits(kept_M, bitorder="little")

    def at(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return a copy of the vectors in these rows (of those kept), as rows are shaped."""
        places = rows if self.kept is None else self.kept[rows]
        vectors: NDArray[np.float32] = self.vectors_MD[places]
        return vectors

    def search(
        self, query_BD: NDArray[np.float32], k: int, *, probes: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return cosines and rows of the ``k`` nearest vectors, at most as many as there are."""
        n = min(k + SPARE, self.n_cells)
        if self.lists is None and self.device is not None:
            place_BC = rows_on_device(self._on_device, query_BD, n)
        elif self.lists is None:
            place_BC = exact_rows(self.vectors_MD, query_BD, n)
        else:
            place_BC = self.lists.rows(query_BD, n, probes=probes, kept=self._bits)
        if place_BC.min(initial=0) < 0 or place_BC.max(initial=0) >= len(self.vectors_MD):
            message = "FAISS found cells that are not there: the index is broken, build it anew"
            raise CheckpointError(message)
        row_BC = place_BC if self.kept is None else np.searchsorted(self.kept, place_BC)
        return nearest_of(query_BD, self.vectors_MD[place_BC], row_BC, min(k, n))

    def without(self, kept_N: NDArray[np.bool_]) -> Segment | None:
        """Return the segment with some of its cells; None where none is left."""
        if kept_N.all():
            return self
        if not kept_N.any():
            return None
        if self.lists is None:
            return Segment(_read_only(self.vectors_MD[kept_N]), device=self.device)
        kept = np.flatnonzero(kept_N) if self.kept is None else self.kept[kept_N]
        return dataclasses.replace(self, kept=kept)


@dataclasses.dataclass(frozen=True, eq=False)
class VectorStore:
    """Unit vectors in segments, numbered through."""

    segments: tuple[Segment, ...]

    @classmethod
    def build(
        cls, vectors_ND: NDArray[np.float32], *, search: str = "auto", seed: int = 0
    ) -> VectorStore:
        """Store vectors in one segment.

        Parameters
        ----------
        vectors_ND
            Unit vectors, float32. An array that is read-only is kept as it is, another is copied.
        search
            As in `ReferenceIndex.build`.
        seed
            Seed of the vectors that the lists' centres are fitted to, and of those that recall is
            measured with.
        """
        check_search(search)
        if vectors_ND.flags.writeable:
            vectors_ND = _read_only(vectors_ND.copy())
        segment = Segment(vectors_ND)
        if search == "lists" or (search == "auto" and len(vectors_ND) > EXACT_CELLS):
            segment = with_lists(segment, seed=seed)
        return cls((segment,))

    @property
    def n_cells(self) -> int:
        """Number of vectors."""
        return sum(segment.n_cells for segment in self.segments)

    @property
    def width(self) -> int:
        """Length of a vector."""
        return int(self.segments[0].vectors_MD.shape[1])

    @property
    def is_exact(self) -> bool:
        """Whether every vector is compared with a query."""
        return all(segment.lists is None for segment in self.segments)

    @property
    def is_mapped(self) -> bool:
        """Whether vectors or lists lie in a file, and are not read into memory."""
        return self.has_mapped_lists or any(
            isinstance(segment.vectors_MD.base, np.memmap) for segment in self.segments
        )

    @property
    def has_mapped_lists(self) -> bool:
        """Whether lists lie in a file, which FAISS cannot send to another process."""
        lists = [segment.lists for segment in self.segments]
        return any(x is not None and x.mapped is not None for x in lists)

    @functools.cached_property
    def offsets(self) -> NDArray[np.int64]:
        """First row of each segment, and the number of all."""
        return np.cumsum([0, *(segment.n_cells for segment in self.segments)], dtype=np.int64)

    @functools.cached_property
    def vectors_ND(self) -> NDArray[np.float32]:
        """All vectors: those stored where there is one segment with all its cells, or a copy."""
        first = self.segments[0]
        if len(self.segments) == 1 and first.kept is None:
            return first.vectors_MD
        return _read_only(np.concatenate([s.at(np.arange(s.n_cells)) for s in self.segments]))

    def at(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return a copy of the vectors in these rows, of any shape; no others are read."""
        rows = np.asarray(rows, np.int64)
        found = np.empty((*rows.shape, self.width), np.float32)
        segment_of = np.searchsorted(self.offsets, rows, side="right") - 1
        for i, segment in enumerate(self.segments):
            inside = segment_of == i
            found[inside] = segment.at(rows[inside] - self.offsets[i])
        return found

    def search(
        self, query_BD: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the cosines and rows of the ``k`` nearest vectors (``k`` at most N)."""
        similarity_BK = np.empty((len(query_BD), k), np.float32)
        row_BK = np.empty((len(query_BD), k), np.int64)
        for start in range(0, len(query_BD), SEARCH_BLOCK):
            part = slice(start, start + SEARCH_BLOCK)
            found = [segment.search(query_BD[part], k) for segment in self.segments]
            near_BC = np.concatenate([cosine for cosine, _ in found], axis=1)
            firsts = self.offsets[:-1]
            row_BC = np.concatenate(
                [x + n for (_, x), n in zip(found, firsts, strict=True)], axis=1
            )
            order_BK = np.lexsort((row_BC, -near_BC), axis=1)[:, :k]
            similarity_BK[part] = np.take_along_axis(near_BC, order_BK, axis=1)
            row_BK[part] = np.take_along_axis(row_BC, order_BK, axis=1)
        return similarity_BK, row_BK

    def on(self, device: str) -> VectorStore:
        """Return a store whose segments without lists are compared on a device."""
        return VectorStore(
            tuple(s if s.lists else dataclasses.replace(s, device=device) for s in self.segments)
        )

    def kept(self, kept_N: NDArray[np.bool_]) -> VectorStore:
        """Return a store of some of the cells; segments with lists stay, and pass over the others.

        Those that are compared as a whole are copied without the cells left out.
        """
        parts = np.split(kept_N, self.offsets[1:-1])
        left = [s.without(part) for s, part in zip(self.segments, parts, strict=True)]
        return VectorStore(tuple(segment for segment in left if segment is not None))

    def fault(self) -> str:
        """Look for vectors that are no unit vectors and lists that lack some; reads all of them."""
        for segment in self.segments:
            for start in range(0, len(segment.vectors_MD), ROWS):
                block_ND = np.array(segment.vectors_MD[start : start + ROWS])
                if fault := vector_fault(block_ND, start):
                    return fault
            if segment.lists is not None and (fault := segment.lists.fault()):
                return fault
        return ""


def _read_only(vectors_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    vectors_ND.flags.writeable = False
    return vectors_ND


def as_float32(vectors_ND: NDArray[Any]) -> NDArray[np.float32]:
    """Return the array itself if it is in the right form; a copy made here need not be copied."""
    found: NDArray[np.float32] = np.require(vectors_ND, np.float32, ["C", "ALIGNED"])
    return found if np.may_share_memory(found, np.asarray(vectors_ND)) else _read_only(found)


def check_queries(query_BD: NDArray[Any], width: int, k: int) -> NDArray[np.float32]:
    """Return queries as float32.

    Raises
    ------
    ArgumentError
        They are not finite or have another width, or ``k`` is no whole number from 1 on.
    """
    query_BD = np.ascontiguousarray(query_BD, np.float32)
    if query_BD.ndim != 2 or query_BD.shape[1] != width:
        message = (
            f"queries have the shape {query_BD.shape}, expected (cells, {width}): vectors "
            "of the model that made the index"
        )
        raise ArgumentError(message)
    whole_number(k, "k", least=1)
    if not np.isfinite(query_BD).all():
        message = "queries hold NaN or infinite values; expected finite vectors"
        raise ArgumentError(message)
    return query_BD


def check_search(search: str) -> None:
    """Refuse what is no way to search.

    Raises
    ------
    ArgumentError
        It is none of `SEARCHES`.
    """
    if search not in SEARCHES:
        message = f"search is {search!r}, expected one of {SEARCHES}"
        raise ArgumentError(message)


def joined(stores: Sequence[VectorStore], *, search: str = "auto", seed: int = 0) -> VectorStore:
    """Return a store of the cells of several, in their order.

    Segments with lists are shared. Neighbouring segments without become one: it gets lists by the
    rule of `VectorStore.build`, unless one of them alone was above the bound and had none.
    """
    check_search(search)
    done: list[Segment] = []
    run: list[Segment] = []

    def close() -> None:
        if not run:
            return
        large = max(segment.n_cells for segment in run) > EXACT_CELLS
        alone = len(run) == 1 and search == "auto"
        if alone:
            done.append(run[0])
        else:
            vectors_ND = _read_only(np.concatenate([segment.vectors_MD for segment in run]))
            way = "exact" if search == "auto" and large else search
            done.extend(VectorStore.build(vectors_ND, search=way, seed=seed).segments)
        run.clear()

    for segment in (segment for store in stores for segment in store.segments):
        if segment.lists is None:
            run.append(segment)
        else:
            close()
            done.append(segment)
    close()
    return VectorStore(tuple(done))


def with_lists(segment: Segment, *, seed: int = 0) -> Segment:
    """Return a segment with lists, and as many of them read as a sample needs."""
    lists = make_lists(segment.vectors_MD, seed=seed)
    return choose_probes(dataclasses.replace(segment, lists=lists), seed=seed)


def choose_probes(segment: Segment, *, seed: int = 0) -> Segment:
    """Return the segment with the fewest lists read that find enough, as measured on its own cells.

    Two samples are asked for their nearest, themselves left out: some cells of the segment, and
    the same cells moved towards others that are drawn at random. The first lie among the others as
    no cell of a further study does: by them alone, of such cells too few were found. Between cells
    lists are harder to tell apart than anywhere else; in a direction of noise they are not.
    """
    if segment.lists is None:
        message = "a segment without lists reads none"
        raise ArgumentError(message)
    rng = np.random.default_rng(seed)
    n_cells = len(segment.vectors_MD)
    own = np.sort(rng.choice(n_cells, min(SAMPLE, n_cells), replace=False))
    own_BD = np.require(segment.vectors_MD[own], requirements=["C", "ALIGNED"])
    moved_BD = moved(own_BD, segment.vectors_MD[rng.integers(n_cells, size=len(own))])
    plain = Segment(segment.vectors_MD)
    truth = [_others(plain, x, own, None) for x in (own_BD, moved_BD)]
    n_lists = segment.lists.n_lists
    recall = (0.0, 0.0)
    for probes in sorted({min(p, n_lists) for p in (*PROBES, n_lists)}):
        found = [_others(segment, x, own, probes) for x in (own_BD, moved_BD)]
        recall = (_recall(truth[0], found[0]), _recall(truth[1], found[1]))
        if min(recall) >= RECALL:
            break
    lists = dataclasses.replace(segment.lists, probes=probes, recall=recall)
    return dataclasses.replace(segment, lists=lists)


def moved(own_BD: NDArray[np.float32], other_BD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return unit vectors with the cosine `MOVED` to their own, on the way to the others."""
    away_BD = other_BD - np.einsum("bd,bd->b", other_BD, own_BD)[:, None] * own_BD
    length_B1 = np.linalg.norm(away_BD, axis=1, keepdims=True)
    far_B1 = length_B1 > UNIT_SLACK  # another cell, and not a copy of it
    away_BD = away_BD / np.where(far_B1, length_B1, 1)
    moved_BD = MOVED * own_BD + (1 - MOVED**2) ** 0.5 * away_BD
    return np.where(far_B1, moved_BD, own_BD).astype(np.float32)


def _others(
    segment: Segment, query_BD: NDArray[np.float32], own: NDArray[np.int64], probes: int | None
) -> NDArray[np.float32]:
    """Return the cosines of the nearest cells but for a query's own, -2 where there are fewer."""
    cosine_BK, row_BK = segment.search(query_BD, NEAREST + 1, probes=probes)
    cosine_BK = np.where(row_BK == own[:, None], np.float32(-2), cosine_BK)
    return -np.sort(-cosine_BK, axis=1)[:, :NEAREST]


def _recall(truth_BK: NDArray[np.float32], found_BK: NDArray[np.float32]) -> float:
    """Return the share of the found that are as near as the farthest of the nearest."""
    return float((found_BK >= truth_BK[:, -1:]).mean())
