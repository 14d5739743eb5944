"""The tissues that users name: read as UBERON terms, and which labels they speak against.

Must not know what the verbs do with them.
"""

from __future__ import annotations

import dataclasses
import difflib
from typing import TYPE_CHECKING

import numpy as np

from scgp.errors import ArgumentError, warn_user
from scgp.phenotypes.ontology import Ontology
from scgp.reference.elsewhere import known_elsewhere, one_organ

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from scgp.reference.index import ReferenceIndex

#: Known tissues that a message names at most.
_NAMED = 5


def read_tissues(given: Sequence[str], known_ids: Iterable[str]) -> list[str]:
    """Return the UBERON id of each name or id; refuse what is none, and say what is near it.

    ``known_ids`` are the tissues that the reference knows of; they are what a message names.
    """
    uberon = Ontology("UBERON")
    id_of = {name: uberon.id_of(name.strip()) for name in given}
    if unknown := [name for name in id_of if not id_of[name]]:
        there = sorted({uberon.label(term) for term in known_ids if term})
        near = difflib.get_close_matches(unknown[0].strip().lower(), there, n=_NAMED)
        shown = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
        msg = (
            f"tissue {unknown[0]!r} is no id or name of a live UBERON term. {shown}Mean profiles "
            f"are known of {', '.join(there[:_NAMED]) or 'no tissue'}"
            + (f" and {len(there) - _NAMED} more" if len(there) > _NAMED else "")
        )
        raise ArgumentError(msg)
    return [id_of[name] for name in given]


def of_tissue(
    tissue: str | None, index: ReferenceIndex
) -> tuple[ReferenceIndex, dict[str, object]]:
    """Return the index as cells of a tissue are asked of it, and facts for ``uns``.

    Raises
    ------
    ArgumentError
        `tissue` is no text or no UBERON term, or the index does not say where its labels are from.
    """
    if tissue is None:
        return index, {}
    if not isinstance(tissue, str):
        msg = (
            f"tissue is {tissue!r}; expected the id or name of one UBERON term, such as 'lung'. "
            "Call once for the cells of each tissue"
        )
        raise ArgumentError(msg)
    profiles = index.profiles
    places = set() if profiles is None else set(profiles.tissue_ids) - {""}
    if profiles is None or not places:
        msg = (
            f"tissue={tissue!r} needs a reference that says which tissues its labels are known "
            "from: the default one does, one made by scgp.build_index does not. Leave tissue= out"
        )
        raise ArgumentError(msg)
    (tissue_id,) = read_tissues([tissue], profiles.tissue_ids)
    cell_types, uberon = Ontology("CL"), Ontology("UBERON")
    elsewhere_T = known_elsewhere(
        index.label_ids, zip(profiles.label_ids, profiles.tissue_ids, strict=True), tissue_id,
        cell_types=cell_types, tissues=uberon,
    )  # fmt: skip
    if not any(one_organ(place, tissue_id, uberon) for place in places):
        warn_user(
            f"the reference has no cell or profile of {uberon.label(tissue_id)!r}: types of that "
            "tissue alone cannot be named, and those of other organs are held to be unlikely"
        )
    names = tuple(np.array(index.labels, object)[elsewhere_T])
    asked = dataclasses.replace(index.calibration, elsewhere=names)
    facts: dict[str, object] = {
        "tissue": uberon.label(tissue_id), "tissue_ontology_term_id": tissue_id,
    }  # fmt: skip
    return dataclasses.replace(index, calibration=asked), facts
