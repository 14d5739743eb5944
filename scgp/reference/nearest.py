"""Which stored vectors may be the nearest ones: all compared, or only those in the nearest lists.

Owns FAISS, which is imported only when something is searched, and the two files that hold vectors
(``vectors*.faiss``) and lists (``lists*.faiss``). What it returns are rows, never similarities:
`store` takes those from the vectors themselves, so that no rounding in here is seen.

The lists are an inverted file (Sivic and Zisserman 2003): the vectors are put into the lists of
their nearest centres, eight bits a number, and a query reads the lists of the centres nearest to
it. Why these and no others is in docs/formats.md.

Shapes: N vectors, D width, B queries, L lists, P lists probed, C candidates.
"""

from __future__ import annotations

import dataclasses
import mmap
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from scgp.errors import ArgumentError, CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

# What stands at the beginning of a flat index of FAISS: type, width, vectors, two numbers without a
# use, whether it is trained, the metric (0: inner product), and how many numbers follow.
FLAT = struct.Struct("<4siqqq?iQ")
# And of lists: the same without the last, how many lists, how many are probed, type of the centres.
LISTS = struct.Struct("<4siqqq?iQQ4s")
UNUSED = 1 << 20
# More centres are compared than lists are probed, for the reason that `store.SPARE` has.
SPARE_LISTS = 16
# Lists for the root of the number of vectors, and what the centres are fitted with.
LISTS_PER_ROOT, PER_LIST, ROUNDS = 2, 50, 8
# Vectors that are read at once where they are not in memory, or not where a processor likes them.
ROWS = 65_536
# Bytes of mapped lists that are copied at once.
BYTES = 1 << 24


def exact_rows(vectors_ND: NDArray[np.float32], query_BD: NDArray[np.float32], n: int) -> Any:
    """Return the rows of the ``n`` nearest vectors of each query (B x n); all are compared."""
    import faiss

    step = len(vectors_ND) if vectors_ND.flags.aligned else ROWS
    best_BC = np.empty((len(query_BD), 0), np.float32)
    row_BC = np.empty((len(query_BD), 0), np.int64)
    for start in range(0, len(vectors_ND), step):
        block_ND = np.require(vectors_ND[start : start + step], requirements=["C", "ALIGNED"])
        found = faiss.knn(
            query_BD, block_ND, min(n, len(block_ND)), metric=faiss.METRIC_INNER_PRODUCT
        )
        best_BC = np.concatenate([best_BC, found[0]], axis=1)
        row_BC = np.concatenate([row_BC, found[1] + start], axis=1)
        if row_BC.shape[1] > n:
            order_BC = np.lexsort((row_BC, -best_BC), axis=1)[:, :n]
            best_BC = np.take_along_axis(best_BC, order_BC, axis=1)
            row_BC = np.take_along_axis(row_BC, order_BC, axis=1)
    return row_BC


def rows_on_device(vectors_ND: Any, query_BD: NDArray[np.float32], n: int) -> NDArray[np.int64]:
    """Do what `exact_rows` does with vectors that are a tensor on a device (torch)."""
    import torch

    with torch.inference_mode():
        cosine_BN = torch.tensor(query_BD, device=vectors_ND.device) @ vectors_ND.T
        rows: NDArray[np.int64] = cosine_BN.topk(n, dim=1).indices.cpu().numpy()
    return rows


@dataclasses.dataclass(frozen=True, eq=False)
class Lists:
    """The vectors in lists, eight bits a number, and how many lists a query reads.

    Attributes
    ----------
    inverted
        ``IndexIVFScalarQuantizer`` of FAISS.
    probes
        Lists that a query reads.
    recall
        What was found so of the nearest 15, by `store.choose_probes`: of cells of the index, and
        of the same moved towards others.
    mapped
        The bytes of the file that the lists are mapped from, whatever has its name by now; None:
        the lists are in memory.
    """

    inverted: Any
    probes: int = 1
    recall: tuple[float, float] = (0.0, 0.0)
    mapped: mmap.mmap | None = None

    def __getstate__(self) -> dict[str, Any]:
        if self.mapped is not None:
            message = (
                "the index was opened with memory_map=True, and its lists, which are in a file, "
                "cannot be sent to another process. Save it where that sees it, and pass the path "
                "as index=; or open it without memory_map"
            )
            raise ArgumentError(message)
        return vars(self)

    @property
    def n_lists(self) -> int:
        """Number of lists."""
        return int(self.inverted.nlist)

    def rows(
        self,
        query_BD: NDArray[np.float32],
        n: int,
        *,
        probes: int | None = None,
        kept: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.int64]:
        """Return the rows of ``n`` vectors that may be the nearest ones (B x n).

        What is returned for a query depends neither on the others nor on the number of threads.

        Parameters
        ----------
        n
            At most the number of vectors kept.
        probes
            Lists to read, instead of the usual number. More are read where they hold too few.
        kept
            Bits of the vectors that may be returned; None: all.
        """
        import faiss

        probes = min(probes or self.probes, self.n_lists)
        query_BD = np.ascontiguousarray(query_BD, np.float32)
        near_BP, list_BP = self._nearest_lists(query_BD, probes)
        made: Any = faiss  # its wrappers take what its type information does not know
        chosen = None if kept is None else made.IDSelectorBitmap(kept)
        options = made.SearchParametersIVF(nprobe=probes, sel=chosen)
        row_BC = np.empty((len(query_BD), n), np.int64)
        ignored_BC = np.empty((len(query_BD), n), np.float32)
        arrays = (query_BD, list_BP, near_BP, ignored_BC, row_BC)
        query, lists, near, ignored, found = (faiss.swig_ptr(x) for x in arrays)
        as_pairs = False
        # the function of C++, since the wrapper in Python takes no options
        self.inverted.search_preassigned_c(
            len(query_BD), query, n, lists, near, ignored, found, as_pairs, options
        )
        few = np.flatnonzero(row_BC.min(axis=1, initial=0) < 0)
        if len(few):
            if probes == self.n_lists:
                message = (
                    "lists hold fewer cells than there are: the index is broken, build it anew"
                )
                raise CheckpointError(message)
            row_BC[few] = self.rows(query_BD[few], n, probes=4 * probes, kept=kept)
        return row_BC

    def _nearest_lists(
        self, query_BD: NDArray[np.float32], probes: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        centre_LD = _centres(self.inverted)
        row_BC = exact_rows(centre_LD, query_BD, min(probes + SPARE_LISTS, self.n_lists))
        return nearest_of(query_BD, centre_LD[row_BC], row_BC, probes)

    def fault(self) -> str:
        """Look for vectors that stand in no list, or in two; reads the rows of all lists."""
        import faiss

        n_vectors = int(self.inverted.ntotal)
        seen_N = np.zeros(n_vectors, bool)
        inside = faiss.downcast_InvertedLists(self.inverted.invlists)
        for i in range(self.n_lists):
            if not (size := inside.list_size(i)):
                continue
            row_N = faiss.rev_swig_ptr(inside.get_ids(i), size)
            if row_N.min() < 0 or row_N.max() >= n_vectors:
                return "lists name cells that are not there"
            seen_N[row_N] = True
        return "" if seen_N.all() else "lists lack cells, or have some twice"


def nearest_of(
    query_BD: NDArray[np.float32],
    vector_BCD: NDArray[np.float32],
    row_BC: NDArray[np.int64],
    k: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the cosines and rows of the ``k`` nearest candidates; equally near ones by row.

    The cosines of FAISS depend on the size of the batch; these are those of each pair alone.
    """
    similarity_BC = np.einsum("bd,bkd->bk", query_BD, vector_BCD)
    order_BK = np.lexsort((row_BC, -similarity_BC), axis=1)[:, :k]
    return (
        np.take_along_axis(similarity_BC, order_BK, axis=1),
        np.take_along_axis(row_BC, order_BK, axis=1),
    )


def make_lists(vectors_ND: NDArray[np.float32], *, seed: int = 0) -> Lists:
    """Put vectors into lists. The centres are fitted to some of them, drawn with ``seed``."""
    import faiss

    n_vectors, width = vectors_ND.shape
    n_lists = max(1, min(int(LISTS_PER_ROOT * n_vectors**0.5), n_vectors // PER_LIST))
    centres = faiss.IndexFlatIP(width)
    inverted = faiss.IndexIVFScalarQuantizer(
        centres, width, n_lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    inverted.cp.spherical = True
    inverted.cp.niter, inverted.cp.seed = ROUNDS, seed + 1
    inverted.cp.min_points_per_centroid, inverted.cp.max_points_per_centroid = 1, PER_LIST
    n_drawn = min(n_vectors, n_lists * PER_LIST)
    drawn = np.random.default_rng(seed).choice(n_vectors, n_drawn, replace=False)
    inverted.train(_contiguous(vectors_ND[np.sort(drawn)]))
    for start in range(0, n_vectors, ROWS):
        inverted.add(_contiguous(vectors_ND[start : start + ROWS]))
    return Lists(_prepared(inverted))


def _contiguous(vectors_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.require(vectors_ND, np.float32, ["C", "ALIGNED"])


def _prepared(inverted: Any) -> Any:
    """Let threads share the queries of a search: each query is then read by one of them."""
    inverted.parallel_mode = 3
    return inverted


def _centres(inverted: Any) -> NDArray[np.float32]:
    import faiss

    flat: Any = faiss.downcast_index(inverted.quantizer)
    shape = (int(flat.ntotal), int(flat.d))
    centre_LD: NDArray[np.float32] = faiss.rev_swig_ptr(flat.get_xb(), shape[0] * shape[1])
    return centre_LD.reshape(shape)


def write_vectors(path: Path, parts: list[NDArray[np.float32]]) -> None:
    """Write vectors one after the other, as FAISS writes an ``IndexFlatIP``."""
    n_vectors, width = sum(map(len, parts)), parts[0].shape[1]
    head = (b"IxFI", width, n_vectors, UNUSED, UNUSED, True, 0, n_vectors * width)
    with path.open("wb") as file:
        file.write(FLAT.pack(*head))
        for part_ND in parts:
            for start in range(0, len(part_ND), ROWS):
                file.write(_contiguous(part_ND[start : start + ROWS]).data)
    _check_size(path, FLAT.size + n_vectors * width * 4)


def write_lists(path: Path, lists: Lists) -> None:
    """Write lists as FAISS does; those that are mapped are copied from the file opened then."""
    import faiss

    if lists.mapped is not None:
        with path.open("wb") as file, memoryview(lists.mapped) as content:
            for start in range(0, len(content), BYTES):
                file.write(content[start : start + BYTES])
    else:
        faiss.write_index(lists.inverted, str(path))
    _check_size(path, lists.inverted.ntotal * (lists.inverted.d + 8))


def _check_size(path: Path, expected: int) -> None:
    if (found := path.stat().st_size) < expected:  # FAISS does not notice a full disk
        message = f"{path} has {found} bytes, expected {expected} and more: is the disk full?"
        raise OSError(message)


def read_vectors(path: Path, *, memory_map: bool) -> NDArray[np.float32]:
    """Read vectors, or map them; nothing but a flat index of inner products is taken.

    Raises
    ------
    CheckpointError
        The file holds something else.
    """
    with path.open("rb") as file:
        head = file.read(FLAT.size)
    size = path.stat().st_size
    kind = head[:4].decode("ascii", "replace")
    if len(head) < FLAT.size or kind != "IxFI":
        message = f"{path} holds {kind!r}, expected an IndexFlatIP of FAISS ('IxFI')"
        raise CheckpointError(message)
    _, width, n_vectors, _, _, _, metric, n_numbers = FLAT.unpack(head)
    fits = min(width, n_vectors) > 0 and n_numbers == n_vectors * width
    if not fits or metric != 0 or size != FLAT.size + 4 * n_numbers:
        message = (
            f"{path} says that it holds {n_vectors} vectors of {width} numbers (metric {metric}) "
            f"in {size} bytes, which do not fit together; expected an IndexFlatIP"
        )
        raise CheckpointError(message)
    shape = (n_vectors, width)
    if memory_map:
        mapped = np.memmap(path, np.dtype("<f4"), "r", offset=FLAT.size, shape=shape)
        return np.asarray(mapped)
    vectors_ND = np.fromfile(path, np.dtype("<f4"), offset=FLAT.size).reshape(shape)
    vectors_ND.flags.writeable = False
    return vectors_ND


def read_lists(path: Path, n_vectors: int, width: int, *, memory_map: bool) -> Lists:
    """Read lists of so many vectors, or map them; nothing but what `write_lists` writes is taken.

    Raises
    ------
    CheckpointError
        The file holds something else.
    """
    import faiss

    with path.open("rb") as file:
        head = file.read(LISTS.size)
    expected = (b"IwSq", width, n_vectors, 0, b"IxFI")
    found: tuple[Any, ...] = (head[:4],)
    if len(head) == LISTS.size:
        kind, d, total, _, _, _, metric, _, _, centres = LISTS.unpack(head)
        found = (kind, d, total, metric, centres)
    if found != expected:
        message = f"{path} begins with {found}, expected {expected}: lists of 8-bit vectors"
        raise CheckpointError(message)
    flags = faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY if memory_map else 0
    try:
        inverted = faiss.read_index(str(path), flags)
    except RuntimeError as error:
        message = f"{path} cannot be read by FAISS: {error}"
        raise CheckpointError(message) from error
    if fault := _lists_fault(inverted, memory_map=memory_map):
        message = f"{path} {fault}; save the index anew"
        raise CheckpointError(message)
    return Lists(_prepared(inverted), mapped=_mapped(path) if memory_map else None)


def _mapped(path: Path) -> mmap.mmap:
    """Map a file: its bytes stay there to be read when another file has taken its name."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _lists_fault(inverted: Any, *, memory_map: bool) -> str:
    """Look for parts that we do not write: other types inside, or lists in another file."""
    import faiss

    if type(inverted) is not faiss.IndexIVFScalarQuantizer:
        return f"holds a {type(inverted).__name__}, expected an IndexIVFScalarQuantizer"
    inside: Any = faiss.downcast_InvertedLists(inverted.invlists)  # type: ignore[arg-type]
    kind = faiss.OnDiskInvertedLists if memory_map else faiss.ArrayInvertedLists
    elsewhere = memory_map and inside.filename != ""  # lists of this very file have no name
    if type(inside) is not kind or elsewhere:
        return f"has its lists in a {type(inside).__name__} of another kind or file"
    centres = faiss.downcast_index(inverted.quantizer)
    sizes = (centres.ntotal, centres.d, inside.nlist, inside.code_size, inverted.sq.qtype)
    expected = (
        inverted.nlist, inverted.d, inverted.nlist, inverted.d, faiss.ScalarQuantizer.QT_8bit,
    )  # fmt: skip
    if sizes != expected:
        return f"has centres and lists of the sizes {sizes}, expected {expected}"
    if not np.isfinite(_centres(inverted)).all():
        return "has centres that are not finite"
    return ""
