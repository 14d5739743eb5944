"""What makes two labels, or two tissues, alike: for predictions of their expression.

Must not know what is predicted from it (`reference.profiles`), nor how a user names either.

Shape suffixes: P groups, U different labels or tissues, D descriptions, A both, W width of the text
encoder.
"""

from collections.abc import Sequence

import numpy as np

from scgp.describe import compared
from scgp.model.checkpoint import Model
from scgp.phenotypes.ontology import Ontology


def group_likeness(
    label_ids: list[str], tissue_ids: list[str], model: Model
) -> tuple[np.ndarray, np.ndarray]:
    """Return how alike groups are to each other, by label and by tissue (P x P each)."""
    labels = sorted(set(label_ids))
    row_P = np.searchsorted(labels, label_ids)
    likeness_UU = compared(labels, model.phenotypes.vectors(labels), model)[0]
    return likeness_UU[np.ix_(row_P, row_P)], tissue_likeness(tissue_ids, tissue_ids, model)


def label_likeness(
    term_ids: Sequence[str], vector_DW: np.ndarray, label_ids: Sequence[str], model: Model
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return how alike descriptions are to known labels.

    Parameters
    ----------
    term_ids, vector_DW
        Ontology ids of the descriptions, "" for free text, and vectors of their texts.
    label_ids
        Labels of groups.

    Returns
    -------
    The likeness to each group (D x P); to each different label, as a share of what two equal
    labels would have (D x U, 1: the label itself); and these labels, sorted.
    """
    labels = sorted(set(label_ids))
    n = len(labels)
    vectors = np.concatenate([model.phenotypes.vectors(labels), vector_DW])
    likeness_AA = compared([*labels, *term_ids], vectors, model)[0]
    likeness_DU = likeness_AA[n:, :n]
    length_A = np.sqrt(np.maximum(np.diagonal(likeness_AA), 1e-12))
    share_DU = likeness_DU / (length_A[n:, None] * length_A[:n])
    return likeness_DU[:, np.searchsorted(labels, label_ids)], share_DU, labels


def tissue_likeness(
    asked_ids: Sequence[str], tissue_ids: Sequence[str], model: Model
) -> np.ndarray:
    """Return how alike tissues are to those of groups, D x P; 0 for ``""``, an unknown one.

    The mean of the cosine of their texts, less the mean text of the groups' tissues, and the share
    of common ancestors in UBERON; the latter alone where the model stores no text of a tissue.
    """
    known = sorted(set(tissue_ids) - {""})
    ids = [*known, *sorted(set(asked_ids) - {"", *known})]
    vector_UW = model.phenotypes.vectors(ids).astype(np.float64)
    there_U = np.any(vector_UW, axis=1)
    among = there_U[: len(known)]
    if among.any():
        vector_UW -= vector_UW[: len(known)][among].mean(axis=0)
    vector_UW /= np.maximum(np.linalg.norm(vector_UW, axis=1, keepdims=True), 1e-12)
    lineage_UU = Ontology("UBERON").soft_scores(ids)
    both_UU = np.logical_and.outer(there_U, there_U)
    likeness_UU = np.where(both_UU, (vector_UW @ vector_UW.T + lineage_UU) / 2, lineage_UU)
    likeness = np.zeros((len(ids) + 1, len(ids) + 1))  # the last: no tissue
    likeness[:-1, :-1] = likeness_UU
    place = {tissue: u for u, tissue in enumerate(ids)} | {"": len(ids)}
    return likeness[np.ix_([place[t] for t in asked_ids], [place[t] for t in tissue_ids])]


def usual_tissues(likeness_DP: np.ndarray, tissue_ids: Sequence[str], model: Model) -> np.ndarray:
    """Return how alike the tissues of groups are to those where labels like the ones asked are.

    The mean over all groups, weighted by the square of the likeness of their labels.
    """
    weight_DP = np.maximum(likeness_DP, 0.0) ** 2
    weight_DP /= np.maximum(weight_DP.sum(axis=1, keepdims=True), 1e-12)
    usual_DP: np.ndarray = weight_DP @ tissue_likeness(tissue_ids, tissue_ids, model)
    return usual_DP
