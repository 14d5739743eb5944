"""Held against real drugs: what a deletion of a drug's targets in silico does in four lineages.

    python benchmarks/perturb_drugs.py --data ../shared/data --seeds 0 1 2 --cells 10

Asks `scgp.perturb` to delete what a drug inhibits (or double what it activates) in control cells of
B, NK, T and myeloid cells, and holds the predicted shift of every other gene against the ranks that
the drug gives in that lineage, and in the others. See README.md.
"""  # fmt: skip

from __future__ import annotations

import argparse
import json
import shlex
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import stats

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    import anndata as ad
    from numpy.typing import NDArray

    from benchmarks.perturb_signatures import Signatures
    from scgp.model.checkpoint import Model

    #: By method, drug and lineage: one number a gene, one array for each seed.
    Said = dict[str, dict[str, dict[str, list[NDArray[np.float64]]]]]
    #: By what is measured: one number.
    Scores = dict[str, float]

HERE = Path(__file__).resolve().parent
#: Cells of a lineage that are shown to the verb, of which it reads those that express a target.
SHOWN, N_RESAMPLES = 300, 2000
#: What an activated target's counts are multiplied by.
FACTOR = 2.0
MEASURES = ("spearman", "own part", "auroc moves", "auroc up", "context", "context, centred")


def ask(
    model: Model, cells: ad.AnnData, genes: NDArray[np.str_], factors: dict[str, float],
    *, n_cells: int, seed: int,
) -> NDArray[np.float64]:  # fmt: skip
    """Return the mean predicted change of each gene over all cells, NaN for the perturbed ones."""
    import scgp

    said = scgp.perturb(
        cells, factors, genes=[x for x in genes if x not in factors], n_null=0,
        max_cells=n_cells, model=model, seed=seed, progress=False,
    ).expression  # fmt: skip
    return np.asarray(said.set_index("gene")["shift_all"].reindex(genes), dtype=np.float64)


def in_place(
    model: Model, cells: ad.AnnData, factors: dict[str, float], n_draws: int
) -> list[dict[str, float]]:
    """Return sets of expression-matched genes, with the factors of those that they stand for."""
    import scgp

    with warnings.catch_warnings():  # genes are wanted, no p
        warnings.filterwarnings("ignore", "no p for groups", scgp.ScgpWarning)
        null = scgp.perturb(
            cells, factors, genes=[], n_null=n_draws, max_cells=2, model=model, progress=False
        ).null
    return [
        {gene: factors[like] for gene, like in own[["gene", "like"]].values}
        for _, own in null.groupby("set")
    ]


def asked(model: Model, real: Signatures, seeds: list[int], *, n_cells: int) -> Said:
    """Ask about all drugs in all lineages: other cells and other matched genes for each seed."""
    said: Said = {"scgp": {}, "scgp, matched genes in place of the targets": {}}
    for lineage, cells in real.cells.items():
        shown = [
            cells[np.sort(np.random.default_rng(seed).permutation(cells.n_obs)[:SHOWN])].copy()
            for seed in seeds
        ]
        known: dict[str, list[list[NDArray[np.float64]]]] = {}
        for drug, of in real.perturbed.items():
            if lineage not in of:
                continue
            if (key := json.dumps(of[lineage])) not in known:
                matched = in_place(model, cells, of[lineage], len(seeds))
                known[key] = [
                    [
                        ask(model, few, real.genes, factors, n_cells=n_cells, seed=seed)
                        for few, factors, seed in zip(shown, sets, seeds, strict=True)
                    ]
                    for sets in ([of[lineage]] * len(seeds), matched)
                ]
                sys.stderr.write(f"{lineage}: {', '.join(of[lineage])}\n")
            for name, x in zip(said, known[key], strict=True):
                said[name].setdefault(drug, {})[lineage] = x
    return said


def auroc(score_G: NDArray[np.float64], is_G: NDArray[np.bool_]) -> float:
    """Return the area under the curve; NaN without a gene on either side.

    >>> auroc(np.array([1.0, 2, 3, 3]), np.array([False, False, True, True]))
    1.0
    """
    n = int(is_G.sum())
    if not 0 < n < len(is_G):
        return float("nan")
    rank_G = stats.rankdata(score_G)
    return float((rank_G[is_G].sum() - n * (n + 1) / 2) / (n * (len(is_G) - n)))


def spearman(a_G: NDArray[np.float64], b_G: NDArray[np.float64]) -> float:
    """Return Spearman's correlation, 0 where one of them is the same everywhere."""
    if np.ptp(a_G) == 0 or np.ptp(b_G) == 0:
        return 0.0
    return float(np.corrcoef(stats.rankdata(a_G), stats.rankdata(b_G))[0, 1])


def scored(
    said: dict[str, NDArray[np.float64]],
    up: dict[str, NDArray[np.float64]],
    moves: dict[str, NDArray[np.int64]],
    general: dict[str, NDArray[np.float64]],
) -> Scores:
    """Score what is said of one drug, by lineage, against its real signatures in the same genes.

    Means over the lineages of which something is said.

    Returns
    -------
    ``spearman`` with the lineage's own signature; ``own part``, with what is left of it without the
    `general` one, the mean of the other drugs. ``auroc moves`` and ``auroc up``, see `NOTES`.
    ``context``: the first less the mean of those with the signatures of the other lineages.
    ``context, centred``: the first once the mean over the lineages of which something is said is
    taken from both; NaN for a single one. 0 is expected of what knows nothing of lineages.
    """
    own = {x: spearman(said[x], up[x]) for x in said}
    other = [np.mean([spearman(said[x], up[y]) for y in up if y != x]) for x in said]
    apart = [
        (auroc(np.abs(said[x]), moves[x] != 0),
         auroc(said[x][moves[x] != 0], moves[x][moves[x] != 0] > 0))
        for x in said
    ]  # fmt: skip
    mean_said_G, mean_up_G = (np.mean([of[x] for x in said], axis=0) for of in (said, up))
    centred = [spearman(said[x] - mean_said_G, up[x] - mean_up_G) for x in said]
    return {
        "spearman": float(np.mean(list(own.values()))),
        "own part": float(np.mean([spearman(said[x], up[x] - general[x]) for x in said])),
        "auroc moves": float(np.mean([a for a, _ in apart])),
        "auroc up": float(np.mean([b for _, b in apart])),
        "context": float(np.mean(list(own.values())) - np.mean(other)),
        "context, centred": float(np.mean(centred)) if len(said) > 1 else float("nan"),
    }


def table_of(real: Signatures, said: Said) -> dict[str, Any]:
    """Score every method on the drugs and genes that all know; means and intervals.

    Drugs of the same targets get the same answer, so that they are drawn together.
    """
    from benchmarks.perturb_signatures import others

    drugs = list(real.perturbed)
    scores: dict[str, dict[str, list[float]]] = {}
    for drug in drugs:
        lineages = list(real.perturbed[drug])
        everything = [x for of in said.values() for y in lineages for x in of[drug][y]]
        known_G = np.isfinite(np.stack(everything)).all(axis=0)
        up, general = (
            {x: of[x][known_G] for x in of} for of in (real.up[drug], others(real, drug))
        )
        moves = {x: y[known_G] for x, y in real.moves[drug].items()}
        for name, of in said.items():
            n_seeds = max(len(of[drug][x]) for x in lineages)
            each = [
                scored({x: of[drug][x][i][known_G] for x in lineages}, up, moves, general)
                for i in range(n_seeds)
            ]
            for measure in MEASURES:
                value = float(np.mean([x[measure] for x in each]))
                scores.setdefault(name, {}).setdefault(measure, []).append(value)
    key = [json.dumps(real.perturbed[drug]) for drug in drugs]
    set_D = np.unique(key, return_inverse=True)[1].ravel()
    array = {name: {x: np.array(y) for x, y in of.items()} for name, of in scores.items()}
    return {
        "leads": {
            name: {x: mean_of(array["scgp"][x] - of[x], set_D) for x in MEASURES}
            for name, of in array.items()
            if name != "scgp" and "scgp" in array
        },
        "methods": {
            name: {
                measure: {"mean": mean_of(array[name][measure], set_D),
                          "drugs": dict(zip(drugs, np.round(of[measure], 4).tolist(), strict=True))}
                for measure in MEASURES
            }
            for name, of in scores.items()
        },
        "lineages": {drug: list(of) for drug, of in real.perturbed.items()},
        "sets": int(set_D.max()) + 1,
        "genes": len(real.genes),
    }  # fmt: skip


def mean_of(value_D: NDArray[np.float64], set_D: NDArray[np.int64]) -> list[float]:
    """Return the mean over drugs and the bounds of its interval, sets of targets resampled."""
    known = np.isfinite(value_D)
    if not known.any():
        return [float("nan")] * 3
    value_D, set_D = value_D[known], np.unique(set_D[known], return_inverse=True)[1]
    sum_S, n_S = np.bincount(set_D, value_D), np.bincount(set_D)
    rng = np.random.default_rng(0)
    drawn_RS = rng.integers(len(n_S), size=(N_RESAMPLES, len(n_S)))
    mean_R = sum_S[drawn_RS].sum(axis=1) / n_S[drawn_RS].sum(axis=1)
    low, high = np.percentile(mean_R, (2.5, 97.5))
    return [float(value_D.mean()), float(low), float(high)]


NOTES = """\
Drugs of OP3: ranks of 6,349 genes in B, NK, T and myeloid cells. The file names no targets:
well-known ones were written down by hand (`perturb_targets.py`), before any score was seen, and
{left_out} of 135 drugs left out. A drug is asked of a lineage where 5 % of its control cells have a
count of a target. Those targets are deleted ({n_inhibited} drugs) or doubled ({n_activated}), in
control cells of `{file}`, by `scgp.perturb`. {n_drugs} drugs, {n_pairs} pairs of drug and lineage,
{n_sets} sets of targets; {n_genes} genes, those with a count in 5 % of the cells (mean of the
lineages), less the targets.

The model has trained on these cells. Each question is put once for each seed, to other cells (NK
cells are few: the same are shown, others read) and with other matched genes.

Means over drugs (within a drug over its lineages, and over seeds where there is chance), with 95 %
intervals of a bootstrap over sets of targets, the drugs of a set together. *Spearman*: predicted
change and real rank, up positive. *Own part*: with the rank less its mean over the other 134 drugs
in that lineage, for all share their controls and much else. *AUROC, moves*: absolute predicted
change, for genes of the top and bottom 5 % of the 6,349 ranks. *AUROC, up*: predicted change, for
top against bottom. *Context*: Spearman with the signature of the lineage itself less the mean of
those with the same drug's signatures in the other three. *Context, centred*: Spearman after the
mean over the lineages was taken from both ({n_several} drugs with several lineages).

Ranks are of all genes, and most of them move with few drugs: no Spearman can be near 1. "The same
drug in the other lineages" says how near; it and the mean of the other drugs have seen the
experiment, which no other method has. Its *context* is below 0 by construction and left out. The
mean of the other drugs is high in *context* because it is that of a lineage, whatever the drug. Of
co-expression every form is shown. *Own part* was added after a look at three drugs, where the mean
of the others was far ahead. A protein that is inhibited is not a gene that is deleted, and most
drugs have further targets."""

TITLES = ("Spearman", "own part", "AUROC, moves", "AUROC, up", "context", "context, centred")


def report(found: dict[str, Any]) -> str:
    """Return the tables as Markdown."""
    means = {
        name: {measure: x["mean"] for measure, x in of.items()}
        for name, of in found["methods"].items()
    }
    lines = [NOTES.format(**found["facts"]), "", f"Made by `{found['command']}`.", "",
             *_rows("method", means), "", "What scgp has more than each, on the same drugs:", "",
             *_rows("scgp less", found["leads"]), ""]  # fmt: skip
    by_drug = found["methods"]["scgp"]["spearman"]["drugs"]
    said = [f"{drug} {by_drug[drug]:+.3f}" for drug in sorted(by_drug, key=by_drug.get)]
    lines += [f"Spearman of scgp by drug, from the lowest: {', '.join(said)}.", ""]
    return "\n".join(lines)


def _rows(title: str, means: dict[str, dict[str, list[float]]]) -> list[str]:
    """Return the lines of one table."""
    lines = [f"| {title} | {' | '.join(TITLES)} |", f"| --- |{' ---: |' * len(TITLES)}"]
    for method, of in means.items():
        cells = []
        for measure in MEASURES:
            out = method.startswith("the same drug") and measure.startswith("context")
            cells.append("" if out else "{:.3f} ({:.3f} to {:.3f})".format(*of[measure]))
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return lines


def facts_of(real: Signatures, file: str) -> dict[str, Any]:
    """Return what the notes say of the drugs."""
    from benchmarks.perturb_targets import INHIBITED, LEFT_OUT

    n_inhibited = sum(drug in INHIBITED for drug in real.perturbed)
    return {
        "file": file, "left_out": len(LEFT_OUT), "n_drugs": len(real.perturbed),
        "n_inhibited": n_inhibited, "n_activated": len(real.perturbed) - n_inhibited,
        "n_pairs": sum(len(of) for of in real.perturbed.values()),
        "n_several": sum(len(of) > 1 for of in real.perturbed.values()),
        "n_sets": len({json.dumps(of) for of in real.perturbed.values()}),
        "n_genes": len(real.genes),
    }  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    """Ask, write ``perturb_drugs.md`` and ``perturb_drugs.json``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with resources/, train/")
    parser.add_argument("--model", type=Path, help="None: the default")
    parser.add_argument("--file", default="pbmc3k_seurat", help="control cells, of train/")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--cells", type=int, default=10, help="cells read for each question")
    parser.add_argument("--drugs", nargs="+", help="these alone, for a look")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    arguments = parser.parse_args(argv)
    from benchmarks.perturb_signatures import baselines, signatures
    from scgp.model.checkpoint import Model

    torch.set_num_threads(arguments.threads)
    model = Model.load(arguments.model) if arguments.model else Model.default()
    known = set(model.genes.symbol.tolist())
    real = signatures(arguments.data, file=arguments.file, known=known, factor=FACTOR)
    for drug in set(real.perturbed) - set(arguments.drugs or real.perturbed):
        del real.perturbed[drug]
    simple = baselines(real)
    said: Said = {
        name: {drug: {x: [y] for x, y in by.items()} for drug, by in of.items()}
        for name, of in simple.items()
    }
    said |= asked(model, real, arguments.seeds, n_cells=arguments.cells)
    words = sys.argv[1:] if argv is None else argv
    found = {
        "command": shlex.join(["python", "benchmarks/perturb_drugs.py", *words]),
        "facts": facts_of(real, arguments.file), **table_of(real, said),
    }  # fmt: skip
    text = report(found)
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "perturb_drugs.md").write_text(text, encoding="utf-8")
    (arguments.results / "perturb_drugs.json").write_text(
        json.dumps(found, indent=1), encoding="utf-8"
    )
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
