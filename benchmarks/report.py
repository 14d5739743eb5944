"""From predictions to the tables of the benchmark: Markdown to read, JSON to compute with.

Owns what a row of a table is. A score is the mean over units (files of ``eval``, studies of the
folds), then mean and standard deviation over seeds.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.bootstrap import SCORES, differences
from benchmarks.folds import SHIFT_GROUPS, group_of
from benchmarks.mapped import fit_maps, mapped_error
from benchmarks.pairs import REACHABLE_ONLY, reachable_cells
from benchmarks.scores import Answer, mean_over, reachable, score, spread_over
from benchmarks.smoothed_method import NAME as SMOOTHED
from benchmarks.store import cells_of, read_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import pandas as pd

    Ancestors = Callable[[str], frozenset[str]]
    # (setting, row, seed) -> unit -> scores
    Scores = dict[tuple[str, str, int], dict[str, dict[str, float]]]
    # unit -> true labels, and row -> labels of each seed
    Units = dict[str, tuple[np.ndarray, dict[str, list[np.ndarray]]]]
    Differences = dict[str, dict[str, tuple[float, float, float]]]

# score -> (heading, digits)
SHOWN = {
    "accuracy": ("accuracy", 3),
    "macro_f1": ("macro-F1", 3),
    "soft": ("soft", 3),
    "macro_f1_exact": ("exact macro-F1", 3),
    "unknown": ("unknown", 3),
}
DOUBT = {
    "ece": ("ECE", 3),
    "aurc": ("AURC", 3),
    "holds": ("holds", 3),
    "ece_holds": ("ECE, holds", 3),
    "ece_holds_mapped": ("ECE, holds, mapped", 3),
    "aurc_holds": ("AURC, holds", 3),
    "ece_chance": ("ECE by chance", 3),
}
SHIFT = " (shift)"
NEW_ONLY = "new studies only"
OURS = "scgp"


def collect(folder: Path, ancestors: Ancestors) -> tuple[Scores, list[dict[str, Any]]]:
    """Score every run of a folder; also return what each run says of itself.

    A study whose files lie in one fold is one unit, whatever the number of its files. Pairs are
    scored twice: on all cells, and on those whose term their reference can name.
    """
    scores: Scores = defaultdict(dict)
    facts = []
    maps = fit_maps(read_runs(folder), ancestors)
    for run in read_runs(folder):
        facts.append({name: value for name, value in run.items() if name not in {"files", "truth"}})
        for section, table in _tables(run, ancestors):
            for (row, name), part in table.groupby(["row", _unit(run)], sort=True):
                shift = run["setting"] == "eval" and _is_shift(part)
                answer = Answer(
                    part["label"].to_numpy(dtype=object), part["confidence"].to_numpy(np.float32)
                )
                true_N = part["true"].to_numpy(dtype=object)
                found = score(true_N, answer, ancestors)
                found["reachable"] = reachable(true_N, run["trained"], ancestors)
                by = maps.get((run["setting"], run["fold"], str(row), int(run["seed"])))
                found["ece_holds_mapped"] = mapped_error(true_N, answer, by, ancestors)
                key = (section, str(row), int(run["seed"]))
                scores[key][f"{name}{SHIFT}" if shift else str(name)] = found
    return dict(scores), facts


def _tables(run: Mapping[str, Any], ancestors: Ancestors) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the sections that a run belongs to, with its cells in each."""
    table = cells_of(run).assign(unit=run.get("unit", ""))
    yield run["setting"], table
    if "unit" in run:
        true_N = table["true"].to_numpy(dtype=object)
        kept_N = reachable_cells(true_N, run["trained"], ancestors)
        yield f"{run['setting']}, {REACHABLE_ONLY}", table[kept_N]


def labels_by_unit(folder: Path, section: str, ancestors: Ancestors) -> Units:
    """Return what is true and what each row to compare said, for each unit of a section.

    These are the rows of the table but "scgp, smoothed", which is made of scgp's own answers.
    """
    units: Units = {}
    setting, _, rest = section.partition(", ")
    wanted = section if rest == REACHABLE_ONLY else setting
    for run in read_runs(folder):
        if run["setting"] != setting or run["method"] == SMOOTHED:
            continue
        table = dict(_tables(run, ancestors))[wanted]
        for (row, name), part in table.groupby(["row", _unit(run)], sort=True):
            if rest == NEW_ONLY and _is_shift(part):
                continue
            true_N = part["true"].to_numpy(dtype=object)
            _, labels = units.setdefault(str(name), (true_N, {}))
            labels.setdefault(str(row), []).append(part["label"].to_numpy(dtype=object))
    return units


def _unit(run: Mapping[str, Any]) -> str:
    """Return the column whose values are the units of a run."""
    if "unit" in run:
        return "unit"
    return "file" if run["setting"] == "eval" else "study"


def _is_shift(part: pd.DataFrame) -> bool:
    groups = {
        group_of(file, study) for file, study in zip(part["file"], part["study"], strict=True)
    }
    return groups <= SHIFT_GROUPS


def sections(scores: Scores) -> dict[str, Scores]:
    """Return the tables: every section, and for eval the new studies by themselves."""
    named: dict[str, Scores] = {}
    for setting in sorted({key[0] for key in scores}):
        rows = {key: units for key, units in scores.items() if key[0] == setting}
        named[setting] = rows
        new = {k: {u: s for u, s in units.items() if SHIFT not in u} for k, units in rows.items()}
        if any(len(new[key]) < len(rows[key]) for key in rows) and all(new.values()):
            named[f"{setting}, {NEW_ONLY}"] = new
    return named


def summary(rows: Scores) -> dict[str, dict[str, Any]]:
    """Return mean and spread over seeds of the mean over units, per row of the table."""
    by_row: dict[str, list[dict[str, float]]] = defaultdict(list)
    units: dict[str, set[str]] = defaultdict(set)
    for (_, row, _), found in sorted(rows.items()):
        by_row[row].append(mean_over(found.values()))
        units[row] |= set(found)
    return {
        row: {"seeds": len(means), "units": len(units[row]), "scores": spread_over(means)}
        for row, means in by_row.items()
    }


def _number(value: float, spread: float, digits: int) -> str:
    if math.isnan(value):
        return "-"
    text = f"{value:.{digits}f}".replace("0.", ".", 1) if 0 <= value < 1 else f"{value:.{digits}f}"
    shown = "" if math.isnan(spread) else f" ± {spread:.{digits}f}".replace("0.", ".", 1)
    return text + shown


def main_table(rows: Scores, shown: Mapping[str, tuple[str, int]] = SHOWN) -> list[str]:
    """Return the Markdown lines of one summary, best macro-F1 + soft score first."""
    found = summary(rows)

    def rank(row: str) -> float:
        return -(found[row]["scores"]["macro_f1"][0] + found[row]["scores"]["soft"][0])

    heads = [heading for heading, _ in shown.values()]
    lines = [
        "| method | " + " | ".join(heads) + " | units x seeds |",
        "| --- |" + " ---: |" * (len(heads) + 1),
    ]
    for row in sorted(found, key=rank):
        cells = [
            _number(*found[row]["scores"][name], digits) for name, (_, digits) in shown.items()
        ]
        size = f"{found[row]['units']} x {found[row]['seeds']}"
        lines.append(f"| {row} | {' | '.join(cells)} | {size} |")
    return lines


def difference_table(found: Differences) -> list[str]:
    """Return the Markdown lines of scgp's lead over each baseline, with its interval."""
    shown = next(iter(found.values()), dict.fromkeys(SCORES))
    names = [SHOWN[name][0] for name in shown]
    lines = [f"| {OURS} minus | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
    for row, scores in found.items():
        cells = [f"{m:+.3f} [{low:+.3f}, {high:+.3f}]" for m, low, high in scores.values()]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return lines


def unit_table(rows: Scores) -> list[str]:
    """Return macro-F1 / soft score per unit and method, means over seeds."""
    names = sorted({row for _, row, _ in rows})
    units = sorted({unit for found in rows.values() for unit in found})
    lines = [
        "| unit | cells | reachable | " + " | ".join(names) + " |",
        "| --- |" + " ---: |" * (len(names) + 2),
    ]
    for unit in units:
        of_unit = {
            name: mean_over([f[unit] for key, f in rows.items() if key[1] == name and unit in f])
            for name in names
        }
        any_row = next(found for found in of_unit.values() if found)
        cells = [
            f"{_number(f['macro_f1'], math.nan, 2)} / {_number(f['soft'], math.nan, 2)}"
            if f
            else "-"
            for f in of_unit.values()
        ]
        size = f"{any_row['cells']:.0f} | {_number(any_row['reachable'], math.nan, 2)}"
        lines.append(f"| {unit} | {size} | {' | '.join(cells)} |")
    return lines


def time_table(facts: list[dict[str, Any]]) -> list[str]:
    """Return minutes per fold of each method and setting, by the clock and of processor time."""
    seconds: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for run in facts:
        seconds[run["method"], run["setting"]].append((run["seconds"], run["cpu_seconds"]))
    lines = [
        "| method | setting | runs | minutes a fold | CPU minutes a fold |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for (method, setting), values in sorted(seconds.items()):
        clock, cpu = np.mean(values, axis=0) / 60
        lines.append(f"| {method} | {setting} | {len(values)} | {clock:.1f} | {cpu:.1f} |")
    return lines


NOTES = """\
Right: the true term or a descendant of it. Macro-F1 under that rule, over the true terms of the
query; soft: shared ancestors over the union of ancestors. Holds: right, or an ancestor of the true
term, which is true and too broad; confidence is measured against both rules. Unknown cells are
wrong and score 0; they are left out of ECE (15 bins of equal mass) and come last in AURC (lower is
better). ECE by chance: that of a unit whose confidences are exactly true, which is not 0 where
cells are few. Means over units, then mean ± standard deviation over seeds. Reachable: the share of
cells whose term, or one below it, is a label of the training cells. "(shift)": the same study
trains (control cells) and is asked (stimulated cells); that is no new study. "A -> B": the cells of
A are the only reference, those of B are asked. Differences: of the means over units and seeds, with
the 95 % interval of a paired bootstrap (1,000 resamples of units, and of cells within them).

*ECE, holds, mapped*: scgp's confidence is fitted to whether a label holds and summed up the
ontology, a peer's is its largest probability of one label. So here each method, scgp too, has a
logistic map of two parameters, fitted to its own answers on left-out studies (same seed, each study
alike): for a fold those of the other folds, for `eval` all of them; "-" without such runs. The
models of the other folds were trained on the studies of the fold, so its map is not quite
independent of it. The peers are not summed up the ontology, for only their largest probability is
stored; what that would give them is not seen here."""


def write_report(folder: Path, results: Path, ancestors: Ancestors, command: str) -> str:
    """Write ``benchmark.md`` and ``benchmark.json`` from the runs, and return the Markdown."""
    scores, facts = collect(folder, ancestors)
    lines = [f"Made by `{command}`.", "", NOTES]
    content: dict[str, Any] = {"command": command, "sections": {}}
    for name, rows in sections(scores).items():
        units = labels_by_unit(folder, name, ancestors)
        lead = differences(units, ancestors, ours=OURS)
        lines += ["", f"## {name}", "", *main_table(rows), "", *main_table(rows, DOUBT), ""]
        lines += [*difference_table(lead), ""] if lead else []
        lines += unit_table(rows)
        content["sections"][name] = {
            "summary": summary(rows),
            "differences": lead,
            "units": [
                {"method": row, "seed": seed, "unit": unit, **found}
                for (_, row, seed), units in sorted(rows.items())
                for unit, found in sorted(units.items())
            ],
        }
    lines += ["", "## Time", "", *time_table(facts), ""]
    content["runs"] = [
        {
            n: run.get(n)
            for n in (
                "setting",
                "fold",
                "method",
                "seed",
                "options",
                "chosen",
                "seconds",
                "cpu_seconds",
            )
        }
        for run in facts
    ]
    text = "\n".join(lines)
    results.mkdir(parents=True, exist_ok=True)
    (results / "benchmark.md").write_text(text, encoding="utf-8")
    (results / "benchmark.json").write_text(json.dumps(finite(content), indent=1), encoding="utf-8")
    return text


def finite(value: Any) -> Any:
    """Replace NaN, which JSON does not have, by null."""
    if isinstance(value, dict):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value
