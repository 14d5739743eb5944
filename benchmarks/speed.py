"""Speed and memory of scgp: cells per second beside a BERT, cost of the import, peak memory.

    python benchmarks/speed.py --data ../shared/data [--model DIR] [--threads 2]

Every measurement of memory and import is a process of its own. The BERT has the shape that
Geneformer published first (6 layers, 256 wide, 4 heads, 512 in between, 2,048 tokens) and random
weights: its speed does not depend on them.
"""  # fmt: skip

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    import anndata as ad

N_CELLS = 10_000
N_BACKED = 100_000
BERT = {
    "vocab_size": 25_426,
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "max_position_embeddings": 2048,
}
BERT_BATCH = 4
BERT_BATCHES = 3
N_IMPORTS = 7
# Real 10x cells, with many genes each: the slower case for a model that reads all of them.
FILES = ("train/pbmc3k_seurat.h5ad", "train/zheng_sorted_fasttopics.h5ad")

# "import scgp" binds names and loads nothing; the verb is what a first call has to load.
IMPORTS = {
    "torch, anndata": "import torch, anndata",
    "scgp": "import scgp",
    "scgp with annotate": "import scgp; scgp.annotate",
}
ANNOTATE = """
import resource, sys
import anndata as ad
import torch
torch.set_num_threads(int(sys.argv[3]))
import scgp
adata = ad.read_h5ad(sys.argv[1], backed="r" if sys.argv[4] == "backed" else None)
scgp.annotate(adata, model=sys.argv[2] or None, progress=False)
assert adata.obs["scgp_cell_type"].notna().any()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def real_cells(data: Path, n_cells: int) -> ad.AnnData:
    """Return real cells on the genes that the files share, repeated up to ``n_cells``."""
    import anndata as ad
    import numpy as np

    parts = {name: ad.read_h5ad(data / name) for name in FILES}
    joined = ad.concat(parts, join="inner", index_unique="-")
    row_N = np.arange(n_cells) % joined.n_obs
    obs = joined.obs.iloc[row_N].set_axis([str(i) for i in range(n_cells)])
    return ad.AnnData(joined.X[row_N], obs=obs, var=joined.var)


def scgp_speed(data: Path, model_dir: Path | None) -> float:
    """Return cells per second of ``annotate``, after a first call that loads and compiles."""
    import scgp
    from scgp.embed import resolve_model

    model = resolve_model(model_dir)
    cells = real_cells(data, N_CELLS)
    scgp.annotate(cells[:512].copy(), model=model, progress=False)
    start = time.perf_counter()
    scgp.annotate(cells, model=model, progress=False)
    return N_CELLS / (time.perf_counter() - start)


def bert_speed(dtype: str) -> float:
    """Return cells per second of the BERT, without any tokenizing."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    model = BertModel(BertConfig(**BERT)).eval()
    shape = (BERT_BATCH, BERT["max_position_embeddings"])
    tokens = torch.randint(1, BERT["vocab_size"], shape)
    on = torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")
    with torch.inference_mode(), on:
        model(tokens)
        start = time.perf_counter()
        for _ in range(BERT_BATCHES):
            model(tokens)
    return BERT_BATCH * BERT_BATCHES / (time.perf_counter() - start)


def import_seconds() -> dict[str, float]:
    """Return the median time of each import in a fresh process, by turns."""
    found: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(N_IMPORTS + 1):
        for name, code in IMPORTS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
            found[name].append(time.perf_counter() - start)
    # The first turn reads the files from the disk.
    return {name: statistics.median(values[1:]) for name, values in found.items()}


def peak_gb(path: Path, model_dir: Path | None, threads: int, *, backed: bool) -> float:
    """Return the peak resident memory, in GB (10^9 bytes), of a process that annotates a file."""
    how = "backed" if backed else "memory"
    model = "" if model_dir is None else str(model_dir.resolve())
    command = [sys.executable, "-c", ANNOTATE, str(path), model, str(threads), how]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=ROOT, env=environment
    )
    return int(done.stdout.split()[-1]) * 1024 / 1e9


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Take every measurement; the order is that of the table."""
    import torch

    torch.set_num_threads(arguments.threads)
    found: dict[str, float] = {}
    found["scgp.annotate, cells/s"] = scgp_speed(arguments.data, arguments.model)
    for dtype in ("float32", "bfloat16"):
        found[f"BERT 6 x 256, 2,048 tokens, {dtype}, cells/s"] = bert_speed(dtype)
    for dtype in ("float32", "bfloat16"):
        bert = found[f"BERT 6 x 256, 2,048 tokens, {dtype}, cells/s"]
        found[f"scgp / BERT, {dtype}"] = found["scgp.annotate, cells/s"] / bert
    imports = import_seconds()
    found |= {f"import {name}, s": seconds for name, seconds in imports.items()}
    for name in ("scgp", "scgp with annotate"):
        found[f"import {name} / import torch, anndata"] = imports[name] / imports["torch, anndata"]
    for n_cells, backed in ((N_CELLS, False), (N_BACKED, True)):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "cells.h5ad"
            real_cells(arguments.data, n_cells).write_h5ad(path)
            name = f"peak memory, {n_cells:,} cells{' (backed)' if backed else ''}, GB"
            found[name] = peak_gb(path, arguments.model, arguments.threads, backed=backed)
    return found


def main() -> None:
    """Measure, print and write ``speed.md`` and ``speed.json``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="model directory (default: the checkpoint)")
    parser.add_argument("--threads", type=int, default=2)
    results = Path(__file__).resolve().parent / "results"
    parser.add_argument("--results", type=Path, default=results)
    arguments = parser.parse_args()
    found = measure(arguments)
    lines = ["| measurement | value |", "| --- | ---: |"]
    lines += [f"| {name} | {value:,.2f} |" for name, value in found.items()]
    text = "\n".join(lines) + "\n"
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "speed.md").write_text(text, encoding="utf-8")
    (arguments.results / "speed.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
