"""Evidence for labels: neighbours, text and three linear heads, and how streams are fused.

Pure functions on arrays, and `Fusion`, the numbers they are fused with. Knows neither files nor
AnnData, nor what an ontology is (it sees the relation of labels as a matrix).

Shapes: B cells, K neighbours, T labels, D width, N reference cells. A stream is a B x T matrix of
probabilities; NaN in a column says that the stream knows nothing of that label.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit, logit

from scgp.errors import ArgumentError, CheckpointError
from scgp.reference.products import product

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

STREAMS = ("neighbour", "text", "head", "gene", "described")
# A stream that is not fitted: what a model's other terms say (`scgp.reference.background`).
BACKGROUND = "background"
# Another: which of the likeliest labels the cell is most like (`scgp.reference.pairwise`). It names
# one label, so that it chooses between labels and says nothing of how far to believe one.
PAIRWISE = "pairwise"
ALL_STREAMS = (*STREAMS, BACKGROUND, PAIRWISE)
# No stream may rule a label out alone: neighbours give an exact 0 to every label not among them.
FLOOR = 1e-4
# What a term above the labels needs where its confidence is that of a label (before 0.12.0, and
# where nothing could be fitted): of the cells of left-out studies that get one, 97 % are of it
# then; with .5, which is enough for a label, 67 to 71 % were (docs/log.md).
THRESHOLD_ABOVE = 0.85
# The reading that a term needs which is given to a cell outside the labels of a reference. It is no
# calibrated confidence: of such cells 14 to 30 % get a wrong term (docs/log.md).
THRESHOLD_OUTSIDE = 0.85
# Probabilities are sums of floats: what falls short by less than the first reaches a bound.
SLACK, MAJORITY = 1e-6, 0.5
# Cosine of two texts from which on they may mean the same. Of 626 synonyms and plurals of the
# labels of the default reference 76 % have it with their own label (60 % have .6), and with .8 of
# the 290 labels on other lines, on average (docs/log.md).
ALIKE = 0.5
# Fields of `Fusion` that earlier versions did not have, with what they did.
ADDED = {
    "weight_gene": 0.0,
    "weight_described": 0.0,
    "weight_background": 0.0,
    "weight_pairwise": 0.0,
    "pooled": False,
    "threshold_above": 0.0,
    "set_mass": (),
    "set_cells": 0,
    "novelty_text": -1.0,
    "alike": 0.6,
    "above": (),
    "threshold_outside": THRESHOLD_OUTSIDE,
    "elsewhere": (),
    "slope_rival": 0.0,
}
# Fields that are lists in JSON.
_LISTS = ("set_mass", "above", "elsewhere")
# Numbers in `Fusion.above`.
N_ABOVE = 5
_THRESHOLDS = ("threshold", "threshold_above", "threshold_outside")


@dataclasses.dataclass(frozen=True)
class Fusion:
    """How many neighbours, how sharp each stream, how much each counts, and when to call a cell.

    ``k`` neighbours; temperatures divide cosines before the softmax; weights multiply the log
    probabilities of the streams; ``weight_near`` is what nearness in the ontology counts when a
    label is chosen. The confidence in a label is ``sigmoid(slope * logit(p) + slope_nearest * c
    + offset)`` for its probability p and the cosine c to the nearest reference cell; p is that
    of `pool`, or that of `fuse` where ``pooled`` is False (as in 0.1.0). ``slope_rival`` is
    what a likelier label on another line costs one that was asked for (`confidence`). A label
    needs a confidence of ``threshold``, a term above it one of ``threshold_above``; a cell
    whose c is below ``novelty_threshold``, or whose cosine to the nearest text of a label
    (`nearest_text`) is below ``novelty_text``, is unlike all. A label whose text has the cosine
    ``alike`` with a free text may mean the same, and is no rival of it. ``set_mass`` is what
    label sets of each coverage need (`conformal.fit_set_mass`; empty: not fitted), fitted to
    ``set_cells`` cells. ``above`` holds the five numbers of `confidence_above`
    (`fitting_above`; empty: as in a label). A term that is given to a cell outside the labels
    of a reference (`background`) needs a reading of ``threshold_outside``, which is no
    calibrated confidence. ``elsewhere`` names labels that the tissue of the cells speaks
    against (`scgp.reference.elsewhere`; none where it is not told).
    """

    k: int = 30
    temperature_neighbour: float = 0.05
    temperature_text: float = 0.07
    weight_neighbour: float = 0.4
    weight_text: float = 0.4
    weight_head: float = 0.4
    weight_gene: float = 0.4
    weight_described: float = 0.4
    weight_background: float = 0.0
    weight_pairwise: float = 0.0
    threshold: float = 0.5
    threshold_above: float = THRESHOLD_ABOVE
    novelty_threshold: float = -1.0
    novelty_text: float = -1.0
    weight_near: float = 0.0
    slope: float = 1.0
    slope_nearest: float = 0.0
    offset: float = 0.0
    pooled: bool = True
    set_mass: tuple[float, ...] = ()
    set_cells: int = 0
    alike: float = ALIKE
    above: tuple[float, ...] = ()
    threshold_outside: float = THRESHOLD_OUTSIDE
    elsewhere: tuple[str, ...] = ()
    slope_rival: float = 0.0

    def __post_init__(self) -> None:
        """Refuse numbers that no answer can be made with."""
        values = dataclasses.asdict(self)
        whole = isinstance(self.k, int) and not isinstance(self.k, bool) and self.k >= 1
        numbers = [value for name, value in values.items() if name not in {"k", *_LISTS}]
        numbers += [*self.set_mass, *self.above]
        real = all(isinstance(v, int | float) and math.isfinite(v) for v in numbers)
        if (
            not (whole and real)
            or min(self.temperature_neighbour, self.temperature_text) <= 0
            or min(self.weight_near, self.slope_rival, *map(self.weight, ALL_STREAMS)) < 0
            or not all(0 <= getattr(self, name) <= 1 for name in _THRESHOLDS)
            or list(self.set_mass) != sorted(self.set_mass)
            or len(self.above) not in {0, N_ABOVE}
            or not all(isinstance(label, str) for label in self.elsewhere)
        ):
            message = (
                f"cannot fuse with {values}; expected k >= 1, temperatures > 0, weights >= 0, "
                "thresholds between 0 and 1, masses of sets that do not fall, none or five "
                "numbers for terms above the labels, and names of labels elsewhere"
            )
            raise ArgumentError(message)

    def weight(self, stream: str) -> float:
        """Return the weight of a stream."""
        return float(getattr(self, f"weight_{stream}"))

    def confidence(
        self,
        mass: NDArray[np.floating[Any]],
        nearest: NDArray[np.floating[Any]],
        rival: NDArray[np.floating[Any]] | None = None,
    ) -> NDArray[np.float64]:
        """Return calibrated probabilities of probabilities and cosines (Platt scaling).

        The map is fitted to best labels. One that was asked for may have little mass beside a
        label that excludes it: ``rival`` is the mass of the likeliest of these, and what it has
        more, in log odds, times ``slope_rival`` comes off.
        """
        odds = self.slope * log_odds(mass) + self.slope_nearest * nearest + self.offset
        if rival is not None:
            odds = odds + self.slope_rival * lag(mass, rival)
        calibrated: NDArray[np.float64] = expit(odds)
        return calibrated

    def confidence_above(
        self,
        mass_BA: NDArray[np.floating[Any]],
        nearest_B: NDArray[np.floating[Any]],
        breadth_A: NDArray[np.floating[Any]],
    ) -> NDArray[np.float64]:
        """Return calibrated probabilities of terms above the labels.

        ``sigmoid((a + b w) * logit(p) + c * n + d * w + e)`` for the rolled-up probability p of a
        term, the cosine n to the nearest reference cell, the breadth w of the term
        (`broad_terms.breadth`) and ``above = (a, b, c, d, e)``, with a + b w held at 0 or more.
        Where ``above`` is empty, that of `confidence`.
        """
        if not self.above:
            return self.confidence(mass_BA, nearest_B[:, None])
        slope, by_breadth, near, broad, offset = self.above
        slope_A = np.maximum(slope + by_breadth * breadth_A, 0)
        shift_BA = near * nearest_B[:, None] + broad * breadth_A + offset
        sure_BA: NDArray[np.float64] = expit(slope_A * log_odds(mass_BA) + shift_BA)
        return sure_BA

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {**dataclasses.asdict(self), **{name: list(getattr(self, name)) for name in _LISTS}}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Fusion:
        """Read what `to_dict` gave; a field more or less is an error.

        The fields of `ADDED` may be missing: earlier versions did not have them.
        """
        fields = {**ADDED, **fields}
        expected = {field.name for field in dataclasses.fields(cls)}
        if set(fields) != expected:
            message = (
                f"calibration has the fields {sorted(fields)}, expected {sorted(expected)}: it "
                "was edited, or saved by another version"
            )
            raise CheckpointError(message)
        return cls(**{**fields, **{name: tuple(fields[name]) for name in _LISTS}})


def log_odds(mass: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the logit of probabilities, those of 0 and 1 held 1e-4 away."""
    held: NDArray[np.float64] = logit(np.clip(np.asarray(mass, float), FLOOR, 1 - FLOOR))
    return held


def lag(mass: NDArray[np.floating[Any]], rival: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return how far the log odds of a probability are behind those of another; 0 where ahead.

    Examples
    --------
    >>> lag(np.array([0.1, 0.9]), np.array([0.9, 0.1])).round(2).tolist()
    [-4.39, 0.0]
    """
    behind: NDArray[np.float64] = np.minimum(log_odds(mass) - log_odds(rival), 0.0)
    return behind


def _softmax(logit_BT: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the softmax of each row; NaN columns stay NaN and take no share."""
    shifted_BT = logit_BT - np.nanmax(logit_BT, axis=1, keepdims=True)
    power_BT = np.exp(shifted_BT.astype(np.float64))
    prob_BT: NDArray[np.float64] = power_BT / np.nansum(power_BT, axis=1, keepdims=True)
    return prob_BT


def neighbour_evidence(
    similarity_BK: NDArray[np.floating[Any]],
    code_BK: NDArray[np.integer[Any]],
    n_labels: int,
    *,
    temperature: float,
    weight_BK: NDArray[np.floating[Any]] | None = None,
) -> NDArray[np.float64]:
    """Return the share of each label among the neighbours of each cell.

    Parameters
    ----------
    similarity_BK
        Cosine to each neighbour.
    code_BK
        Label of each neighbour, 0 to ``n_labels`` - 1.
    temperature
        A neighbour votes with ``exp(cosine / temperature)``.
    weight_BK
        What each vote is multiplied by, such as one over the root of its label's cells.

    Returns
    -------
    B x T, rows sum to 1. A row whose weights are all 0 is uniform.
    """
    n_cells = len(similarity_BK)
    near_B1 = similarity_BK.max(axis=1, keepdims=True)
    vote_BK = np.exp((similarity_BK - near_B1).astype(np.float64) / temperature)
    if weight_BK is not None:
        vote_BK = vote_BK * weight_BK
    slot_BK = np.arange(n_cells)[:, None] * n_labels + code_BK
    count = np.bincount(slot_BK.ravel(), vote_BK.ravel(), minlength=n_cells * n_labels)
    vote_BT = count.reshape(n_cells, n_labels)
    total_B1 = vote_BT.sum(axis=1, keepdims=True)
    uniform_BT = np.full_like(vote_BT, 1 / n_labels)
    return np.divide(vote_BT, total_B1, out=uniform_BT, where=total_B1 > 0)


def text_evidence(
    type_BD: NDArray[np.floating[Any]],
    text_TD: NDArray[np.floating[Any]],
    *,
    temperature: float,
) -> NDArray[np.float64]:
    """Return the softmax over labels of the cosine between a cell's type slot and their texts.

    Labels without text (a zero row) have NaN: the stream says nothing of them. Without any text
    all are NaN.
    """
    logit_BT = product(type_BD, text_TD.T) / temperature
    has_text_T = np.any(text_TD != 0, axis=1)
    if not has_text_T.any():
        return np.full(logit_BT.shape, np.nan)
    return _softmax(np.where(has_text_T, logit_BT, np.nan))


def nearest_text(
    type_BD: NDArray[np.floating[Any]], text_TD: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """Return the cosine of each cell's type slot to the nearest text of a label.

    1 for every cell where a label has no text: what is far from the texts may be such a label.
    """
    if not len(text_TD) or not np.any(text_TD != 0, axis=1).all():
        return np.ones(len(type_BD))
    cosine_BT = product(type_BD, text_TD.T)
    nearest_B: NDArray[np.float64] = cosine_BT.max(axis=1).astype(np.float64)
    return nearest_B


def head_evidence(
    cell_BD: NDArray[np.floating[Any]],
    weight_TD: NDArray[np.floating[Any]],
    bias_T: NDArray[np.floating[Any]],
) -> NDArray[np.float64]:
    """Return the probabilities of the linear head."""
    return _softmax(product(cell_BD, weight_TD.T) + bias_T)


def gene_evidence(
    score_BT: NDArray[np.floating[Any]] | None, shape: tuple[int, int], *, temperature: float
) -> NDArray[np.float64]:
    """Return the softmax of the gene head's scores; NaN, a silent stream, where there is none."""
    if score_BT is None:
        return np.full(shape, np.nan)
    return _softmax(score_BT.astype(np.float64) / temperature)


def described_evidence(
    score_BT: NDArray[np.floating[Any]], has_T: NDArray[np.bool_], *, temperature: float
) -> NDArray[np.float64]:
    """Return the softmax of the scores by description; NaN for labels that nothing describes."""
    if not has_T.any():
        return np.full(score_BT.shape, np.nan)
    return _softmax(np.where(has_T, score_BT.astype(np.float64) / temperature, np.nan))


def winner_evidence(winner_B: NDArray[np.integer], n_labels: int) -> NDArray[np.float64]:
    """Return 1 for the winner of each cell, 0 for the others; the same for all where it is -1.

    Examples
    --------
    >>> winner_evidence(np.array([1, -1]), 2).tolist()
    [[0.0, 1.0], [0.5, 0.5]]
    """
    won_BT = np.asarray(winner_B)[:, None] == np.arange(n_labels)
    return np.where(np.asarray(winner_B)[:, None] >= 0, won_BT, 1 / n_labels).astype(np.float64)


def _floored(
    streams: Mapping[str, NDArray[np.floating[Any]]],
) -> dict[str, NDArray[np.float64]]:
    """Return the probabilities of each stream with the floor added; NaN where it is silent."""
    odd = sorted(set(streams) - set(ALL_STREAMS))
    if odd or not set(streams) - {PAIRWISE}:  # which alone says nothing of most labels
        message = f"streams are {sorted(streams)}, expected some of {ALL_STREAMS}"
        raise ArgumentError(message)
    shapes = {np.shape(stream) for stream in streams.values()}
    if len(shapes) > 1:
        message = f"streams have the shapes {sorted(shapes)}, expected one (cells x labels)"
        raise ArgumentError(message)
    return {name: stream.astype(np.float64) + FLOOR for name, stream in streams.items()}


def _mean_heard(
    values: Mapping[str, NDArray[np.float64]], weights: Mapping[str, float], nothing: float
) -> NDArray[np.float64]:
    """Return the weighted mean over the streams that are not silent; `nothing` where all are."""
    shape = next(iter(values.values())).shape
    sum_BT, heard_BT = np.zeros(shape), np.zeros(shape)
    for name, value_BT in values.items():
        if weights[name] > 0:
            silent_BT = np.isnan(value_BT)
            sum_BT += weights[name] * np.where(silent_BT, 0.0, value_BT)
            heard_BT += np.where(silent_BT, 0.0, weights[name])
    mean_BT = np.full(shape, nothing)
    return np.divide(sum_BT, heard_BT, out=mean_BT, where=heard_BT > 0)


def fuse(streams: Mapping[str, NDArray[np.floating[Any]]], fusion: Fusion) -> NDArray[np.float64]:
    """Return one posterior over labels: softmax of the weighted sum of log probabilities.

    Parameters
    ----------
    streams
        Those of `ALL_STREAMS`, or some of them, each B x T.

    Returns
    -------
    B x T, rows sum to 1.

    Examples
    --------
    >>> posterior = fuse({"head": np.array([[0.9, 0.1]])}, Fusion(weight_head=1.0))
    >>> posterior.round(2).tolist()
    [[0.9, 0.1]]
    """
    floored = _floored(streams)
    weights = {name: fusion.weight(name) for name in streams}
    # a stream that is silent on a label says what the others say; the floor where all are
    log = {name: np.log(x) if weights[name] else x for name, x in floored.items()}
    vote_BT, of_vote = log.pop(PAIRWISE, 0.0), weights.pop(PAIRWISE, 0.0)  # stands in for no other
    mean_BT = _mean_heard(log, weights, math.log(FLOOR))
    return _softmax(mean_BT * sum(weights.values()) + of_vote * vote_BT)


def pool(streams: Mapping[str, NDArray[np.floating[Any]]], fusion: Fusion) -> NDArray[np.float64]:
    """Return the mean of the streams' probabilities (linear pool): high only where they agree.

    What `fuse` multiplies names the label; this says how far to believe it. Half of a stream's
    weight is its share in `fusion`, half is the same for all: a stream that adds nothing to the
    label still tells by disagreeing. One that is silent on a label leaves it to the others. The
    pairwise stream has no part: what it says is no probability.

    Examples
    --------
    >>> streams = {"text": np.array([[0.9, 0.1]]), "head": np.array([[0.1, 0.9]])}
    >>> pool(streams, Fusion(weight_text=0.4, weight_head=0.4)).round(3).tolist()
    [[0.5, 0.5]]
    """
    floored = _floored({name: x for name, x in streams.items() if name != PAIRWISE})
    total = max(sum(fusion.weight(name) for name in floored), FLOOR)
    shares = {name: fusion.weight(name) / total + 1 / len(floored) for name in floored}
    mean_BT = _mean_heard(floored, shares, 0.0)
    pooled_BT: NDArray[np.float64] = mean_BT / mean_BT.sum(axis=1, keepdims=True)
    return pooled_BT
