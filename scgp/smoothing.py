"""annotate(smooth=...): the column of ``obs`` with the user's clusters, and what they are given.

Owns how that column is read. Must not know how a cluster is answered (`reference.consensus`) nor
how slots are named (`answer_columns`).

Shape suffixes: N cells.
"""

from collections.abc import Mapping
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from scgp.errors import ArgumentError
from scgp.groups import check_groups, column_text
from scgp.phenotypes.ontology import Ontology
from scgp.reference.consensus import Consensus, agree
from scgp.reference.decision import Decision
from scgp.reference.index import ReferenceIndex


def check_smooth(smooth: str | None) -> None:
    """Refuse what is no name of a column."""
    if smooth is not None and not isinstance(smooth, str):
        msg = f"smooth is {smooth!r}; expected the name of a column of obs, such as 'leiden'"
        raise ArgumentError(msg)


def read_clusters(adata: ad.AnnData, smooth: str | None) -> np.ndarray | None:
    """Return the cluster of each cell (-1: in none); None where nothing is to be smoothed.

    Raises
    ------
    ArgumentError
        `smooth` is no name, no cell is in a cluster, or numbers in the column are no groups.
    MissingColumnError
        ``obs`` has no such column.
    """
    check_smooth(smooth)
    if smooth is None:
        return None
    check_groups(adata, smooth)
    text = column_text(adata, smooth).to_numpy(dtype=object)
    cluster_N, names = pd.factorize(text, sort=True)
    if len(text) and not len(names):
        msg = f"obs[{smooth!r}] has no value in any cell; expected a cluster for some"
        raise ArgumentError(msg)
    return cluster_N.astype(np.int64)


def smoothed(
    decision: Decision,
    cluster_N: np.ndarray | None,
    facts: Mapping[str, Any],
    index: ReferenceIndex,
) -> Consensus | None:
    """Return the answers of the clusters; with `labels`, of these alone.

    `facts` are those for ``uns``, which hold the labels that were asked for. Terms have the names
    that the index gives them.
    """
    if cluster_N is None:
        return None
    asked = None
    if "labels" in facts:
        asked = dict(zip(facts["labels_ontology_term_ids"], facts["labels"], strict=True))
    own_names = dict(zip(reversed(index.label_ids), reversed(index.labels), strict=True))
    return agree(decision, cluster_N, Ontology("CL"), broader=asked, own_names=own_names)
