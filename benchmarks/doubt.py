"""Is scgp's doubt to be believed: calibration, broader terms, label sets, and each stream alone.

    python benchmarks/doubt.py --data ../shared/data

Asks the models of ``run.py --settings folds eval`` (which it needs) about at most 60 cells of each
type of studies that they have not seen. All thresholds are those that each model was calibrated
with on its own training studies. See README.md.
"""  # fmt: skip

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from benchmarks.corpus import Split
    from benchmarks.held_out import Embedded
    from scgp.model.checkpoint import Model
    from scgp.reference.decision import Decision
    from scgp.reference.index import ReferenceIndex

    Ancestors = Callable[[str], frozenset[str]]

COVERAGES = (0.8, 0.9, 0.95)
#: "malignant cell": a term beside all lineages, so that no term for a tumour's lineage holds.
MALIGNANT = "CL:0001064"
#: Scores of each stream alone, and of all fused.
OF_STREAMS = ("macro_f1", "macro_f1_exact", "soft", "ece_holds", "aurc_holds")


def named(decision: Decision) -> NDArray[np.object_]:
    """Return the term of each answer, "" for unknown; a label that is no term by its name."""
    term_N = np.where(decision.ontology_id == "", decision.label, decision.ontology_id)
    called_N = np.isin(decision.status, ["labelled", "ancestor"])
    label_N: NDArray[np.object_] = np.where(called_N, term_N, "").astype(object)
    return label_N


def one_answer(
    index: ReferenceIndex, cells: Embedded, *, set_mass: float | None = None
) -> Decision:
    """Answer all cells of a file."""
    from scgp.reference.answer import answer
    from scgp.reference.decision import Decision

    parts = answer(
        index, cells.cell_NE, cells.type_NE, cells.score_NS, winner_B=cells.winner_N,
        set_mass=set_mass,
    )  # fmt: skip
    return Decision.join(list(parts), sets=set_mass is not None)


def covered(
    index: ReferenceIndex,
    cells: Embedded,
    true_N: NDArray[np.object_],
    ancestors: Ancestors,
    coverage: float,
) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
    """Return whether a label of each cell's set holds, and how many labels the set has."""
    from benchmarks.scores import holds
    from scgp.reference.conformal import mass_for

    fitted = index.calibration
    mass = mass_for(coverage, fitted.set_mass, fitted.set_cells)
    found = one_answer(index, cells, set_mass=mass)
    term_of = dict(zip(index.labels, index.label_ids, strict=True))
    set_of = pd.DataFrame({"true": true_N, "set": found.label_set})
    hit = {
        (true, names): holds(
            np.array([true] * len(names.split(" | ")), dtype=object),
            np.array([term_of[name] or name for name in names.split(" | ")], dtype=object),
            ancestors,
        ).any()
        for true, names in set_of.drop_duplicates().itertuples(index=False)
    }
    hit_N = np.array([hit[pair] for pair in set_of.itertuples(index=False, name=None)], dtype=bool)
    return hit_N, found.set_size


def stream_answers(
    index: ReferenceIndex, cells: Embedded
) -> dict[str, tuple[NDArray[np.object_], NDArray[np.float32]]]:
    """Return the best label of each stream by itself, with its probability and those below it."""
    from benchmarks.held_out import streams
    from scgp.phenotypes.ontology import Ontology

    below_TT = Ontology("CL").relation(index.label_ids).T
    pairs = zip(index.labels, index.label_ids, strict=True)
    term_T = np.array([term or label for label, term in pairs], dtype=object)
    found = {}
    for name, stream_NT in streams(index, cells)[0].items():
        probability_NT = np.nan_to_num(stream_NT)
        best_N = probability_NT.argmax(axis=1)
        mass_N = (probability_NT * below_TT.T[best_N]).sum(axis=1)
        found[name] = (term_T[best_N], mass_N.astype(np.float32))
    return found


def ask(model: Model, index: ReferenceIndex, split: Split, ancestors: Ancestors) -> pd.DataFrame:
    """Ask a model about the query files of its split; one row a cell.

    Columns: ``unit`` (study, or file of eval), ``true``; ``label``, ``confidence``, ``status`` of
    the decision; of the best label of all streams (``fused``) and of each alone its name and, with
    `` p``, its probability; of each coverage ``hit`` and ``size``.
    """
    from benchmarks.corpus import thin
    from benchmarks.held_out import MOST, SEED, embedded

    term_of = dict(zip(index.labels, index.label_ids, strict=True))
    tables = []
    for source in split.queries:
        few = thin(source, most=MOST, seed=SEED)
        cells, true_N = embedded(model, index, few.adata), few.cells.label_N
        said = one_answer(index, cells)
        columns: dict[str, object] = {
            "unit": few.cells.obs["file" if split.setting == "eval" else "study"].to_numpy(str),
            "true": true_N,
            "label": named(said),
            "confidence": said.confidence,
            "status": said.status,
            "fused": [term_of.get(x) or x for x in said.leaf],
            "fused p": said.leaf_confidence,
        }
        for name, (label_N, probability_N) in stream_answers(index, cells).items():
            columns |= {name: label_N, f"{name} p": probability_N}
        for coverage in COVERAGES:
            hit_N, size_N = covered(index, cells, true_N, ancestors, coverage)
            columns |= {f"hit {coverage:g}": hit_N, f"size {coverage:g}": size_N}
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def measured(cells: pd.DataFrame, ancestors: Ancestors) -> dict[str, float]:
    """Return the numbers of one unit, or of all its cells; NaN where there is nothing to measure.

    Confidence is measured against *holds*, over the cells that got an answer.
    """
    from benchmarks.scores import calibration_error, chance_calibration_error, holds

    true_N, label_N = (cells[c].to_numpy(dtype=object) for c in ("true", "label"))
    holds_N, confidence_N = holds(true_N, label_N, ancestors), cells["confidence"].to_numpy()
    called_N, above_N = ((cells["status"] != "unknown"), (cells["status"] == "ancestor"))
    called_N, above_N = called_N.to_numpy(), above_N.to_numpy()
    named_N = above_N & (true_N != MALIGNANT)
    found = {
        "cells": float(len(cells)),
        "holds": float(holds_N[called_N].mean()),
        "confidence": float(confidence_N[called_N].mean()),
        "ece": calibration_error(confidence_N[called_N], holds_N[called_N]),
        "ece_chance": chance_calibration_error(confidence_N[called_N]),
        "above": float(above_N.mean()),
        "above_holds": float(holds_N[above_N].mean()) if above_N.any() else float("nan"),
        "above_holds_named": float(holds_N[named_N].mean()) if named_N.any() else float("nan"),
        "unknown": float(1 - called_N.mean()),
    }
    for coverage in COVERAGES:
        found[f"covered {coverage:g}"] = float(cells[f"hit {coverage:g}"].mean())
        found[f"size {coverage:g}"] = float(cells[f"size {coverage:g}"].mean())
    return found


def measured_streams(cells: pd.DataFrame, ancestors: Ancestors) -> dict[str, dict[str, float]]:
    """Return the scores of the best label of each stream alone, and of all fused."""
    from benchmarks.scores import Answer, score

    true_N = cells["true"].to_numpy(dtype=object)
    found = {}
    for name in [c.removesuffix(" p") for c in cells.columns if c.endswith(" p")]:
        answer = Answer(cells[name].to_numpy(dtype=object), cells[f"{name} p"].to_numpy(np.float32))
        scores = score(true_N, answer, ancestors)
        found[name] = {key: scores[key] for key in OF_STREAMS}
    return found


def summarised(tables: dict[int, pd.DataFrame], ancestors: Ancestors) -> dict[str, Any]:
    """Return each number as its values by seed: means over units, and over all cells at once."""
    rows: dict[str, list[dict[str, float]]] = {"units": [], "pooled": [], "lowest": []}
    streams: dict[str, list[dict[str, float]]] = {}
    for _, table in sorted(tables.items()):
        units = [part for _, part in table.groupby("unit", sort=True)]
        each = pd.DataFrame([measured(part, ancestors) for part in units])
        rows["units"].append(each.mean().to_dict())
        rows["lowest"].append(each.min().to_dict())
        rows["pooled"].append(measured(table, ancestors))
        of_units = [measured_streams(part, ancestors) for part in units]
        for name in of_units[0]:
            mean = pd.DataFrame([found[name] for found in of_units]).mean().to_dict()
            streams.setdefault(name, []).append(mean)
    return {**rows, "streams": streams}


def shown(values: list[float]) -> str:
    """Return mean and spread over seeds."""
    mean = f"{np.nanmean(values):.3f}".removeprefix("0")
    spread = f"{np.std(values, ddof=1):.3f}".removeprefix("0") if len(values) > 1 else ""
    return f"{mean} ± {spread}" if spread else mean


#: What the table says of the answers: its words, which means, and the measured name.
LINES = (
    ("answers that hold, mean over units", "units", "holds"),
    ("their confidence, mean over units", "units", "confidence"),
    ("ECE, mean over units", "units", "ece"),
    ("ECE by chance, mean over units", "units", "ece_chance"),
    ("ECE over the cells of all units together", "pooled", "ece"),
    ("share of broader terms", "units", "above"),
    ("broader terms that hold, mean over units that have any", "units", "above_holds"),
    ("broader terms that hold, all cells together", "pooled", "above_holds"),
    ("the same without cells that authors call malignant", "pooled", "above_holds_named"),
    ("share of unknown", "units", "unknown"),
)


def report(found: dict[str, dict[str, Any]], command: str) -> str:
    """Return the tables as Markdown."""
    lines = [f"Made by `{command}`.", "", NOTES]
    for setting, content in found.items():
        lines += ["", f"## {setting}", "", "| | |", "| --- | ---: |"]
        for words, means, name in LINES:
            lines.append(f"| {words} | {shown([row[name] for row in content[means]])} |")
        lines += [
            "",
            "| asked coverage | mean over units | lowest unit | all cells | labels a set |",
        ]
        lines.append("| ---: | ---: | ---: | ---: | ---: |")
        for coverage in COVERAGES:
            hit, size = f"covered {coverage:g}", f"size {coverage:g}"
            of = [[row[hit] for row in content[means]] for means in ("units", "lowest", "pooled")]
            of.append([row[size] for row in content["units"]])
            lines.append(f"| {coverage:g} | {' | '.join(map(shown, of))} |")
        lines += ["", "| stream alone | macro-F1 | exact | soft | ECE, holds | AURC, holds |"]
        lines.append("| --- |" + " ---: |" * len(OF_STREAMS))
        for name, seeds in content["streams"].items():
            cells = [shown([row[key] for row in seeds]) for key in OF_STREAMS]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


NOTES = """\
At most 60 cells of each type of a study (or file of eval) that the model has not seen. Means over
these units, then mean ± standard deviation over seeds. Holds: the answer is the true term, one
below it or one above it. ECE by chance: what exactly true confidences would have, for want of cells
in a unit. A set covers a cell if one of its labels holds; it has one label at least, so a coverage
below the share of best labels that hold cannot be met from below. Streams alone: the best label of
each, with its own probability as the confidence; the pairwise stream names one label of those that
have real cells, and has no other probability than 1. "Malignant cell" is a term beside all
lineages: "epithelial cell" does not hold for the cell of a carcinoma that authors call so."""


def main(argv: list[str] | None = None) -> None:
    """Ask the models, write ``doubt.md`` and ``doubt.json``."""
    from benchmarks import corpus
    from benchmarks.held_out import read_arguments, tables_by_seed, write_tables
    from benchmarks.run import lineage

    arguments = read_arguments(__doc__, argv, settings=["folds"])
    ancestors, vocabulary = lineage(), corpus.read_vocabulary(arguments.data)
    answers = tables_by_seed(
        arguments.settings, arguments.seeds, runs=arguments.runs, data=arguments.data,
        train=corpus.read_folder(arguments.data / "train", vocabulary),
        ask=lambda model, index, split: ask(model, index, split, ancestors),
    )  # fmt: skip
    found = {setting: summarised(tables, ancestors) for setting, tables in answers.items()}
    words = sys.argv[1:] if argv is None else argv
    text = report(found, shlex.join(["python", "benchmarks/doubt.py", *words]))
    write_tables(arguments.results, "doubt", text, found)


if __name__ == "__main__":
    main()
