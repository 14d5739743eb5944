"""Answers as what is written into an AnnData: the names and types of the slots.

Must not know how they are written (`slots`), nor where answers come from.

Shape suffixes: B cells, E width of the joint space.
"""

import numpy as np
import pandas as pd

from scgp.embed import CellVectors
from scgp.reference.decision import STATUSES, Decision


def answer_slots(
    decision: Decision, vectors: CellVectors, facts: dict[str, object], key_added: str
) -> dict[str, dict[str, object]]:
    """Name everything that is written."""
    columns = label_columns(decision, key_added)
    return {"obs": columns, "obsm": {f"X_{key_added}": vectors.cell_BE}, "uns": {key_added: facts}}


def column_names(key_added: str) -> tuple[str, ...]:
    """Return the names of all columns of ``obs`` that may be written."""
    return tuple(label_columns(Decision.join([], sets=True), key_added))


def label_columns(decision: Decision, key_added: str) -> dict[str, object]:
    """Return the columns of ``obs`` that are written."""
    columns: dict[str, object] = {
        f"{key_added}_cell_type": pd.Categorical(decision.label),
        f"{key_added}_cell_type_ontology_term_id": pd.Categorical(decision.ontology_id),
        f"{key_added}_confidence": decision.confidence.astype(np.float32),
        f"{key_added}_status": pd.Categorical(decision.status, categories=list(STATUSES)),
        f"{key_added}_novelty": decision.novelty,
    }
    if decision.label_set is not None:
        columns[f"{key_added}_set"] = pd.Categorical(decision.label_set)
        columns[f"{key_added}_set_size"] = decision.set_size
    return columns
