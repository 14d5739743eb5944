"""Which labels of an index stand for a phenotype that a user names.

Owns the way from a name to labels: the term and all below it, else the nearest term above. Knows no
cells.

Shape suffix: T labels of the index.
"""

from __future__ import annotations

import dataclasses
import difflib
from typing import TYPE_CHECKING

import numpy as np

from scgp.errors import LabelError, warn_user
from scgp.phenotypes.ontology import Ontology

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scgp.reference.index import ReferenceIndex


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    """What is asked of an index for one phenotype.

    Attributes
    ----------
    term
        The phenotype's ontology id, "" for none.
    name
        The label whose posterior is taken: the term's, or that of the nearest term above it.
    counted_T
        The labels that count for it.
    rival_T
        The labels that the odds are against.
    """

    term: str
    name: str
    counted_T: np.ndarray
    rival_T: np.ndarray


def asked_of(
    names_of: Mapping[str, Sequence[str]],
    index_of: Mapping[str, ReferenceIndex],
    *,
    phenotypes: Sequence[str],
    rivals: str,
) -> dict[str, dict[str, Asked]]:
    """Return what is asked in each unit, for each phenotype that the unit's index knows.

    Parameters
    ----------
    names_of
        The phenotypes to ask in each unit.
    index_of
        The index of each unit, which may be the same for all.
    phenotypes, rivals
        All phenotypes; and what one of them is against: "phenotypes", the labels of all others, or
        "labels", all labels of the index. A label that counts for it is no rival.

    Raises
    ------
    LabelError
        No index knows any of them, or only without a rival.

    Warns
    -----
    ScgpWarning
        A phenotype is asked by a broader term, or is not known; and how names were read.
    """
    term_of = dict(zip(phenotypes, Ontology("CL").resolve(phenotypes), strict=True))
    known: dict[str, dict[str, Asked]] = {}
    unknown: dict[str, str] = {}
    broader: dict[str, str] = {}
    for unit, index in index_of.items():
        own = {name: _counted(name, term_of[name], index) for name in phenotypes}
        known[unit] = {}
        for name in names_of[unit]:
            label, counted_T = own[name]
            others = [own[x][1] for x in phenotypes if x != name]
            rival_T = ~counted_T if rivals == "labels" else ~counted_T & np.any(others, axis=0)
            if not (counted_T.any() and rival_T.any()):
                unknown[name] = _near(name, term_of[name], index)
                continue
            known[unit][name] = Asked(term_of[name], label, counted_T, rival_T)
            if term_of[name] and label != Ontology("CL").label(term_of[name]):
                broader[name] = repr(label)
    _tell(unknown, broader, nothing=not any(known.values()))
    return known


def _tell(unknown: Mapping[str, str], broader: Mapping[str, str], *, nothing: bool) -> None:
    told = "; ".join(f"{name!r} ({near})" for name, near in unknown.items())
    advice = (
        "scgp.leave_one_out(adata, label_key=groupby, unit_key=across) makes an index of the other "
        "units' cells for each unit, to pass as index="
    )
    if nothing:
        msg = f"the index knows none of the phenotypes: {told}. {advice}"
        raise LabelError(msg)
    if unknown:
        warn_user(f"left out where the index does not know them: {told}. {advice}")
    if broader:
        told = "; ".join(f"{name!r} by {term}" for name, term in broader.items())
        warn_user(f"asked by the nearest broader term, having no label in the index: {told}")


def _counted(name: str, term: str, index: ReferenceIndex) -> tuple[str, np.ndarray]:
    """Return the label whose posterior is taken, and the labels that count for it."""
    if not term:
        return name, np.array(index.labels, dtype=object) == name
    ontology = Ontology("CL")
    above = (set(index.label_ids) - {"", term}) & ontology.ancestors(term)
    for broader in [term, *sorted(above, key=lambda i: (ontology.distance(term, i), i))]:
        below = sorted(ontology.descendants(broader))
        counted_T = np.isin(np.array(index.label_ids, object), below)
        if counted_T.any():
            return ontology.label(broader), counted_T
    return name, np.zeros(len(index.labels), bool)


def labels_of_groups(groups: Sequence[str], index: ReferenceIndex) -> np.ndarray:
    """Return which labels are of each group's term or below it (groups x labels of the index).

    Of a group that names no term those of that very name; none where there are none.

    Warns
    -----
    ScgpWarning
        How names were read.
    """
    ontology, id_T = Ontology("CL"), np.array(index.label_ids, object)
    name_T = np.array(index.labels, object)
    return np.array(
        [
            np.isin(id_T, sorted(ontology.descendants(term))) if term else name_T == group
            for group, term in zip(groups, ontology.resolve(groups), strict=True)
        ]
    )


def _near(name: str, term: str, index: ReferenceIndex) -> str:
    """Say which labels of the index are near to a name."""
    ontology = Ontology("CL")
    if term:
        ids = {i: label for label, i in zip(index.labels, index.label_ids, strict=True) if i}
        order = sorted(ids, key=lambda i: (-ontology.soft_score(term, i), i))
        return f"nearest: {', '.join(repr(ids[i]) for i in order[:2])}"
    near = [ontology.label(i) for i in ontology.near(name, 2)]
    near = near or difflib.get_close_matches(name, index.labels, n=2, cutoff=0.8)
    return f"near: {', '.join(map(repr, near))}" if near else "no cell type, and no label is near"
