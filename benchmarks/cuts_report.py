"""The hard cuts as tables: scores of each method on the cells of a cut, and how sure a lead is.

Owns what a cut is and how its cells are scored. Knows nothing of which cuts there are, nor of where
facts and answers come from.

Shapes: N asked cells of all splits; a unit's own cells are a part of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.bootstrap import SCORES, differences
from benchmarks.report import (
    OURS,
    difference_table,
    finite,
    main_table,
    summary,
    unit_table,
)
from benchmarks.scores import (
    UNKNOWN,
    counted_as,
    holds,
    is_right,
    macro_f1,
    soft_scores,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from benchmarks.cuts_cells import Answers

    Ancestors = Callable[[str], frozenset[str]]
    Lead = tuple[float, float, float]

#: A unit with fewer cells in a cut says nothing of it, and would count as much as any other.
MIN_CELLS = 10
#: The peers that every cut is held against, beside its best one.
PEERS = ("LR on genes", "CellTypist (SGD)")
COMMON = {
    "macro_f1": ("macro-F1", 3),
    "macro_f1_exact": ("exact macro-F1", 3),
    "soft": ("soft", 3),
    "holds": ("holds", 3),
    "unknown": ("unknown", 3),
}
#: Recall beside F1, where few terms are scored among the cells of many others.
AMONG = {"macro_f1": ("macro-F1", 3), "recall": ("macro recall", 3)} | COMMON
#: Where no training label could be right.
TRUE_AT_BEST = {name: COMMON[name] for name in ("soft", "holds", "unknown")}


@dataclass(frozen=True)
class Cut:
    """Some of the asked cells, and why they are hard.

    Parameters
    ----------
    select
        Whether each line of `benchmarks.cuts_cells.facts_of` belongs to the cut.
    among_all
        False: the cells of the cut are scored as if nothing else had been asked. True (for cuts
        that are whole terms): the other cells of their units count where they are called one of
        these terms.
    reachable
        False: no label of the training cells is right for these cells.
    """

    name: str
    what: str
    select: Callable[[pd.DataFrame], NDArray[np.bool_]]
    among_all: bool = False
    reachable: bool = True

    @property
    def shown(self) -> dict[str, tuple[str, int]]:
        """Scores of the cut's table."""
        if not self.reachable:
            return TRUE_AT_BEST
        return AMONG if self.among_all else COMMON

    @property
    def compared(self) -> tuple[str, ...]:
        """Scores whose differences mean something."""
        return tuple(name for name in SCORES if name in self.shown)


@dataclass(frozen=True)
class Unit:
    """The cells of one study or file that a cut is scored on; ``asked_N`` are those of the cut."""

    true_N: NDArray[np.object_]
    asked_N: NDArray[np.bool_]
    labels: dict[str, list[NDArray[np.object_]]]


def units_of(cut: Cut, facts: pd.DataFrame, answers: Answers) -> dict[str, Unit]:
    """Return the units that have at least `MIN_CELLS` cells in the cut, by name."""
    in_cut_N = np.asarray(cut.select(facts), bool)
    n_cells = facts.loc[in_cut_N, "unit"].value_counts()
    units = {}
    for name in sorted(n_cells.index[n_cells >= MIN_CELLS]):
        of_unit_N = (facts["unit"] == name).to_numpy()
        scored_N = of_unit_N if cut.among_all else of_unit_N & in_cut_N
        units[name] = Unit(
            facts.loc[scored_N, "true"].to_numpy(dtype=object),
            in_cut_N[scored_N],
            {row: [label_N[scored_N] for label_N in seeds] for row, seeds in answers.items()},
        )
    return units


def cut_scores(
    true_N: NDArray[np.object_],
    label_N: NDArray[np.object_],
    asked_N: NDArray[np.bool_],
    ancestors: Ancestors,
) -> dict[str, float]:
    """Score the asked cells of a unit; the others count where they are called an asked term."""
    terms = sorted(set(true_N[asked_N]))
    asked_true_N, asked_label_N = true_N[asked_N], label_N[asked_N]
    right_N = is_right(asked_true_N, asked_label_N, ancestors)
    return {
        "cells": float(asked_N.sum()),
        "macro_f1": macro_f1(true_N, counted_as(true_N, label_N, ancestors), terms),
        "macro_f1_exact": macro_f1(true_N, label_N, terms),
        "recall": float(np.mean([right_N[asked_true_N == term].mean() for term in terms])),
        "soft": float(soft_scores(asked_true_N, asked_label_N, ancestors).mean()),
        "holds": float(holds(asked_true_N, asked_label_N, ancestors).mean()),
        "unknown": float(np.mean(asked_label_N == UNKNOWN)),
    }


def measure(
    cut: Cut, facts: pd.DataFrame, answers: Answers, ancestors: Ancestors
) -> dict[str, Any] | None:
    """Return everything that the tables show of a cut; ``None`` where it has no unit."""
    units = units_of(cut, facts, answers)
    if not units:
        return None
    of_cut = facts[np.asarray(cut.select(facts), bool) & facts["unit"].isin(units).to_numpy()]
    rows: dict[tuple[str, str, int], dict[str, dict[str, float]]] = {}
    for name, unit in units.items():
        can = float((of_cut.loc[of_cut["unit"] == name, "n_train"] > 0).mean())
        for row, seeds in unit.labels.items():
            for seed, label_N in enumerate(seeds):
                found = cut_scores(unit.true_N, label_N, unit.asked_N, ancestors)
                rows.setdefault((cut.name, row, seed), {})[name] = found | {"reachable": can}
    leads = differences(
        {name: (unit.true_N, unit.labels) for name, unit in units.items()},
        ancestors,
        ours=OURS,
        asked={name: unit.asked_N for name, unit in units.items()},
    )
    return {
        "units": len(units),
        "studies": of_cut["study"].nunique(),
        "cells": len(of_cut),
        "terms": of_cut["true"].nunique(),
        "rows": rows,
        "summary": summary(rows),
        "differences": {
            row: {score: found[score] for score in cut.compared} for row, found in leads.items()
        },
    }


def best_peer(found: Mapping[str, Any], score: str) -> str:
    """Return the row of the highest mean score that is not scgp's; ties by name."""
    mean = {
        row: rest["scores"][score][0]
        for row, rest in found["summary"].items()
        if not row.startswith(OURS)
    }
    return min(mean, key=lambda row: (-mean[row], row))


def _size(found: Mapping[str, Any]) -> str:
    units = f"{found['units']} ({found['studies']})"
    return f"{units} | {found['cells']} | {found['terms']}"


def _lead(lead: Lead, found: Mapping[str, Any]) -> str:
    mean, low, high = lead
    alone = " *" if found["units"] == 1 else ""
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]{alone}"


def overview(measured: Mapping[Cut, Mapping[str, Any]], score: str) -> list[str]:
    """Return the Markdown lines of one score over all cuts for which it means something."""
    lines = [
        "| cut | units (studies) | cells | terms | scgp | best peer | scgp minus it | "
        + " | ".join(f"minus {row}" for row in PEERS)
        + " |",
        "| --- | ---: | ---: | ---: | ---: | --- |" + " ---: |" * (1 + len(PEERS)),
    ]
    for cut, found in measured.items():
        if score not in cut.compared:
            continue
        means = {row: rest["scores"][score][0] for row, rest in found["summary"].items()}
        best = best_peer(found, score)
        leads = [_lead(found["differences"][row][score], found) for row in (best, *PEERS)]
        ours = f"{means[OURS]:.3f} | {best} {means[best]:.3f}"
        lines.append(f"| {cut.name} | {_size(found)} | {ours} | {' | '.join(leads)} |")
    return lines


NOTES = """\
Made from the predictions of the benchmark alone; nothing was trained or asked for it. Scores are
those of benchmark.md, on the cells of the cut: mean over units (files of `eval`, studies of
`folds5`; both together), then mean ± standard deviation over seeds. A study of which only some
cells belong to the cut is scored on these as if nothing else had been asked (types that are rare:
among all its cells). A study with fewer than 10 cells in a cut is left out of it. The best peer is
the baseline of the highest mean on that cut and score, chosen after the fact, so the lead over it
is the least favourable one. Leads: the difference of the scores, with the 95 % interval of a
paired bootstrap over units and cells. \\*: one unit, so the interval is over cells alone and says
nothing of other studies. With two to five units an interval over units is too narrow to trust.
Many cuts were looked at, and nothing is corrected for that. Technology never varies by itself:
tissue, labels and genes do too."""


def _section(cut: Cut, found: Mapping[str, Any]) -> list[str]:
    lines = ["", f"## {cut.name}", "", cut.what, ""]
    size = ", ".join(f"{name} {found[name]}" for name in ("cells", "terms", "units", "studies"))
    lines += [f"Size: {size}.", "", *main_table(found["rows"], cut.shown)]
    lines += ["", *difference_table(found["differences"]), ""]
    if found["units"] == 1:
        lines += ["One unit: the intervals are over cells alone.", ""]
    return lines + unit_table(found["rows"])


def write_tables(
    measured: Mapping[Cut, Mapping[str, Any]],
    absent: Mapping[str, str],
    results: Path,
    command: str,
) -> str:
    """Write ``cuts.md`` and ``cuts.json``, and return the Markdown.

    Parameters
    ----------
    measured
        What `measure` found of each cut.
    absent
        What the data do not allow to measure: name and reason.
    """
    lines = ["# Hard cuts", "", f"Made by `{command}`.", "", NOTES]
    for score in SCORES:
        lines += ["", f"## All cuts: {COMMON[score][0]}", "", *overview(measured, score)]
    lines += ["", "## What the data do not allow", ""]
    lines += [f"- **{name}**: {reason}" for name, reason in absent.items()]
    for cut, found in measured.items():
        lines += _section(cut, found)
    text = "\n".join([*lines, ""])
    content = {"command": command, "cuts": [_content(c, f) for c, f in measured.items()]}
    results.mkdir(parents=True, exist_ok=True)
    (results / "cuts.md").write_text(text, encoding="utf-8")
    (results / "cuts.json").write_text(json.dumps(finite(content), indent=1), encoding="utf-8")
    return text


def _content(cut: Cut, found: Mapping[str, Any]) -> dict[str, Any]:
    sizes = {name: found[name] for name in ("units", "studies", "cells", "terms")}
    by_score = {score: best_peer(found, score) for score in cut.compared}
    return {
        "cut": cut.name,
        "what": cut.what,
        **sizes,
        "best_peer": by_score,
        "summary": found["summary"],
        "differences": found["differences"],
        "scores": [
            {"method": row, "seed": seed, "unit": unit, **scores}
            for (_, row, seed), units in sorted(found["rows"].items())
            for unit, scores in sorted(units.items())
        ],
    }
