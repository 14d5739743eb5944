"""The benchmark of scgp: one table for scgp and its peers, on the same cells.

    python benchmarks/run.py --data ../shared/data
    python benchmarks/run.py --reference a.h5ad --query b.h5ad --label-key cell_type

Runs what is missing of every setting, seed, fold and method, then writes the tables. See README.md
beside this file.
"""  # fmt: skip

from __future__ import annotations

import argparse
import functools
import os
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.baselines import Method, Rows
    from benchmarks.corpus import Split
    from benchmarks.store import RunKey

    Ancestors = Callable[[str], frozenset[str]]

SETTINGS = ("eval", "folds", "pairs")
METHODS = (
    "majority", "knn-pca", "lr-pca", "lr-genes", "celltypist", "singler", "scanvi", "scgp",
    "scgp-smoothed",
)  # fmt: skip
#: Not run unless they are named, or there are no drawn cells: with 293 labels a CPU takes days.
SLOW_WITH_MANY_LABELS = ("singler", "scanvi")
HERE = Path(__file__).resolve().parent


def read_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; what cannot go together is refused here."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n", 1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", type=Path, help="folder with train/, eval/, resources/")
    parser.add_argument("--reference", type=Path, help="labelled .h5ad to train on")
    parser.add_argument("--query", type=Path, help="labelled .h5ad to ask")
    parser.add_argument("--label-key", default="cell_type", help="obs column of both, for a pair")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=["eval", "folds"])
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, help="default: all; with drawn cells all but "
        + " and ".join(SLOW_WITH_MANY_LABELS),
    )  # fmt: skip
    parser.add_argument("--folds", default="5", help="a number, or 'each' for every study")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--drawn", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--max-cells-per-type-and-study", type=int, help="thin training cells")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=HERE / "results" / "runs")
    parser.add_argument(
        "--fold-runs", type=Path, help="runs and models that pairs borrow from (default: --out)"
    )
    parser.add_argument("--results", type=Path, help="tables (default: the folder above --out)")
    arguments = parser.parse_args(argv)
    pair = arguments.reference is not None or arguments.query is not None
    if pair and (arguments.reference is None or arguments.query is None):
        parser.error("--reference and --query go together")
    if arguments.data is None:
        parser.error("--data is needed: the folder with train/, eval/ and resources/genes")
    if arguments.folds != "each" and not arguments.folds.isdecimal():
        parser.error(f"--folds is {arguments.folds!r}; expected a number or 'each'")
    if "pairs" in arguments.settings and arguments.folds == "each":
        parser.error("pairs are of studies held out together; pass a number as --folds")
    if arguments.methods is None:
        slow = SLOW_WITH_MANY_LABELS if arguments.drawn else ()
        arguments.methods = [name for name in METHODS if name not in slow]
    arguments.pair = pair
    arguments.fold_runs = arguments.fold_runs or arguments.out
    return arguments


def make_method(name: str) -> Method:
    """Return a baseline; the heavy libraries are imported only for the methods that run."""
    from benchmarks import baselines

    light: dict[str, Callable[[], Method]] = {
        "majority": baselines.Majority,
        "knn-pca": baselines.KnnOnPca,
        "lr-pca": baselines.LogisticOnPca,
        "lr-genes": baselines.LogisticOnGenes,
    }
    if name in light:
        return light[name]()
    if name == "celltypist":
        from benchmarks.celltypist_method import CellTypist

        return CellTypist()
    if name == "singler":
        from benchmarks.singler_method import SingleR

        return SingleR()
    from benchmarks.scanvi import Scanvi

    return Scanvi()


def lineage() -> Ancestors:
    """Return the function from a term to its ancestors; a label that is no term has itself only."""
    from scgp.phenotypes.ontology import Ontology

    ontology = Ontology("CL")

    @functools.cache
    def ancestors(term: str) -> frozenset[str]:
        return ontology.ancestors(term) if ontology.is_term(term) else frozenset({term})

    return ancestors


def say(text: str) -> None:
    """Write a line of progress."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


def splits_of(arguments: argparse.Namespace, ancestors: Ancestors) -> Iterator[tuple[int, Split]]:
    """Yield every split of every seed: the drawn cells change with the seed, the folds do not."""
    from benchmarks import corpus
    from benchmarks.pairs import pair_splits
    from scgp.phenotypes.ontology import Ontology

    vocabulary = corpus.read_vocabulary(arguments.data)
    if arguments.pair:
        read = functools.partial(
            corpus.read_pair_file,
            label_key=arguments.label_key,
            ontology=Ontology("CL"),
            vocabulary=vocabulary,
        )
        train, queries = [read(arguments.reference)], [read(arguments.query)]
    else:
        train = corpus.read_folder(arguments.data / "train", vocabulary)
        queries = corpus.read_folder(arguments.data / "eval", vocabulary)
    for seed in arguments.seeds:
        drawn = corpus.draw(arguments.data, vocabulary, seed=seed) if arguments.drawn else []
        if arguments.pair:
            name = f"{arguments.reference.stem}-to-{arguments.query.stem}"
            yield seed, corpus.Split("pair", name, train + drawn, queries)
            continue
        if "eval" in arguments.settings:
            yield seed, corpus.eval_split(train, drawn, queries)
        if {"folds", "pairs"} & set(arguments.settings):
            n_folds = None if arguments.folds == "each" else int(arguments.folds)
            for split in corpus.fold_splits(train, drawn, n_folds=n_folds):
                if "folds" in arguments.settings:
                    yield seed, split
                if "pairs" in arguments.settings:
                    yield from ((seed, pair) for pair in pair_splits(split, ancestors))


def choose(
    method: Method, on: Split, ancestors: Ancestors, choice: Path, *, most: int | None, seed: int
) -> dict[str, Any]:
    """Choose settings on the training side of a split, on the genes of its widest query file.

    The choice is made by the first seed that gets here and kept in the file ``choice`` for the
    others.
    """
    from benchmarks.selection import choose_setting
    from benchmarks.store import read_json, write_json

    if not choice.is_file() or read_json(choice)["setting"] not in method.grid:
        train = thinned(on, most, seed=seed).train
        widest = max(on.queries, key=lambda source: int(source.cells.measured_G.sum()))
        best, scores = choose_setting(method, train, widest.cells, ancestors, seed=seed)
        inner = [list(pair) for pair in zip(method.grid, scores, strict=False)]
        write_json(choice, {"setting": best, "by_seed": seed, "inner": inner})
    chosen: dict[str, Any] = read_json(choice)
    return chosen


def run_baseline(
    name: str, split: Split, ancestors: Ancestors, arguments: argparse.Namespace, *, seed: int
) -> tuple[list[Rows], dict[str, Any]]:
    """Choose settings, then fit and predict for every query file, on the genes of each."""
    from benchmarks.corpus import join, on_query_genes
    from benchmarks.pairs import Pair, chooser, enough_steps
    from benchmarks.store import RunKey

    method = make_method(name)
    train = join(split.train)
    on = chooser(split) if isinstance(split, Pair) else split
    runs = arguments.out if on is split else arguments.fold_runs
    choice = RunKey(on.setting, on.name, name, seed).choice_path(runs)
    most = arguments.max_cells_per_type_and_study
    small = enough_steps(method, len(train.obs)) if isinstance(split, Pair) else method
    chooses = small if on is split else method
    chosen = choose(chooses, on, ancestors, choice, most=most, seed=seed)
    rows = []
    for source in split.queries:
        train_cells, query_cells = on_query_genes(train, source.cells)
        rows += small.answers(train_cells, query_cells, [chosen["setting"]], seed=seed)
    return rows, chosen if on is split else {**chosen, "chosen_on": f"{on.setting} {on.name}"}


def run_scgp(
    split: Split, arguments: argparse.Namespace, *, seed: int
) -> tuple[list[Rows], dict[str, Any]]:
    """Train scgp on the split and annotate every query file; a pair has its fold's network."""
    from benchmarks.pairs import Pair, as_reference, fold_model
    from benchmarks.scgp_method import fit_scgp, pair_rows, scgp_rows

    def train(fold: Split, folder: Path) -> None:
        most = arguments.max_cells_per_type_and_study
        fit_scgp([x.adata for x in thinned(fold, most, seed=seed).train], seed, folder)

    if isinstance(split, Pair):
        options = options_of(split.fold, arguments)
        model = fold_model(split, arguments.fold_runs, options, seed=seed, train=train)
        return pair_rows(model, as_reference(split.train), [x.adata for x in split.queries]), {}
    model = arguments.out / "models" / split.setting / split.name / f"seed{seed}"
    train(split, model)
    return [scgp_rows(model, source.adata) for source in split.queries], {}


def thinned(split: Split, most: int | None, *, seed: int) -> Split:
    """Return the split with at most ``most`` training cells of each study and type."""
    from benchmarks.corpus import thin

    if most is None:
        return split
    return replace(split, train=[thin(source, most=most, seed=seed) for source in split.train])


def options_of(split: Split, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options that a run of the split is made with, and kept with."""
    from benchmarks.pairs import Pair

    most = arguments.max_cells_per_type_and_study
    options = {"drawn": arguments.drawn, "max_cells_per_type_and_study": most}
    return options | ({"folds": arguments.folds} if isinstance(split, Pair) else {})


def grids_of(split: Split, names: list[str]) -> dict[str, list[Any]]:
    """Return the methods that the split is for, and the settings that each chooses from."""
    from benchmarks.pairs import Pair
    from benchmarks.scgp_method import VARIANTS
    from benchmarks.smoothed_method import NAME as SMOOTHED

    pair = isinstance(split, Pair)
    ours: dict[str, list[Any]] = {"scgp": list(VARIANTS)} if pair else {"scgp": [], SMOOTHED: []}
    left_out = {SMOOTHED} if pair else set()
    kept = [name for name in names if name not in left_out]
    return {name: ours[name] if name in ours else make_method(name).grid for name in kept}


def is_there(folder: Path, key: RunKey, options: dict[str, Any], grid: list[Any]) -> bool:
    """Whether a run need not be made: it is done, and of what it was made of nothing is newer."""
    from benchmarks.smoothed_method import NAME as SMOOTHED
    from benchmarks.smoothed_method import is_current
    from benchmarks.store import is_done

    if key.method == SMOOTHED:
        return is_current(folder, key, options)
    return is_done(folder, key, options, grid)


def run_split(
    split: Split, ancestors: Ancestors, arguments: argparse.Namespace, *, seed: int
) -> None:
    """Run the methods that have no result for this split and seed."""
    from benchmarks.pairs import Pair
    from benchmarks.smoothed_method import NAME as SMOOTHED
    from benchmarks.smoothed_method import smoothed_rows
    from benchmarks.store import RunKey, write_run, write_truth

    write_truth(arguments.out, split.setting, split.name, split.queries)
    options = options_of(split, arguments)
    keys = {name: RunKey(split.setting, split.name, name, seed) for name in arguments.methods}
    grids = grids_of(split, arguments.methods)
    missing = [n for n in grids if not is_there(arguments.out, keys[n], options, grids[n])]
    if not missing:
        return
    split = thinned(split, arguments.max_cells_per_type_and_study, seed=seed)
    trained = sorted({label for source in split.train for label in source.cells.label_N})
    for name in missing:
        start, start_cpu = time.perf_counter(), time.process_time()
        if name == "scgp":
            rows, chosen = run_scgp(split, arguments, seed=seed)
        elif name == SMOOTHED:
            rows, chosen = smoothed_rows(arguments.out, keys[name], split, options)
        else:
            rows, chosen = run_baseline(name, split, ancestors, arguments, seed=seed)
        seconds = round(time.perf_counter() - start, 1)
        facts = {
            "options": options,
            "grid": grids[name],
            "trained": trained,
            "chosen": chosen,
            "seconds": seconds,
            "cpu_seconds": round(time.process_time() - start_cpu, 1),
        }
        facts |= {"unit": split.unit} if isinstance(split, Pair) else {}
        write_run(arguments.out, keys[name], split.queries, rows, facts)
        what = f"{split.setting} {split.name} seed {seed} {name}"
        say(f"{what}: {seconds:.0f} s {chosen.get('setting', '')}")


def main(argv: list[str] | None = None) -> None:
    """Run what is missing and write the tables."""
    arguments = read_arguments(argv)
    import torch
    from threadpoolctl import threadpool_limits

    from benchmarks.report import write_report

    torch.set_num_threads(arguments.threads)
    if "pairs" in arguments.settings and "scgp-smoothed" in arguments.methods:
        say("scgp-smoothed has no row in pairs")
    ancestors = lineage()
    with threadpool_limits(limits=arguments.threads):
        for seed, split in splits_of(arguments, ancestors):
            run_split(split, ancestors, arguments, seed=seed)
    words = sys.argv[1:] if argv is None else argv
    command = shlex.join(["python", "benchmarks/run.py", *words])
    results = arguments.results or arguments.out.parent
    sys.stdout.write(write_report(arguments.out, results, ancestors, command))


if __name__ == "__main__":
    main()
