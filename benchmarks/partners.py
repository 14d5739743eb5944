"""Genes that move together: partners, their change with the cell type, in studies never seen.

    python benchmarks/partners.py --data ../shared/data --seeds 0 1 2 [--model MODEL] [--work DIR]

Trains a network for each seed without the studies that are asked (`partners_train.HELD_OUT`), reads
cells of these studies with their types known to nobody but the benchmark, and asks of the genes
whose predicted expression moves together: do they share processes, are they co-expressed in another
held-out study, and does what changes between two cell types change again in another study. See
README.md.
"""  # fmt: skip

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from benchmarks.partners_pair import Genes
    from benchmarks.partners_scores import Score
    from benchmarks.partners_seed import Said
    from scgp.model.checkpoint import Model

HERE = Path(__file__).resolve().parent
#: Genes of a process that say something of one gene; names of genes that are left out, for they
#: move with depth and quality; resamples.
PROCESS_SIZES, N_RESAMPLES = (10, 300), 500
LEFT_OUT = ("RPL", "RPS", "MT-", "MRPL", "MRPS")


def known_genes(data: Path, model: Model) -> Genes:
    """Read the processes with experimental support."""
    from benchmarks.partners_pair import Genes
    from scgp.in_context.gene_sets import read_gene_sets

    path = data / "resources" / "genesets" / "go_bp_human_exp_2022-07.gmt.gz"
    sets = read_gene_sets(path, model.genes)
    sets = {n: g for n, g in sets.items() if PROCESS_SIZES[0] <= len(g) <= PROCESS_SIZES[1]}
    member_VP = np.zeros((model.config.n_genes, len(sets)), bool)
    for p, gene_M in enumerate(sets.values()):
        member_VP[gene_M, p] = True
    left_out_V = np.array([name.startswith(LEFT_OUT) for name in model.genes.symbol])
    rng = np.random.default_rng(0)
    weight_RV = rng.exponential(size=(N_RESAMPLES, model.config.n_genes)).astype(np.float32)
    return Genes(member_VP, left_out_V, weight_RV)


def readings(
    data: Path, work: Path, seeds: list[int], shipped: Model | None
) -> tuple[list[Said], Model]:
    """Train what is not there, and read all contexts with the networks of every seed."""
    from benchmarks.partners_baselines import linear_reading
    from benchmarks.partners_seed import Training, read_all
    from benchmarks.partners_train import trained, training_cells
    from scgp.phenotypes.ontology import Ontology

    models = [trained(data, work / f"seed{seed}", seed=seed) for seed in seeds]
    files = training_cells(data / "train")
    linear = linear_reading(files, models[0])
    of = Training(data, files, Ontology("CL").descendants, linear, work / "readings")
    found = []
    for seed, model in zip(seeds, models, strict=True):
        # the network that is shipped is one, so it is read once
        beside = shipped if seed == seeds[0] else None
        found.append(read_all(of, model, seed=seed, shipped=beside))
        sys.stdout.write(f"seed {seed}: read {len(found[-1].contexts)} contexts\n")
        sys.stdout.flush()
    return found, models[0]


def measure(data: Path, said: list[Said], model: Model) -> list[list[Score]]:
    """Score every seed; "another network" is that of the next seed."""
    from benchmarks.partners_cells import PAIRS, asked_contexts
    from benchmarks.partners_pair import Pair
    from benchmarks.partners_scores import (
        gene_scores,
        go_partners,
        measured_elsewhere,
        reliability,
        role_changes,
    )
    from scgp.phenotypes.ontology import Ontology

    genes = known_genes(data, model)
    every_G = np.unique(np.concatenate([c.gene_G for s in said for c in s.contexts.values()]))
    below = Ontology("CL").descendants
    whole = asked_contexts(data, model, below, seed=0, most=None, gene_G=every_G)
    scores = []
    for n, mine in enumerate(said):
        found = [*go_partners(mine, genes)]
        for studies in PAIRS:
            pair = Pair(studies, mine, said[(n + 1) % len(said)], whole, genes)
            for scored in (measured_elsewhere, reliability, role_changes, gene_scores):
                found += scored(pair)
            sys.stdout.write(f"{n}: {' -> '.join(studies)}, {len(pair.gene_G)} genes\n")
            sys.stdout.flush()
        scores.append(found)
    return scores


def main(argv: list[str] | None = None) -> None:
    """Train, read, measure and write the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--model", type=Path,
        help="the saved model that is shown beside, as one that saw the studies (the default one)",
    )  # fmt: skip
    parser.add_argument(
        "--work", type=Path, default=HERE / "results" / "models" / "partners",
        help="where the networks that are trained, and what they read, are kept",
    )  # fmt: skip
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args(argv)
    import torch

    import scgp
    from benchmarks.partners_report import report, summary

    warnings.filterwarnings("ignore", category=scgp.ScgpWarning)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    shipped = scgp.load_model(options.model) if options.model else scgp.Model.default()
    said, model = readings(options.data, options.work, options.seeds, shipped)
    words = sys.argv[1:] if argv is None else argv
    found: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/partners.py", *words]),
        "seeds": options.seeds,
        "model": shipped.fingerprint[:12],
        **summary(measure(options.data, said, model)),
    }
    text = report(found)
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "partners.md").write_text(text, encoding="utf-8")
    path = options.results / "partners.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
