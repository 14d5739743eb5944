"""Fit how evidence is fused, and how sure an answer is, to cells of held-out studies.

Shape suffixes: B held-out cells, T classes, S streams, F features.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from scgp.phenotypes.ontology import Ontology
from scgp.reference.conformal import fit_set_mass, mass_ahead
from scgp.reference.decision import worth
from scgp.reference.evidence import fuse, pool
from scgp.reference.fitting_above import fit_above
from scgp.reference.fitting_among import fit_among
from scgp.reference.fusion import STREAMS, Fusion, log_odds
from scgp.reference.logistic import fit_logistic
from scgp.reference.products import one_thread

#: What the weights of the streams sum to, what one stream may count beside the others, and the
#: weights of nearness in the ontology that are tried.
TOTAL, LEVELS = 0.9, (0, 1, 2, 4)
NEARNESS = (2.0, 4.0, 8.0, 16.0, 32.0)
#: What must be gained, as a share, before one stream counts more or less than another. A finer
#: search fits the studies at hand: on studies held out it lost .04 of macro-F1 (docs/log.md).
LEAST_GAIN = 0.03
#: The streams that count before anything is fitted, where they are there: one that the network has
#: read and one that reads genes. With text and gene head beside them, exact macro-F1 and soft score
#: were lower by .02 to .04 and .005, macro-F1 along the ontology higher by .02 to .03 (log.md).
FIRST = ("head", "described")
#: Added to scores before their geometric mean: a score of 0 must not hide the others.
SOFTENED = 0.01
#: Cells less like the reference, or less like the text of every label, than this share of the
#: held-out cells of known types are novel. No bound tells types that the network was never shown
#: much better than chance in a new study: .03 for the text found 11 % of them, and took the label
#: from 4 % of the cells of known types, of which 7 in 10 were right (docs/log.md).
NOVEL_SHARE = 0.01
#: What cells of types that the reference lacks weigh when the confidence is fitted.
NOVEL_WEIGHT = 0.25
#: Strength of the prior on the confidence's map (`fit_logistic`).
_RIDGE = 1e-3


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """What the streams say of cells whose study the network has not seen.

    Attributes
    ----------
    streams
        Evidence of each stream, B x T over all classes of the corpus.
    nearest_B
        Cosine to the nearest reference cell.
    class_B
        True class.
    nearest_text_B
        Cosine to the nearest text of a label (`evidence.nearest_text`).
    known_B
        Whether the reference had the true class, or one below it.
    study_B
        Study; studies count the same.
    novel_B
        Whether the cell was asked with its type removed from the reference: such cells teach the
        confidence alone.
    """

    streams: Mapping[str, np.ndarray]
    nearest_B: np.ndarray
    nearest_text_B: np.ndarray
    class_B: np.ndarray
    known_B: np.ndarray
    study_B: np.ndarray
    novel_B: np.ndarray

    @classmethod
    def join(cls, parts: Sequence["HeldOut"]) -> "HeldOut":
        """Put the cells of several folds together."""
        names = parts[0].streams
        streams = {name: np.concatenate([p.streams[name] for p in parts]) for name in names}
        return cls(streams, *(np.concatenate([getattr(p, n) for p in parts]) for n in _PER_CELL))

    def take(self, rows: np.ndarray) -> "HeldOut":
        """Return some of the cells."""
        streams = {name: stream[rows] for name, stream in self.streams.items()}
        return HeldOut(streams, *(getattr(self, name)[rows] for name in _PER_CELL))

    def there(self) -> np.ndarray:
        """Tell which classes the reference of each cell had (B x T): others have no evidence."""
        return np.any([stream != 0 for stream in self.streams.values()], axis=0)

    def weights(self, novel_share: float) -> np.ndarray:
        """Weigh studies the same, cells whose type was removed `novel_share` in all; sum 1."""
        weight_B = np.zeros(len(self.study_B))
        shares = {False: 1 - novel_share, True: novel_share} if self.novel_B.any() else {False: 1.0}
        for novel, share in shares.items():
            rows = np.flatnonzero(self.novel_B == novel)
            _, code, size = np.unique(self.study_B[rows], return_inverse=True, return_counts=True)
            weight_B[rows] = share / (size[code] * len(size))
        return weight_B


#: The fields of `HeldOut` with one value for each cell, in their order.
_PER_CELL = tuple(f.name for f in dataclasses.fields(HeldOut) if f.name != "streams")


@one_thread()
def fit_answers(
    cells: HeldOut,
    *,
    label_ids: Sequence[str],
    ontology: Ontology,
    start: Fusion | None = None,
    near: float | None = None,
) -> Fusion:
    """Choose weights, then scale the confidence, both on held-out studies.

    The streams of `FIRST` count, and the same, unless the studies say clearly otherwise. What is
    maximised is the geometric mean of three means over studies: macro-F1 along the ontology, which
    rewards a deep answer, plain macro-F1, which wants the term that the authors used, and the soft
    score, which wants an answer near it. A share of one cannot be bought with a larger share of
    another.

    Parameters
    ----------
    cells
        Evidence on cells of held-out studies.
    label_ids
        Ontology id of each class, "" where it has none.
    ontology
        The Cell Ontology.
    start
        Whose other fields are kept.
    near
        The weight of nearness in the ontology; None: the best of `NEARNESS` is chosen.

    Returns
    -------
    The fusion with fitted weights, nearness, confidences and novelty thresholds.
    """
    scorer = Scorer(label_ids, ontology)
    seen = cells.take(np.flatnonzero(~cells.novel_B))
    nearness = NEARNESS if near is None else (near,)
    best = _climb(_Search(seen, scorer, nearness), start or Fusion())
    best = _set_novelty(best, seen.take(np.flatnonzero(seen.known_B)))
    best, leaf_sure_B = _scale_confidence(best, cells, scorer)
    best = fit_above(best, cells, leaf_sure_B, label_ids=label_ids, ontology=ontology)
    best = fit_among(best, cells, scorer)
    return _fit_sets(best, seen, scorer)


def _set_novelty(fusion: Fusion, known: HeldOut) -> Fusion:
    """Set what a cell must reach so that it is like the reference; known: cells of its types."""
    if not len(known.class_B):
        return dataclasses.replace(fusion, novelty_threshold=-1.0, novelty_text=-1.0)
    weight_B = known.weights(NOVEL_WEIGHT)
    text = np.quantile(known.nearest_text_B, NOVEL_SHARE, weights=weight_B, method="inverted_cdf")
    return dataclasses.replace(
        fusion,
        novelty_threshold=float(np.quantile(known.nearest_B, NOVEL_SHARE)),
        novelty_text=float(text) if text < 1 else -1.0,  # 1: a label has no text
    )


class _Search:
    """The value of weights: the geometric mean of the three scores, to the third power."""

    def __init__(self, cells: HeldOut, scorer: "Scorer", nearness: Sequence[float]) -> None:
        self.cells = cells
        self.nearness = nearness
        self.there_BT = cells.there()
        self.scorer = scorer

    def value(self, fusion: Fusion) -> float:
        leaf_B = self.scorer.leaf(self.cells, fusion, self.there_BT)
        scores = self.scorer.mean_scores(leaf_B, self.cells.class_B, self.cells.study_B)
        return float(np.prod(np.add(scores, SOFTENED)))


def _climb(search: _Search, start: Fusion) -> Fusion:
    """Climb from equal counts of `FIRST`; each step gives one stream another of the `LEVELS`.

    Nearness is chosen anew for each set of counts. A step must gain `LEAST_GAIN`, and the best of
    all is made while there is one. Where one of `FIRST` is not there, all streams start from one,
    and neighbours from nothing where there are more than two: they say of the vectors what the head
    says, with more noise.
    """
    names = [name for name in STREAMS if name in search.cells.streams]
    counts = dict.fromkeys(names, 1)
    if set(FIRST) <= set(names):
        counts = {name: int(name in FIRST) for name in names}
    elif len(names) > 2:
        counts["neighbour"] = 0
    value, best = _nearest(search, start, counts)
    while True:
        moves = [
            counts | {name: level} for name in names for level in LEVELS if level != counts[name]
        ]
        found = [(*_nearest(search, start, move), move) for move in moves if any(move.values())]
        gained, fusion, move = max(found, key=lambda one: one[0])
        if gained < value * (1 + LEAST_GAIN):
            return best
        value, best, counts = gained, fusion, move


def _nearest(search: _Search, start: Fusion, counts: Mapping[str, int]) -> tuple[float, Fusion]:
    """Return the value of the best weight of nearness for these counts, and the fusion."""
    options = [_weighted(start, counts, near) for near in search.nearness]
    values = [search.value(fusion) for fusion in options]
    best = int(np.argmax(values))
    return values[best], options[best]


def _weighted(start: Fusion, counts: Mapping[str, int], near: float) -> Fusion:
    unit = TOTAL / sum(counts.values())
    weights = {name: unit * counts.get(name, 0) for name in STREAMS}
    return dataclasses.replace(
        start,
        weight_neighbour=weights["neighbour"],
        weight_text=weights["text"],
        weight_head=weights["head"],
        weight_gene=weights["gene"],
        weight_described=weights["described"],
        weight_near=near,
    )


class Scorer:
    """Macro-F1 and soft score over classes, by the ontology-aware rule of the benchmark.

    An answer is right when it is the true term or a term below it. A right answer counts for the
    true term, another for the most specific true term of the study that it lies below.
    """

    def __init__(self, label_ids: Sequence[str], ontology: Ontology) -> None:
        self.label_ids = label_ids
        self.ontology = ontology
        self.right_TT = ontology.relation(label_ids)
        self.soft_TT = ontology.soft_scores(label_ids)
        self.depth_T = np.array([len(ontology.ancestors(i)) if i else 1 for i in label_ids])
        self._worth: dict[float, np.ndarray] = {}

    def worth(self, near: float) -> np.ndarray:
        """Return `decision.worth` in single precision, once for each weight."""
        if near not in self._worth:
            self._worth[near] = worth(self.label_ids, self.ontology, near).astype(np.float32)
        return self._worth[near]

    def leaf(self, cells: HeldOut, fusion: Fusion, there_BT: np.ndarray) -> np.ndarray:
        """Return the best label of each cell, of those that its reference had."""
        posterior_BT = fuse(cells.streams, fusion).astype(np.float32)
        value_BT = np.where(there_BT, posterior_BT @ self.worth(fusion.weight_near), -np.inf)
        leaf_B: np.ndarray = value_BT.argmax(axis=1)
        return leaf_B

    def mean_scores(
        self, answer_B: np.ndarray, class_B: np.ndarray, study_B: np.ndarray
    ) -> tuple[float, float, float]:
        """Return the means over studies of macro-F1, plain macro-F1 and the soft score."""
        f1, plain, soft = [], [], []
        for study in np.unique(study_B):
            rows = study_B == study
            counted_B = self._counted(answer_B[rows], class_B[rows])
            f1.append(self._macro_f1(counted_B, class_B[rows]))
            plain.append(self._macro_f1(answer_B[rows], class_B[rows]))
            soft.append(float(self.soft_TT[class_B[rows], answer_B[rows]].mean()))
        return float(np.mean(f1)), float(np.mean(plain)), float(np.mean(soft))

    def _counted(self, answer_B: np.ndarray, class_B: np.ndarray) -> np.ndarray:
        """Return the class that each answer counts for; -1 for none of the study's."""
        true_U = np.unique(class_B)
        above_UB = self.right_TT[true_U][:, answer_B]
        deepest_B = true_U[(above_UB * self.depth_T[true_U][:, None]).argmax(axis=0)]
        other_B = np.where(above_UB.any(axis=0), deepest_B, -1)
        counted_B: np.ndarray = np.where(self.right_TT[class_B, answer_B], class_B, other_B)
        return counted_B

    def _macro_f1(self, counted_B: np.ndarray, class_B: np.ndarray) -> float:
        n_classes = len(self.label_ids)
        hit_T = np.bincount(class_B[counted_B == class_B], minlength=n_classes)
        said_T = np.bincount(counted_B[counted_B >= 0], minlength=n_classes)
        was_T = np.bincount(class_B, minlength=n_classes)
        return float((2 * hit_T / np.maximum(said_T + was_T, 1))[was_T > 0].mean())


def _scale_confidence(fusion: Fusion, cells: HeldOut, scorer: Scorer) -> tuple[Fusion, np.ndarray]:
    """Fit the logistic map from a leaf's probability to how often it holds (Platt 1999).

    Also returns the confidence in each cell's leaf.

    A label holds where the true term is the label itself, one below it, or (authors' labels
    differ in depth) one above it; it fails where the two lie on different branches.
    """
    leaf_B = scorer.leaf(cells, fusion, cells.there())
    mass_BT = pool(cells.streams, fusion) @ scorer.right_TT.T
    mass_B = np.take_along_axis(mass_BT, leaf_B[:, None], axis=1)[:, 0]
    holds_B = scorer.right_TT[cells.class_B, leaf_B] | scorer.right_TT[leaf_B, cells.class_B]
    feature_BF = np.stack([log_odds(mass_B), cells.nearest_B], axis=1)
    slope, slope_nearest, offset = fit_logistic(
        feature_BF, holds_B, cells.weights(NOVEL_WEIGHT), ridge=_RIDGE,
        bounds=[(0.0, None), (0.0, None)],
    )  # fmt: skip
    fusion = dataclasses.replace(
        fusion, slope=slope, slope_nearest=slope_nearest, offset=offset, pooled=True
    )
    return fusion, fusion.confidence(mass_B, cells.nearest_B)


def _fit_sets(fusion: Fusion, seen: HeldOut, scorer: Scorer) -> Fusion:
    """Fit the masses of label sets, studies counting the same.

    A set covers the truth where one of its labels holds. Cells of types that the reference lacks
    count: their sets fail.
    """
    covers_BT = (scorer.right_TT | scorer.right_TT.T)[seen.class_B]
    there_BT = seen.there()
    prob_BT = np.where(there_BT, pool(seen.streams, fusion), 0.0)
    prob_BT /= prob_BT.sum(axis=1, keepdims=True)
    ahead_B = mass_ahead(prob_BT, covers_BT & there_BT)
    mass = fit_set_mass(ahead_B, seen.weights(NOVEL_WEIGHT))
    return dataclasses.replace(fusion, set_mass=mass, set_cells=len(ahead_B))
