"""The labels that a user allows become candidates.

Owns how each is read (a label of the reference, a term, free text), and what is said of those that
are named twice or have no reference cells. Must not know how a candidate is chosen
(`reference.candidates`).

Shape suffixes: C candidates, X labels of the reference and candidates, W width of the text encoder.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from scgp.describe import describe
from scgp.errors import ArgumentError, warn_user
from scgp.model.checkpoint import Model
from scgp.own import own_index
from scgp.phenotypes.ontology import Ontology
from scgp.phenotypes.text import TextEncoder
from scgp.reference.candidates import Candidates, make_candidates
from scgp.reference.decision import UNKNOWN
from scgp.reference.index import ReferenceIndex
from scgp.reference.kinship import PENALTY
from scgp.texts import encoder_for, read_terms, text_vectors, warn_readings

#: Labels that a message names; of more it gives the number.
_NAMED = 5


def read_candidates(
    labels: Sequence[str], model: Model, index: ReferenceIndex, encoder: TextEncoder | None = None
) -> tuple[Candidates, dict[str, object]]:
    """Read what `scgp.texts.listed` gave.

    The name of a label of the reference is that label, and its term if it has one; then comes what
    the ontology knows, or authors so name; the rest is free text.

    Returns
    -------
    The candidates, and the facts for ``uns``: names and terms in the order given, each once, and
    whether the reference has cells of each.

    Raises
    ------
    ArgumentError
        A text cannot be read (`scgp.texts`), it says "unknown", or no evidence could compare one
        label with another.

    Warns
    -----
    ScgpWarning
        Two entries are one label; labels without reference cells; labels that are no name of the
        ontology and were read as a term, or as free text though near the name of one; labels of the
        reference that none covers because they are no terms.
    """
    term_of = dict(zip(index.labels, index.label_ids, strict=True))
    read = _read(labels, model, term_of)
    _warn_repeated(labels, read)
    pairs = list(dict.fromkeys(read))
    names, ids = [name for name, _ in pairs], [term for _, term in pairs]
    vector_CW = _text_vectors(names, ids, model, index, encoder)
    candidates = make_candidates(
        names, ids, model.project_vectors(vector_CW),
        labels=index.labels, label_ids=index.label_ids, ontology=Ontology("CL"),
    )  # fmt: skip
    _warn_readings(labels, read, term_of, model)
    covered = candidates.in_reference_C.tolist()
    order = zip(candidates.names, candidates.ids, covered, strict=True)
    is_covered = {(name, term): there for name, term, there in order}
    unseen = [pair for pair in pairs if not is_covered[pair]]
    if unseen:
        _check_comparable([name for name, _ in unseen], candidates, index)
        text_of = dict(zip(pairs, vector_CW, strict=True))
        # the model's own index has more labels to learn from
        indexes = [x for x in (own_index(model), index) if x is not None]
        source = next((x for x in indexes if x.gene_head is not None), None)
        term_ids = [*index.label_ids, *candidates.ids]
        asked = [text_of[pair] for pair in zip(candidates.names, candidates.ids, strict=True)]
        vector_XW = np.concatenate([model.phenotypes.vectors(index.label_ids), asked])
        head = describe(term_ids, vector_XW, model, source, penalty=PENALTY)
        candidates = dataclasses.replace(candidates, describing=head)
        _warn_unseen(unseen, len(pairs), index, measured=head is not None)
    _warn_uncovered(candidates, index)
    facts: dict[str, object] = {
        "labels": names,
        "labels_ontology_term_ids": ids,
        "labels_in_reference": [is_covered[pair] for pair in pairs],
    }
    return candidates, facts


def read_covered(
    labels: Sequence[str], index: ReferenceIndex
) -> tuple[Candidates, dict[str, object]]:
    """Read labels for an index of a representation: only those that it has cells of.

    Returns
    -------
    As `read_candidates`.

    Raises
    ------
    ArgumentError
        A label has no cells in the reference: no text and no gene can speak for it.

    Warns
    -----
    ScgpWarning
        Two entries are one label; labels that were read as a term of another name; labels of the
        reference that none covers because they are no terms.
    """
    term_of = dict(zip(index.labels, index.label_ids, strict=True))
    read = _read(labels, None, term_of)
    _warn_repeated(labels, read)
    pairs = list(dict.fromkeys(read))
    names, ids = [name for name, _ in pairs], [term for _, term in pairs]
    candidates = make_candidates(
        names, ids, np.zeros((len(names), index.width), np.float32),
        labels=index.labels, label_ids=index.label_ids, ontology=Ontology("CL"),
    )  # fmt: skip
    covered_C = candidates.in_reference_C
    if not covered_C.all():
        missing = [repr(candidates.names[c]) for c in np.flatnonzero(~covered_C)]
        msg = (
            f"the reference has no cells of {', '.join(missing)}. With use_rep only labels that it "
            "has cells of, and terms above them, can be asked for: your representation cannot be "
            "compared with texts"
        )
        raise ArgumentError(msg)
    given = zip(labels, read, strict=True)
    Ontology("CL").warn_read({text: term for text, (_, term) in given if text not in term_of})
    _warn_uncovered(candidates, index)
    facts: dict[str, object] = {
        "labels": names,
        "labels_ontology_term_ids": ids,
        "labels_in_reference": [True] * len(names),
    }
    return candidates, facts


def check_labels(
    labels: Sequence[str],
    model: Model,
    reference_labels: Iterable[str],
    encoder: TextEncoder | None = None,
) -> TextEncoder | None:
    """Find what cannot be read before a reference is embedded, which takes far longer.

    Returns
    -------
    The encoder given, or the one that was made for free text.

    Raises
    ------
    ArgumentError
        As `read_candidates` has it for texts that cannot be read.
    """
    term_of = {name: Ontology("CL").read(name) for name in reference_labels}
    read = _read(labels, model, term_of)
    return encoder_for(
        [name for name, term in read if _is_free(name, term, term_of)], model, encoder
    )


def _is_free(name: str, term: str, term_of: Mapping[str, str]) -> bool:
    """Whether a label is free text: no term, and none of the reference's own labels."""
    return not term and term_of.get(name) != ""


def _read(
    labels: Sequence[str], model: Model | None, term_of: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Return the name and the term of each entry, "" for a term that it has not.

    ``term_of`` has the labels of the reference and their terms. Without a model, terms need no
    vector.
    """
    ontology = Ontology("CL")
    covering = frozenset(ontology.closure(term_of.values()))
    read = []
    for given in labels:
        text = given if given in term_of else " ".join(given.split())
        if text in term_of and not term_of[text]:
            read.append((text, ""))
            continue
        if text.casefold() == UNKNOWN and text not in term_of:
            msg = (
                f"labels name {given!r}, which is written where none of the labels is sure enough; "
                "leave it out"
            )
            raise ArgumentError(msg)
        meant = term_of.get(text, text)
        if model is None:
            term = ontology.read(meant)
        else:
            (term,) = read_terms([meant], model, also=covering)
        read.append((ontology.label(term) if term else text, term))
    return read


def _warn_readings(
    labels: Sequence[str],
    read: Sequence[tuple[str, str]],
    term_of: Mapping[str, str],
    model: Model,
) -> None:
    """Tell how labels were read that are not those of the reference."""
    terms = {" ".join(given.split()): term for given, (_, term) in zip(labels, read, strict=True)}
    others = [text for text in terms if text not in term_of]
    warn_readings(others, [terms[text] for text in others], model)


def _text_vectors(
    names: Sequence[str],
    ids: Sequence[str],
    model: Model,
    index: ReferenceIndex,
    encoder: TextEncoder | None,
) -> np.ndarray:
    """Return the vectors of the texts, C x W; zero for a label of the reference without a term."""
    term_of = dict(zip(index.labels, index.label_ids, strict=True))
    rows = [c for c, name in enumerate(names) if ids[c] or _is_free(name, ids[c], term_of)]
    vector_CW = np.zeros((len(names), model.phenotypes.width), np.float32)
    vector_CW[rows] = text_vectors([names[c] for c in rows], [ids[c] for c in rows], model, encoder)
    return vector_CW


def _warn_uncovered(candidates: Candidates, index: ReferenceIndex) -> None:
    """Say which labels of the reference lie below no candidate for want of a term."""
    alone = np.flatnonzero(~candidates.cover_TC.any(axis=1))
    left = [index.labels[t] for t in alone if not index.label_ids[t]]
    if left:
        shown = ", ".join(map(repr, left[:_NAMED])) + (" ..." if len(left) > _NAMED else "")
        warn_user(
            f"{len(left)} of {len(index.labels)} labels of the reference are no terms of the "
            f"ontology, so that none of the labels asked for covers them: {shown}. Cells like "
            "theirs get another label or none; name them among labels=, or give the reference "
            "ontology terms in their place"
        )


def _warn_unseen(
    unseen: Sequence[tuple[str, str]], n_labels: int, index: ReferenceIndex, *, measured: bool
) -> None:
    """Say which labels have no reference cells, and what that means for their answers."""
    free = [name for name, term in unseen if not term or not measured]
    how = "how sure that is was measured on other terms"
    if free:
        these = "" if len(free) == len(unseen) else f" of {', '.join(map(repr, free))}"
        how = f"the confidence{these} is not calibrated"
    mute = int(np.count_nonzero(np.logical_not(np.any(index.text_TD, axis=1))))
    more = f", and {mute} labels of the reference that are no terms cannot be compared with it"
    warn_user(
        f"{len(unseen)} of {n_labels} labels have no cells in the reference: "
        f"{', '.join(repr(name) for name, _ in unseen)}. They are judged by their description "
        f"alone; {how}{more if mute else ''}"
    )


def _check_comparable(unseen: Sequence[str], candidates: Candidates, index: ReferenceIndex) -> None:
    """Refuse labels known by text alone beside such as have none: nothing compares the two."""
    without = np.flatnonzero(np.logical_not(np.any(candidates.text_CD, axis=1)))
    mute = [candidates.names[c] for c in without]
    if not mute and index.text_TD.any():
        return
    found = repr(mute[0]) if mute else f"the reference (with {index.labels[0]!r})"
    msg = (
        f"{unseen[0]!r} has no cells in the reference, so only its text can be compared with "
        f"others, and {found} has none: no ontology term that the model stores. Name only labels "
        "that the reference has, or give those of the reference ontology terms"
    )
    raise ArgumentError(msg)


def _warn_repeated(labels: Sequence[str], read: Sequence[tuple[str, str]]) -> None:
    """Say which entries were read as one."""
    same: dict[tuple[str, str], list[str]] = {}
    for given, pair in zip(labels, read, strict=True):
        same.setdefault(pair, []).append(given)
    told = [
        f"{', '.join(map(repr, entries))} ({term or name})"
        for (name, term), entries in same.items()
        if len(entries) > 1
    ]
    if told:
        warn_user(f"labels name the same more than once: {'; '.join(told)}; each counts once")
