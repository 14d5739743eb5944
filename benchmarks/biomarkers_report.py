"""The tables of the biomarker benchmark, as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks.biomarkers_measure import LISTS, TOPS

if TYPE_CHECKING:
    import pandas as pd

NOTES = """\
Blood cell types over the studies of `train/` (at most 60 cells of a label and study; a study counts
for a type of which it has 15), split at random into halves of studies, anew for each seed. Genes
are chosen on one half and scored on the other, both ways. **Removal asks an index of the other
half**, which has no cell and no study of the half on which genes are chosen. It was made **without
marker databases**: the model without its table of markers, and the gene head for the stream by
description. What is left of prior knowledge: the texts of the ontology's terms, some of which name
surface proteins; and the network, which was trained on all cells of `train/` with their labels (not
with markers), so on those of both halves; the weights of the streams were fitted there too.
Wilcoxon's test has no prior knowledge. Both see the same cells and genes (those that the model
knows).

Known: the share of the list that PanglaoDB or CellMarker name for the type or a type below it (the
50 best known of each term). Random: the same for genes that are detected alike in the type (1,000
draws, one of the 100 nearest for each gene of the list), with the 95 % interval of the draws;
above: the share of the lists that are above their interval. Only: in one list, and not among as
many of the other. Again: the share of the list that the other half has among as many by the same
ranking; positive, higher: whose effect, or z score, is above 0 there. The index of that half is
then made of the half on which the genes were chosen: for removal the halves change places, and are
no independent replicates; for Wilcoxon's test they are. New: the same in two files of `eval/` whose
studies are nowhere in `train/`, by an index that had no part in the choice. All are means over
types, halves and seeds, ± standard deviation over seeds."""


LEFT_OUT = """\
**Here the genes are chosen on all studies at once**, and nothing is held out: each study is asked
of `scgp.leave_one_out`'s index of all others (without marker databases, as above). To be compared
with the circular table of `biomarkers.md`: the same cells, and the default index instead."""


def shown(part: pd.DataFrame, column: str) -> str:
    """Return the mean, and the spread of the seeds' means."""
    if column not in part or part[column].isna().all():
        return "-"
    seeds = part.groupby("seed")[column].mean()
    spread = f" ± {seeds.std(ddof=1):.3f}" if len(seeds) > 1 else ""
    return f"{seeds.mean():.3f}{spread}"


def table(rows: pd.DataFrame, columns: dict[str, str]) -> list[str]:
    """Return one line a list and length."""
    lines = ["| list | first | " + " | ".join(columns.values()) + " |"]
    lines.append("| --- | ---: |" + " ---: |" * len(columns))
    for top in TOPS:
        for name in LISTS:
            part = rows[(rows["list"] == name) & (rows["top"] == top)]
            if len(part):
                cells = [shown(part, column) for column in columns]
                lines.append(f"| {name} | {top} | {' | '.join(cells)} |")
    return lines


def by_type(rows: pd.DataFrame, top: int) -> list[str]:
    """Return the known share of each type, with the random interval of the list by removal."""
    lines = ["| type | removal | Wilcoxon | removal only | Wilcoxon only | random, 95 % |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, part in rows[rows["top"] == top].groupby("type"):
        known = {each: part[part["list"] == each] for each in LISTS}
        cells = [shown(known[each], "known") for each in LISTS[:4]]
        low, mean, high = (np.nanmean(known["removal"][x]) for x in ("low", "random", "high"))
        lines.append(f"| {name} | {' | '.join(cells)} | {mean:.3f} ({low:.3f} to {high:.3f}) |")
    return lines


def report(rows: pd.DataFrame, n_known: dict[str, int], command: str) -> str:
    """Return all tables."""
    known = {"genes": "genes", "known": "known", "random": "random", "low": "2.5 %",
             "high": "97.5 %", "above": "above"}  # fmt: skip
    again = {"again": "again", "positive": "positive", "higher": "higher", "new again": "new again",
             "new positive": "new positive", "new higher": "new higher"}  # fmt: skip
    counts = ", ".join(f"{name} {n}" for name, n in n_known.items())
    lines = [f"Made by `{command}`.", "", NOTES, "", f"Known markers: {counts}."]
    if (rows["rivals"] == "left out").all():
        title = "## Known markers, all studies, each by an index of all others"
        return "\n".join([*lines, "", LEFT_OUT, "", title, "", *table(rows, known), ""])
    for rivals, words in (
        ("phenotypes", "odds against the other phenotypes (the default)"),
        ("labels", "odds against all other labels of the index"),
    ):
        part = rows[rows["rivals"] == rivals]
        lines += ["", f"## Known markers, {words}", "", *table(part, known)]
        lines += ["", f"## Found again, {words}", "", *table(part, again)]
    main = rows[rows["rivals"] == "phenotypes"]
    for top in TOPS:
        lines += [
            "",
            f"## Known by type, first {top}, against the phenotypes",
            "",
            *by_type(main, top),
        ]
    lines += [
        "", "## Circular: the default index", "",
        "The default index has weights made from these very databases, and was made of these very "
        "cells (all studies at once, no halves). No evidence of anything: it stands here to be "
        "compared with the first table.",
        "", *table(rows[rows["rivals"] == "circular"], known), "",
    ]  # fmt: skip
    return "\n".join(lines)
