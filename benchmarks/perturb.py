"""Held against real knock-outs: what a deletion in silico does to every other gene.

    python benchmarks/perturb.py --data ../shared/data --model MODEL [MODEL ...] --seeds 0 1 2

Deletes each target of two CRISPR screens in cells that were not perturbed, and holds the predicted
shift of every other gene against the real one: Spearman over genes, and AUROC of the absolute shift
for genes that really move. See README.md.
"""  # fmt: skip

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import stats

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    import scipy.sparse as sp
    from numpy.typing import NDArray

    from benchmarks.perturb_truth import Screen
    from scgp.model.checkpoint import Model
    from scgp.what_if.removals import Cells

    #: By method: by target, one number a gene, one array for each seed.
    Said = dict[str, dict[str, list[NDArray[np.float64]]]]

HERE = Path(__file__).resolve().parent
N_RESAMPLES, FEWEST_MOVING = 2000, 3


def untrained(model: Model, seed: int) -> Model:
    """Return a model of the same shape and genes whose network has learnt nothing."""
    from scgp.model.checkpoint import Model
    from scgp.model.network import CellTransformer

    torch.manual_seed(seed)
    network = CellTransformer(model.config)
    network.gene_weight_G.copy_(model.network.gene_weight_G)
    return Model(model.config, network, model.genes, model.phenotypes)


def deleted(
    model: Model, screen: Screen, *, n_cells: int, n_null: int, seed: int
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Return predicted shifts by target and method: as they are, and in units of their null.

    NaN where the model does not know a gene, or the target is the gene itself.
    """
    from scgp.cells.counts import choose_counts
    from scgp.cells.genes import match_genes
    from scgp.what_if.matched_genes import expressing, levels, matched
    from scgp.what_if.removals import Cells

    counts = choose_counts(screen.controls)
    token_V = match_genes(counts, model.genes).token_of_column
    cells, n_genes = Cells(counts, token_V, model, "cpu"), model.config.n_genes
    group_B = np.zeros(counts.n_cells, np.int64)
    found = levels(counts, token_V, n_genes, group_B, 1, batch_size=4096)
    ids = screen.controls.uns.get("target", {})
    real_G = np.isfinite(np.stack(list(screen.real.values()))).any(axis=0)
    gene_Q = np.unique(token_V[(token_V >= 0) & real_G])
    rng = np.random.default_rng(seed)
    said = {}
    for target in screen.others:
        own = model.genes.match([ids.get(target, target)]).token_of_column.astype(np.int64)
        if own[0] < 0:
            continue
        left_out_G = ~cells.measured_G
        left_out_G[own] = True
        sets = [own, *matched(found, 0, own, n_null, left_out_G)]
        rows = expressing(counts, token_V, n_genes, sets, lambda _: group_B == 0, batch_size=4096)
        said[target] = _against_null(
            [
                _shift(cells, counts.take(np.sort(rng.permutation(at)[:n_cells])), genes, gene_Q)
                for genes, at in zip(sets, rows, strict=True)
            ]
        )
    return said


def _shift(
    cells: Cells, block_BV: sp.csr_matrix, genes: NDArray[np.int64], gene_Q: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the mean predicted shift of the gene of each column, NaN where it has none."""
    from scgp.what_if.perturbed_cells import mean_rates

    n_genes = cells.model.config.n_genes
    factor_G = np.ones(n_genes)
    factor_G[genes] = 0.0
    _, before_Q, after_Q = mean_rates(cells, block_BV, factor_G, gene_Q)
    shift_G = np.full(n_genes + 1, np.nan)
    shift_G[gene_Q] = after_Q - before_Q
    shift_G[genes] = np.nan
    return np.asarray(shift_G[cells.token_V])  # -1 is the last, NaN


def _against_null(shifts: list[NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """Return the first shift as it is and, where others follow, in units of these."""
    told = {"shift": shifts[0]}
    if len(shifts) > 1:
        null_NG = np.stack(shifts[1:])
        known_G = np.isfinite(null_NG).any(axis=0)
        mean, sd = (f(null_NG[:, known_G], axis=0) for f in (np.nanmean, np.nanstd))
        told["z"] = np.full(null_NG.shape[1], np.nan)
        told["z"][known_G] = (shifts[0][known_G] - mean) / np.maximum(sd, 1e-6)
    return told


def scored(
    said_G: NDArray[np.float64], real_G: NDArray[np.float64], moves_G: NDArray[np.bool_]
) -> tuple[float, float]:
    """Return Spearman's correlation, and AUROC (NaN where fewer than `FEWEST_MOVING` move)."""
    rho = 0.0 if np.ptp(said_G) == 0 else float(stats.spearmanr(said_G, real_G).statistic)
    n = int(moves_G.sum())
    if min(n, len(moves_G) - n) < FEWEST_MOVING:
        return rho, float("nan")
    rank_G = stats.rankdata(np.abs(said_G))
    return rho, float((rank_G[moves_G].sum() - n * (n + 1) / 2) / (n * (len(moves_G) - n)))


def table_of(screen: Screen, said: Said) -> dict[str, Any]:
    """Score every method on the targets and genes that all know; means and intervals."""
    targets = [t for t in screen.others if all(t in of for of in said.values())]
    rows: dict[str, NDArray[np.float64]] = {}
    n_moving, n_genes = {}, {}
    for target in targets:
        real_G = screen.real[target]
        known_G = np.isfinite(real_G)
        for of in said.values():
            known_G &= np.isfinite(np.stack(of[target])).all(axis=0)
        n_genes[target] = int(known_G.sum())
        n_moving[target] = int(screen.moves[target][known_G].sum())
        for name, of in said.items():
            two = [scored(x[known_G], real_G[known_G], screen.moves[target][known_G])
                   for x in of[target]]  # fmt: skip
            rows.setdefault(name, np.zeros((0, 2)))
            rows[name] = np.vstack([rows[name], np.mean(two, axis=0)])
    rng = np.random.default_rng(0)
    drawn_RT = rng.integers(len(targets), size=(N_RESAMPLES, len(targets)))
    found: dict[str, Any] = {}
    for name, score_T2 in rows.items():
        found[name] = {}
        for i, measure in enumerate(("spearman", "auroc")):
            with np.errstate(invalid="ignore"):
                known_RT = np.isfinite(score_T2[drawn_RT, i])
                mean_R = np.nansum(score_T2[drawn_RT, i], axis=1) / known_RT.sum(axis=1)
            low, high = np.nanpercentile(mean_R, (2.5, 97.5))
            found[name][measure] = [float(np.nanmean(score_T2[:, i])), float(low), float(high)]
            found[name][f"{measure} by target"] = dict(
                zip(targets, score_T2[:, i].round(3).tolist(), strict=True)
            )
    return {"methods": found, "moving": n_moving, "genes": n_genes}


def methods(
    screen: Screen, models: list[Model], seeds: list[int], *, n_cells: int, n_null: int
) -> Said:
    """Ask all methods; those with an element of chance once for each seed."""
    said: Said = {}
    for target, others in screen.others.items():
        for name, x in others.items():
            said.setdefault(name, {})[target] = [x]
        said.setdefault("no change", {})[target] = [np.zeros(len(screen.real[target]))]
    for seed in seeds:
        trained = models[seed % len(models)]
        pair = {"scgp": trained, "untrained network": untrained(trained, seed)}
        for name, model in pair.items():
            null = n_null if name == "scgp" else 0
            found = deleted(model, screen, n_cells=n_cells, n_null=null, seed=seed)
            for target, of in found.items():
                for kind, x in of.items():
                    row = name if kind == "shift" else f"{name}, shift in units of its null"
                    said.setdefault(row, {}).setdefault(target, []).append(x)
            sys.stderr.write(f"{screen.name}: {name}, seed {seed}\n")
    return said


NOTES = """\
Means over targets, with 95 % intervals of a bootstrap over targets (2,000 resamples); methods with
an element of chance are the mean of the seeds within each target. Spearman: predicted against real
log2 fold change over all other genes. AUROC: absolute predicted shift, for genes that move (q < .05
and an absolute log2 fold change of .25 or more), over targets with at least 3 of them. Of
co-expression every form is shown, so the best of them was chosen after the fact.

THP-1: three replicates; fold changes of pseudobulk, mean over replicates; Wilcoxon's rank sum
within replicates, combined by Stouffer, Benjamini-Hochberg over genes. The file has 299 genes of
the transcriptome: real changes are scaled by the counts of genes that move with no target (or the
loss of strong interferon genes would make all others rise), and the model reads the panel as it is.
LUHMES: published tables (MAST), no cells; there are no neural progenitors here, so cells are
Poisson draws (depth 5,000) from profiles of neurons of other collections, and co-expression is that
of cell types, over 533 profiles. Signatures of drugs (OP3) have a table of their own,
`perturb_drugs.md`. The LUHMES tables compare each target with all other cells, so that what two
targets share is taken out of both, and the mean shift of the others comes out reversed by
construction. In THP-1 all targets share their controls, and so the noise of these: it is flattered
a little."""


def report(found: dict[str, dict[str, Any]]) -> str:
    """Return the tables as Markdown."""
    lines = [NOTES]
    for name, content in found.items():
        moving = ", ".join(f"{t} {n}" for t, n in content["moving"].items())
        lines += ["", f"## {name}", "", f"Made by `{content['command']}`.", "",
                  f"Targets, and genes that move: {moving}; of "
                  f"{max(content['genes'].values())} genes at most.", "",
                  "| method | Spearman | AUROC |", "| --- | ---: | ---: |"]  # fmt: skip
        for method, of in content["methods"].items():
            cells = [
                "{:.3f} ({:.3f} to {:.3f})".format(*of[measure])
                for measure in ("spearman", "auroc")
            ]
            lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main(argv: list[str] | None = None) -> None:
    """Ask, write ``perturb.md`` and ``perturb.json``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with resources/")
    parser.add_argument("--model", nargs="+", type=Path, help="models; None: the default")
    parser.add_argument("--screens", nargs="+", choices=("papalexi", "luhmes"),
                        default=["papalexi", "luhmes"])  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--cells", type=int, default=100, help="cells read for each gene")
    parser.add_argument("--null", type=int, default=20, help="matched genes, THP-1 alone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    arguments = parser.parse_args(argv)
    from benchmarks.perturb_truth import luhmes, papalexi
    from scgp.model.checkpoint import Model

    torch.set_num_threads(arguments.threads)
    models = [Model.load(path) for path in arguments.model or []] or [Model.default()]
    path = arguments.results / "perturb.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    words = sys.argv[1:] if argv is None else argv
    for name in arguments.screens:  # a screen that is not asked for stays as it was
        screen = papalexi(arguments.data) if name == "papalexi" else luhmes(arguments.data)
        few = name == "luhmes"  # 6,000 genes
        said = methods(
            screen, models, arguments.seeds, n_cells=10 if few else arguments.cells,
            n_null=0 if few else arguments.null,
        )  # fmt: skip
        command = shlex.join(["python", "benchmarks/perturb.py", *words])
        found[screen.name] = {"command": command, **table_of(screen, said)}
    text = report(found)
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "perturb.md").write_text(text, encoding="utf-8")
    path.write_text(json.dumps(found, indent=1), encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
