"""Predicting a mean profile from a description: scgp's regression and its peers, on one fold.

Owns the methods and the settings that each may choose from. Every method sees the same training
profiles and says how a held-out profile deviates from their mean. Knows nothing of folds or tables.

Shapes: R mean profiles of all sources, A profiles asked, P groups, G genes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scgp.reference.groups import Groups
from scgp.reference.profiles import OWN, RIDGE, SHARED, TISSUE_ALONE, fit_profiles

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

#: Settings that inner validation chooses from. What the same term counts beside its description;
#: weights of text, ancestors and markers; weight of the tissue where labels are not alike.
EQUAL = (1 / 3, 1 / 3, 1 / 3)
OURS = [
    {"ridge": 1.0, "own": own, "label": label, "tissue_alone": alone}
    for own, (label, alone) in itertools.product(
        (0.0, 0.5, 2.0),
        ((EQUAL, 0.0), (EQUAL, 0.25), (EQUAL, 1.0), ((0.25, 0.5, 0.25), 0.25)),
    )
]
SHIPPED = {"ridge": RIDGE, "own": OWN, "label": EQUAL, "tissue_alone": TISSUE_ALONE}
NOT_OWN = {**SHIPPED, "own": 0.0}
NEAREST = [{"k": k, "near_home": home} for k in (1, 3, 6, 12) for home in (False, True)]
TISSUE = [{"k": k} for k in (1, 20, 60)]
BOTH = [{"k": k, "share": share} for k in (1, 3, 6, 12) for share in (0.25, 0.5, 0.75, 1)]


@dataclass(frozen=True)
class Table:
    """Mean profiles of all sources, and how alike what describes them is (R x R each).

    ``tissue_RR`` is the likeness of tissues; ``steps_RR`` the steps between terms.
    """

    value_RG: NDArray[np.float32]
    measured_RG: NDArray[np.bool_]
    label_R: NDArray[np.str_]
    tissue_R: NDArray[np.str_]
    source_R: NDArray[np.str_]
    text_RR: NDArray[np.float64]
    lineage_RR: NDArray[np.float64]
    marker_RR: NDArray[np.float64]
    tissue_RR: NDArray[np.float64]
    steps_RR: NDArray[np.float64]


@dataclass(frozen=True)
class Fold:
    """Rows that train and rows that are asked, all of one file; ``others`` are of other sources."""

    train: NDArray[np.int64]
    asked: NDArray[np.int64]
    others: NDArray[np.int64]


def training_mean(
    table: Table, rows: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the mean of each gene over the rows that measure it, and which genes any measures."""
    measured_RG = table.measured_RG[rows]
    n_G = measured_RG.sum(axis=0)
    sum_G = (table.value_RG[rows] * measured_RG).sum(axis=0)
    return (sum_G / np.maximum(n_G, 1)).astype(np.float32), n_G > 0


def description(
    table: Table,
    fold: Fold,
    settings: Mapping[str, Any],
    *,
    parts: tuple[float, float, float] | None = None,
    with_tissue: bool = True,
    more: bool = False,
) -> NDArray[np.float32]:
    """Predict with what scgp ships: `fit_profiles`, from the file alone or with other sources."""
    rows = np.concatenate([fold.train, fold.others]) if more else fold.train
    columns = (table.label_R[rows], table.tissue_R[rows], table.source_R[rows])
    keys = [tuple(map(str, key)) for key in zip(*columns, strict=True)]
    groups = Groups.of(table.value_RG[rows], table.measured_RG[rows], keys)
    first = {key: row for row, key in reversed(list(zip(rows, keys, strict=True)))}
    own = zip(groups.label_ids, groups.tissue_ids, groups.sources, strict=True)
    row_P = np.array([first[key] for key in own])
    weights = parts or settings["label"]
    label_RR = (
        weights[0] * table.text_RR + weights[1] * table.lineage_RR + weights[2] * table.marker_RR
    )
    tissue_RR = table.tissue_RR if with_tissue else np.zeros_like(label_RR)
    profiles = fit_profiles(
        groups,
        label_RR[np.ix_(row_P, row_P)],
        tissue_RR[np.ix_(row_P, row_P)],
        ridge=settings["ridge"],
        shared=SHARED,
        tissue_alone=settings["tissue_alone"],
        own=settings["own"],
        target=str(table.source_R[fold.train[0]]),
    )
    asked = np.ix_(fold.asked, row_P)
    mean_G, there_G = training_mean(table, fold.train)
    apart_G = np.where(there_G, profiles.mean_G - mean_G, 0)  # where rows of a group measure others
    terms = table.label_R[fold.asked].tolist()
    return profiles.deviation(label_RR[asked], tissue_RR[asked], term_ids=terms) + apart_G


def nearest_term(table: Table, fold: Fold, settings: Mapping[str, Any]) -> NDArray[np.float32]:
    """Average the training profiles of the terms that are the fewest steps away."""
    return _nearest(table, fold, -table.steps_RR, settings)


def nearest_text(table: Table, fold: Fold, settings: Mapping[str, Any]) -> NDArray[np.float32]:
    """Average the training profiles of the terms whose texts have the highest cosine."""
    return _nearest(table, fold, table.text_RR, settings)


def tissue_mean(table: Table, fold: Fold, settings: Mapping[str, Any]) -> NDArray[np.float32]:
    """Average the training profiles of the same tissue; of the nearest where there are none."""
    return _nearest(table, fold, table.tissue_RR, {**settings, "near_home": False})


def term_and_tissue(table: Table, fold: Fold, settings: Mapping[str, Any]) -> NDArray[np.float32]:
    """Add the deviations of the nearest term and of the tissue, in proportion ``share``."""
    of_term = nearest_term(table, fold, {"k": settings["k"], "near_home": False})
    of_tissue = tissue_mean(table, fold, {"k": 1})
    share = settings["share"]
    return np.asarray(share * of_term + (1 - share) * of_tissue, np.float32)


def mean_of_all(table: Table, fold: Fold, settings: Mapping[str, Any]) -> NDArray[np.float32]:
    """Say the mean of the training profiles."""
    del settings
    return np.zeros((len(fold.asked), table.value_RG.shape[1]), np.float32)


def _nearest(
    table: Table, fold: Fold, likeness_RR: NDArray[np.floating[Any]], settings: Mapping[str, Any]
) -> NDArray[np.float32]:
    """Average the ``k`` nearest training profiles and all that tie with the last.

    With ``near_home`` only those of the asked tissue count among them, where there are any. A gene
    that none of them measures is at the mean.
    """
    mean_G, _ = training_mean(table, fold.train)
    measured_PG = table.measured_RG[fold.train]
    deviation_PG = (table.value_RG[fold.train] - mean_G) * measured_PG
    found = []
    for row in fold.asked:
        like_P = likeness_RR[row, fold.train]
        least = np.sort(like_P)[::-1][min(settings["k"], len(like_P)) - 1]
        near_P = like_P >= least - 1e-9
        home_P = near_P & (table.tissue_R[fold.train] == table.tissue_R[row])
        near_P = home_P if settings["near_home"] and home_P.any() else near_P
        n_G = measured_PG[near_P].sum(axis=0)
        found.append(deviation_PG[near_P].sum(axis=0) / np.maximum(n_G, 1))
    return np.asarray(found, np.float32)


def pearson(
    a_AG: NDArray[np.floating[Any]],
    b_AG: NDArray[np.floating[Any]],
    counted_AG: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Return the correlation of each row over the genes that count; 0 where one does not vary."""
    found = np.zeros(len(a_AG))
    for i, counted_G in enumerate(counted_AG):
        a, b = (x[i, counted_G].astype(np.float64) for x in (a_AG, b_AG))
        a, b = a - a.mean(), b - b.mean()
        length = np.sqrt((a @ a) * (b @ b))
        found[i] = a @ b / length if length > 0 else 0.0
    return found


def scores(table: Table, fold: Fold, deviation_AG: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the correlation of log1p(CP10k), and of its deviation from the training mean (A x 2).

    Over the genes that the profile and some training profile of the file measure.
    """
    mean_G, there_G = training_mean(table, fold.train)
    true_AG, counted_AG = table.value_RG[fold.asked], table.measured_RG[fold.asked] & there_G
    level = pearson(np.maximum(mean_G + deviation_AG, 0), true_AG, counted_AG)
    return np.stack([level, pearson(deviation_AG, true_AG - mean_G, counted_AG)], axis=1)
