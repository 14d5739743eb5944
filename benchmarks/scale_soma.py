"""Training from a SOMA experiment: memory, speed of reading, and what is read in vain.

    python benchmarks/scale_soma.py --data ../shared/data --work DIR [--cells 100000]

Real cells of the training files, repeated study by study up to ``--cells``, are written as a SOMA
experiment with the tiles of the CELLxGENE Census (2,048 x 2,048, 65,536 entries, zstd 9) and as an
h5ad file. Every measurement is a process of its own, on one thread of scgp; TileDB uses two. The
files lie on a local disk and in its cache: a bucket adds its own time.
"""  # fmt: skip

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from scgp.cells.corpus import Corpus
    from scgp.cells.sampling import Sampler

KEYS = {
    "label_key": "cell_type_ontology_term_id", "study_key": "dataset_id", "donor_key": "donor_id",
}  # fmt: skip
ZSTD = {"_type": "ZstdFilter", "level": 9}
SHUFFLED = ["ByteShuffleFilter", ZSTD]
CENSUS = {
    "tiledb": {
        "create": {
            "capacity": 2**16,
            "dims": {
                "soma_dim_0": {"tile": 2048, "filters": [ZSTD]},
                "soma_dim_1": {"tile": 2048, "filters": SHUFFLED},
            },
            "attrs": {"soma_data": {"filters": SHUFFLED}},
            "cell_order": "row-major",
            "tile_order": "row-major",
            "allows_duplicates": True,
        }
    }
}
BATCH, STEPS = 256, 128
#: Steps of the run whose memory and time are compared, and how often the cells are opened for it.
TRAIN_STEPS, TIMES = 200, 4


def make(data: Path, work: Path, n_cells: int) -> None:
    """Write the experiment and the h5ad file, unless they are there."""
    import anndata as ad
    import pandas as pd
    import tiledbsoma.io

    import scgp
    from scgp.cells.dataset import CellDataset

    if (work / "cells.h5ad").is_file():
        return
    genes = scgp.Model.default().genes
    files = sorted((data / "train").glob("*.h5ad"))
    keys = {"label_key": KEYS["label_key"], "study_key": "study", "donor_key": "donor"}
    cells = CellDataset(files, genes, **keys)
    counts = cells.in_memory()
    times = -(-n_cells // cells.n_cells)
    edges = np.concatenate([[0], np.cumsum(cells.n_per_source)])
    spans = [np.arange(a, b) for a, b in itertools.pairwise(edges)]
    rows = np.concatenate([np.tile(span, times) for span in spans])[:n_cells]
    obs = pd.DataFrame(
        {
            KEYS["label_key"]: pd.Categorical(cells.label[rows]),
            KEYS["study_key"]: pd.Categorical(cells.study[rows]),
            KEYS["donor_key"]: pd.Categorical(cells.donor[rows]),
        },
        index=[f"cell{i}" for i in range(len(rows))],
    )
    var = pd.DataFrame({"feature_name": genes.symbol}, index=genes.ensembl)
    adata = ad.AnnData(counts[rows].astype(np.float32), obs=obs, var=var)
    cells.close()
    tiledbsoma.io.from_anndata(
        str(work / "cells.soma"), adata, measurement_name="RNA", X_layer_name="raw",
        var_id_name="feature_id", platform_config=CENSUS,
    )  # fmt: skip
    adata.write_h5ad(work / "cells.h5ad")


def corpus_of(work: Path, *, by_tiles: bool = False) -> Corpus:
    """Open the experiment as a corpus whose counts stay stored."""
    import scgp
    from scgp.cells.corpus import read_corpus
    from scgp.cells.soma import SomaSource

    source = SomaSource(work / "cells.soma", by_tiles=by_tiles)
    return read_corpus(source, scgp.Model.default().genes, **KEYS)


def sampler_of(corpus: Corpus) -> Sampler:
    """Return the sampler of a training run on the corpus."""
    import scgp
    from scgp.cells.sampling import Sampler
    from scgp.training.objective import term_tables

    model = scgp.Model.default()
    classes = term_tables(corpus, model.phenotypes)["type"].cell_N
    options = {"batch_size": BATCH, "drawn_share": 0.0, "seed": 0}
    return Sampler(corpus, classes, model.tokenizer, **options)


def bytes_read() -> int:
    """Return the bytes that this process has asked files for."""
    text = Path("/proc/self/io").read_text(encoding="utf-8")
    return int(text.split("rchar:")[1].split()[0])


def sequential(work: Path) -> dict[str, float]:
    """Read every cell once, in order."""
    corpus = corpus_of(work)
    before, start, cpu = bytes_read(), time.perf_counter(), time.process_time()
    entries = sum(block.nnz for _, block in corpus.blocks())
    seconds = time.perf_counter() - start
    n = corpus.n_cells
    return {
        "cells": n,
        "tiles": -(-n // 2048),
        "used_per_s": n / seconds,
        "used_per_cpu_s": n / (time.process_time() - cpu),
        "rows_read_per_row_used": 1.0,
        "bytes_a_cell": (bytes_read() - before) / n,
        "genes_a_cell": entries / n,
    }


def rounds(work: Path, *, by_tiles: bool = False, one_by_one: bool = False) -> dict[str, float]:
    """Read the cells of the batches of `STEPS` steps (16 if each is read alone), and no more."""
    corpus = corpus_of(work, by_tiles=by_tiles)
    sampler = sampler_of(corpus)
    counts = corpus.count_NG
    steps = range(16 if one_by_one else STEPS)
    tiles: dict[int, set[int]] = {}
    joined = corpus_of(work, by_tiles=True).tile_N
    assert joined is not None
    real = type(counts)._read

    def read(self: Any, row_R: np.ndarray) -> Any:
        tiles[len(tiles)] = set(joined[row_R].tolist())
        return real(self, row_R)

    type(counts)._read = read  # type: ignore[assignment, union-attr]
    counts[np.arange(10)]  # what is opened once
    tiles.clear()
    before, start, cpu = bytes_read(), time.perf_counter(), time.process_time()
    if one_by_one:
        for step in steps:
            counts[sampler.batch_rows(step)]
    else:
        with sampler.ahead(sampler.batch_rows, steps):
            for step in steps:
                counts[sampler.batch_rows(step)]
    seconds = time.perf_counter() - start
    cpu = time.process_time() - cpu
    n_used = BATCH * len(steps)
    n_in_tiles = sum(len(found) for found in tiles.values()) * 2048
    return {
        "used_per_s": n_used / seconds,
        "used_per_cpu_s": n_used / cpu,
        "bytes_a_cell": (bytes_read() - before) / n_used,
        "rows_read_per_row_used": n_in_tiles / n_used,
        "studies_of_a_batch": float(
            np.mean([len(set(corpus.study_N[sampler.batch_rows(s)])) for s in steps])
        ),
    }


def trained(work: Path, source: str, times: int) -> dict[str, float]:
    """Train the pooled view for `TRAIN_STEPS` steps, on the cells opened `times` times."""
    import torch

    import scgp
    from scgp.cells.corpus import read_corpus
    from scgp.cells.soma import SomaSource
    from scgp.model.config import ModelConfig, TrainConfig
    from scgp.model.network import CellTransformer
    from scgp.training.loop import fit_network
    from scgp.training.objective import term_tables

    address = work / "cells.soma"
    data: Any = {
        "h5ad": work / "cells.h5ad",
        "soma": SomaSource(address),
        "tiles": SomaSource(address, by_tiles=True),
    }[source]
    base = scgp.Model.default()
    torch.manual_seed(0)
    config = ModelConfig(n_genes=base.genes.n_genes, text_dim=base.phenotypes.width)
    model = scgp.Model(config, CellTransformer(config), base.genes, base.phenotypes)
    start = time.perf_counter()
    corpus = read_corpus([data] * times, base.genes, **KEYS)
    opened = time.perf_counter() - start
    tables = term_tables(corpus, base.phenotypes)
    start, cpu = time.perf_counter(), time.process_time()
    fit_network(
        model, corpus, tables, TrainConfig(pool_steps=TRAIN_STEPS, steps=0, batch_size=BATCH),
        device=torch.device("cpu"), work=None, resume=False, progress=False,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    return {
        "cells": corpus.n_cells,
        "open_s": opened,
        "used_per_s": TRAIN_STEPS * BATCH / seconds,
        "used_per_cpu_s": TRAIN_STEPS * BATCH / (time.process_time() - cpu),
        "fingerprint": int(model.fingerprint[:8], 16),
    }


MEASUREMENTS = {
    "all cells once, in order": sequential,
    "each step alone": lambda work: rounds(work, one_by_one=True),
    "rounds, cell by cell": rounds,
    "rounds, by tiles": lambda work: rounds(work, by_tiles=True),
    "h5ad, in memory": lambda work: trained(work, "h5ad", 1),
    "SOMA, cell by cell": lambda work: trained(work, "soma", 1),
    "SOMA, by tiles": lambda work: trained(work, "tiles", 1),
    "h5ad, in memory, opened four times": lambda work: trained(work, "h5ad", TIMES),
    "SOMA, cell by cell, opened four times": lambda work: trained(work, "soma", TIMES),
    "SOMA, by tiles, opened four times": lambda work: trained(work, "tiles", TIMES),
}
HEAD = """# Training from a SOMA experiment

    python benchmarks/scale_soma.py --data ../shared/data --work DIR

{cells:,} real cells ({genes:.0f} expressed genes each), each repeated, study by study, with the
tiles of the Census ({tiles} of 2,048 cells). Repeated cells compress better than others: kB are no
measure of the Census. Two cores, shared with other programs while this was measured: cells a CPU
second say more than cells a second. On a local disk and in its cache. "Opened four times" is a
corpus of four sources, each of them these cells. Peak memory is of the whole process; before any
count is read it is 0.6 GB. Equal weights are equal to the bit.

"""


def report(table: dict[str, dict[str, float]]) -> str:
    """Return the tables of reading and of training."""
    read, run = [], []
    for name, f in table.items():
        speed = f"{f['used_per_s']:,.0f} | {f['used_per_cpu_s']:,.0f}"
        if "fingerprint" in f:
            opened = f"{f['open_s']:,.1f} | {f['peak_gb']:.2f} | {int(f['fingerprint']):08x}"
            run.append(f"| {name} | {f['cells']:,.0f} | {speed} | {opened} |")
        else:
            used = f"{f['rows_read_per_row_used']:,.1f} | {f['bytes_a_cell'] / 1e3:,.1f}"
            read.append(f"| {name} | {speed} | {used} | {f['peak_gb']:.2f} |")
    first = next(iter(table.values()))
    facts = {"cells": int(first["cells"]), "tiles": int(first["tiles"])}
    lines = [
        HEAD.format(**facts, genes=first["genes_a_cell"]),
        f"Reading counts (batches of {BATCH}):\n",
        "| what is read | cells used/s | used/CPU s | rows of tiles read a row used | "
        "kB read a cell used | peak GB |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *read,
        f"\nTraining the pooled view for {TRAIN_STEPS} steps of {BATCH} cells, reading included:\n",
        "| source | cells | cells used/s | used/CPU s | opening, s | peak GB | weights |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
        *run,
    ]
    return "\n".join(lines) + "\n"


def alone(arguments: argparse.Namespace, name: str) -> dict[str, float]:
    """Take one measurement in a process of its own, with its peak memory in GB (10^9 bytes)."""
    command = [sys.executable, __file__, "--work", str(arguments.work), "--measure", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure, print and write ``scale_soma.md`` and ``scale_soma.json``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder for the cells")
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--measure", choices=MEASUREMENTS)
    results = Path(__file__).resolve().parent / "results"
    parser.add_argument("--results", type=Path, default=results)
    arguments = parser.parse_args()
    if arguments.measure:
        found = MEASUREMENTS[arguments.measure](arguments.work)
        found["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        sys.stdout.write(json.dumps(found) + "\n")
        return
    arguments.work.mkdir(parents=True, exist_ok=True)
    make(arguments.data, arguments.work, arguments.cells)
    table = {name: alone(arguments, name) for name in MEASUREMENTS}
    arguments.results.mkdir(parents=True, exist_ok=True)
    text = json.dumps(table, indent=1)
    (arguments.results / "scale_soma.json").write_text(text + "\n", encoding="utf-8")
    (arguments.results / "scale_soma.md").write_text(report(table), encoding="utf-8")
    sys.stdout.write(report(table))


if __name__ == "__main__":
    main()
