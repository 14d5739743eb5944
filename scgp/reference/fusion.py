"""The numbers that streams of evidence are fused with, and how sure a label is by them.

Owns the names of the streams, `Fusion` and its maps from a probability to a confidence. Pure
functions on arrays; knows neither the streams themselves (`scgp.reference.evidence`) nor files.

Shapes: B cells, A terms above labels.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit, logit

from scgp.errors import ArgumentError, CheckpointError

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
