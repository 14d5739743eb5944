"""Types removed from the reference: are their cells called unknown, a broader term, or wrong.

    python benchmarks/openset.py --data ../shared/data [--model DIR]

Each type goes from the index with everything below it (cells, drawn cells, labels and texts; the
head is fitted again). The network, the fusion weights and the gene head of the other labels stay:
they have seen the type, as something that is none of the other labels. Cells of the type in eval/
are then annotated.

Shapes: N reference cells, B query cells.
"""  # fmt: skip

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from scgp.model.checkpoint import Model
    from scgp.reference.decision import Decision
    from scgp.reference.index import ReferenceIndex

    Ancestors = Callable[[str], frozenset[str]]

# Types of eval/ with at least a dozen cells, of blood and of tissue, common and rare in training.
REMOVED = {
    "CL:0000236": "B cell",
    "CL:0000084": "T cell",
    "CL:0000623": "natural killer cell",
    "CL:0000576": "monocyte",
    "CL:0000235": "macrophage",
    "CL:0000057": "fibroblast",
    "CL:0002079": "pancreatic ductal cell",
}
OUTCOMES = ("right", "unknown", "correct ancestor", "wrong leaf", "wrong broader term")


def without(index: ReferenceIndex, term: str, ancestors: Ancestors, model: Model) -> ReferenceIndex:
    """Return the index without the cells and labels of a term and all terms below it."""
    from scgp.describe import with_descriptions
    from scgp.reference.index import ReferenceIndex as Index

    removed_T = np.array([bool(i) and term in ancestors(i) for i in index.label_ids])
    keep_N = ~removed_T[index.code_N]
    labels = [index.labels[code] for code in index.code_N[keep_N]]
    position = {label: t for t, label in enumerate(index.labels)}
    kept = [position[label] for label in sorted(set(labels))]
    label_ids = [index.label_ids[t] for t in kept]
    head = dataclasses.replace(
        index.gene_head,
        weight_HT=index.gene_head.weight_HT[:, kept],
        bias_T=index.gene_head.bias_T[kept],
        described_HT=None,
    )
    head, likeness_TT = with_descriptions(head, label_ids, model)
    return Index.build(
        index.vectors_ND[keep_N],
        labels,
        label_ids=label_ids,
        studies=[index.studies[s] for s in index.study_N[keep_N]],
        drawn=index.drawn_N[keep_N],
        text_TD=index.text_TD[kept],
        model_fingerprint=index.model_fingerprint,
        calibration=index.calibration,
        gene_head=head,
        likeness_TT=likeness_TT,
    )


def outcome_of(true: str, label: str, status: str, ancestors: Ancestors) -> str:
    """Name what became of one cell whose term is ``true``.

    Right: the term or one below it, which only the full index can say.

    Examples
    --------
    >>> above = {"T": frozenset({"T", "lymphocyte"}), "lymphocyte": frozenset({"lymphocyte"})}
    >>> outcome_of("T", "lymphocyte", "ancestor", above.__getitem__)
    'correct ancestor'
    """
    if status in ("unknown", "empty"):
        return "unknown"
    if true in ancestors(label):
        return "right"
    if label in ancestors(true):
        return "correct ancestor"
    return "wrong leaf" if status == "labelled" else "wrong broader term"


def shares(
    true_B: NDArray[np.object_], decision: Decision, ancestors: Ancestors
) -> dict[str, float]:
    """Return the share of each outcome."""
    named_B = np.where(decision.ontology_id == "", decision.label, decision.ontology_id)
    found = [
        outcome_of(true, str(label), status, ancestors)
        for true, label, status in zip(true_B, named_B, decision.status, strict=True)
    ]
    return {outcome: found.count(outcome) / len(found) for outcome in OUTCOMES}


def measure(data: Path, model_dir: Path | None) -> list[dict[str, object]]:
    """Return one row per removed type and index (full, without the type)."""
    import anndata as ad

    from benchmarks.run import lineage
    from scgp.annotate import label_cells, model_index
    from scgp.embed import resolve_model

    ancestors = lineage()
    model = resolve_model(model_dir)
    index = model_index(model)
    queries = []
    for path in sorted((data / "eval").glob("*.h5ad")):
        adata = ad.read_h5ad(path)
        true_B = adata.obs["cell_type_ontology_term_id"].astype(str).to_numpy(dtype=object)
        queries.append((true_B, adata))
    rows: list[dict[str, object]] = []
    for term, name in REMOVED.items():
        of_type = [np.array([term in ancestors(x) for x in true_B]) for true_B, _ in queries]
        asked = [
            (true_B[of_B], adata[of_B].copy())
            for (true_B, adata), of_B in zip(queries, of_type, strict=True)
            if of_B.any()
        ]
        for reference, used in (
            ("full", index),
            ("without", without(index, term, ancestors, model)),
        ):
            decisions = [label_cells(adata, model, used)[0] for _, adata in asked]
            found = [
                shares(true_B, decision, ancestors)
                for (true_B, _), decision in zip(asked, decisions, strict=True)
            ]
            sizes = [len(decision.label) for decision in decisions]
            mean = {o: float(np.average([f[o] for f in found], weights=sizes)) for o in OUTCOMES}
            rows.append(
                {"term": term, "name": name, "index": reference, "cells": sum(sizes), **mean}
            )
    return rows


def table(rows: list[dict[str, object]]) -> str:
    """Return the rows as Markdown, with the mean over types."""
    lines = [
        "| type | reference | cells | " + " | ".join(OUTCOMES) + " |",
        "| --- | --- | ---: |" + " ---: |" * len(OUTCOMES),
    ]
    for row in rows:
        cells = " | ".join(f"{row[outcome]:.2f}" for outcome in OUTCOMES)
        lines.append(f"| {row['name']} | {row['index']} | {row['cells']} | {cells} |")
    for reference in ("full", "without"):
        of_index = [row for row in rows if row["index"] == reference]
        mean = [np.mean([float(str(row[o])) for row in of_index]) for o in OUTCOMES]
        cells = " | ".join(f"{value:.2f}" for value in mean)
        lines.append(f"| mean over types | {reference} | | {cells} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and write ``openset.md`` and ``openset.json``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="model directory (default: the checkpoint)")
    results = Path(__file__).resolve().parent / "results"
    parser.add_argument("--results", type=Path, default=results)
    arguments = parser.parse_args()
    rows = measure(arguments.data, arguments.model)
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "openset.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    made = "Made by `python benchmarks/openset.py --data ../shared/data`.\n\n"
    (arguments.results / "openset.md").write_text(made + table(rows), encoding="utf-8")
    sys.stdout.write(table(rows))


if __name__ == "__main__":
    main()
