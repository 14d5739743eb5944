"""Means, intervals and tables of the benchmark of partners.

Knows scores alone: neither cells nor genes.

Shapes: R resamples, U units.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.partners_notes import NOTES, TABLES
from benchmarks.partners_seed import HALVES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from benchmarks.partners_scores import Score

    #: By unit: what is drawn with it, its value for each seed, its resamples for each seed.
    Units = dict[str, tuple[tuple[str, ...], list[float], list[NDArray[np.floating]]]]

LEVEL = (2.5, 97.5)
OURS = "scgp"


def group_of_unit(unit: str) -> str:
    """Return what the tables tell apart: the deep study as the target, or two shallow ones.

    Examples
    --------
    >>> group_of_unit("Zheng -> GeACT blood, B cell")
    'deep'
    """
    if "->" not in unit:
        return ""
    return "deep" if "-> GeACT" in unit else "10x"


def over_seeds(scores: list[list[Score]]) -> dict[tuple[str, str, str], Units]:
    """Gather the values of each unit over seeds, by measure, group and method."""
    found: dict[tuple[str, str, str], dict[str, list[Score]]] = {}
    for score in (score for seed in scores for score in seed):
        key = (score.measure, group_of_unit(score.unit), score.method)
        found.setdefault(key, {}).setdefault(score.unit, []).append(score)
    return {
        key: {
            unit: (s[0].drawn, [x.value for x in s], [x.resampled_R for x in s])
            for unit, s in units.items()
        }
        for key, units in found.items()
    }


@dataclass
class _Draws:
    """Weights of types and contexts for each resample, the same wherever a name occurs."""

    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))
    kept: dict[str, NDArray[np.floating]] = field(default_factory=dict)

    def weight(self, names: Iterable[str], n: int) -> NDArray[np.floating]:
        weight_R = np.ones(n)
        for name in names:
            if name not in self.kept:
                self.kept[name] = self.rng.exponential(size=n)
            weight_R = weight_R * self.kept[name]
        return weight_R


def _mean(units: Units, draws: _Draws) -> dict[str, Any]:
    """Return the mean over units and seeds, its interval, and the mean of each seed."""
    value_UR = np.stack([np.mean(resamples, axis=0) for _, _, resamples in units.values()])
    weight_UR = np.stack([draws.weight(n, value_UR.shape[1]) for n, _, _ in units.values()])
    mean_R = (value_UR * weight_UR).sum(axis=0) / weight_UR.sum(axis=0)
    low, high = np.percentile(mean_R, LEVEL)
    by_seed = np.mean([values for _, values, _ in units.values()], axis=0)
    return {
        "mean": float(by_seed.mean()), "low": float(low), "high": float(high),
        "units": len(units), "seeds": [round(float(v), 4) for v in by_seed],
    }  # fmt: skip


def _lead(ours: Units, theirs: Units, draws: _Draws) -> dict[str, Any] | None:
    """Return by how much the first is ahead, on the units and seeds that both have."""
    gap: Units = {}
    for unit, (drawn, values, resamples) in theirs.items():
        if unit in ours:  # some methods have the first seed alone
            pairs = zip(ours[unit][1], values, strict=False)
            drawn_pairs = zip(ours[unit][2], resamples, strict=False)
            gap[unit] = (drawn, [a - b for a, b in pairs], [a - b for a, b in drawn_pairs])
    return _mean(gap, draws) if gap else None


def summary(scores: list[list[Score]]) -> dict[str, Any]:
    """Return for each measure, group and method the mean, its interval and the lead of scgp."""
    draws, tables, rows = _Draws(), over_seeds(scores), []
    for (measure, group, method), units in tables.items():
        row = {"measure": measure, "group": group, "method": method, **_mean(units, draws)}
        ours = tables.get((measure, group, OURS), {})
        if method not in {OURS, HALVES}:
            row["lead"] = _lead(ours, units, draws)
        rows.append(row)
    each: dict[str, dict[str, dict[str, list[float]]]] = {}
    n_genes: dict[str, int] = {}
    for s in (s for seed in scores for s in seed):
        values = each.setdefault(s.measure, {}).setdefault(s.method, {}).setdefault(s.unit, [])
        values.append(round(s.value, 4))
        n_genes[f"{s.measure}: {s.unit.split(', ')[0] if '->' in s.unit else s.unit}"] = s.n_genes
    return {"rows": rows, "genes": n_genes, "units, by seed": each}


def _table(
    by_key: dict[tuple[str, str, str], dict[str, Any]], columns: list[tuple[str, str, str]],
    methods: list[str], *, lead: bool,
) -> list[str]:  # fmt: skip
    """Return the lines of a table; rows without a number are left out."""
    rule = ["---"] + ["---:"] * len(columns)
    rows = [["method", *(title for _, _, title in columns)], rule]
    for method in methods:
        found = [by_key.get((measure, group, method)) for measure, group, _ in columns]
        told = [(row or {}).get("lead") if lead else row for row in found]
        if any(told):
            rows.append([method, *(_cell(row) for row in told)])
    return ["| " + " | ".join(row) + " |" for row in rows] + [""]


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    return f"{row['mean']:.3f} ({row['low']:.3f} to {row['high']:.3f})"


def report(found: dict[str, Any]) -> str:
    """Return the Markdown file."""
    by_key = {(row["measure"], row["group"], row["method"]): row for row in found["rows"]}
    methods = list(dict.fromkeys(row["method"] for row in found["rows"]))
    seeds = len(found["seeds"])
    lines = [f"Made by `{found['command']}`; {seeds} trained networks.", "", NOTES, ""]
    for title, columns in TABLES:
        lines += [f"## {title}", ""]
        lines += _table(by_key, columns, methods, lead=False)
        lines += ["Lead of scgp:", "", *_table(by_key, columns, methods, lead=True)]
    return "\n".join(lines)
