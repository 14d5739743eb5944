"""Speed and memory of scgp: cells per second beside a BERT, cost of the import, peak memory.

    python benchmarks/speed.py --data ../shared/data [--model DIR] [--threads 2]

Every measurement of memory and import is a process of its own. The BERT has the shape that
Geneformer published first (6 layers, 256 wide, 4 heads, 512 in between, 2,048 tokens) and random
weights: its speed does not depend on them. It is also run on as few tokens as scgp's own
transformer reads of a cell. scgp and the BERT are timed by turns. Where the time of ``annotate``
goes, beside the least it could take, is ``speed_stages.py``.
"""  # fmt: skip

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
#: Cells at once: the tokens of four cells of the first shape.
BERT_TOKENS_AT_ONCE = 4 * BERT["max_position_embeddings"]
BERT_BATCHES = 3
N_TURNS = 3
N_IMPORTS = 7
#: Cells of the first answer, and nonzeros of the cells that the tokenizer is measured with.
N_FIRST, NONZEROS = 3_000, 1_500
# Real 10x cells, with many genes each: the slower case for a model that reads all of them.
FILES = ("train/pbmc3k_seurat.h5ad", "train/zheng_sorted_fasttopics.h5ad")

# "import scgp" binds names and loads nothing; the verb is what a first call has to load.
IMPORTS = {
    "torch, anndata": "import torch, anndata",
    "scgp": "import scgp",
    "scgp with annotate": "import scgp; scgp.annotate",
}
ANNOTATE = """
import sys
import anndata as ad
import torch
torch.set_num_threads(int(sys.argv[3]))
import scgp
adata = ad.read_h5ad(sys.argv[1], backed="r" if sys.argv[4] == "backed" else None)
scgp.annotate(adata, model=sys.argv[2] or None, progress=False)
assert adata.obs["scgp_cell_type"].notna().any()
# not ru_maxrss, which begins with what the parent of the process held
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
FIRST = """
import sys
import anndata as ad
import scgp
adata = ad.read_h5ad(sys.argv[1])
scgp.annotate(adata, model=sys.argv[2] or None, progress=False)
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


def scgp_speed(cells: ad.AnnData, model: Any, device: str | None = None) -> float:
    """Return cells per second of ``annotate``."""
    import scgp

    start = time.perf_counter()
    scgp.annotate(cells, model=model, progress=False, device=device)
    return cells.n_obs / (time.perf_counter() - start)


def bert_speed(dtype: str, n_tokens: int) -> float:
    """Return cells per second of the BERT, without any tokenizing."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    model = BertModel(BertConfig(**BERT)).eval()
    shape = (BERT_TOKENS_AT_ONCE // n_tokens, n_tokens)
    tokens = torch.randint(1, BERT["vocab_size"], shape)
    on = torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")
    with torch.inference_mode(), on:
        model(tokens)
        start = time.perf_counter()
        for _ in range(BERT_BATCHES):
            model(tokens)
    return shape[0] * BERT_BATCHES / (time.perf_counter() - start)


def by_turns(cells: ad.AnnData, model: Any, n_tokens: int) -> dict[str, float]:
    """Time scgp and the BERTs by turns; return medians, and the median of each turn's ratio."""
    found: dict[str, list[float]] = {}
    shapes = [(kind, n) for n in (2048, n_tokens) for kind in ("float32", "bfloat16")]
    for _ in range(N_TURNS):
        ours = scgp_speed(cells, model)
        found.setdefault("scgp.annotate, cells/s", []).append(ours)
        for kind, n in shapes:
            name = f"BERT 6 x 256, {n:,} tokens, {kind}"
            theirs = bert_speed(kind, n)
            found.setdefault(f"{name}, cells/s", []).append(theirs)
            found.setdefault(f"scgp / {name}", []).append(ours / theirs)
    return {name: statistics.median(values) for name, values in found.items()}


def in_bfloat16(cells: ad.AnnData, model: Any) -> dict[str, float]:
    """Return what the network in bfloat16 would give: not what scgp does."""
    from unittest import mock

    import torch

    from scgp import labelling

    as_it_is = labelling.embed_chunk

    def embed_chunk(*given: Any, **options: Any) -> Any:  # in the thread that reads
        with torch.autocast("cpu", torch.bfloat16):
            return as_it_is(*given, **options)

    ratios, same = [], []
    for _ in range(N_TURNS):
        speed = scgp_speed(cells, model)
        labels = cells.obs["scgp_cell_type"].astype(str)
        with mock.patch.object(labelling, "embed_chunk", embed_chunk):
            ratios.append(scgp_speed(cells, model) / speed)
        same.append(float((cells.obs["scgp_cell_type"].astype(str) == labels).mean()))
    return {
        "network in bfloat16 (not done) / as it is": statistics.median(ratios),
        "network in bfloat16 (not done), share of equal labels": statistics.median(same),
    }


def on_the_gpu(cells: ad.AnnData, model: Any) -> float | None:
    """Return cells/s of ``annotate`` on a GPU; None where there is none: not measured."""
    import torch

    if not torch.cuda.is_available():
        return None
    scgp_speed(cells, model, "cuda")
    return statistics.median(scgp_speed(cells, model, "cuda") for _ in range(N_TURNS))


def first_answer_seconds(path: Path, model_dir: Path | None) -> float:
    """Return the median time of a fresh process that reads a file and annotates it."""
    model = "" if model_dir is None else str(model_dir.resolve())
    found = []
    for _ in range(N_TURNS + 1):
        start = time.perf_counter()
        command = [sys.executable, "-c", FIRST, str(path), model]
        subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
        found.append(time.perf_counter() - start)
    # The first turn reads the files from the disk.
    return statistics.median(found[1:])


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


def measure(arguments: argparse.Namespace) -> tuple[dict[str, float | None], list[str]]:
    """Take every measurement, and write the table of stages; the order is that of the table."""
    import torch

    from benchmarks import speed_stages
    from scgp.embed import resolve_model

    torch.set_num_threads(arguments.threads)
    model = resolve_model(arguments.model)
    cells = real_cells(arguments.data, N_CELLS)
    scgp_speed(cells[:1024].copy(), model)
    found: dict[str, float | None] = {**by_turns(cells, model, model.config.n_tokens)}
    found["scgp.annotate on a GPU, cells/s"] = on_the_gpu(cells, model)
    found |= in_bfloat16(cells, model)
    dense = speed_stages.cells_like(real_cells(arguments.data, 20_000), NONZEROS, 4096)
    rate, nonzeros = speed_stages.measure_tokenizer(dense, model)
    found[f"tokenizer on one core, {nonzeros:,.0f} nonzeros a cell, cells/s"] = rate
    machine = speed_stages.measure_machine()
    stages, nonzeros = speed_stages.measure_stages(cells, model)
    imports = import_seconds()
    found |= {f"import {name}, s": seconds for name, seconds in imports.items()}
    for name in ("scgp", "scgp with annotate"):
        found[f"import {name} / import torch, anndata"] = imports[name] / imports["torch, anndata"]
    sizes = ((N_FIRST, None), (N_CELLS, False), (N_BACKED, True))
    for n_cells, backed in sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "cells.h5ad"
            real_cells(arguments.data, n_cells).write_h5ad(path)
            if backed is None:
                name = f"first answer on {n_cells:,} cells, import included, s"
                found[name] = first_answer_seconds(path, arguments.model)
                continue
            name = f"peak memory, {n_cells:,} cells{' (backed)' if backed else ''}, GB"
            found[name] = peak_gb(path, arguments.model, arguments.threads, backed=backed)
    return found, speed_stages.stages_table(stages, machine, nonzeros)


def main() -> None:
    """Measure, print and write ``speed.md`` and ``speed.json``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="model directory (default: the checkpoint)")
    parser.add_argument("--threads", type=int, default=2)
    results = Path(__file__).resolve().parent / "results"
    parser.add_argument("--results", type=Path, default=results)
    arguments = parser.parse_args()
    found, stages = measure(arguments)
    lines = [
        f"Made by `{shlex.join(['python', 'benchmarks/speed.py', *sys.argv[1:]])}`; medians of "
        f"{N_TURNS} turns.",
        "",
        "| measurement | value |",
        "| --- | ---: |",
    ]
    shown = {k: "not measured" if v is None else f"{v:,.2f}" for k, v in found.items()}
    lines += [f"| {name} | {value} |" for name, value in shown.items()]
    lines += ["", *stages]
    text = "\n".join(lines) + "\n"
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "speed.md").write_text(text, encoding="utf-8")
    (arguments.results / "speed.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
