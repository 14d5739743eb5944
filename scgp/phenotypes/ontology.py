"""Ontology terms: ids, labels, texts, ancestors and how far two terms lie apart.

Owns cellxgene-ontology-guide, which carries CL, UBERON and MONDO offline. Knows nothing of cells,
vectors or models.

Shapes: T terms given by the caller, A terms of their common closure.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from cellxgene_ontology_guide.supported_versions import CXGSchema

from scgp.errors import ArgumentError, LabelError, warn_user
from scgp.phenotypes.names import (
    WRITTEN,
    long_name,
    nearest,
    only_owners,
    short_name,
    spelling,
    told,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

SUPPORTED = ("CL", "UBERON", "MONDO")


#: An id of any OBO ontology (CL, UBERON, MONDO ...), also as in its web address.
_ID = re.compile(r"([A-Za-z]+)[:_](\d{7})")


def as_id(text: str) -> str:
    """Return the id that a text reads as, of whatever ontology, or "".

    Examples
    --------
    >>> as_id("cl_0000236"), as_id("B cell")
    ('CL:0000236', '')
    """
    found = _ID.fullmatch(text.strip())
    return "" if found is None else f"{found[1].upper()}:{found[2]}"


def _normal(label: str) -> str:
    """Return ``label`` without case and without surplus white space."""
    return " ".join(label.split()).casefold()


def _live_id(terms: dict[str, Any], term_id: str) -> str:
    """Follow ``replaced_by`` to a live term of the same ontology; empty where there is none."""
    seen = set()
    while term_id in terms and term_id not in seen:
        if not terms[term_id].get("deprecated"):
            return term_id
        seen.add(term_id)
        term_id = terms[term_id].get("replaced_by", "")
    return ""


@dataclass(frozen=True)
class _Tables:
    """What one ontology file says, indexed once."""

    terms: dict[str, Any]
    version: str
    id_of_label: dict[str, str]
    id_of_synonym: dict[str, str]
    id_of_obsolete: dict[str, str]


@functools.cache
def _read_tables(prefix: str) -> _Tables:
    """Read one ontology; a synonym that two live terms share names neither."""
    schema = CXGSchema()
    terms = schema.ontology(prefix)
    labels, obsolete = {}, {}
    owners: dict[str, set[str]] = {}
    for term_id, term in terms.items():
        live = _live_id(terms, term_id)
        if live == term_id:
            labels[_normal(term["label"])] = term_id
            for synonym in term.get("synonyms", ()):
                owners.setdefault(_normal(synonym), set()).add(term_id)
        elif live and term["label"]:
            label = _normal(term["label"])
            obsolete[label] = obsolete[label.removeprefix("obsolete ")] = live
    synonyms = {name: next(iter(ids)) for name, ids in owners.items() if len(ids) == 1}
    version = str(schema.supported_ontologies[prefix]["version"])
    return _Tables(terms, version, labels, synonyms, obsolete)


@functools.cache
def _of_mice() -> frozenset[str]:
    """Return the cell types that are a mouse's by their label."""
    terms = _read_tables("CL").terms.items()
    return frozenset(i for i, term in terms if term["label"].endswith(("mouse", "(Mmus)")))


@functools.cache
def _spellings() -> dict[str, str]:
    """Return the one cell type of each spelling of a name; that of a label is no synonym's."""
    tables, of_mice = _read_tables("CL"), _of_mice()
    found: dict[str, str] = {}
    for human in (True, False):  # what is "..., human" yields: it is spelled without that word
        for names in (tables.id_of_synonym, tables.id_of_label):
            found |= only_owners(
                (name, term)
                for name, term in names.items()
                if name.endswith(", human") == human and term not in of_mice
            )
    return {name: term for name, term in found.items() if term}


@functools.cache
def _ancestor_sets(prefix: str) -> dict[str, frozenset[str]]:
    """Return the ancestors of every live term, itself included."""
    terms = _read_tables(prefix).terms
    return {
        term_id: frozenset(term["ancestors"]) | {term_id}
        for term_id, term in terms.items()
        if not term.get("deprecated")
    }


@functools.cache
def _descendant_sets(prefix: str) -> dict[str, frozenset[str]]:
    """Return the descendants of every live term, itself included."""
    below: dict[str, list[str]] = {}
    for term_id, ancestors in _ancestor_sets(prefix).items():
        for ancestor in ancestors:
            below.setdefault(ancestor, []).append(term_id)
    return {term_id: frozenset(ids) for term_id, ids in below.items()}


class Ontology:
    """One ontology, read offline and cached for the life of the process.

    Ancestors are those of cellxgene-ontology-guide: along is-a, and along part-of where the
    ontology counts it (UBERON). Every method that takes an id wants a live one; `resolve` turns
    labels, synonyms and obsolete ids into live ids.

    Parameters
    ----------
    prefix
        ``"CL"`` (cell types), ``"UBERON"`` (tissues) or ``"MONDO"`` (diseases).

    Raises
    ------
    ArgumentError
        The ontology is another one.

    Examples
    --------
    >>> cells = Ontology("CL")
    >>> cells.id_of("T lymphocyte"), cells.label("CL:0000084")
    ('CL:0000084', 'T cell')
    >>> "CL:0000542" in cells.ancestors("CL:0000084")
    True
    """

    def __init__(self, prefix: str = "CL") -> None:
        if prefix not in SUPPORTED:
            found = f"no ontology {prefix!r} here; expected one of {', '.join(SUPPORTED)}"
            raise ArgumentError(found)
        self.prefix = prefix
        self._tables = _read_tables(prefix)

    def __repr__(self) -> str:
        """Name the ontology and its version."""
        return f"Ontology({self.prefix!r}), {self.version}, {self.n_terms} live terms"

    @property
    def version(self) -> str:
        """Version of the ontology file, such as ``v2026-03-26``."""
        return self._tables.version

    @property
    def n_terms(self) -> int:
        """Number of live terms."""
        return len(_ancestor_sets(self.prefix))

    @property
    def ids(self) -> list[str]:
        """Ids of all live terms, sorted."""
        return sorted(_ancestor_sets(self.prefix))

    def is_term(self, term_id: str) -> bool:
        """Whether ``term_id`` is a live term of this ontology."""
        return term_id in _ancestor_sets(self.prefix)

    def _term(self, term_id: str) -> dict[str, Any]:
        term: dict[str, Any] | None = self._tables.terms.get(term_id)
        if term is None:
            found = (
                f"{term_id!r} is no term of {self.prefix} {self.version}; expected an id such as "
                f"'{self.prefix}:0000000'. Ontology.resolve(labels) finds the ids of labels."
            )
            raise LabelError(found)
        if term.get("deprecated"):
            live = _live_id(self._tables.terms, term_id)
            advice = f"use {live} ({self.label(live)})" if live else "it has no replacement"
            found = f"{term_id} ({term['label']}) is obsolete in {self.prefix} {self.version}: "
            raise LabelError(found + advice)
        return term

    def label(self, term_id: str) -> str:
        """Return the label of a live term."""
        return str(self._term(term_id)["label"])

    def synonyms(self, term_id: str) -> list[str]:
        """Return the synonyms of a live term."""
        return list(self._term(term_id).get("synonyms", ()))

    def text(self, term_id: str) -> str:
        """Return ``"label. definition"``, or the label alone where no definition is known."""
        term = self._term(term_id)
        return ". ".join(filter(None, [term["label"], term.get("description", "")]))

    def id_of(self, label: str) -> str:
        """Return the live term that ``label`` names, or ``""``.

        Tried in this order, all without regard to case: the id itself, also with "_" in place of
        ":" (an obsolete one gives its replacement), a label, a synonym that one term alone has, the
        label of an obsolete term.
        """
        if (term_id := as_id(label)) in self._tables.terms:
            return _live_id(self._tables.terms, term_id)
        name, tables = _normal(label), self._tables
        for names in (tables.id_of_label, tables.id_of_synonym, tables.id_of_obsolete):
            if name in names:
                return names[name]
        return ""

    def read(self, label: str) -> str:
        """Return what `id_of` finds, or the cell type that authors so name, or ``""``.

        "CD4+ T cells", "NK", "Tregs": `scgp.phenotypes.names` has the rules, and what they do not
        bring to one term is not read. A synonym of a mouse's cell type alone ("alpha cell", of the
        retina) yields to what authors mean by it.
        """
        exact = self.id_of(label)
        if self.prefix != "CL":
            return exact
        spelled = spelling(label)
        of_mice = exact in _of_mice() and _normal(label) in self._tables.id_of_synonym
        if exact and not of_mice:
            return exact
        return short_name(spelled) or exact or long_name(spelled, _spellings())

    def near(self, label: str, n: int = 3) -> list[str]:
        """Return up to ``n`` cell types with a name near a label that `read` does not know."""
        names = _spellings() | WRITTEN
        return list(dict.fromkeys(names[name] for name in nearest(spelling(label), names, n=n)))

    def resolve(self, labels: Iterable[object]) -> list[str]:
        """Return the id of each label, ``""`` where it names no term (or is no string).

        As `read` reads them; a :class:`ScgpWarning` tells which are no names of the ontology.
        """
        given = [label if isinstance(label, str) else "" for label in labels]
        known = {label: self.read(label) for label in dict.fromkeys(given)}
        self.warn_read(known)
        return [known[label] for label in given]

    def warn_read(self, known: Mapping[str, str]) -> None:
        """Tell which labels, of a dict of labels and their ids, are no names of their terms.

        And which are, while authors use them for a term on another branch.
        """
        if self.prefix != "CL":  # only names of cell types are read otherwise than exactly
            return
        named = {i: f"{self.label(i)} ({i})" for i in {*known.values(), *WRITTEN.values()} if i}
        read, disputed = [], []
        for label, term in known.items():
            if term and term != self.id_of(label):
                read.append((label, named[term]))
            elif term and label != term:
                other = short_name(spelling(label)) or term
                if term not in self.ancestors(other) and other not in self.ancestors(term):
                    disputed.append((label, named[term], named[other]))
        if read or disputed:
            warn_user(told(read, disputed))

    def ancestors(self, term_id: str) -> frozenset[str]:
        """Return the ancestors of a live term, itself included."""
        self._term(term_id)
        return _ancestor_sets(self.prefix)[term_id]

    def descendants(self, term_id: str) -> frozenset[str]:
        """Return the descendants of a live term, itself included."""
        self._term(term_id)
        return _descendant_sets(self.prefix)[term_id]

    def distance(self, a: str, b: str) -> float:
        """Return the number of steps from ``a`` to ``b`` over their nearest common ancestor.

        Infinite where they share none.
        """
        up_a = {**self._term(a)["ancestors"], a: 0}
        up_b = {**self._term(b)["ancestors"], b: 0}
        return min((up_a[c] + up_b[c] for c in up_a.keys() & up_b.keys()), default=math.inf)

    def soft_score(self, a: str, b: str) -> float:
        """Return the shared ancestors of two terms over all their ancestors (1: the same term)."""
        above_a, above_b = self.ancestors(a), self.ancestors(b)
        return len(above_a & above_b) / len(above_a | above_b)

    def closure(self, ids: Iterable[str]) -> list[str]:
        """Return the given terms and all their ancestors, each once, sorted; ``""`` is skipped."""
        return sorted(frozenset().union(*(self.ancestors(i) for i in set(ids) if i)))

    def _incidence(self, ids: Sequence[str]) -> sp.csr_array:
        column = {term_id: a for a, term_id in enumerate(self.closure(ids))}
        columns_T = [[column[c] for c in self.ancestors(i)] if i else [] for i in ids]
        indptr = np.cumsum([0, *map(len, columns_T)])
        indices = np.fromiter((a for columns in columns_T for a in columns), np.int64, indptr[-1])
        data = np.ones(len(indices), np.float32)
        return sp.csr_array((data, indices, indptr), shape=(len(ids), len(column)))

    def relation(self, ids: Sequence[str]) -> NDArray[np.bool_]:
        """Return the matrix of who is an ancestor of whom.

        Parameters
        ----------
        ids
            T live ids; ``""`` (no term) is related to nothing but itself. An id may stand more
            than once.

        Returns
        -------
        Boolean matrix T x T: ``[i, j]`` says that ``ids[i]`` is ``ids[j]`` or an ancestor of it.

        Examples
        --------
        >>> Ontology("CL").relation(["CL:0000542", "CL:0000084"]).tolist()
        [[True, True], [False, True]]
        """
        column = {term_id: a for a, term_id in enumerate(self.closure(ids))}
        above_AT = self._incidence(ids).T.toarray() > 0
        is_ancestor_TT = np.zeros((len(ids), len(ids)), bool)
        named = np.array([i for i, term_id in enumerate(ids) if term_id], int)
        is_ancestor_TT[named] = above_AT[[column[ids[i]] for i in named]]
        np.fill_diagonal(is_ancestor_TT, val=True)
        return is_ancestor_TT

    def soft_scores(self, ids: Sequence[str]) -> NDArray[np.float32]:
        """Return `soft_score` of every pair, T x T; ``""`` scores 1 with itself, else 0."""
        above_TA = self._incidence(ids)
        shared_TT = (above_TA @ above_TA.T).toarray()
        size_T = np.diagonal(shared_TT)
        union_TT = size_T[:, None] + size_T[None] - shared_TT
        score_TT = (shared_TT / np.maximum(union_TT, 1)).astype(np.float32)
        np.fill_diagonal(score_TT, 1.0)
        return score_TT
