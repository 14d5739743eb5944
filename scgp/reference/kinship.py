"""Labels without cells: gene weights from those of their relatives, and from known markers.

Knows the gene head and what describes a label (text, place in the ontology, marker genes); neither
how a label was named nor how an answer is chosen.

The weights of the labels that have cells are a function of their descriptions: kernel ridge
regression over these labels gives the weights of any other, the closed form of Romera-Paredes and
Torr 2015 (An embarrassingly simple approach to zero-shot learning) with the weights of the gene
head in the place of attributes. Its kernel is the mean of three likenesses. The known markers of a
label are added. All constants below were chosen on terms held out of training
(``benchmarks/zeroshot.py``); the accuracy hardly depends on them.

Shapes: L labels of the gene head, T labels of a reference, D labels described, W width of the text
encoder, G genes of the vocabulary, H genes of the head.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from scgp.reference.products import one_thread

if TYPE_CHECKING:
    import scipy.sparse as sp
    from numpy.typing import NDArray

    from scgp.reference.gene_head import GeneHead

#: Penalty of the regression, where a label's likeness to itself is at most 1.
RIDGE = 1.0
#: And where the weights of the linear head are shared.
RIDGE_HEAD = 0.3
#: Divides the described scores of labels with cells before the softmax (the stream "described").
DESCRIBED_TEMPERATURE = 0.4
#: Length of the markers' direction beside that of the relatives' weights, which is 1.
MARKER_SHARE = 0.5
#: Fewer markers than this among the genes of the head say nothing.
FEWEST_MARKERS = 2
#: By how much a label with cells still leads one without that is as likely, and what divides the
#: lead to make a logit: a logistic regression on held-out terms, one cell in five being of the
#: label.
PENALTY, TEMPERATURE = 1.8, 1.5


@one_thread()
def likeness(
    text_DW: NDArray[np.floating[Any]],
    lineage_DD: NDArray[np.floating[Any]],
    marker_DG: sp.csr_matrix,
) -> NDArray[np.float64]:
    """Return how alike the descriptions of labels are, D x D: the mean of three.

    Parameters
    ----------
    text_DW
        Unit vectors of the texts, their mean taken away before; zero: no text.
    lineage_DD
        Share of common ancestors (`scgp.phenotypes.ontology.Ontology.soft_scores`).
    marker_DG
        Unit weights of the markers (`scgp.phenotypes.markers.Markers.weights`); zero: none known.
    """
    text_DD = np.asarray(text_DW, np.float64) @ np.asarray(text_DW, np.float64).T
    likeness_DD = (text_DD + lineage_DD + (marker_DG @ marker_DG.T).toarray()) / 3
    alone = np.flatnonzero(np.logical_not(np.any(text_DW, axis=1)))
    likeness_DD[alone, alone] = 1  # what nothing describes is like itself, and like nothing else
    return np.asarray(likeness_DD, np.float64)


@one_thread()
def describing_head(
    head: GeneHead,
    likeness_LL: NDArray[np.floating[Any]],
    likeness_LD: NDArray[np.floating[Any]],
    marker_DG: sp.csr_matrix,
) -> GeneHead:
    """Return a head for labels by their descriptions, whose scores can be compared.

    Every label has weights of length 1, and those that `head` has cells of are described like the
    others: what is known of a label by its cells would always win.

    Parameters
    ----------
    head
        A gene head of L labels.
    likeness_LL, likeness_LD
        As `likeness` gives it, of the labels of the head: to each other, and to those described.
    marker_DG
        Weights of the markers of those described.

    Returns
    -------
    A head for the labels described, without scores by description of its own.
    """
    mixture_LD = np.linalg.solve(likeness_LL + RIDGE * np.eye(len(head.bias_T)), likeness_LD)
    weight_HD = head.weight_HT.astype(np.float64) @ mixture_LD
    marker_HD = marker_DG[:, head.gene_H].T.toarray().astype(np.float64)
    marker_HD[:, (marker_HD > 0).sum(axis=0) < FEWEST_MARKERS] = 0
    weight_HD = _unit(_unit(weight_HD) + MARKER_SHARE * _unit(marker_HD))
    return dataclasses.replace(
        head,
        weight_HT=weight_HD.astype(np.float16),
        bias_T=np.zeros(weight_HD.shape[1], np.float32),
        described_HT=None,
    )


@one_thread()
def shared_head(
    weight_TD: NDArray[np.floating[Any]],
    bias_T: NDArray[np.floating[Any]],
    likeness_TT: NDArray[np.floating[Any]],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return a linear head whose labels share weights with those that are like them.

    The smoother of kernel ridge regression, scaled so that a label whose likeness to itself is 1
    and to others 0 keeps its weights, less the mean of all.

    Examples
    --------
    >>> weight, bias = shared_head(np.array([[1.0], [-1.0]]), np.zeros(2), np.eye(2))
    >>> weight.round(6).tolist()
    [[1.0], [-1.0]]
    """
    mixture_TT = np.linalg.solve(likeness_TT + RIDGE_HEAD * np.eye(len(bias_T)), likeness_TT)
    mixture_TT *= 1 + RIDGE_HEAD
    # what all labels have in common says nothing, and must not be mixed in
    shared_TD = mixture_TT.T @ (weight_TD - weight_TD.mean(axis=0))
    shared_T = mixture_TT.T @ (bias_T - bias_T.mean())
    return shared_TD.astype(np.float32), shared_T.astype(np.float32)


def _unit(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale columns to length 1; a column without length stays zero."""
    length = np.linalg.norm(columns, axis=0)
    return np.asarray(columns / np.where(length > 0, length, 1.0), np.float64)
