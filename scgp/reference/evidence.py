"""Evidence for labels: neighbours, text and three linear heads, and how streams are fused.

Pure functions on arrays. Knows neither files nor AnnData, nor what an ontology is, nor where the
numbers of a `Fusion` come from.

Shapes: B cells, K neighbours, T labels, D width, N reference cells. A stream is a B x T matrix of
probabilities; NaN in a column says that the stream knows nothing of that label.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from scgp.errors import ArgumentError
from scgp.reference.fusion import ALL_STREAMS, FLOOR, PAIRWISE, Fusion
from scgp.reference.products import product

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


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
