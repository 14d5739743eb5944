"""The tables of a Perturbation, from arrays: cells, groups, posteriors, genes and their null.

Must not know how the numbers were found.

Shape suffixes: B cells, P groups, N draws of the null, Q genes read, T labels.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scgp.what_if.perturbed_cells import Change

#: Shifts of log CP10k nearer to zero are rounding: the network computes in float32.
ROUNDING = 1e-5


@dataclasses.dataclass(frozen=True, eq=False)
class Drawn:
    """What was found for one set of genes in the cells of a group that were drawn.

    Attributes
    ----------
    group, is_null, gene_K
        Code of the group, whether the set is of the null, and its genes.
    n_read
        Cells in which genes were read.
    cosine, change
        Mean cosine distance, and mean change of the explained probability.
    before_Q, after_Q
        Mean predicted log CP10k.
    """

    group: int
    is_null: bool
    gene_K: np.ndarray
    n_read: int
    cosine: float
    change: float
    before_Q: np.ndarray
    after_Q: np.ndarray

    @property
    def shift_Q(self) -> np.ndarray:
        """After minus before; rounding is 0."""
        shift_Q = self.after_Q - self.before_Q
        return np.where(np.abs(shift_Q) < ROUNDING, 0.0, shift_Q)


def extremes(change: Change, labels: Sequence[str]) -> dict[str, Any]:
    """Return the labels that gain and lose most in each cell, None where nothing changed."""
    moved_BT = change.after_BT - change.before_BT
    moved_BT[~change.changed_B] = 0
    name_T, every = np.array(labels, object), np.arange(len(moved_BT))
    told: dict[str, Any] = {}
    for name, by, at in (
        ("gained", "gain", moved_BT.argmax(axis=1)),
        ("lost", "loss", moved_BT.argmin(axis=1)),
    ):
        told[name] = np.where(moved_BT[every, at] != 0, name_T[at], None)
        told[by] = moved_BT[every, at]
    return told


def cell_rows(change: Change, labels: Sequence[str]) -> pd.DataFrame:
    """Return the rows of ``Perturbation.cells`` of a block, without group and names."""
    return pd.DataFrame(
        {
            "changed": change.changed_B,
            "cosine_distance": change.cosine_B,
            "label": change.label_B,
            "label_after": change.label_after_B,
            "explained": change.explained_B,
            "probability": change.probability_B,
            "probability_after": change.probability_after_B,
            **extremes(change, labels),
        }
    )


def group_table(cells: pd.DataFrame, groups: Sequence[str], drawn: Sequence[Drawn]) -> pd.DataFrame:
    """Return ``Perturbation.groups``."""
    rows = []
    for p, group in enumerate(groups):
        own = cells[(cells["group"] == group) & cells["label"].notna()]
        changed = own[own["changed"]]
        cosine = float(changed["cosine_distance"].mean())
        change = float((changed["probability_after"] - changed["probability"]).mean())
        of = [one for one in drawn if one.group == p]
        null_2N = np.array([[one.cosine, one.change] for one in of]).reshape(-1, 2).T
        null_2N = null_2N[:, np.isfinite(null_2N).all(axis=0)]
        there = null_2N.shape[1] > 0
        rows.append(
            {
                "group": group,
                "n_cells": len(own),
                "n_changed": len(changed),
                "cosine_distance": cosine,
                "null_distance": null_2N[0].mean() if there else np.nan,
                "p_distance": _p(cosine, null_2N[0]),
                "probability_change": change,
                "null_change": null_2N[1].mean() if there else np.nan,
                "p_change": _p(abs(change), np.abs(null_2N[1])),
            }
        )
    return pd.DataFrame(rows)


def _p(found: float, null_N: np.ndarray) -> float:
    """Return the share of the null that is as large, the finding itself counted to it."""
    if not len(null_N) or np.isnan(found):
        return float("nan")
    return float((1 + (null_N >= found).sum()) / (1 + len(null_N)))


def posterior_table(
    before_PT: np.ndarray, after_PT: np.ndarray, groups: Sequence[str], names: pd.DataFrame
) -> pd.DataFrame:
    """Return ``Perturbation.posterior`` from mean probabilities."""
    tables = []
    for p, group in enumerate(groups):
        table = names.assign(before=before_PT[p], after=after_PT[p])
        table = table.assign(change=table["after"] - table["before"])
        table.insert(0, "group", group)
        tables.append(table.sort_values("change", ascending=False, kind="stable"))
    return pd.concat(tables, ignore_index=True)


def expression_rows(
    own: Drawn, null: Sequence[Drawn], gene_Q: np.ndarray, share_changed: float
) -> pd.DataFrame:
    """Return the rows of ``Perturbation.expression`` of one group, by gene of the model.

    A gene has no shift in a draw that removes it, which then does not count for it.
    """
    shift_Q = own.shift_Q if own.n_read else np.zeros(len(gene_Q))
    null_NQ = np.full((len(null), len(gene_Q)), np.nan)
    for n, one in enumerate(null):
        if one.n_read:
            null_NQ[n] = np.where(np.isin(gene_Q, one.gene_K), np.nan, one.shift_Q)
    told = _null_numbers(shift_Q, null_NQ if own.n_read else null_NQ[:0])
    table = pd.DataFrame(
        {
            "gene": gene_Q,
            "n_read": own.n_read,
            "before": own.before_Q,
            "after": own.after_Q,
            "shift": shift_Q,
            "shift_all": shift_Q * share_changed,
            **told,
        }
    )
    order = np.argsort(-np.abs(shift_Q), kind="stable")
    return table.iloc[order]


def _null_numbers(shift_Q: np.ndarray, null_NQ: np.ndarray) -> dict[str, np.ndarray]:
    """Summarise the null of each gene."""
    known_NQ = np.isfinite(null_NQ)
    n_Q = known_NQ.sum(axis=0)
    nothing_Q = np.full(len(shift_Q), np.nan)
    names = ("null_mean", "null_sd", "null_low", "null_high", "z", "p")
    told = {name: nothing_Q.copy() for name in names}
    some = n_Q > 0
    if some.any():
        null_NS = null_NQ[:, some]
        mean, sd = np.nanmean(null_NS, axis=0), np.nanstd(null_NS, axis=0)
        low, high = np.nanpercentile(null_NS, (2.5, 97.5), axis=0)
        z = np.divide(shift_Q[some] - mean, sd, out=nothing_Q[some].copy(), where=sd > 0)
        larger = (np.abs(null_NS) >= np.abs(shift_Q[some])).sum(axis=0)
        p = (1 + larger) / (1 + n_Q[some])
        for name, value in zip(names, (mean, sd, low, high, z, p), strict=True):
            told[name][some] = value
    return told | {"n_null": n_Q}
