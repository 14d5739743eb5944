"""Speed of training: cells per second of both phases, and what that comes to for an atlas.

    python benchmarks/scale_training.py --data ../shared/data [--steps 12]

Every row is a process of its own (two, for the rows of two), one thread each. A row's time is the
median over steps, the first three left out: by the clock, and by the processor time of rank 0,
which other work on the machine hardly changes. Floating-point operations are those of the products
of matrices and of attention, counted by torch in a step, forwards and backwards; the peak is that
of a product of two 2,048 x 2,048 matrices in the same run.
"""  # fmt: skip

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

FILES = ("train/pbmc3k_seurat.h5ad", "train/zheng_sorted_fasttopics.h5ad")
MOST_CELLS = 10_000
SKIPPED = 3
SHAPES = {
    "default": {},
    "wide": {"width": 512, "context_layers": 8, "n_heads": 8},
}
#: Rows: shape, processes, device.
ROWS = (
    ("default", 1, "cpu"), ("default", 2, "cpu"), ("wide", 1, "cpu"), ("wide", 2, "cpu"),
    ("default", 1, "cuda"), ("wide", 1, "cuda"),
)  # fmt: skip
ATLASES = (1_000_000, 10_000_000, 50_000_000)
#: An assumption, not a measurement or an offer: US dollars for an hour of one processor core.
USD_PER_CORE_HOUR = 0.05


def main() -> None:
    """Measure all rows, or the one that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=12, help="steps of each phase")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--row", type=json.loads, help="one row, as JSON; printed")
    args = parser.parse_args()
    if args.row:
        sys.stdout.write(json.dumps(measure(args.data, args.steps, *args.row)) + "\n")
        return
    rows = [_apart(args, row) for row in ROWS]
    result = {"load_average": os.getloadavg(), "rows": rows}
    (args.out / "scale_training.json").write_text(json.dumps(result, indent=1) + "\n")
    (args.out / "scale_training.md").write_text(report(result))
    sys.stdout.write(report(result))


def _apart(args: argparse.Namespace, row: tuple[str, int, str]) -> dict[str, Any]:
    import torch

    shape, processes, device = row
    found = {"shape": shape, "processes": processes, "device": device}
    if device == "cuda" and torch.cuda.device_count() < processes:
        return found
    steps = args.steps if shape == "default" or device == "cuda" else SKIPPED + 3
    command = [sys.executable, __file__, "--data", str(args.data), "--steps", str(steps)]
    done = subprocess.run(
        [*command, "--row", json.dumps(row)],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, check=True, text=True,
    )  # fmt: skip
    return found | json.loads(done.stdout.splitlines()[-1])


def measure(data: Path, steps: int, shape: str, processes: int, device: str) -> dict[str, Any]:
    """Train for some steps of each phase, and time them."""
    import torch

    import scgp
    from scgp.model.config import ModelConfig, TrainConfig
    from scgp.training import loop
    from scgp.training.objective import term_tables
    from scgp.training.together import Processes

    torch.set_num_threads(1)
    start = scgp.Model.default()
    config = ModelConfig(
        n_genes=start.config.n_genes, text_dim=start.config.text_dim, **SHAPES[shape]
    )
    settings = TrainConfig(pool_steps=steps, steps=steps)
    corpus = _corpus(data, start)
    tables = term_tables(corpus, start.phenotypes)
    model = scgp.Model(config, loop.CellTransformer(config), start.genes, start.phenotypes)
    found = _count(model, corpus, tables, settings)
    found |= _peak(torch.device(device))
    moments: list[tuple[float, float]] = []
    real = loop._Module.training_step

    def timed(self: Any, batch: int) -> Any:
        if device == "cuda":
            torch.cuda.synchronize()
        moments.append((time.perf_counter(), time.process_time()))
        return real(self, batch)

    loop._Module.training_step = timed  # type: ignore[method-assign]
    loop.fit_network(
        model, corpus, tables, settings, device=torch.device(device), work=None, resume=False,
        progress=False, processes=Processes(processes),
    )  # fmt: skip
    for name, first, cells in (
        ("pooled", 0, settings.batch_size),
        ("context", steps, settings.context_cells),
    ):
        part = moments[first + SKIPPED : first + steps]
        for kind, clock in (("clock", 0), ("processor", 1)):
            took = [b[clock] - a[clock] for a, b in itertools.pairwise(part)]
            found[f"{name} {kind}"] = cells / statistics.median(took)
    bf16 = loop._precision(settings, torch.device(device)) == "bf16-mixed"
    return found | {"bf16": bf16, "cells": corpus.n_cells}


def _corpus(data: Path, start: Any) -> Any:
    import anndata as ad
    import numpy as np

    from scgp.cells.corpus import read_corpus

    parts = [ad.read_h5ad(data / name) for name in FILES]
    each = MOST_CELLS // len(parts)
    rng = np.random.default_rng(0)
    parts = [p[np.sort(rng.permutation(p.n_obs)[:each])].copy() for p in parts]
    key = "cell_type_ontology_term_id"
    return read_corpus(parts, start.genes, label_key=key, study_key=None, donor_key=None)


def _count(model: Any, corpus: Any, tables: Any, settings: Any) -> dict[str, Any]:
    """Return operations of products of matrices in a cell's step, forwards and backwards."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

    from scgp.cells.tokens import Tokenizer
    from scgp.training import loop
    from scgp.training.objective import Objective

    tokenizer = Tokenizer(
        model.config.n_genes, model.config.n_tokens, model.network.gene_weight_G.numpy()
    )
    sampler = loop._sampler(corpus, tables, tokenizer, settings)
    objective = Objective(model.network.train(), tables, settings)
    aten = torch.ops.aten

    def attend(q: Any, k: Any, v: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return sdpa_flop_count(q, k, v)

    def back(g: Any, q: Any, k: Any, v: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return sdpa_backward_flop_count(g, q, k, v)

    cpu = {
        aten._scaled_dot_product_flash_attention_for_cpu: attend,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: back,
    }
    found = {"nonzeros of a cell": corpus.count_NG.nnz / corpus.n_cells}
    phases = (
        ("pooled", 0, settings.batch_size),
        ("context", settings.pool_steps, settings.context_cells),
    )
    for name, step, cells in phases:
        draw = objective.draw(sampler, step, use_tokens=step > 0)
        model.network.freeze_pooled(frozen=step > 0)
        with FlopCounterMode(display=False, custom_mapping=cpu) as counter:
            objective.losses(draw, use_tokens=step > 0)["loss"].backward()
        found[f"{name} operations"] = counter.get_total_flops() / cells
        model.network.zero_grad(set_to_none=True)
    model.network.freeze_pooled(frozen=False)
    return found


def _peak(device: Any) -> dict[str, float]:
    """Return the best rate of a product of matrices of 2,048 x 2,048, in operations a second."""
    import torch

    found = {}
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        a, b = (torch.randn(2048, 2048, device=device).to(dtype) for _ in range(2))
        took = []
        for _ in range(6):
            begin = clock()
            a @ b
            if device.type == "cuda":
                torch.cuda.synchronize()
            took.append(clock() - begin)
        found[f"peak {name}"] = 2 * 2048**3 / min(took)
    return found


def report(result: dict[str, Any]) -> str:
    """Return the tables."""
    rows = result["rows"]
    load = result["load_average"][-1]
    lines = [
        "Made by `python benchmarks/scale_training.py --data ../shared/data`. Real cells, one "
        "thread a process. *Clock*: cells/s by the clock, which other work on the machine lowers. "
        "*Processor*: cells per second of processor time of one process; with two, a process "
        "computes half of each batch. *Share*: of the peak rate of products of matrices, by "
        f"processor time. Other work was going on: a load average of {load:.0f}, on "
        f"{os.cpu_count()} cores.",
        "",
        "| shape | device | processes | phase | precision | clock | processor | MFLOP a cell "
        "| peak, GFLOP/s | share |",
        "| --- | --- | ---: | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        head = f"| {row['shape']} | {row['device']} | {row['processes']} |"
        if "bf16" not in row:
            lines.append(f"{head} both | | not measured | not measured | | | |")
            continue
        for phase in ("pooled", "context"):
            precision = "bfloat16" if phase == "context" and row["bf16"] else "float32"
            rate, operations = row[f"{phase} processor"], row[f"{phase} operations"]
            peak = row[f"peak {precision}"]
            share = rate * operations / peak / row["processes"]
            lines.append(
                f"{head} {phase} | {precision} | {row[f'{phase} clock']:,.0f} | {rate:,.0f} "
                f"| {operations / 1e6:,.1f} | {peak / 1e9:,.0f} | {share:.2f} |"
            )
    one = next(row for row in rows if "bf16" in row)
    pooled, context = one["pooled processor"], one["context processor"]
    lines += [
        "",
        f"One pass over an atlas in each phase at the default shape, on one core: cells / "
        f"{pooled:,.0f} a second (pooled view) and cells / {context:,.0f} a second (context). An "
        f"hour of a core at {USD_PER_CORE_HOUR:.2f} US dollars is an **assumption**.",
        "",
        "| cells | pooled view, hours | context, hours | both, core-hours "
        "| US dollars (assumed price) |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for cells in ATLASES:
        first, second = cells / pooled / 3600, cells / context / 3600
        both = first + second
        lines.append(
            f"| {cells:,} | {first:,.2f} | {second:,.2f} | {both:,.2f} "
            f"| {both * USD_PER_CORE_HOUR:,.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
