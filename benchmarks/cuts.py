"""The hard cuts of the benchmark apart, from the committed predictions alone.

    python benchmarks/cuts.py --data ../shared/data

Owns which cells belong to which cut, and why. Nothing is trained or asked. See README.md.
"""  # fmt: skip

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.cuts_cells import NO, OPEN_10X  # noqa: E402
from benchmarks.cuts_report import Cut  # noqa: E402

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from benchmarks.corpus import Split

HERE = Path(__file__).resolve().parent
#: Genes of a file, at most, that is called a narrow panel.
NARROW = 2000
#: Training cells of a type, at or below its term, under which it is rare.
RARE = 20


def _assay(assay: str, what: str, *, name: str = "") -> Cut:
    """Make the cut of the cells of one technology; the shift test of the same study stays out."""

    def select(facts: pd.DataFrame) -> NDArray[np.bool_]:
        return ((facts["assay"] == assay) & ~facts["shift"]).to_numpy()

    return Cut(name or assay, what, select)


def _new_technology(facts: pd.DataFrame) -> NDArray[np.bool_]:
    return (facts["assay_trains"] == NO).to_numpy()


def _narrow(facts: pd.DataFrame) -> NDArray[np.bool_]:
    return ((facts["n_genes"] <= NARROW) & ~facts["shift"]).to_numpy()


def _stimulated(facts: pd.DataFrame) -> NDArray[np.bool_]:
    return facts["condition"].str.contains("stimulated", regex=False).to_numpy()


def _fetal(facts: pd.DataFrame) -> NDArray[np.bool_]:
    return facts["stage"].str.startswith("fetal").to_numpy()


def _few_real(facts: pd.DataFrame) -> NDArray[np.bool_]:
    return ((facts["n_real"] < RARE) & (facts["n_train"] > 0)).to_numpy()


def _few(facts: pd.DataFrame) -> NDArray[np.bool_]:
    return facts["n_train"].between(1, RARE - 1).to_numpy()


def _none(facts: pd.DataFrame) -> NDArray[np.bool_]:
    return (facts["n_train"] == 0).to_numpy()


_OF_TERMS = (
    "F1 of these terms among all cells of their units, so that calling them where they are not "
    "costs; recall beside it does not see that."
)

CUTS: tuple[Cut, ...] = (
    _assay("10x 3' v1", "The first chemistry; other studies of it train in every fold."),
    _assay(
        "10x 3' v2",
        "Unlike one another: blood with 999 genes, a breast tumour, two parts of blood files.",
    ),
    _assay(
        "10x 3' v3",
        "Most of the cells are CITE-seq, whose RNA is 10x 3' v3; their "
        "labels are gates on surface proteins, and 4,000 genes were kept.",
    ),
    _assay(
        "10x 5' transcription profiling",
        "Reads from the other end of the transcript: 200 T cells of patients with tumours "
        "(2,599 genes), held out, and a part of a blood file with three coarse labels, for which "
        "the 200 cells train.",
    ),
    _assay(
        OPEN_10X,
        "10x by its maker's name alone: the data do not state which chemistry.",
        name="10x, chemistry not stated",
    ),
    _assay("inDrop", "No real training cell is of it. Pancreas, and two tumours (one with blood)."),
    _assay(
        "MALBAC-DT",
        "Very deep. Both studies of it are held out together; genes were filtered by organ or "
        "population, so that a zero can mean not measured.",
    ),
    Cut(
        "technology not in training",
        "No real training cell of the fold is of the technology of these cells, by what the data "
        "state. A 10x chemistry is never counted, for files of an unstated one train in every "
        "fold: so 10x 5', held out with its only training study, is not here. What technology the "
        "mean profiles have from which cells are drawn is not stated.",
        _new_technology,
    ),
    Cut(
        "narrow gene panels",
        f"Files of at most {NARROW:,} genes: 999 chosen for eQTL work, 1,287 kept by the source. "
        "Many markers are missing.",
        _narrow,
    ),
    Cut(
        "stimulated cells",
        "Cells given interferon beta, of a study whose control cells train: a test of that shift, "
        "not a new study. Both files are of the same donors and pool, so the two units are not "
        "independent.",
        _stimulated,
    ),
    Cut(
        "fetal",
        "Seven organs of two fetuses, held out; no other file states a stage. About 4 in 10 of the "
        "drawn cells (before thinning) are of fetal profiles, so fetal cells are not unseen. "
        "Technology, organs and stage change together.",
        _fetal,
    ),
    Cut(
        "rare: fewer than 20 real training cells",
        "Terms with fewer than 20 real training cells at or below them, and drawn ones: what is "
        f"known of them comes from mean profiles. {_OF_TERMS}",
        _few_real,
        among_all=True,
    ),
    Cut(
        "rare: 1 to 19 training cells",
        f"The same, drawn cells counted: fewer than 20 of both together. {_OF_TERMS}",
        _few,
        among_all=True,
    ),
    Cut(
        "rare: no training cell",
        "Neither the term nor one below it is a training label, so no method can be right, and "
        "F1 is 0 for all of them. What is left: how near the answer is (soft), and whether it is "
        "true though broad (holds).",
        _none,
        among_all=True,
        reachable=False,
    ),
)

ABSENT = {
    "Flex and other fixed-RNA probes": "no labelled file of the data is of them.",
    "Adult asked of fetal": "the one fetal study trains beside all others. Nearest to it are the "
    'pairs "GeACT -> ..." of pairs/benchmark.md, whose reference is 2,443 fetal and 1,000 sorted '
    "adult cells.",
    "Stage apart from technology": "the one fetal study is also the one of organs by its "
    "technology; the stage of all other files is not stated.",
    "Stimulation in a new study": "no other file is of stimulated cells.",
}


def read_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n", 1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train/, eval/, ...")
    parser.add_argument("--folds", type=int, default=5, help="folds of the runs")
    parser.add_argument("--runs", type=Path, default=HERE / "results" / "runs")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="tables")
    return parser.parse_args(argv)


def splits_of(data: Path, *, n_folds: int) -> list[Split]:
    """Return train -> eval and the folds; how many cells are drawn does not depend on the seed."""
    from benchmarks import corpus

    vocabulary = corpus.read_vocabulary(data)
    train = corpus.read_folder(data / "train", vocabulary)
    queries = corpus.read_folder(data / "eval", vocabulary)
    drawn = corpus.draw(data, vocabulary, seed=0)
    folds = corpus.fold_splits(train, drawn, n_folds=n_folds)
    return [corpus.eval_split(train, drawn, queries), *folds]


def main(argv: list[str] | None = None) -> None:
    """Read data and runs, and write the tables."""
    arguments = read_arguments(argv)
    import pandas as pd

    from benchmarks.cuts_cells import facts_of, line_up, same_options
    from benchmarks.cuts_report import measure, write_tables
    from benchmarks.run import lineage
    from benchmarks.smoothed_method import NAME as SMOOTHED
    from benchmarks.store import read_runs, write_truth

    ancestors = lineage()
    splits = splits_of(arguments.data, n_folds=arguments.folds)
    for split in splits:
        write_truth(arguments.runs, split.setting, split.name, split.queries)
    asked = {(split.setting, split.name) for split in splits}
    found_runs = (run for run in read_runs(arguments.runs) if run["method"] != SMOOTHED)
    runs = [run for run in found_runs if (run["setting"], run["fold"]) in asked]
    most = same_options(runs)["max_cells_per_type_and_study"]
    facts = pd.concat([facts_of(split, most, ancestors) for split in splits], ignore_index=True)
    answers = line_up(facts, runs, splits)
    found = {cut: measure(cut, facts, answers, ancestors) for cut in CUTS}
    measured = {cut: content for cut, content in found.items() if content is not None}
    empty = {cut.name: "no study with enough cells." for cut in CUTS if cut not in measured}
    words = sys.argv[1:] if argv is None else argv
    command = shlex.join(["python", "benchmarks/cuts.py", *words])
    sys.stdout.write(write_tables(measured, ABSENT | empty, arguments.results, command))


if __name__ == "__main__":
    main()
