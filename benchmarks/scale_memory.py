"""Memory and time of annotating files in place: 10 thousand cells, 100 thousand, 1 million.

    python benchmarks/scale_memory.py --data ../shared/data [--cells 10000 100000 1000000]

Real cells (those of ``speed.py``) are tiled into a file on disk; a process of its own annotates it,
and the system says how much memory it held at most. ``in place`` is ``python -m scgp annotate FILE
--in-place``; ``backed`` is ``scgp.annotate`` on a backed AnnData, at most at 100 thousand cells.
Seconds are those of the whole process: start, import, model and the last step; those of the
processor (``CPU s``) do not depend on what else runs on the machine. Rows that are not
measured again are kept as they are in the table.
"""  # fmt: skip

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

N_TILE = 5_000
BACKED_UP_TO = 100_000
COLUMNS = (
    "file",
    "how",
    "cells",
    "seconds",
    "CPU s",
    "cells/s",
    "peak GB",
    "MB before",
    "MB after",
)
BACKED = """
import sys
import anndata as ad
import scgp
scgp.annotate(ad.read_h5ad(sys.argv[1], backed="r"), progress=False)
"""


def tile_into(root: Any, data: Path, n_cells: int, create: Any) -> None:
    """Write real cells, again and again, up to ``n_cells``; memory holds one tile."""
    import anndata as ad
    import numpy as np

    from benchmarks.speed import real_cells

    tile = real_cells(data, min(N_TILE, n_cells))
    X = tile.X.tocsr()
    starts = range(0, n_cells, tile.n_obs)
    rows = [min(tile.n_obs, n_cells - start) for start in starts]
    root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    group = root.create_group("X")
    group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
    group.attrs["shape"] = [n_cells, X.shape[1]]
    size = int(sum(X.indptr[n] for n in rows))
    values = create(group, "data", size, X.data.dtype)
    columns = create(group, "indices", size, np.int32)
    pointer = create(group, "indptr", n_cells + 1, np.int64)
    done = 0
    for start, n in zip(starts, rows, strict=True):
        nnz = int(X.indptr[n])
        values[done : done + nnz] = X.data[:nnz]
        columns[done : done + nnz] = X.indices[:nnz].astype(np.int32)
        pointer[start : start + n + 1] = X.indptr[: n + 1].astype(np.int64) + done
        done += nnz
    obs = tile.obs.iloc[np.arange(n_cells) % tile.n_obs].set_axis([f"c{i}" for i in range(n_cells)])
    ad.io.write_elem(root, "obs", obs)
    ad.io.write_elem(root, "var", tile.var)


def make_file(path: Path, data: Path, n_cells: int) -> None:
    """Write the tiled cells as an .h5ad file (lzf) or a .zarr store (version 3, its default)."""
    import warnings

    if path.suffix == ".h5ad":
        import h5py

        def in_hdf5(group: Any, name: str, size: int, dtype: Any) -> Any:
            return group.create_dataset(
                name, shape=(size,), dtype=dtype, chunks=(min(size, 1 << 18),), compression="lzf"
            )

        with h5py.File(path, "w") as file:
            tile_into(file, data, n_cells, in_hdf5)
        return
    import zarr

    def in_zarr(group: Any, name: str, size: int, dtype: Any) -> Any:
        return group.create_array(name, shape=(size,), dtype=dtype, chunks=(min(size, 1 << 20),))

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "zarr v3 autosharding", UserWarning)  # of a later default
        tile_into(zarr.open_group(path, mode="w", zarr_format=3), data, n_cells, in_zarr)


def size_mb(path: Path) -> float:
    """Return the size of a file, or of all files of a store, in 10^6 bytes."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def measured(command: list[str]) -> tuple[float, float, float]:
    """Run a process; return its seconds, those of the processor, and its peak memory in GB."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Make each file, annotate it in a process of its own, and remove it."""
    rows: list[dict[str, Any]] = []
    for kind in arguments.kinds:
        for n_cells in arguments.cells:
            folder = Path(tempfile.mkdtemp(dir=arguments.scratch))
            try:
                path = folder / f"cells.{kind}"
                make = [sys.executable, __file__, "--data", str(arguments.data.resolve())]
                subprocess.run([*make, "--make", str(path), "--cells", str(n_cells)], check=True)
                before = size_mb(path)
                commands = {"in place": ["-m", "scgp", "annotate", str(path), "--in-place"]}
                if kind == "h5ad" and n_cells <= BACKED_UP_TO:
                    commands = {"backed": ["-c", BACKED, str(path)], **commands}
                for how, command in commands.items():
                    seconds, busy, peak = measured([sys.executable, *command])
                    rate = n_cells / seconds
                    values = (kind, how, n_cells, seconds, busy, rate, peak, before)
                    after = before if how == "backed" else size_mb(path)
                    rows.append(dict(zip(COLUMNS, (*values, after), strict=True)))
                    sys.stdout.write(f"{rows[-1]}\n")
                    sys.stdout.flush()
            finally:
                shutil.rmtree(folder)
    return rows


def slopes(rows: list[dict[str, Any]]) -> list[str]:
    """Tell the seconds that 1,000 more cells take, between sizes that follow each other."""
    told = []
    for kind in sorted({row["file"] for row in rows}):
        of_kind = [row for row in rows if (row["file"], row["how"]) == (kind, "in place")]
        of_kind.sort(key=lambda row: row["cells"])
        pairs = itertools.pairwise(of_kind)
        for small, large in pairs:
            cells = large["cells"] - small["cells"]
            slope = (large["seconds"] - small["seconds"]) / cells * 1000
            more = (large["peak GB"] - small["peak GB"]) / cells * 1e9
            told.append(
                f"| {kind} | {small['cells']:,} to {large['cells']:,} | {slope:.3f} | {more:,.0f} |"
            )
    return told


def _told(value: float | None) -> str:
    return "not measured" if value is None else f"{value:,.1f}"


def report(rows: list[dict[str, Any]]) -> str:
    """Return the tables as Markdown."""
    lines = [f"| {' | '.join(COLUMNS)} |", "| --- | --- |" + " ---: |" * (len(COLUMNS) - 2)]
    lines += [
        f"| {row['file']} | {row['how']} | {row['cells']:,} | {row['seconds']:,.1f} | "
        f"{_told(row.get('CPU s'))} | "
        f"{row['cells/s']:,.0f} | {row['peak GB']:.2f} | {row['MB before']:,.0f} | "
        f"{row['MB after']:,.0f} |"
        for row in rows
    ]
    lines += ["", "| file | cells | seconds per 1,000 more cells | bytes per more cell |"]
    lines += ["| --- | --- | ---: | ---: |", *slopes(rows)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and write ``scale_memory.md`` and ``scale_memory.json``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--kinds", nargs="+", default=["h5ad", "zarr"], choices=["h5ad", "zarr"])
    parser.add_argument("--scratch", type=Path, help="folder for the files, removed after")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    results = Path(__file__).resolve().parent / "results"
    parser.add_argument("--results", type=Path, default=results)
    arguments = parser.parse_args()
    if arguments.make is not None:
        make_file(arguments.make, arguments.data, arguments.cells[0])
        return
    kept = arguments.results / "scale_memory.json"
    known = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else []
    rows = {tuple(row[name] for name in COLUMNS[:3]): row for row in known}
    for row in measure(arguments):
        rows[tuple(row[name] for name in COLUMNS[:3])] = row
    ordered = [rows[key] for key in sorted(rows)]
    arguments.results.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(ordered, indent=1), encoding="utf-8")
    text = report(ordered)
    (arguments.results / "scale_memory.md").write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
