"""The tables of ``predict_expression.py``: Markdown to read, JSON to compute with.

Owns the means, and the bootstrap of the paired lead. Knows nothing of how profiles are predicted.

Shapes: A profiles of a file, U units (terms or studies).
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

N_RESAMPLES = 2000
OURS = "scgp, description"
UNIT = {"terms": "term", "studies": "study"}
INTRO = """# The expression that a description implies

Made by `{command}`.

Published mean profiles are held out and predicted from the name of the cell type and of the tissue.
*Terms*: Cell Ontology terms are held out, each with all terms below it, in every tissue and (where
other sources are used) source; a broader term of the same line may train. Terms with over 15 % of a
file's profiles below them are not asked. *Studies*: whole studies are held out (all collections of
Descartes are one study, and both of Wang; samples of one organ and stage of the Human Cell
Landscape go together); asked are profiles whose term another study of the file has. The two files
are measured apart, on the genes that each profile measures. Log-compressed collections are left
out. Seeds deal the folds.

Scores are Pearson correlations over genes, means over profiles, then over seeds, ± standard
deviation over seeds: "log1p" of log1p(CP10k), "deviation" of its difference from the mean training
profile of the file, which is the informative one (the mean of all says nothing there: 0). [..] is
the lead of "{ours}" over the method in the deviation with the 95 % interval of a paired
bootstrap over terms, or studies.

All methods see the training profiles of the file alone, except "other sources too" (the other file,
and means of labelled cells; held-out terms are out of these too). Settings of each method are
chosen on an inner split of the training profiles by the same rule: for scgp what the same term
counts beside its description, weights of text, ancestors and markers, and what the tissue counts
alone; for the peers how many neighbours (ties averaged), whether only those of the asked tissue
where there are any, and the share of the tissue. The rows "as shipped" and below have the constants
of the package, which were chosen by somebody who had seen other folds of these profiles in both
settings; the first row's were not, but what it and "nearest term and tissue mean" may choose from
was widened after a first run of seed 0 (what the tissue counts alone; the nearest term alone).
Markers are PanglaoDB's and CellMarker's, which are not made from these profiles, but may know their
types from the same literature.
"""


@dataclass(frozen=True)
class Part:
    """What was measured of one file in one setting; ``scores`` are seeds x A x 2."""

    source: str
    setting: str
    scores: Mapping[str, NDArray[np.float64]]
    chosen: Mapping[str, Sequence[Mapping[str, Any]]]
    unit_A: NDArray[np.str_]


def lead(
    ours_A: NDArray[np.float64],
    peer_A: NDArray[np.float64],
    unit_A: NDArray[np.str_],
    n_resamples: int = N_RESAMPLES,
) -> tuple[float, float, float]:
    """Return the mean lead over profiles, and the bounds of its 95 % interval over units.

    Examples
    --------
    >>> lead(np.array([0.5, 0.7]), np.array([0.4, 0.6]), np.array(["a", "b"]))
    (0.1, 0.1, 0.1)
    """
    gap_A = ours_A - peer_A
    names, code_A = np.unique(unit_A, return_inverse=True)
    sum_U = np.bincount(code_A, gap_A, minlength=len(names))
    n_U = np.bincount(code_A, minlength=len(names))
    rng = np.random.default_rng(0)
    drawn_RU = rng.integers(len(names), size=(n_resamples, len(names)))
    mean_R = sum_U[drawn_RU].sum(axis=1) / n_U[drawn_RU].sum(axis=1)
    low, high = np.percentile(mean_R, (2.5, 97.5))
    return round(float(gap_A.mean()), 6), round(float(low), 6), round(float(high), 6)


def rows_of(part: Part) -> dict[str, dict[str, Any]]:
    """Return the scores of each method, and the lead of ours over it."""
    asked_A = ~np.isnan(part.scores[OURS][..., 1]).all(axis=0)
    unit_A = part.unit_A[asked_A]
    profile = {name: np.nanmean(x[:, asked_A, 1], axis=0) for name, x in part.scores.items()}
    rows: dict[str, dict[str, Any]] = {}
    for name, score in part.scores.items():
        by_seed = np.nanmean(score, axis=1)
        rows[name] = {
            "log1p": by_seed[:, 0].mean(),
            "log1p_sd": by_seed[:, 0].std(),
            "deviation": by_seed[:, 1].mean(),
            "deviation_sd": by_seed[:, 1].std(),
            "settings": Counter(json.dumps(s, sort_keys=True) for s in part.chosen[name]),
        }
        if name != OURS:
            rows[name]["lead"] = lead(profile[OURS], profile[name], unit_A)
    return rows


def write_report(out: Path, parts: Sequence[Part], command: str) -> str:
    """Write both files and return the Markdown."""
    lines, kept = [INTRO.format(command=command, ours=OURS)], {}
    for part in parts:
        rows = rows_of(part)
        asked_A = ~np.isnan(part.scores[OURS][..., 1]).all(axis=0)
        n_units = len(np.unique(part.unit_A[asked_A]))
        facts = f"{asked_A.sum()} profiles of {n_units} {part.setting}, {len(part.unit_A)} in all."
        lines += [f"## {part.source}, {part.setting} held out\n", facts + "\n"]
        lines += [
            f"| method | log1p | deviation | lead over it, by {UNIT[part.setting]} |",
            "| --- | --: | --: | --: |",
        ]
        for name, row in rows.items():
            ahead = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*row["lead"]) if "lead" in row else ""
            level = f"{row['log1p']:.3f} ± {row['log1p_sd']:.3f}"
            apart = f"{row['deviation']:.3f} ± {row['deviation_sd']:.3f}"
            lines.append(f"| {name} | {level} | {apart} | {ahead} |")
        lines.append("")
        kept[f"{part.source}, {part.setting}"] = {
            "profiles": int(asked_A.sum()), "units": n_units, "methods": rows,
        }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    text = "\n".join(lines)
    (out / "predict_expression.md").write_text(text, encoding="utf-8")
    facts_json = json.dumps({"command": command, "parts": kept}, indent=1)
    (out / "predict_expression.json").write_text(facts_json + "\n", encoding="utf-8")
    return text
