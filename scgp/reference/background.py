"""What the terms that a model was trained on say of cells that another reference is to answer.

A reference of one's own knows its own types alone; the model has read more. Each cell is compared
with the texts of all terms that the model was trained on, and what it is read as is told in the
labels of the reference (a stream of evidence), beside the share of it that the reference has any
label for. Pure functions on arrays, and the ontology; knows neither the network nor AnnData.

Shapes: B cells, N reference cells, U terms the model was trained on, T labels of the reference, A
terms above its labels and themselves, D width of the joint space.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scgp.phenotypes.ontology import Ontology
from scgp.reference.fusion import MAJORITY, SLACK
from scgp.reference.products import product

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: What the stream counts beside the two that are fitted to the reference (.45 each): as much as
#: both. On pairs of held-out studies half of it gains three quarters as much (docs/log.md).
WEIGHT = 0.9
#: A term is among those that the cells of a label are read as if they are so this often, beside the
#: one that they are read as most; and, for a label that the model knows, in this many cells: a few
#: may be labelled wrongly.
READ_AS, LEAST_CELLS = 0.2, 5
#: Cells whose readings are averaged at once.
_BLOCK = 8192


class Reading(NamedTuple):
    """What a `Background` says of cells.

    ``prior_BT``: probabilities of the labels, rows sum to 1; NaN for labels that it knows nothing
    of. ``covered_B``: share of a cell's reading that a label of the reference may stand for.
    ``mass_BA``: probability of each term of `Ontology.closure` of the label ids.
    """

    prior_BT: NDArray[np.float64]
    covered_B: NDArray[np.float64]
    mass_BA: NDArray[np.float64]


def lies_outside(reading: Reading, threshold: float) -> NDArray[np.bool_]:
    """Return which cells are likelier of a type that the reference has no label for.

    A threshold below one half asks for less; one above it does not make a cell another type.
    """
    outside_B: NDArray[np.bool_] = reading.covered_B < min(threshold, MAJORITY) - SLACK
    return outside_B


def beside(
    reading: Reading,
    mass_BA: NDArray[np.float64],
    labelled_A: NDArray[np.bool_],
    outside_B: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Return the confidences in terms beside a background, whose ``mass_BA`` is of these terms.

    ``labelled_A``: whether a term is a label of the reference, or lies below one.
    """
    capped_BA = np.where(labelled_A, np.minimum(mass_BA, reading.covered_B[:, None]), mass_BA)
    return np.where(outside_B[:, None], reading.mass_BA, capped_BA)


@dataclasses.dataclass(frozen=True, eq=False)
class Background:
    """The terms that a model was trained on, beside the labels of a reference of other cells.

    A label is *known* if the model was trained on its term or one below it. Where reference and
    model differ, the reference's own cells say how: a term that the cells of a label are read as,
    though it lies on another line or the label is not known, is dealt to labels as often as the
    cells of each are read so. Thus a type that is new to the model, a name that is no term, and
    what an atlas calls otherwise do not lose their cells to what the model knows.

    Attributes
    ----------
    ids
        The U terms.
    text_UD
        Vectors of their texts, float32.
    label_ids
        Terms of the T labels of the reference, ``""`` where one has none.
    read_TU
        In how many of the reference's cells of each label each term is read: sums of their
        readings, float32.
    """

    ids: tuple[str, ...]
    text_UD: NDArray[np.float32]
    label_ids: tuple[str, ...]
    read_TU: NDArray[np.float32]

    @classmethod
    def make(
        cls,
        ids: Sequence[str],
        text_UD: NDArray[np.float32],
        *,
        label_ids: Sequence[str],
        type_ND: NDArray[np.float32],
        code_N: NDArray[np.integer],
        temperature: float,
    ) -> Background | None:
        """Read the cells of a reference; None where the model has no term with a text.

        Parameters
        ----------
        ids, text_UD
            Terms that the model was trained on, ``""`` where a label is none, and their texts
            (zero: none).
        type_ND, code_N
            Type vectors of the reference's cells, and the label of each.
        temperature
            What cosines are divided by.
        """
        kept = np.flatnonzero(np.array([bool(i) for i in ids], bool) & np.any(text_UD, axis=1))
        if not len(kept):
            return None
        ids, text_UD = tuple(ids[int(u)] for u in kept), np.array(text_UD[kept], np.float32)
        read_TU = np.zeros((len(label_ids), len(ids)))
        for start in range(0, len(type_ND), _BLOCK):
            part = slice(start, start + _BLOCK)
            np.add.at(read_TU, code_N[part], _read(type_ND[part], text_UD, temperature))
        return cls(ids, text_UD, tuple(label_ids), read_TU.astype(np.float32))

    def read(self, type_BD: NDArray[np.float32], temperature: float) -> Reading:
        """Read cells; zero rows (empty cells) are as likely anything."""
        read_BU = _read(type_BD, self.text_UD, temperature)
        raw_BT = product(read_BU, self.share_UT)
        total_B1 = raw_BT.sum(axis=1, keepdims=True)
        heard_T = self.share_UT.any(axis=0)
        # a cell that is read as nothing the reference has tells its labels nothing
        even_T = heard_T / max(heard_T.sum(), 1)
        prior_BT = np.where(total_B1 > 0, raw_BT / np.maximum(total_B1, 1e-300), even_T)
        return Reading(
            np.where(heard_T, prior_BT, np.nan),
            np.minimum(product(read_BU, self.covered_U[:, None])[:, 0], 1.0),
            product(read_BU, self.below_UA),
        )

    @functools.cached_property
    def known_T(self) -> NDArray[np.bool_]:
        """Whether the model was trained on each label, or on a term below it."""
        return np.asarray(self._below_TU.any(axis=1), bool)

    @functools.cached_property
    def share_UT(self) -> NDArray[np.float64]:
        """Which labels a reading as each term speaks for; rows sum to 1, or are 0.

        For the deepest labels that it is or lies below, or for all labels below it where there is
        none such; if it is contested, for each label as often as its cells are read so.
        """
        below_TU, above_TU = self._below_TU, self._above_TU
        above_TT = Ontology("CL").relation(self.label_ids)
        above_TT &= ~above_TT.T
        deepest_TU = below_TU & ~(above_TT.astype(int) @ below_TU.astype(int) > 0)
        spoken_TU = np.where(below_TU.any(axis=0), deepest_TU, above_TU).astype(float)
        often_TU = self.read_TU / np.maximum(self.read_TU.sum(axis=1, keepdims=True), 1e-30)
        # a label of which no cell was read has nothing but its term to go by
        often_TU = np.where(self.read_TU.sum(axis=1, keepdims=True) > 0, often_TU, spoken_TU)
        spoken_TU = np.where(self._contested_TU.any(axis=0), often_TU, spoken_TU)
        total_U = np.maximum(spoken_TU.sum(axis=0), 1e-300)
        share_UT: NDArray[np.float64] = (spoken_TU / total_U).T
        return share_UT

    @functools.cached_property
    def covered_U(self) -> NDArray[np.float64]:
        """Whether a label lies on one line with each term, or it is contested."""
        line_U = (self._below_TU | self._above_TU).any(axis=0)
        return np.asarray(line_U | self._contested_TU.any(axis=0), float)

    @functools.cached_property
    def below_UA(self) -> NDArray[np.float64]:
        """Whether each term is, or lies below, each term above the labels."""
        return self._at_or_below(Ontology("CL").closure(self.label_ids)).T.astype(float)

    def taken(self, rows: Sequence[int], share_T: NDArray[np.floating]) -> Background:
        """Return the background of some of the labels, of which these shares of cells are left."""
        read_TU = self.read_TU[list(rows)] * share_T[:, None]
        label_ids = tuple(self.label_ids[t] for t in rows)
        return dataclasses.replace(self, label_ids=label_ids, read_TU=read_TU.astype(np.float32))

    def fault(self, label_ids: Sequence[str], width: int) -> str:
        """Say what contradicts itself, or labels and width of the texts of the index; else ""."""
        n_terms, n_labels = len(self.ids), len(self.label_ids)
        if self.label_ids != tuple(label_ids):
            return "its background is of other labels"
        if self.text_UD.shape != (n_terms, width) or self.read_TU.shape != (n_labels, n_terms):
            return "parts of its background have shapes that do not fit"
        finite = np.isfinite(self.text_UD).all() and np.isfinite(self.read_TU).all()
        if not n_terms or not finite or self.read_TU.min(initial=0) < 0:
            return "its background holds no terms, or negative, NaN or infinite values"
        ontology = Ontology("CL")
        if odd := [i for i in self.ids if not ontology.is_term(i)]:
            return f"its background has {odd[0]!r}, which is no live term of the ontology"
        return ""

    @functools.cached_property
    def _contested_TU(self) -> NDArray[np.bool_]:
        """Whether the cells of a label are read as a term that its own term does not explain."""
        most_T1 = self.read_TU.max(axis=1, keepdims=True, initial=0)
        often_TU = (self.read_TU >= READ_AS * most_T1) & (self.read_TU > 0)
        often_TU &= (self.read_TU >= LEAST_CELLS) | ~self.known_T[:, None]
        line_TU = self._below_TU | self._above_TU
        return np.asarray(often_TU & ~(line_TU & self.known_T[:, None]), bool)

    @functools.cached_property
    def _below_TU(self) -> NDArray[np.bool_]:
        return self._at_or_below(self.label_ids)

    @functools.cached_property
    def _above_TU(self) -> NDArray[np.bool_]:
        relation = Ontology("CL").relation([*self.ids, *self.label_ids])
        above_TU: NDArray[np.bool_] = relation[: len(self.ids), len(self.ids) :].T
        return above_TU

    def _at_or_below(self, term_ids: Sequence[str]) -> NDArray[np.bool_]:
        """Return which of the U terms is, or lies below, which of these."""
        relation = Ontology("CL").relation([*term_ids, *self.ids])
        below: NDArray[np.bool_] = relation[: len(term_ids), len(term_ids) :]
        return below


def _read(
    type_BD: NDArray[np.float32], text_UD: NDArray[np.float32], temperature: float
) -> NDArray[np.float64]:
    """Return the softmax over all terms of the cosine between type slots and their texts."""
    logit_BU = product(type_BD, text_UD.T).astype(np.float64) / temperature
    power_BU = np.exp(logit_BU - logit_BU.max(axis=1, keepdims=True))
    read_BU: NDArray[np.float64] = power_BU / power_BU.sum(axis=1, keepdims=True)
    return read_BU
