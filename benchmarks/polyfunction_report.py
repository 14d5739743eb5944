"""The tables of the benchmark of polyfunctionality, from what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from benchmarks.polyfunction_measure import SCORES

if TYPE_CHECKING:
    from pathlib import Path

_NAMES = {
    "excess": "scgp, excess over matched genes",
    "effect": "scgp, effect",
    "effect_adjusted": "scgp, effect adjusted for level and detection",
    "effect_coexpression": "co-expression",
    "effect_untrained": "untrained network",
}


def write(found: dict[str, Any], path: Path) -> None:
    """Write the Markdown file."""
    lines = [
        f"Made by `{found['command']}`; model {found['model']}.",
        "",
        "Effects are shares of variance between contexts, corrected for chance; `excess` is the",
        "effect of a gene less the median of expression-matched genes in the same cells, and",
        "`rank` the share of these whose effect is as large. Replication: cosine between context",
        "means of halves of the donors, where donors share contexts. Static: 0 by construction.",
        "Means over seeds (which draw matched genes, permutations and the untrained network). Skin",
        "has no authors' labels: endothelial cells of three healthy donors are called by",
        "`scgp.annotate`, venular and other ones told by marker genes (`polyfunction_skin.py`).",
        "",
    ]
    lines += _vwf(found.get("vwf", {})) + _gradient(found.get("gradient"))
    lines += _networks(found.get("networks", []), found.get("vwf", {}))
    lines += _between_networks(found.get("between_networks", {}))
    lines += _facts(found.get("facts", []))
    lines += _genome(found.get("genome", {})) + _tops(found.get("tops", []))
    lines += _null(found.get("null", [])) + _speed(found.get("speed", {}))
    path.write_text("\n".join(lines), encoding="utf-8")


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return ["| " + " | ".join(row) + " |" for row in [header, rule, *rows]] + [""]


def _number(x: Any, digits: int = 3) -> str:
    return "-" if x is None or not np.isfinite(x) else f"{x:.{digits}f}"


def _vwf(tables: dict[str, list[dict[str, Any]]]) -> list[str]:
    lines = []
    for label, records in tables.items():
        table = pd.DataFrame(records)
        numbers = [c for c in table.columns if c != "gene"]
        mean = table.groupby("gene", sort=False)[numbers].mean()
        spread = table.groupby("gene", sort=False)["excess"].std()
        mean = mean.sort_values("excess", ascending=False)
        lines += [f"## Endothelium of {label}", ""]
        header = [
            "gene", "cells", "contexts", "donors", "value", "effect", "p", "matched", "excess",
            "sd", "rank", "replication", "adjusted", "embedding", "static", "value token",
            "co-expression", "untrained",
        ]  # fmt: skip
        rows = []
        for gene, row in mean.iterrows():
            name = f"**{gene}**" if gene == "VWF" else str(gene)
            rows.append(
                [
                    name,
                    f"{row['n_cells']:.0f}",
                    f"{row['n_contexts']:.0f}",
                    f"{row['n_donors']:.0f}",
                    _number(row["value"], 2),
                ]
                + [_number(row[c]) for c in ("effect", "p", "effect_matched", "excess")]
                + [_number(spread[gene])]
                + [_number(row[c], 2) for c in ("rank_matched", "replication")]
                + [_number(row[c]) for c in numbers[-6:]]
            )
        lines += _table(header, rows)
    return lines


def _gradient(found: dict[str, Any] | None) -> list[str]:
    if not found:
        return []
    rows = [
        [r["endothelial cells"], r["data"], str(r["cells"]), _number(r["measured CP10k"], 2),
         _number(r["predicted log CP10k"], 2)]
        for r in sorted(found["rows"], key=lambda r: -r["measured CP10k"])
    ]  # fmt: skip
    return [
        "## VWF's level, as its context predicts it",
        "",
        f"VWF's own counts are hidden. Spearman {found['spearman']:.2f} over {found['n']:.0f}",
        "groups; the network was trained on these cells.",
        "",
        *_table(["cells", "data", "n", "measured CP10k", "predicted log CP10k"], rows),
    ]


def _networks(found: list[dict[str, Any]], shipped: dict[str, list[dict[str, Any]]]) -> list[str]:
    if not found:
        return []
    rhos = ", ".join(f"{network['gradient']:.2f}" for network in found)
    ours = {k: pd.DataFrame(rows).groupby("gene")["excess"].mean() for k, rows in shipped.items()}
    every = [ours] + [
        {k: pd.DataFrame(rows).set_index("gene")["excess"] for k, rows in network["vwf"].items()}
        for network in found
    ]
    rows = [
        [f"**{gene}**" if gene == "VWF" else gene]
        + [" / ".join(_signed(excess[label].get(gene)) for excess in every) for label in ours]
        for gene in sorted(set().union(*(excess.index for excess in ours.values())))
    ]
    # genes x networks, so a mean over pairs of columns
    agree = {
        label: pd.DataFrame([excess[label] for excess in every]).T.corr().to_numpy()
        for label in ours
    }
    pairs = np.triu_indices(len(every), 1)
    said = ", ".join(f"{label} {np.mean(r[pairs]):.2f}" for label, r in agree.items())
    return [
        "## The same with other networks",
        "",
        "Networks of `partners.py`: of the same shape and objective, trained from nothing (2,000",
        "steps, another seed each) without fetal organs, 10x PBMC and Zheng 2017. Excess by the",
        "default checkpoint (mean over seeds) / by each of them: what they do not agree on is of a",
        f"training, and not of the gene. Pearson's r over genes, mean over pairs: {said}.",
        f"VWF's level over groups, as they predict it: Spearman {rhos}.",
        "",
        *_table(["gene", *ours], rows),
    ]


def _between_networks(found: dict[str, dict[str, float]]) -> list[str]:
    if not found:
        return []
    rows = [
        [label, f"{x['cells']:,.0f}", f"{x['genes']:,.0f}"]
        + [_number(x[c], 2) for c in ("effect", "effect_matched", "excess")]
        for label, x in found.items()
    ]
    return [
        "Over all genes, with cell types of the whole tissue as contexts (seed 0, the same cells",
        "and matched genes for every network): Pearson's r between networks, mean over pairs.",
        "",
        *_table(["data", "cells", "genes", "effect", "effect of matched genes", "excess"], rows),
    ]


def _signed(x: float | None) -> str:
    return "-" if x is None or not np.isfinite(x) else f"{x:+.2f}"


def _facts(records: list[dict[str, Any]]) -> list[str]:
    if not records:
        return []
    table = pd.DataFrame(records)
    keys = ["process", "score"]
    mean = table.groupby([*keys, "data"], sort=False)[["auroc", "p", "genes"]].mean()
    columns = list(dict.fromkeys(table["data"]))
    rows = []
    for process, score in dict.fromkeys(zip(table["process"], table["score"], strict=True)):
        cells = [mean.loc[(process, score, label)] for label in columns]
        rows.append(
            [process, score]
            + [f"{c['auroc']:.2f} (p {c['p']:.2g}, {c['genes']:.0f} genes)" for c in cells]
        )
    rows.sort(key=lambda row: list(dict.fromkeys(table["process"])).index(row[0]))
    return [
        "## What moves with VWF in endothelium",
        "",
        "AUROC of the genes of a GO process (experimental support) for the correlation of their",
        "predicted expression with VWF's over endothelial cells, contexts' means taken away,",
        "against the other 2,000 most detected genes; beside it an untrained network and measured",
        "values. The last two processes are negative controls. Means over seeds (of the untrained",
        "network), with the p of Mann and Whitney's test.",
        "",
        *_table(["process", "score", *columns], rows),
    ]


def _genome(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    if not found:
        return []
    lines = [
        "## All genes, and their GO processes",
        "",
        "Spearman correlation with the number of GO processes (of 10 to 500 genes) in which a",
        "gene has experimental support, level, cells and contexts taken out; [..] the 95 %",
        "interval of a bootstrap over genes (first seed); lead: excess less this score.",
        "",
    ]
    for label, runs in found.items():
        rows = []
        for score in SCORES:
            rho = [run["agreement"][score]["rho"] for run in runs]
            first = runs[0]["agreement"][score]
            spread = f" ± {np.std(rho, ddof=1):.3f}" if len(rho) > 1 else ""
            lead = (
                ""
                if score == "excess"
                else f"[{first['lead_low']:+.3f}, {first['lead_high']:+.3f}]"
            )
            interval = f"[{first['low']:+.3f}, {first['high']:+.3f}]"
            rows.append([_NAMES[score], f"{np.mean(rho):+.3f}{spread}", interval, lead])
        facts = {
            k: np.mean([r[k] for r in runs if r[k] is not None] or [np.nan])
            for k in runs[0]
            if k != "agreement"
        }
        stands = (
            f"VWF's excess is above that of {facts['VWF']:.0%} of the genes"
            if np.isfinite(facts["VWF"])
            else "VWF is in too few cells"
        )
        halves = (
            f"{facts['replication']:.2f}" if np.isfinite(facts["replication"]) else "- (one donor)"
        )
        lines += [
            f"### {label}",
            "",
            f"{facts['cells']:.0f} cells, {facts['genes']:.0f} genes, "
            f"{runs[0]['agreement']['n']['genes']:.0f} of them with a process; "
            f"{facts['significant']:.0%} have q < .05; median effect "
            f"{facts['median effect']:.3f}, of the untrained network "
            f"{facts['median untrained']:.3f}; median replication over halves of the donors "
            f"{halves}; {stands}; {facts['seconds']:.0f} s.",
            "",
            *_table(["score", "rho", "95 %", "lead"], rows),
        ]
    return lines


def _tops(records: list[dict[str, Any]]) -> list[str]:
    if not records:
        return []
    table = pd.DataFrame(records)
    lines = ["### Genes of the largest excess (first seed)", ""]
    for label, part in table.groupby("data", sort=False):
        lines.append(f"- {label}: {', '.join(part['gene'])}")
    return [*lines, ""]


def _null(found: list[dict[str, float]]) -> list[str]:
    if not found:
        return []
    rows = [
        [str(i), _number(f["KS"]), _number(f["p of KS"]), f"{f['n']:.0f}",
         _number(f["below .05, one each"]), _number(f["below .05, all"])]
        for i, f in enumerate(found)
    ]  # fmt: skip
    return [
        "## p where there is nothing to find",
        "",
        "CD4-positive T cells of 40 donors (OneK1K), three contexts dealt at random within donors,",
        "100 times; one gene of each for the Kolmogorov-Smirnov test against uniform, and all 20.",
        "",
        *_table(["seed", "KS", "p of KS", "n", "p <= .05", "p <= .05, all genes"], rows),
    ]


def _speed(found: dict[str, float]) -> list[str]:
    if not found:
        return []
    rows = [[name, f"{value:,.2f}"] for name, value in found.items()]
    return ["## Time and memory", "", *_table(["", "measured"], rows)]
