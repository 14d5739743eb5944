"""Scaling curves: time by cells, genes a cell, token budget, reference cells and workers.

    python benchmarks/scale.py --data ../shared/data [--parts genes tokens reference plot]

Measures genes a cell, token budget and reference size here; cells and workers come from
``scale_memory.py`` and ``scale_workers.py``, whose tables must be there to be drawn. Real cells
throughout; where there are too few they are repeated, and the vectors of the larger references are
those of real cells with noise. Points of a curve are taken by turns, and the fastest of three kept.
"""  # fmt: skip

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from matplotlib.axes import Axes

    Points = list[dict[str, float]]

HERE = Path(__file__).resolve().parent
PARTS = ("genes", "tokens", "reference", "plot")
N_CELLS, N_TURNS = 4096, 3
NONZEROS = (250, 500, 750, 1000, 1500)
TOKENS = (16, 32, 64, 128, 256, 512)
REFERENCES = (1_000, 4_000, 16_000, 64_000, 256_000)
#: Cells and genes that are read in their context, and the noise of repeated vectors.
N_READ, N_GENES, NOISE = 1024, 50, 0.02
#: Okabe and Ito's blue.
COLOUR = (0, 114 / 255, 178 / 255)


def by_turns(actions: dict[float, Callable[[], object]]) -> dict[float, float]:
    """Return the shortest time of each action; the first turn is not counted."""
    best: dict[float, float] = {}
    for turn in range(N_TURNS + 1):
        for key, action in actions.items():
            start = time.perf_counter()
            action()
            seconds = time.perf_counter() - start
            if turn:
                best[key] = min(seconds, best.get(key, seconds))
    return best


def genes_curve(data: Path, model: Any) -> Points:
    """Time ``annotate`` on real cells of about as many expressed genes each."""
    import scgp
    from benchmarks.speed import real_cells
    from benchmarks.speed_stages import cells_like

    every = real_cells(data, 20_000)
    some = {n: cells_like(every, n, N_CELLS) for n in NONZEROS}
    found = by_turns(
        {
            cells.X.nnz / cells.n_obs: lambda c=cells: scgp.annotate(c, model=model, progress=False)
            for cells in some.values()
        }
    )
    return [{"genes a cell": n, "us a cell": s / N_CELLS * 1e6} for n, s in found.items()]


def tokens_curve(data: Path, model: Any) -> Points:
    """Time ``embed_genes`` for token budgets; the weights are those trained with one of them."""
    import copy
    import dataclasses

    import scgp
    from benchmarks.speed import real_cells
    from scgp.cells.tokens import Tokenizer

    cells = real_cells(data, 20_000)[:N_READ].copy()
    names = list(cells.var_names[cells.X.sum(axis=0).A1.argsort()[::-1][:N_GENES]])
    actions = {}
    for n_tokens in TOKENS:
        other = copy.copy(model)
        other.config = dataclasses.replace(model.config, n_tokens=n_tokens)
        weights_G = model.network.gene_weight_G.numpy()
        other.__dict__["tokenizer"] = Tokenizer(model.config.n_genes, n_tokens, weights_G)
        actions[n_tokens] = lambda m=other: scgp.embed_genes(cells, names, model=m, progress=False)
    found = by_turns(actions)
    return [{"tokens": n, "us a cell": s / N_READ * 1e6} for n, s in found.items()]


def reference_curve(data: Path, model: Any) -> Points:
    """Time ``annotate`` against references of real vectors, repeated with noise."""
    import numpy as np

    import scgp
    from benchmarks.speed import real_cells
    from scgp.own import model_index

    index = model_index(model)
    rng = np.random.default_rng(0)
    cells = real_cells(data, N_CELLS)
    actions = {}
    for n in REFERENCES:
        row_N = np.sort(np.resize(rng.permutation(index.n_cells), n))
        larger = _grown(index, row_N, rng)
        actions[n] = lambda i=larger: scgp.annotate(cells, model=model, index=i, progress=False)
    found = by_turns(actions)
    return [{"reference cells": n, "us a cell": s / N_CELLS * 1e6} for n, s in found.items()]


def _grown(index: Any, row_N: np.ndarray, rng: np.random.Generator) -> Any:
    """Return an index of these rows, with noise, and all that else an answer needs."""
    import dataclasses

    import numpy as np

    from scgp.reference.index import ReferenceIndex

    noise_ND = rng.normal(scale=NOISE, size=(len(row_N), index.width)).astype(np.float32)
    vectors_ND = index.vectors_ND[row_N] + noise_ND
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    names = np.array(index.labels)[index.code_N[row_N]]
    kept = np.unique(index.code_N[row_N])
    head = index.gene_head
    weights = {
        name: None if x is None else x[..., kept]
        for name in ("weight_HT", "bias_T", "described_HT")
        for x in [getattr(head, name)]
    }
    return ReferenceIndex.build(
        vectors_ND,
        list(names),
        label_ids=[index.label_ids[t] for t in kept],
        model_fingerprint=index.model_fingerprint,
        text_TD=index.text_TD[kept],
        calibration=index.calibration,
        gene_head=dataclasses.replace(head, **weights),
    )


CURVES = {"genes": genes_curve, "tokens": tokens_curve, "reference": reference_curve}


def draw(results: Path, content: dict[str, Any]) -> None:
    """Draw a panel for each curve that has been measured."""
    import matplotlib.pyplot as plt

    panels: list[tuple[str, str, Points, str]] = []
    memory = results / "scale_memory.json"
    if memory.is_file():
        panels += cells_panels(json.loads(memory.read_text(encoding="utf-8")))
    titles = {
        "genes": "annotate, by expressed genes",
        "tokens": f"embed_genes, {N_GENES} genes, by token budget",
        "reference": "annotate, by reference cells",
    }
    for part, title in titles.items():
        if part in content:
            points = content[part]
            panels.append((title, next(iter(points[0])), points, "us a cell"))
    workers = results / "scale_workers.json"
    if workers.is_file():
        panels += workers_panels(json.loads(workers.read_text(encoding="utf-8")))
    rows = -(-len(panels) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(7.2, 2.6 * rows), constrained_layout=True)
    for ax, panel in zip(axes.flat, panels, strict=False):
        _panel(ax, *panel)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    figure.savefig(results / "scale.png", dpi=200)


def _panel(ax: Axes, title: str, x: str, points: Points, y: str) -> None:
    ax.plot([p[x] for p in points], [p[y] for p in points], "o-", color=COLOUR, markersize=4)
    ax.set_title(title, fontsize=9)
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    if max(p[x] for p in points) > 50 * min(p[x] for p in points):
        ax.set_xscale("log")
    else:
        ax.xaxis.get_major_locator().set_params(integer=True)
    most = max(p[y] for p in points)
    if most > 20 * min(p[y] for p in points):
        ax.set_yscale("log")
    else:
        ax.set_ylim(0, 1.1 * most)
    ax.spines[["top", "right"]].set_visible(False)


def cells_panels(content: Any) -> list[tuple[str, str, Points, str]]:
    """Return the panels of cells from what ``scale_memory.py`` wrote."""
    rows = [row for row in content if (row["file"], row["how"]) == ("h5ad", "in place")]
    rows.sort(key=lambda row: row["cells"])
    return [
        (title, "cells", [{"cells": row["cells"], y: row[y]} for row in rows], y)
        for title, y in (
            ("annotate_file (.h5ad), time", "seconds"),
            ("annotate_file (.h5ad), memory", "peak GB"),
        )
    ]


def workers_panels(content: Any) -> list[tuple[str, str, Points, str]]:
    """Return the panel of workers from what ``scale_workers.py`` wrote."""
    points = []
    for n_workers, name in enumerate(("one", "two"), start=1):
        seconds = content[name]["sizes"]
        n_cells = max(seconds, key=int)
        rate = int(n_cells) / seconds[n_cells]["seconds"]
        points.append({"workers": n_workers, "cells/s": rate})
    return [("annotate, dask workers on two cores", "workers", points, "cells/s")]


def table(content: dict[str, Any]) -> str:
    """Write the curves as tables."""
    lines: list[str] = []
    for part in CURVES:
        if part not in content:
            continue
        columns = list(content[part][0])
        lines += [f"## {part}", "", f"Made by `{content['commands'][part]}`.", ""]
        lines += ["| " + " | ".join(columns) + " |", "|" + " ---: |" * len(columns)]
        lines += [
            "| " + " | ".join(f"{point[c]:,.0f}" for c in columns) + " |" for point in content[part]
        ]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Measure the parts asked for, and write ``scale.md``, ``scale.json`` and ``scale.png``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="model directory (default: the checkpoint)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    import torch

    from scgp.embed import resolve_model

    torch.set_num_threads(arguments.threads)
    kept = arguments.results / "scale.json"
    content = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    command = shlex.join(["python", "benchmarks/scale.py", *sys.argv[1:]])
    model = resolve_model(arguments.model)
    for part in arguments.parts:
        if part in CURVES:
            content[part] = CURVES[part](arguments.data, model)
            content.setdefault("commands", {})[part] = command
            arguments.results.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(content, indent=1), encoding="utf-8")
    text = table(content)
    (arguments.results / "scale.md").write_text(text, encoding="utf-8")
    if "plot" in arguments.parts:
        draw(arguments.results, content)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
