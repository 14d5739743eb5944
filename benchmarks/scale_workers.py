"""annotate() on the workers of a dask cluster: speed, bytes, overheads, and a model of the cost.

    python benchmarks/scale_workers.py --data ../shared/data [--cells 6144] [--chunk 1024]

Real cells, repeated, in an h5ad file that workers read; scheduler, client and workers are processes
of this machine, one thread each; a chunk is a task, and every number of cells a multiple of two
chunks. Local runs are processes of their own. All in one run. The model
is fitted to one worker and to local figures; two workers, and another number of cells, are the
points that it is checked with.
"""  # fmt: skip

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

RESULTS = ROOT / "benchmarks" / "results"
#: dask sets MALLOC_TRIM_THRESHOLD_ for workers. glibc then no longer adapts this one, and gives
#: every array above 128 kB back and asks for it anew.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": 32 * 2**20}
N_TASKS, N_CHUNKS = 200, 10_000
#: Assumed, not measured: bytes/s that the client's network moves.
NETWORKS = {"1 Gbit/s": 125e6, "10 Gbit/s": 1.25e9}
ATLAS, WORKERS = 100_000_000, (1, 2, 4, 8, 16, 32, 64, 128, 256)
ATLAS_CHUNK = 20_000
COLOURS = ("#0072B2", "#D55E00", "#009E73")  # of Okabe and Ito
LOCAL = """
import sys, time
import torch
torch.set_num_threads(int(sys.argv[3]))
from benchmarks.scale_workers import lazy_cells
import scgp
cells = lazy_cells(sys.argv[1], int(sys.argv[2]))
scgp.annotate(cells[:2000].copy(), progress=False)
start, busy = time.perf_counter(), time.process_time()
scgp.annotate(cells, progress=False)
print(time.perf_counter() - start, time.process_time() - busy)
"""


def lazy_cells(path: str | Path, chunk: int, n_cells: int | None = None) -> Any:
    """Return an AnnData whose X is a dask array of the file's rows."""
    import anndata as ad
    import h5py

    with h5py.File(path) as file:
        obs, var = (ad.io.read_elem(file[name]) for name in ("obs", "var"))
        shape = file["X"].attrs["shape"]
        matrix = ad.experimental.read_elem_lazy(file["X"], chunks=(chunk, int(shape[1])))
    cells = ad.AnnData(matrix, obs=obs, var=var)
    return cells if n_cells is None else cells[:n_cells].copy()


def local(path: Path, chunk: int, threads: int) -> dict[str, float]:
    """Time this process alone, without a cluster."""
    environ = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LOCAL, str(path), str(chunk), str(threads)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    wall, busy = map(float, done.stdout.split()[-2:])
    return {"seconds": wall, "cpu_seconds": busy}


def _cpu(client: Any) -> float:
    return float(sum(client.run(time.process_time).values()))


def _timed(client: Any, path: Path, chunk: int, n_cells: int) -> dict[str, float]:
    import scgp

    cells = lazy_cells(path, chunk, n_cells)
    workers_busy = _cpu(client)
    start, busy = time.perf_counter(), time.process_time()
    scgp.annotate(cells, progress=False)
    seconds, client_busy = time.perf_counter() - start, time.process_time() - busy
    return {
        "seconds": seconds,
        "client_cpu_seconds": client_busy,
        "workers_cpu_seconds": _cpu(client) - workers_busy,
    }


def cluster(
    path: Path, chunk: int, sizes: list[int], n_workers: int, malloc: dict[str, int]
) -> dict[str, Any]:
    """Time a fresh cluster: its first answer, then some numbers of cells; and its overheads."""
    import dask
    from distributed import Client, LocalCluster

    environ = {f"distributed.nanny.pre-spawn-environ.{name}": x for name, x in malloc.items()}
    options = {"host": "127.0.0.1", "dashboard_address": None, "processes": True}
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        del os.environ[name]  # of an earlier cluster: dask leaves them in this process
    with (
        dask.config.set(environ),
        LocalCluster(n_workers=n_workers, threads_per_worker=1, **options) as made,
        Client(made) as client,
    ):
        found: dict[str, Any] = {"first": _timed(client, path, chunk, n_workers * chunk)}
        found["sizes"] = {str(n): _timed(client, path, chunk, n) for n in sizes}
        found["task_seconds"] = _overhead(client)
        found["submit_seconds"] = _submit_seconds(client)
        found["load_seconds"] = max(client.run(_load_seconds).values())
    return found


def _load_seconds() -> float:
    from scgp.model.checkpoint import DEFAULT_DIRECTORY, Model
    from scgp.reference.index import ReferenceIndex

    start = time.perf_counter()
    Model.load(DEFAULT_DIRECTORY)
    ReferenceIndex.load(DEFAULT_DIRECTORY / "index")
    return time.perf_counter() - start


def _overhead(client: Any) -> float:
    """Return the seconds that a task costs which does nothing, one after the other."""
    import operator

    client.submit(operator.neg, 0).result()
    start = time.perf_counter()
    for i in range(N_TASKS):
        client.submit(operator.neg, i, pure=False).result()
    return (time.perf_counter() - start) / N_TASKS


def _submit_seconds(client: Any) -> float:
    """Return the seconds that the client needs to submit one block of an array of many chunks."""
    import dask.array as da
    from dask import delayed

    array = da.zeros((N_CHUNKS, 10), chunks=(1, 10)).map_blocks(abs)
    start = time.perf_counter()
    for i in range(20):
        chunks = array.blocks[i : i + 1].to_delayed().ravel().tolist()
        client.compute(delayed(len, pure=False)(chunks[0])).result()
    return (time.perf_counter() - start) / 20


def moved(path: Path, chunk: int) -> dict[str, float]:
    """Return the bytes of what goes out and comes back, as distributed would write them."""
    from distributed.protocol import serialize

    import scgp
    from scgp.cells.counts import choose_counts
    from scgp.cells.genes import match_genes
    from scgp.own import model_index
    from scgp.scale import job as jobs

    def size(value: object) -> int:
        return sum(memoryview(frame).nbytes for frame in serialize(value)[1])

    model = scgp.Model.default()
    counts = choose_counts(lazy_cells(path, chunk))
    token_of_column = match_genes(counts, model.genes).token_of_column
    job = jobs.Job(
        version=scgp.__version__, model=jobs.place_of_model(None), where="X", batch_size=1024,
        token_of_column=token_of_column, device=None, index=jobs.place_of_index(None, None),
        calibration=model_index(model).calibration,
    )  # fmt: skip
    rows = counts.rows(0, chunk)
    array = counts.chunked.array
    graph = dict(array.blocks[:1].to_delayed().ravel()[0].__dask_graph__())
    return {
        "nonzero_counts_a_cell": rows.nnz / chunk,
        "out_a_cell_from_memory": size(jobs.PackedRows.pack(rows)) / chunk,
        "out_a_task_from_a_file": size(list(graph.values())),
        "back_a_cell": size(jobs.work(job, rows)) / chunk,
        "job": size(job),
        "job_with_model_and_index": size((job, model, model_index(model))),
    }


def fitted(found: dict[str, Any], chunk: int, sizes: list[int]) -> dict[str, Any]:
    """Fit T(N, W) = start + N / min(W x rate, limit) to one worker; check it with the rest.

    ``start`` and ``rate`` are the line through two numbers of cells.
    """
    (n, t), (m, u) = ((k, found["one"]["sizes"][str(k)]["seconds"]) for k in (sizes[0], sizes[-1]))
    rate = (m - n) / (u - t)
    start = max(t - n / rate, 0.0)
    checks = {}
    for name, n_workers, n_cells in (("one", 1, sizes[1]), *(("two", 2, k) for k in sizes)):
        measured = found[name]["sizes"][str(n_cells)]["seconds"]
        expected = start + n_cells / (n_workers * rate)
        checks[f"{n_workers} x {n_cells}"] = {
            "measured": measured, "expected": expected, "error": expected / measured - 1,
        }  # fmt: skip
    few, many = (found["two"]["sizes"][str(k)]["client_cpu_seconds"] for k in (n, m))
    cell_cpu = max(many - few, 0.0) / (m - n)
    return {"start": start, "rate": rate, "client_seconds_a_cell": cell_cpu, "checks": checks}


def carried_on(model: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Carry the model on to an atlas; the client's network is assumed, the rest measured."""
    moved_, task = found["bytes"], found["two"]["task_seconds"] + found["two"]["submit_seconds"]
    out_file = moved_["out_a_task_from_a_file"] / ATLAS_CHUNK
    first = found["one"]["first"]["seconds"]
    table = {}
    for network, width in NETWORKS.items():
        for source, out in (("file", out_file), ("memory", moved_["out_a_cell_from_memory"])):
            limits = {
                "network": width / (out + moved_["back_a_cell"]),
                "client": 1 / max(model["client_seconds_a_cell"], 1e-9),
                "tasks": ATLAS_CHUNK / task,
            }
            limit = min(limits.values())
            table[f"{source}, {network}"] = {
                "limits": limits,
                "saturates_at_workers": limit / model["rate"],
                "hours": {
                    str(w): (first + model["start"] + ATLAS / min(w * model["rate"], limit)) / 3600
                    for w in WORKERS
                },
            }
    return table


def write(found: dict[str, Any]) -> None:
    """Write JSON, table and plot."""
    (RESULTS / "scale_workers.json").write_text(json.dumps(found, indent=1) + "\n")
    n = found["sizes"][-1]
    local_1, local_2 = found["local"]["1"]["seconds"], found["local"]["2"]["seconds"]
    one, two = (found[k]["sizes"][str(n)]["seconds"] for k in ("one", "two"))
    model, sent = found["model"], found["bytes"]
    rows = [
        ("cells, nonzero counts a cell", f"{n:,}, {sent['nonzero_counts_a_cell']:,.0f}"),
        ("cells a chunk", f"{found['chunk']:,}"),
        ("load of the machine before, and its cores", f"{found['load']:.1f}, {os.cpu_count()}"),
        ("local, 1 thread, cells/s", f"{n / local_1:,.0f}"),
        ("local, 2 threads, cells/s", f"{n / local_2:,.0f}"),
        ("1 worker, cells/s", f"{n / one:,.0f}"),
        ("2 workers, cells/s", f"{n / two:,.0f}"),
        ("1 worker / local 1 thread", f"{local_1 / one:.2f}"),
        ("2 workers / local 1 thread", f"{local_1 / two:.2f}"),
        ("2 workers / 1 worker", f"{one / two:.2f}"),
        ("CPU seconds for 1,000 cells, local 1 thread",
         f"{1e3 * found['local']['1']['cpu_seconds'] / n:.3f}"),
        *((f"CPU seconds for 1,000 cells, 1 worker, {how}",
           f"{1e3 * found[k]['sizes'][str(n)]['workers_cpu_seconds'] / n:.3f}")
          for k, how in (("one", "MALLOC_MMAP_THRESHOLD_ 32 MB"), ("as_dask", "as dask has it"))),
        ("first answer of a fresh worker, s", f"{found['one']['first']['seconds']:.1f}"),
        ("model and index read by a worker, s", f"{found['one']['load_seconds']:.2f}"),
        ("a task that does nothing, ms", f"{1e3 * found['two']['task_seconds']:.2f}"),
        (f"submitting a block of {N_CHUNKS:,} chunks, ms",
         f"{1e3 * found['two']['submit_seconds']:.2f}"),
        ("bytes out a task, read from a file", f"{sent['out_a_task_from_a_file']:,}"),
        ("bytes out a cell, sent from memory", f"{sent['out_a_cell_from_memory']:,.0f}"),
        ("bytes back a cell", f"{sent['back_a_cell']:,.0f}"),
        ("bytes of a job, model and index at the workers", f"{sent['job']:,}"),
        ("bytes of a job, model and index sent", f"{sent['job_with_model_and_index']:,}"),
        ("CPU of client and scheduler (one process), us a cell",
         f"{1e6 * model['client_seconds_a_cell']:.1f}"),
        ("model: start, s", f"{model['start']:.2f}"),
        ("model: cells/s a worker", f"{model['rate']:,.0f}"),
        *((f"checked, workers x cells {k}: measured, expected, error",
           f"{c['measured']:.1f} s, {c['expected']:.1f} s, {c['error']:+.0%}")
          for k, c in model["checks"].items()),
    ]  # fmt: skip
    lines = ["| measurement | value |", "| --- | ---: |", *(f"| {a} | {b} |" for a, b in rows), ""]
    lines += [
        f"Hours for {ATLAS:,} cells by the model, {ATLAS_CHUNK:,} a chunk (network: assumed):",
        "", f"| rows, client's network | {' | '.join(map(str, WORKERS))} workers | saturates at |",
        f"| --- |{' ---: |' * (len(WORKERS) + 1)}",
    ]  # fmt: skip
    for name, line in found["atlas"].items():
        hours = " | ".join(f"{h:,.1f}" for h in line["hours"].values())
        which = min(line["limits"], key=line["limits"].get)
        lines.append(f"| {name} | {hours} | {line['saturates_at_workers']:,.0f} ({which}) |")
    (RESULTS / "scale_workers.md").write_text("\n".join(lines) + "\n")
    plot(found)


def plot(found: dict[str, Any]) -> None:
    """Draw measured and expected seconds, and the hours of an atlas."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    model, sizes = found["model"], found["sizes"]
    for (name, w), colour, marker in zip((("one", 1), ("two", 2)), COLOURS, "os", strict=False):
        measured = [found[name]["sizes"][str(n)]["seconds"] for n in sizes]
        left.plot(
            sizes, measured, marker, color=colour, label=f"{w} worker{'s' * (w > 1)}, measured"
        )
        line = [model["start"] + n / (w * model["rate"]) for n in sizes]
        left.plot(sizes, line, "-" if w == 1 else "--", color=colour, label=f"{w}, model")
    left.set(xlabel="cells", ylabel="seconds", xlim=(0, None), ylim=(0, None))
    left.legend(frameon=False)
    drawn = ("file, 10 Gbit/s", "file, 1 Gbit/s", "memory, 1 Gbit/s")
    for name, colour, style in zip(drawn, COLOURS, ("-o", "--s", ":^"), strict=True):
        right.loglog(
            WORKERS, found["atlas"][name]["hours"].values(), style, color=colour, label=name
        )
    right.set(xlabel="workers", ylabel=f"hours for {ATLAS // 10**6} million cells (model)")
    right.set_xticks(WORKERS, [str(w) for w in WORKERS])
    low, high = right.get_ylim()
    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200) if low <= t <= high]
    right.set_yticks(ticks, [f"{t:g}" for t in ticks])
    right.minorticks_off()
    right.legend(frameon=False, title="rows from, client's network (assumed)")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(RESULTS / "scale_workers.png", dpi=150)


def main() -> None:
    """Measure, fit, write."""
    from benchmarks.speed import real_cells

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cells", type=int, default=6 * 1024)
    parser.add_argument("--chunk", type=int, default=1024)
    asked = parser.parse_args()
    sizes = [asked.cells // 3, 2 * asked.cells // 3, asked.cells]
    found: dict[str, Any] = {"sizes": sizes, "chunk": asked.chunk, "load": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cells.h5ad"
        real_cells(asked.data, asked.cells).write_h5ad(path)
        found["local"] = {str(t): local(path, asked.chunk, t) for t in (1, 2)}
        print("local", found["local"], flush=True)
        for name, n_workers, malloc in (("one", 1, MALLOC), ("two", 2, MALLOC), ("as_dask", 1, {})):
            some = sizes if name != "as_dask" else sizes[-1:]
            found[name] = cluster(path, asked.chunk, some, n_workers, malloc)
            print(name, found[name], flush=True)
        found["bytes"] = moved(path, asked.chunk)
    found["model"] = fitted(found, asked.chunk, sizes)
    found["atlas"] = carried_on(found["model"], found)
    write(found)
    print((RESULTS / "scale_workers.md").read_text())


if __name__ == "__main__":
    main()
