"""What scgp calls the over-clusters that CellTypist votes in, from a run of scgp that is there.

Trains nothing and asks no model: the answers of cells are those of the saved run of the same split,
seed and options. Owns how these become a `Decision` again. Knows nothing of the command line.

Shapes: N cells of one query file.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.scores import UNKNOWN, Answer
from benchmarks.store import RunKey, cells_of, digest, is_done, read_run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from benchmarks.baselines import Rows
    from benchmarks.corpus import Split
    from scgp.reference.decision import Decision

NAME = "scgp-smoothed"
ROW = "scgp, smoothed"
#: The method whose run is read, and its rows.
OF, FORCED = "scgp", "scgp, forced"


def is_current(folder: Path, key: RunKey, options: Mapping[str, Any]) -> bool:
    """Whether the run is there, and is of the run of scgp that is there now.

    Raises
    ------
    ValueError
        It was made with other options.
    """
    of = replace(key, method=OF).path(folder)
    if not is_done(folder, key, options, []) or not of.is_file():
        return False
    made_of: str = read_run(key.path(folder))["chosen"]["of"]
    return made_of == digest(read_run(of)["files"])


def smoothed_rows(
    folder: Path, key: RunKey, split: Split, options: Mapping[str, Any]
) -> tuple[list[Rows], dict[str, Any]]:
    """Return the row of each query file, and of which answers of scgp it was made.

    Parameters
    ----------
    folder, options
        Where the run of scgp is, and what it must have been made with.
    key
        Names this method's run; scgp's has the same split and seed.
    split
        Thinned as for every method: the training cells choose the genes for the clusters.

    Raises
    ------
    ValueError
        scgp has no such run, or it was made with other options or on other cells.
    """
    from benchmarks.celltypist_method import over_clusters
    from benchmarks.corpus import join, on_query_genes

    of = replace(key, method=OF)
    if not is_done(folder, of, options, []):
        message = (
            f"{NAME} needs the run of {OF}, and there is no {of.path(folder)}; make it first, "
            f"or in the same call: --methods {OF} {NAME}"
        )
        raise ValueError(message)
    run = read_run(of.path(folder))
    cells = cells_of(run)
    train = join(split.train)
    rows: list[Rows] = []
    for source in split.queries:
        decision = decision_of(cells[cells["file"] == source.name])
        cluster_N = over_clusters(*on_query_genes(train, source.cells), seed=key.seed)
        rows.append({ROW: smoothed(decision, cluster_N)})
    return rows, {"of": digest(run["files"])}


def decision_of(cells: pd.DataFrame) -> Decision:
    """Return what scgp decided on the cells of a file, as far as its run holds it.

    A run has a term for each answer (the label itself where it is no term), so terms stand for
    their names, and a broader term counts as a label; neither matters to the clusters. A cell that
    even the row of best labels gives none is empty. Confidences have three digits.
    """
    from scgp.phenotypes.ontology import Ontology
    from scgp.reference.decision import UNKNOWN as SAID
    from scgp.reference.decision import Decision

    ontology = Ontology("CL")
    default, forced = (cells[cells["row"] == row] for row in (OF, FORCED))
    label_N = default["label"].to_numpy(dtype=object)
    leaf_N = forced["label"].to_numpy(dtype=object)
    unknown_N, empty_N = label_N == UNKNOWN, leaf_N == UNKNOWN
    status_N = np.select([empty_N, unknown_N], ["empty", SAID], "labelled").astype(object)
    name_N = label_N.copy()
    name_N[unknown_N], name_N[empty_N] = SAID, None
    return Decision(
        name_N,
        np.array([x if ontology.is_term(x) else "" for x in label_N], dtype=object),
        default["confidence"].to_numpy(np.float32),
        status_N,
        leaf_N,
        forced["confidence"].to_numpy(np.float32),
    )


def smoothed(decision: Decision, cluster_N: NDArray[np.int64]) -> Answer:
    """Return what ``annotate(smooth=)`` calls the clusters, with the share that agrees.

    A cell in no cluster (-1) has its own answer and confidence.
    """
    from scgp.phenotypes.ontology import Ontology
    from scgp.reference.consensus import agree
    from scgp.reference.decision import UNKNOWN as SAID

    found = agree(decision, cluster_N, Ontology("CL"))
    label_N = np.where(found.ontology_id == "", found.label, found.ontology_id)
    unknown_N = (found.label == SAID) | (decision.status == "empty")
    share_N = np.where(np.isnan(found.share), decision.confidence, found.share)
    return Answer(np.where(unknown_N, UNKNOWN, label_N).astype(object), share_N.astype(np.float32))
