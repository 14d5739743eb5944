"""What is predicted of a tissue's cells in general: the mean over the labels known from there.

What it holds of one type's genes is the tissue's background, such as albumin in each type of liver
cell. Must not know how a user names labels and tissues, nor what is compared with the mean.

Shape suffixes: D descriptions, U labels of a mean, P groups, V genes asked for.
"""

from collections.abc import Sequence

import numpy as np

from scgp.model.checkpoint import Model
from scgp.reference.profiles import Profiles
from scgp.what_if.alike import label_likeness, tissue_likeness

#: Labels that a tissue must have for the mean to be over them: of fewer, the type asked for is too
#: much of the mean.
FEWEST_LABELS = 5


def tissue_means(
    tissue_ids: Sequence[str], profiles: Profiles, columns: np.ndarray, model: Model
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean prediction of known labels in each tissue.

    Parameters
    ----------
    tissue_ids
        UBERON ids, "" for none.
    columns
        Genes to return.

    Returns
    -------
    The mean (D x V, float32, log1p(CP10k)) and the number of labels that it is over (D, int32):
    those with a group in the very tissue, or all labels where these are fewer than
    `FEWEST_LABELS`. NaN and 0 for "".
    """
    mean_DV = np.full((len(tissue_ids), len(columns)), np.nan, np.float32)
    n_D = np.zeros(len(tissue_ids), np.int32)
    for tissue in sorted(set(tissue_ids) - {""}):
        rows = [d for d, term in enumerate(tissue_ids) if term == tissue]
        labels = _labels_of(tissue, profiles)
        mean_DV[rows] = _levels(labels, tissue, profiles, columns, model).mean(axis=0)
        n_D[rows] = len(labels)
    return mean_DV, n_D


def _labels_of(tissue: str, profiles: Profiles) -> list[str]:
    """Return the labels known from a tissue, or all where there are hardly any."""
    known = zip(profiles.label_ids, profiles.tissue_ids, strict=True)
    there = {label for label, term in known if term == tissue}
    return sorted(there if len(there) >= FEWEST_LABELS else set(profiles.label_ids))


def _levels(
    labels: Sequence[str], tissue: str, profiles: Profiles, columns: np.ndarray, model: Model
) -> np.ndarray:
    """Return what is predicted of labels in a tissue, U x V."""
    vectors = model.phenotypes.vectors(labels)
    likeness_UP, _, _ = label_likeness(labels, vectors, profiles.label_ids, model)
    tissue_1P = tissue_likeness([tissue], profiles.tissue_ids, model)
    tissue_UP = np.repeat(tissue_1P, len(labels), axis=0)
    apart_UV = profiles.deviation(likeness_UP, tissue_UP, columns, term_ids=labels)
    return np.maximum(profiles.mean_G[columns] + apart_UV, 0)
