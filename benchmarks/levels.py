"""What is predicted of a gene, held against what is measured: level, depth, cell type.

    python benchmarks/levels.py --data ../shared/data --seeds 0 1 2 [--model MODEL] [--work DIR]

Reads cells of studies that the networks of partners.py never saw (they are trained if they are not
there), each gene with its own count hidden, and asks: how far is the mean over a cell type from the
measured one, does a prediction follow the counts of the cell, does it follow the gene's own value,
and does it know in which of a study's cell types a gene is highest. See README.md.
"""  # fmt: skip

from __future__ import annotations

import argparse
import dataclasses
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
    from numpy.typing import NDArray

    from benchmarks.levels_measure import Scores
    from benchmarks.partners_cells import Context
    from scgp.model.checkpoint import Model

HERE = Path(__file__).resolve().parent


def read_seed(data: Path, work: Path, shipped: Model | None, *, seed: int) -> Scores:
    """Train the network of a seed if it is not there, read its draw of cells, and score it."""
    from benchmarks.levels_measure import LINEAR, SCGP, SHIPPED, UNTRAINED, scores_of
    from benchmarks.partners_baselines import linear_reading, training_type
    from benchmarks.partners_cells import asked_contexts, context_of, predicted
    from benchmarks.partners_train import trained, training_cells, untrained
    from scgp.phenotypes.ontology import Ontology

    model, below = trained(data, work / f"seed{seed}", seed=seed), Ontology("CL").descendants
    contexts = asked_contexts(data, model, below, seed=seed)
    files = training_cells(data / "train")
    linear, random = linear_reading(files, model), untrained(model, seed)
    of_type = {kind: training_type(files, kind, below, seed=seed) for _, kind in contexts}
    scores: Scores = {}
    for study in dict.fromkeys(key[0] for key in contexts):
        mine = {key: context for key, context in contexts.items() if key[0] == study}
        gene_G = np.unique(np.concatenate([context.gene_G for context in mine.values()]))
        mine = {key: on_other_genes(context, model, gene_G) for key, context in mine.items()}
        said = {
            SCGP: {key: predicted(model, context) for key, context in mine.items()},
            UNTRAINED: {key: predicted(model, context, random) for key, context in mine.items()},
            LINEAR: {key: linear.read(context) for key, context in mine.items()},
        }
        if shipped is not None:
            said[SHIPPED] = {key: predicted(shipped, context) for key, context in mine.items()}
        training = {
            kind: context_of(cells, model, gene_G=gene_G)
            for _, kind in mine
            if (cells := of_type[kind]) is not None
        }
        for method, units in scores_of(mine, said, training).items():
            scores.setdefault(method, {}).update(units)
    return scores


def on_other_genes(context: Context, model: Model, gene_G: NDArray[np.int64]) -> Context:
    """Return a context whose genes are these."""
    value_NV = model.tokenizer.tokenize(context.count_NX, context.token_X)
    value_NG = value_NV.values(model.config.n_genes)[:, gene_G].toarray().astype(np.float32)
    detected_G = (value_NG > 0).mean(axis=0)
    return dataclasses.replace(context, gene_G=gene_G, value_NG=value_NG, detected_G=detected_G)


def main(argv: list[str] | None = None) -> None:
    """Train what is not there, read, score, and write the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--model", type=Path, help="the one that saw the studies (the default)")
    parser.add_argument(
        "--work", type=Path, default=HERE / "results" / "models" / "partners",
        help="where the networks of partners.py are kept",
    )  # fmt: skip
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args(argv)
    import torch

    import scgp
    from benchmarks.levels_measure import report, summary

    warnings.filterwarnings("ignore", category=scgp.ScgpWarning)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    shipped = scgp.load_model(options.model) if options.model else scgp.Model.default()
    seeds = []
    for seed in options.seeds:
        # the network that is shipped is one, so it is read once
        beside = shipped if seed == options.seeds[0] else None
        seeds.append(read_seed(options.data, options.work, beside, seed=seed))
        sys.stdout.write(f"seed {seed} done\n")
        sys.stdout.flush()
    words = sys.argv[1:] if argv is None else argv
    found: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/levels.py", *words]),
        "seeds": options.seeds,
        "model": shipped.fingerprint[:12],
        "scores": summary(seeds),
        "units": [{m: dict(units) for m, units in s.items()} for s in seeds],
    }
    text = report(found)
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "levels.md").write_text(text, encoding="utf-8")
    path = options.results / "levels.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
