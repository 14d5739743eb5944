"""Labels that the user names: how many cells get one, and whether it holds: annotate(labels=).

    python benchmarks/asked.py --data ../shared/data

Asks the models of ``run.py --settings folds eval`` (which it needs) about at most 60 cells of each
type of studies that they have not seen, for the types of the study itself and for those of another
one, some of which the study has and some not; all together, and each by itself. Once more without
what a likelier label on another line costs (`Fusion.slope_rival`). See README.md.
"""  # fmt: skip

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from benchmarks.corpus import Split
    from benchmarks.held_out import Embedded
    from scgp.model.checkpoint import Model
    from scgp.reference.decision import Decision
    from scgp.reference.index import ReferenceIndex

    Ancestors = Callable[[str], frozenset[str]]

#: What is asked for, in the order of the table.
PANELS = (
    "the study's own types", "the types of another study", "one type of the study",
    "one type of another study",
)  # fmt: skip
WAYS = ("with the cost", "without it")
SHOWN = {
    "could": "covers a cell", "called": "labelled", "holds": "of these hold",
    "confidence": "their confidence", "ece": "ECE", "found": "of the covered found",
}  # fmt: skip


def partner(unit: str, types_of: dict[str, list[str]]) -> str:
    """Return the study that follows by name, the first after the last."""
    names = sorted({unit, *types_of})
    others = [*names[names.index(unit) + 1 :], *names]
    return next(name for name in others if name != unit)


def panels(own: Sequence[str], other: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return what is asked for: kind of panel, and its terms."""
    asked = [(PANELS[0], list(own)), (PANELS[1], list(other))]
    asked += [(PANELS[2], [term]) for term in own]
    return asked + [(PANELS[3], [term]) for term in other]


def answered(
    model: Model, index: ReferenceIndex, cells: Embedded, terms: Sequence[str]
) -> Decision:
    """Answer all cells with one of some terms, or "unknown"."""
    from scgp.labels import read_candidates
    from scgp.reference.answer import answer
    from scgp.reference.decision import Decision

    candidates, _ = read_candidates(terms, model, index)
    parts = answer(
        index, cells.cell_NE, cells.type_NE, cells.score_NS, winner_B=cells.winner_N,
        candidates=candidates,
    )  # fmt: skip
    return Decision.join(list(parts))


def known(terms: Sequence[str], index: ReferenceIndex, ancestors: Ancestors) -> list[str]:
    """Return the terms that the index has cells of, or of terms below them.

    The others are known by their description alone, which `zeroshot.py` measures.
    """
    there = {above for label in index.label_ids if label for above in ancestors(label)}
    return [term for term in terms if term in there]


def ask(
    model: Model,
    index: ReferenceIndex,
    split: Split,
    types_of: dict[str, list[str]],
    ancestors: Ancestors,
) -> pd.DataFrame:
    """Ask a model about the query files of its split; one row a cell, panel and way.

    Columns: ``unit``, ``panel``, ``way``, ``true``, ``could`` (a term of the panel is the true one,
    or above or below it), ``label`` ("" for unknown), ``confidence``.
    """
    from benchmarks.corpus import thin
    from benchmarks.doubt import named
    from benchmarks.held_out import MOST, SEED, embedded

    free = replace(index, calibration=replace(index.calibration, slope_rival=0.0))
    tables = []
    for source in split.queries:
        few = thin(source, most=MOST, seed=SEED)
        unit_N = few.cells.obs["file" if split.setting == "eval" else "study"].to_numpy(str)
        for unit in np.unique(unit_N):
            rows = np.flatnonzero(unit_N == unit)
            cells, true_N = embedded(model, index, few.adata[rows]), few.cells.label_N[rows]
            own = sorted({x for x in true_N if ":" in x})
            other = types_of[partner(unit, types_of)]
            for panel, terms in panels(
                known(own, index, ancestors), known(other, index, ancestors)
            ):
                for way, asked in zip(WAYS, (index, free), strict=True):
                    said = answered(model, asked, cells, terms)
                    columns = {
                        "unit": unit, "panel": panel, "way": way, "true": true_N,
                        "could": on_line(true_N, terms, ancestors), "label": named(said),
                        "confidence": said.confidence,
                    }  # fmt: skip
                    tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def on_line(
    true_N: NDArray[np.object_], terms: Sequence[str], ancestors: Ancestors
) -> NDArray[np.bool_]:
    """Tell of each cell whether one of the terms is its own, or above or below it."""
    line = {
        true: any(true in ancestors(term) or term in ancestors(true) for term in terms)
        for true in set(true_N)
    }
    return np.array([line[true] for true in true_N], bool)


def measured(cells: pd.DataFrame, ancestors: Ancestors) -> dict[str, float]:
    """Return the numbers of one unit, panel and way; NaN where there is nothing to measure.

    ECE is over all cells: what is not labelled was given no label, and has no confidence; so it is
    that of labelled cells, as in `doubt.py`.
    """
    from benchmarks.scores import calibration_error, holds

    true_N, label_N = (cells[c].to_numpy(dtype=object) for c in ("true", "label"))
    called_N, could_N = label_N != "", cells["could"].to_numpy(bool)
    holds_N, confidence_N = holds(true_N, label_N, ancestors), cells["confidence"].to_numpy()
    nothing = float("nan")
    any_called = called_N.any()
    return {
        "could": float(could_N.mean()),
        "called": float(called_N.mean()),
        "holds": float(holds_N[called_N].mean()) if any_called else nothing,
        "confidence": float(confidence_N[called_N].mean()) if any_called else nothing,
        "ece": calibration_error(confidence_N[called_N], holds_N[called_N])
        if any_called
        else nothing,
        "found": float((holds_N & called_N)[could_N].mean()) if could_N.any() else nothing,
    }


def summarised(
    tables: dict[int, pd.DataFrame], ancestors: Ancestors
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Return panel, way and number as its values by seed, each a mean over units."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for _, table in sorted(tables.items()):
        for (panel, way), part in table.groupby(["panel", "way"], sort=False):
            units = [measured(cells, ancestors) for _, cells in part.groupby("unit", sort=True)]
            for name, value in pd.DataFrame(units).mean().items():
                row = found.setdefault(str(panel), {}).setdefault(str(way), {})
                row.setdefault(str(name), []).append(float(value))
    return found


def report(found: dict[str, Any], command: str) -> str:
    """Return the tables as Markdown."""
    from benchmarks.doubt import shown

    lines = [f"Made by `{command}`.", "", NOTES]
    for setting, content in found.items():
        lines += ["", f"## {setting}", "", f"| asked for | | {' | '.join(SHOWN.values())} |"]
        lines.append("| --- | --- |" + " ---: |" * len(SHOWN))
        for panel in PANELS:
            for way in WAYS:
                row = content[panel][way]
                cells = " | ".join(shown(row[name]) for name in SHOWN)
                lines.append(f"| {panel} | {way} | {cells} |")
    return "\n".join([*lines, ""])


NOTES = """\
At most 60 cells of each type of a study (or file of eval) that the model has not seen; means over
these units, then mean ± standard deviation over seeds. Asked for are the types of the study, as its
authors name them, or those of the study that follows by name; all at once, or one after the other.
Types that the model's reference has no cells of (nor of terms below) are left out: `zeroshot.py` is
about those. A panel covers a cell if one of its terms is the true one, or above or below it; the
others should be "unknown". A label holds by the same rule. Found: of the covered cells those with a
label that holds. The cost: what a likelier label on another line takes from the confidence."""


def main(argv: list[str] | None = None) -> None:
    """Ask the models, write ``asked.md`` and ``asked.json``."""
    from benchmarks import corpus
    from benchmarks.held_out import read_arguments, tables_by_seed, write_tables
    from benchmarks.run import lineage

    arguments = read_arguments(__doc__, argv)
    ancestors, vocabulary = lineage(), corpus.read_vocabulary(arguments.data)
    train = corpus.read_folder(arguments.data / "train", vocabulary)
    types_of = {
        study: sorted({x for x in part["label"].astype(str) if ":" in x})
        for source in train
        for study, part in source.cells.obs.groupby("study", observed=True)
    }
    answers = tables_by_seed(
        arguments.settings, arguments.seeds, runs=arguments.runs, data=arguments.data, train=train,
        ask=lambda model, index, split: ask(model, index, split, types_of, ancestors),
    )  # fmt: skip
    found = {setting: summarised(tables, ancestors) for setting, tables in answers.items()}
    words = sys.argv[1:] if argv is None else argv
    text = report(found, shlex.join(["python", "benchmarks/asked.py", *words]))
    write_tables(arguments.results, "asked", text, found)


if __name__ == "__main__":
    main()
