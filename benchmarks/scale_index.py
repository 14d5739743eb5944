"""The index at scale: build time, queries a second, memory, file, opening and recall.

    python benchmarks/scale_index.py --data ../shared/data [--cells 100000 1000000]
        [--methods exact lists hnswlib]
    python benchmarks/scale_index.py --data ../shared/data --probes

The vectors are those of the real cells of the default reference, tiled: each stands many times,
with noise of its own, scaled to unit length. The queries are cells of the files in ``eval``, which
no reference cell is from, with noise too. A row that is in ``scale_index.json`` is not measured
again. Timings are the best of three (one, above 500,000 vectors); compare rows of one run only.

``exact`` and ``lists`` are the two ways of `scgp.ReferenceIndex`. The others are structures that
were not chosen. Their candidates are ranked anew in the same way, and their effort is the smallest
that finds .99 of these very queries' nearest, which is to their advantage: ``lists`` chose its own
without the queries. With ``--probes``: what is found by how many lists, of real cells that are not
tiled (``scale_index_probes.md``).
"""  # fmt: skip

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from collections.abc import Callable

K, NOISE, QUERIES, FEW, REPEATS = 15, 0.02, 1000, 200, 3
#: Above this many vectors nothing is timed three times; above the second the truth is found for
#: `FEW` queries.
MANY, MOST = 500_000, 2_000_000
BLOCK = 65_536
TARGET = 0.99
IVF_EFFORT = (4, 8, 16, 24, 32, 48, 64, 128, 256)
HNSW_EFFORT = (32, 64, 128, 256, 512, 1024)
LINKS, EF_BUILD = 16, 100
METHODS = ("exact", "lists", "ivf_flat", "ivf_pq64", "hnsw_flat", "hnsw_sq8", "hnswlib")
#: Opens a saved index and says how long it took, and by how much memory grew (MB).
OPEN = """
import sys, time
import faiss
from scgp.reference.index import ReferenceIndex
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6
before, start = resident(), time.perf_counter()
index = ReferenceIndex.load(sys.argv[1], memory_map=True)
print(time.perf_counter() - start, resident() - before)
"""
HEAD = (
    "vectors", "method", "effort", "build, s", "queries/s, 1 thread", "queries/s, 2 threads",
    "bytes a vector", "file, MB", "opened mapped, s", "memory of it, MB", "recall@15",
    "worst of the own samples",
)  # fmt: skip


def embeddings(data: Path, cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors of real reference cells, and of real cells of other studies; kept on disk."""
    import anndata as ad

    import scgp

    model = scgp.Model.default()
    files = [cache / f"{what}-{model.fingerprint[:12]}.npy" for what in ("cells", "queries")]
    if not all(file.is_file() for file in files):
        cache.mkdir(parents=True, exist_ok=True)
        index = scgp.ReferenceIndex.load(model.directory / "index")
        found = []
        for path in sorted((data / "eval").glob("*.h5ad")):
            cells = ad.read_h5ad(path)
            scgp.embed(cells, model=model, progress=False)
            found.append(cells.obsm["X_scgp"][np.any(cells.obsm["X_scgp"], axis=1)])
        np.save(files[0], index.vectors_ND[~index.drawn_N])
        np.save(files[1], np.concatenate(found))
    cells_ND, query_BD = (np.load(file, allow_pickle=False) for file in files)  # noqa: TID251
    return cells_ND, query_BD


def tiled(base_ND: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Return ``n`` unit vectors: real ones over and over, in an order of chance, with noise."""
    rng = np.random.default_rng(seed)
    base_ND = base_ND[rng.permutation(len(base_ND))]
    out_ND = np.empty((n, base_ND.shape[1]), np.float32)
    for start in range(0, n, BLOCK):
        rows = np.arange(start, min(start + BLOCK, n)) % len(base_ND)
        noisy = base_ND[rows]
        noisy = noisy + NOISE * rng.standard_normal(noisy.shape, dtype=np.float32)
        out_ND[start : start + BLOCK] = noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
    out_ND.flags.writeable = False
    return out_ND


@dataclasses.dataclass(frozen=True)
class Case:
    """The vectors of one size, queries, and the cosine of the 15th nearest of each."""

    vectors_ND: np.ndarray
    query_BD: np.ndarray
    least_B: np.ndarray

    def recall(self, cosine_BK: np.ndarray) -> float:
        """Return the share of the nearest that was found, equally near ones counting."""
        return float((cosine_BK[:, :K] >= self.least_B[:, None]).mean())


def make_case(cells_ND: np.ndarray, query_BD: np.ndarray, n: int) -> Case:
    """Tile, and find the truth."""
    from scgp.reference.store import Segment, VectorStore

    vectors_ND = tiled(cells_ND, n, seed=0)
    asked_BD = tiled(query_BD, FEW if n > MOST else QUERIES, seed=1)
    truth_BK, _ = VectorStore((Segment(vectors_ND),)).search(asked_BD, K)
    return Case(vectors_ND, asked_BD, truth_BK[:, -1])


def per_second(case: Case, search: Callable[[], Any], threads: int) -> float:
    """Return queries a second, the best of `REPEATS`."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    seconds = []
    for _ in range(1 if len(case.vectors_ND) > MANY else REPEATS):
        start = time.perf_counter()
        search()
        seconds.append(time.perf_counter() - start)
    faiss.omp_set_num_threads(before)
    return len(case.query_BD) / min(seconds)


def own_way(case: Case, method: str, folder: Path) -> dict[str, Any]:
    """Measure a way of `ReferenceIndex`."""
    from scgp.reference.index import ReferenceIndex
    from scgp.reference.store import VectorStore

    start = time.perf_counter()
    store = VectorStore.build(case.vectors_ND, search=method)
    row: dict[str, Any] = {"build": time.perf_counter() - start}
    row["recall"] = case.recall(store.search(case.query_BD, K)[0])
    lists = store.segments[0].lists
    row["effort"] = "all" if lists is None else f"{lists.probes} of {lists.n_lists} lists"
    row["own_recall"] = None if lists is None else min(lists.recall)
    for threads in (1, 2):
        row[f"speed_{threads}"] = per_second(case, lambda: store.search(case.query_BD, K), threads)
    few = case.vectors_ND[:1000]
    small = ReferenceIndex.build(
        few, [f"label {i % 20}" for i in range(len(few))], label_ids=[""] * 20, model_fingerprint=""
    )
    n = len(case.vectors_ND)
    whole = dataclasses.replace(
        small, store=store, code_N=np.arange(n, dtype=np.int32) % 20,
        study_N=np.zeros(n, np.int32), drawn_N=np.zeros(n, bool),
    )  # fmt: skip
    whole.save(folder / "index")
    sizes = {path.name: path.stat().st_size for path in (folder / "index").glob("*.faiss")}
    row["file"] = sum(path.stat().st_size for path in (folder / "index").iterdir()) / 1e6
    row["bytes"] = sum(sizes.values()) / n
    command = [sys.executable, "-c", OPEN, str(folder / "index")]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    row["opened"], row["opened_memory"] = map(float, done.stdout.split())
    return row


def of_faiss(case: Case, method: str, folder: Path) -> dict[str, Any]:
    """Measure a structure of FAISS that was not chosen."""
    import faiss

    n, width = case.vectors_ND.shape
    n_lists = int(2 * n**0.5)
    name = {
        "ivf_flat": f"IVF{n_lists},Flat", "ivf_pq64": f"IVF{n_lists},PQ64",
        "hnsw_flat": f"HNSW{LINKS},Flat", "hnsw_sq8": f"HNSW{LINKS},SQ8",
    }[method]  # fmt: skip
    index = faiss.index_factory(width, name, faiss.METRIC_INNER_PRODUCT)
    start = time.perf_counter()
    if method.startswith("ivf"):
        index.cp.niter, index.cp.max_points_per_centroid = 8, 50
    else:
        index.hnsw.efConstruction = EF_BUILD
    index.train(case.vectors_ND[: 50 * n_lists])
    index.add(case.vectors_ND)
    row: dict[str, Any] = {"build": time.perf_counter() - start}

    def try_with(effort: int) -> Callable[[], np.ndarray]:
        if method.startswith("ivf"):
            index.nprobe = effort
        else:
            index.hnsw.efSearch = effort
        return lambda: ranked(case, index.search(case.query_BD, K + 16)[1])

    row |= enough(case, try_with, IVF_EFFORT if method.startswith("ivf") else HNSW_EFFORT)
    faiss.write_index(index, str(folder / "index.faiss"))
    size = (folder / "index.faiss").stat().st_size
    stored = 4 * width  # the vectors themselves, which candidates are ranked by
    return row | {"bytes": size / n + stored, "file": (size + n * stored) / 1e6}


def of_hnswlib(case: Case, method: str, folder: Path) -> dict[str, Any]:
    """Measure hnswlib, which holds the vectors itself."""
    import faiss
    import hnswlib

    n, width = case.vectors_ND.shape
    index = hnswlib.Index(space="ip", dim=width)
    index.init_index(max_elements=n, M=LINKS, ef_construction=EF_BUILD, random_seed=0)
    start = time.perf_counter()
    index.add_items(case.vectors_ND, num_threads=2)
    row: dict[str, Any] = {"build": time.perf_counter() - start}

    def try_with(effort: int) -> Callable[[], np.ndarray]:
        index.set_ef(effort)
        return lambda: ranked(
            case,
            index.knn_query(case.query_BD, K, num_threads=faiss.omp_get_max_threads())[0],
        )

    row |= enough(case, try_with, HNSW_EFFORT)
    index.save_index(str(folder / method))
    size = (folder / method).stat().st_size
    return row | {"bytes": size / n, "file": size / 1e6}


def enough(
    case: Case, try_with: Callable[[int], Callable[[], np.ndarray]], efforts: tuple[int, ...]
) -> dict[str, Any]:
    """Find the smallest effort that finds enough, and time it."""
    for effort in efforts:
        search = try_with(effort)
        if (recall := case.recall(search())) >= TARGET:
            break
    speeds = {f"speed_{threads}": per_second(case, search, threads) for threads in (1, 2)}
    return {"effort": str(effort), "recall": recall, **speeds}


def ranked(case: Case, row_BC: np.ndarray) -> np.ndarray:
    """Return the true cosines of the best candidates."""
    from scgp.reference.nearest import nearest_of

    row_BC = np.maximum(row_BC.astype(np.int64), 0)
    return nearest_of(case.query_BD, case.vectors_ND[row_BC], row_BC, K)[0]


def measure(case: Case, method: str) -> dict[str, Any]:
    """Return one row."""
    way = own_way if method in {"exact", "lists"} else of_faiss
    with tempfile.TemporaryDirectory() as folder:
        return (of_hnswlib if method == "hnswlib" else way)(case, method, Path(folder))


def by_probes(cells_ND: np.ndarray, query_BD: np.ndarray) -> str:
    """Return a table of what is found by how many lists: of real cells alone, none tiled."""
    from scgp.reference.nearest import make_lists
    from scgp.reference.store import PROBES, SAMPLE, Segment, moved

    rng = np.random.default_rng(0)
    cells_ND = cells_ND[rng.permutation(len(cells_ND))]
    own_BD = cells_ND[:SAMPLE]
    asked = {
        "cells of other studies": query_BD,
        "own cells": own_BD,
        "own cells, moved towards others": moved(own_BD, cells_ND[SAMPLE : 2 * SAMPLE]),
    }
    plain, lists = Segment(cells_ND), make_lists(cells_ND)
    least = {name: plain.search(x, K)[0][:, -1:] for name, x in asked.items()}
    lines = [
        f"| lists read of {lists.n_lists} | {' | '.join(asked)} |",
        "| ---: | ---: | ---: | ---: |",
    ]
    for probes in (x for x in PROBES if x < lists.n_lists):
        segment = Segment(cells_ND, dataclasses.replace(lists, probes=probes))
        found = [(segment.search(x, K)[0] >= least[name]).mean() for name, x in asked.items()]
        lines.append(f"| {probes} | {' | '.join(f'{share:.4f}' for share in found)} |")
    return "\n".join(lines) + "\n"


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Return the table in markdown."""
    lines = [f"| {' | '.join(HEAD)} |", f"| {' | '.join(['---:'] * len(HEAD))} |"]
    for key in sorted(rows, key=lambda k: (int(k.split("/")[0]), METHODS.index(k.split("/")[1]))):
        row, (n, method) = rows[key], key.split("/")
        cells = [f"{int(n):,}", method, row["effort"]]
        cells += [f"{row['build']:,.1f}", f"{row['speed_1']:,.0f}", f"{row['speed_2']:,.0f}"]
        cells += [f"{row['bytes']:,.0f}", f"{row['file']:,.0f}"]
        has = "opened" in row
        cells += [f"{row['opened']:.2f}", f"{row['opened_memory']:,.0f}"] if has else ["", ""]
        cells += [
            f"{row['recall']:.4f}",
            f"{row['own_recall']:.4f}" if row.get("own_recall") else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what is missing, print and write ``scale_index.md`` and ``scale_index.json``."""
    import faiss

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cells", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["exact", "lists"])
    parser.add_argument("--probes", action="store_true", help="only scale_index_probes.md")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "scale_index")
    results = Path(__file__).resolve().parent / "results"
    parser.add_argument("--results", type=Path, default=results)
    arguments = parser.parse_args()
    file = arguments.results / "scale_index.json"
    rows = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    cells_ND, query_BD = embeddings(arguments.data, arguments.cache)
    if arguments.probes:
        text = by_probes(cells_ND, query_BD)
        (arguments.results / "scale_index_probes.md").write_text(text, encoding="utf-8")
        sys.stdout.write(text)
        return
    faiss.omp_set_num_threads(2)  # for what is not timed on 1 and 2
    for n in arguments.cells:
        missing = [m for m in arguments.methods if f"{n}/{m}" not in rows]
        if not missing:
            continue
        case = make_case(cells_ND, query_BD, n)
        for method in missing:
            rows[f"{n}/{method}"] = measure(case, method)
            arguments.results.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(rows, indent=1), encoding="utf-8")
            (arguments.results / "scale_index.md").write_text(table(rows), encoding="utf-8")
    sys.stdout.write(table(rows))


if __name__ == "__main__":
    main()
