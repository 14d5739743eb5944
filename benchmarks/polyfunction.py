"""Does context change what a gene is: the study of VWF, the controls, GO, the null, the time.

    python benchmarks/polyfunction.py --data ../shared/data [--seeds 0 1 2] [--others MODEL ...]

Every table has its controls beside it. The networks are the default checkpoint's (or that of
``--model``) and, for the control, one of random weights for each seed. The checkpoint was trained
on the cells that are read here, without their labels in this objective; no label of a context is
ever shown to the transformer. ``--others``: networks of which the study of VWF is asked again.
"""  # fmt: skip

from __future__ import annotations

import argparse
import json
import resource
import shlex
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    import anndata as ad

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

HERE = Path(__file__).resolve().parent
#: Cells of one type, among whose random parts there is nothing to find.
NULL_TYPE = "CD4-positive, alpha-beta T cell"
GENES = (
    "VWF", "PECAM1", "CLDN5", "EMCN", "CAV1", "SPARC", "FN1", "HSPG2", "IGFBP7", "CD74", "B2M",
    "ACTB",
)  # fmt: skip
SHOWN = [
    "gene", "n_cells", "n_contexts", "n_donors", "value", "effect", "p", "effect_matched",
    "excess", "rank_matched", "replication", "effect_adjusted", "effect_embedding",
    "effect_static", "effect_value", "effect_coexpression", "effect_untrained",
]  # fmt: skip


def vwf(
    endothelium: dict[str, ad.AnnData], model: Any, seeds: list[int]
) -> dict[str, pd.DataFrame]:
    """Measure VWF and others in the endothelium of each data set."""
    import scgp

    found = {}
    for label, cells in endothelium.items():
        parts = []
        for seed in seeds:
            names = [gene for gene in GENES if gene in cells.var_names]
            parts.append(
                scgp.polyfunctionality(
                    cells, names, groupby="context", donor_key="donor", model=model, seed=seed,
                    progress=False,
                )
            )  # fmt: skip
        found[label] = pd.concat(parts)
    return found


def networks(
    endothelium: dict[str, ad.AnnData], others: list[Any], seeds: list[int]
) -> list[dict[str, Any]]:
    """Ask other networks the same of VWF; a seed for each, of matched genes and permutations."""
    from benchmarks.polyfunction_measure import gradient

    found = []
    for n, other in enumerate(others):
        tables = vwf(endothelium, other, [seeds[n % len(seeds)]])
        shown = ["gene", "effect", "effect_matched", "excess", "rank_matched", "replication"]
        found.append(
            {
                "model": other.fingerprint[:12],
                "gradient": gradient(endothelium, other, "VWF")[1]["spearman"],
                "vwf": {label: table[shown].to_dict("records") for label, table in tables.items()},
            }
        )
    return found


def between_networks(data: Path, models: list[Any], label: str) -> dict[str, float]:
    """Correlate what networks say of every gene in the same cells, mean over pairs of them."""
    import scgp
    from benchmarks.polyfunction_measure import GENOME_WIDE, read, thinned

    name, group, donor = GENOME_WIDE[label]
    cells = thinned(read(data, name), group, donor, 0)
    columns = ["effect", "effect_matched", "excess"]
    tables = [
        scgp.polyfunctionality(
            cells, groupby=group, donor_key=donor, n_permutations=1, controls=False, model=model,
            progress=False,
        ).set_index("gene")[columns]
        for model in models
    ]  # fmt: skip
    pairs = np.triu_indices(len(tables), 1)
    joined = {c: pd.concat([table[c] for table in tables], axis=1).dropna() for c in columns}
    found = {c: float(x.corr().to_numpy()[pairs].mean()) for c, x in joined.items()}
    return found | {"genes": float(len(joined["excess"])), "cells": float(cells.n_obs)}


def genome(data: Path, model: Any, seeds: list[int]) -> tuple[dict[str, Any], pd.DataFrame]:
    """Measure every gene, and how scores agree with GO; also the genes of the largest excess."""
    import scgp
    from benchmarks.polyfunction_measure import (
        GENOME_WIDE,
        agreement,
        n_processes,
        read,
        thinned,
    )

    processes = n_processes(data / "resources" / "genesets" / "go_bp_human_exp_2022-07.gmt.gz")
    found: dict[str, Any] = {}
    tops = []
    for label, (name, group, donor) in GENOME_WIDE.items():
        found[label] = []
        for seed in seeds:
            cells = thinned(read(data, name), group, donor, seed)
            start = time.perf_counter()
            table = scgp.polyfunctionality(
                cells, groupby=group, donor_key=donor, n_permutations=99, model=model, seed=seed,
                progress=False,
            )  # fmt: skip
            took = time.perf_counter() - start
            agreed = agreement(table, processes, seed)
            place = table.index[table["gene"] == "VWF"]
            found[label].append(
                {
                    "agreement": agreed, "seconds": took, "cells": cells.n_obs,
                    "genes": len(table), "significant": float((table["q"] < 0.05).mean()),
                    "median effect": float(table["effect"].median()),
                    "median untrained": float(table["effect_untrained"].median()),
                    "replication": float(table["replication"].median()),
                    "VWF": float(1 - place[0] / len(table)) if len(place) else None,
                }
            )  # fmt: skip
            print(label, seed, f"{took:.0f} s", agreed["excess"], flush=True)
            if seed == seeds[0]:
                tops.append(table.head(15).assign(data=label))
    return found, pd.concat(tops)


def null(data: Path, model: Any, seeds: list[int]) -> list[dict[str, float]]:
    """Test whether p is uniform where contexts are dealt at random within donors."""
    from scipy import stats

    from benchmarks.polyfunction_measure import null_p, read

    cells = read(data, "onek1k_1000genes")
    cells = cells[(cells.obs["cell_type"] == NULL_TYPE).to_numpy()].copy()
    found = []
    for seed in seeds:
        p = null_p(model, cells, "donor", n_contexts=3, n_replicates=100, n_genes=20, seed=seed)
        # one gene of each replicate, so that the values are independent of each other
        each = p[np.arange(len(p)), np.arange(len(p)) % p.shape[1]]
        spread = each + np.random.default_rng(seed).uniform(-0.5, 0.5, len(each)) / 200
        test = stats.kstest(spread.clip(0, 1), "uniform")
        found.append(
            {
                "KS": float(test.statistic), "p of KS": float(test.pvalue), "n": float(len(each)),
                "below .05, one each": float((each <= 0.05).mean()),
                "below .05, all": float((p <= 0.05).mean()), "all": float(p.size),
            }
        )  # fmt: skip
    return found


def speed(data: Path, model: Any) -> dict[str, float]:
    """Time embed_genes beside embed, and polyfunctionality of all genes of 5,000 cells."""
    import anndata as ad

    import scgp
    from benchmarks.polyfunction_measure import read

    liver, blood = read(data, "he2020_liver"), read(data, "zheng_sorted_fasttopics")
    cells = ad.concat([liver, blood, read(data, "pbmc3k_seurat"), blood[:649].copy()])
    cells.obs_names_make_unique()
    share = np.asarray((cells.X > 0).mean(axis=0)).ravel()
    genes = cells.var_names[np.argsort(-share)[100:2100:10]].tolist()
    scgp.embed(cells[:512].copy(), model=model, progress=False)
    start = time.perf_counter()
    scgp.embed(cells, model=model, progress=False)
    embed = time.perf_counter() - start
    start = time.perf_counter()
    scgp.embed_genes(cells, genes, groupby="cell_type", model=model, progress=False)
    read_genes = time.perf_counter() - start
    cells = cells[np.random.default_rng(0).permutation(cells.n_obs)[:5000]].copy()
    start = time.perf_counter()
    table = scgp.polyfunctionality(cells, groupby="cell_type", model=model, progress=False)
    whole = time.perf_counter() - start
    return {
        "embed, 10,000 cells (s)": embed,
        "embed_genes, 200 genes (s)": read_genes,
        "ratio": read_genes / embed,
        "polyfunctionality, 5,000 cells (s)": whole,
        "genes": float(len(table)),
        "peak memory (GB)": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def main(argv: list[str] | None = None) -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--model", type=Path, help="a saved model (default: the default checkpoint)"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--others", nargs="*", type=Path, default=[], help="saved models")
    parts = ("speed", "vwf", "networks", "facts", "null", "genome")
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args(argv)
    import scgp
    from benchmarks.polyfunction_measure import endothelium, gradient, known_facts
    from benchmarks.polyfunction_report import write

    warnings.filterwarnings("ignore", category=scgp.ScgpWarning)
    model = scgp.load_model(options.model) if options.model else scgp.Model.default()
    kept = options.results / "polyfunction.json"
    found: dict[str, Any] = json.loads(kept.read_text()) if kept.is_file() else {}
    for part in options.parts:  # each is kept as soon as it is there
        if part == "networks" and not options.others:
            continue
        if part == "speed":
            found["speed"] = speed(options.data, model)
        elif part == "vwf":
            cells = endothelium(options.data, model)
            tables = vwf(cells, model, options.seeds)
            found["vwf"] = {k: t[SHOWN].to_dict("records") for k, t in tables.items()}
            places, rho = gradient(cells, model, "VWF")
            found["gradient"] = {"rows": places.to_dict("records"), **rho}
        elif part == "networks":
            cells = endothelium(options.data, model)
            others = [scgp.load_model(path) for path in options.others]
            found["networks"] = networks(cells, others, options.seeds)
            found["between_networks"] = {
                label: between_networks(options.data, [model, *others], label)
                for label in ("liver", "breast")
            }
        elif part == "facts":
            found["facts"] = [
                row
                for seed in options.seeds
                for row in known_facts(options.data, model, "VWF", seed)
            ]
        elif part == "null":
            found["null"] = null(options.data, model, options.seeds)
        else:
            found["genome"], tops = genome(options.data, model, options.seeds)
            found["tops"] = tops[["data", *SHOWN]].to_dict("records")
        found["command"] = shlex.join(
            ["python", "benchmarks/polyfunction.py", *(argv or sys.argv[1:])]
        )
        found["model"], found["seeds"] = model.fingerprint[:12], options.seeds
        kept.write_text(json.dumps(found, indent=1, allow_nan=True) + "\n", encoding="utf-8")
        write(found, options.results / "polyfunction.md")


if __name__ == "__main__":
    main()
