"""Answers as what is written into an AnnData: the names and types of the slots.

Must not know how they are written (`slots`), nor where answers come from.

Shape suffixes: B cells, E width of the joint space.
"""

from collections.abc import Collection, Iterable

import numpy as np
import pandas as pd

from scgp.embed import CellVectors
from scgp.phenotypes.ontology import Ontology
from scgp.reference.consensus import Consensus
from scgp.reference.decision import STATUSES, Decision
from scgp.reference.index import ReferenceIndex

#: Columns that only some options write, each kind whole or not at all; without `key_added`.
OPTIONAL = (
    ("set", "set_size"),
    ("smooth_cell_type", "smooth_cell_type_ontology_term_id", "smooth_share"),
)


def answer_slots(
    decision: Decision,
    vectors: CellVectors | None,
    facts: dict[str, object],
    key_added: str,
    consensus: Consensus | None = None,
) -> dict[str, dict[str, object]]:
    """Name everything that is written; without vectors, none are."""
    columns = label_columns(decision, key_added, consensus)
    slots: dict[str, dict[str, object]] = {"obs": columns, "uns": {key_added: facts}}
    if vectors is not None:
        slots["obsm"] = {f"X_{key_added}": vectors.cell_BE}
    return slots


def profile_facts(
    decision: Decision, index: ReferenceIndex, *, named: bool
) -> dict[str, list[str]]:
    """Return, for ``uns``, the answers that the reference knows from mean profiles alone.

    Nothing where there are none. A label of the reference stands for its own cells; a broader term
    that is given for want of a sure label, and a label that was asked for (``named``: all answers
    are such), for those of all labels at or below it.
    """
    ids_T = np.array(index.label_ids, object)
    real_T = np.bincount(index.code_N[~index.drawn_N], minlength=len(ids_T)) > 0
    real_of = dict(zip(index.labels, real_T.tolist(), strict=True))
    ontology, told = Ontology("CL"), set()
    for label, term, status in set(
        zip(decision.label, decision.ontology_id, decision.status, strict=True)
    ):
        if term and (named or status == "ancestor"):
            below_T = np.isin(ids_T, sorted(ontology.descendants(term)))
            alone = below_T.any() and not real_T[below_T].any()
        else:
            alone = not real_of.get(label, True)
        if alone:
            told.add(label)
    return {"labels_from_profiles": sorted(told)} if told else {}


def column_names(key_added: str) -> tuple[str, ...]:
    """Return the names of all columns of ``obs`` that may be written."""
    always = label_columns(Decision.join([]), key_added)
    return (*always, *(f"{key_added}_{name}" for kind in OPTIONAL for name in kind))


def left_over(columns: Collection[str], key_added: str, there: Iterable[str]) -> list[str]:
    """Return the columns of an earlier call that this one does not write.

    Of a kind whose columns are not all there none is returned: with ``key_added="scgp_smooth"``, a
    call writes ``scgp_smooth_cell_type`` for good.

    Parameters
    ----------
    columns
        Names of what is written.
    there
        Names of all columns of ``obs``.
    """
    kinds = [[f"{key_added}_{name}" for name in kind] for kind in OPTIONAL]
    there = set(there)
    return [n for kind in kinds if there.issuperset(kind) for n in kind if n not in columns]


def label_columns(
    decision: Decision, key_added: str, consensus: Consensus | None = None
) -> dict[str, object]:
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
    if consensus is not None:
        smooth = f"{key_added}_smooth"
        columns[f"{smooth}_cell_type"] = pd.Categorical(consensus.label)
        columns[f"{smooth}_cell_type_ontology_term_id"] = pd.Categorical(consensus.ontology_id)
        columns[f"{smooth}_share"] = consensus.share
    return columns
