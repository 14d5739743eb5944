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
#: A group of fewer changed cells gets no p: a mean of so few is no answer of the group.
FEWEST_CHANGED = 10
#: Columns of groups, each with the mean of its null and its p.
_MEASURES = (
    ("cosine_distance", "null_distance", "p_distance"),
    ("probability_change", "null_change", "p_change"),
    ("group_type_change", "null_type_change", "p_type_change"),
)


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
    type_change
        Mean change of the probability of the group's own type; NaN for a group without one.
    dilution
        By how much log CP10k of all others rises because counts are gone; 0 where that is unknown.
    """

    group: int
    is_null: bool
    gene_K: np.ndarray
    n_read: int
    cosine: float
    change: float
    before_Q: np.ndarray
    after_Q: np.ndarray
    type_change: float = np.nan
    dilution: float = 0.0

    @property
    def shift_Q(self) -> np.ndarray:
        """After minus before; rounding is 0."""
        shift_Q = self.after_Q - self.before_Q
        return np.where(np.abs(shift_Q) < ROUNDING, 0.0, shift_Q)


def extremes(change: Change, labels: Sequence[str]) -> dict[str, Any]:
    """Return the labels that gain and lose most in each cell, None where nothing changed."""
    moved_BT = change.after_BT - change.before_BT
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


def type_changes(mean_2PT: np.ndarray, type_PT: np.ndarray) -> np.ndarray:
    """Return the mean change of the posterior of each group's own type over all its cells.

    NaN for a group without a label of its type (a row of `type_PT` without any).
    """
    moved_P = ((mean_2PT[1] - mean_2PT[0]) * type_PT).sum(axis=1)
    return np.where(type_PT.any(axis=1), moved_P, np.nan)


def group_table(
    cells: pd.DataFrame, groups: Sequence[str], drawn: Sequence[Drawn], moved_P: np.ndarray
) -> pd.DataFrame:
    """Return ``Perturbation.groups``; `moved_P` is what `type_changes` found."""
    rows = []
    for p, group in enumerate(groups):
        own = cells[(cells["group"] == group) & cells["label"].notna()]
        changed = own[own["changed"]]
        n = len(changed)
        found = (
            float(changed["cosine_distance"].mean()),
            float((changed["probability_after"] - changed["probability"]).mean()),
            float(moved_P[p] * len(own) / n) if n else np.nan,  # cells that are as they were: 0
        )
        null = [(x.cosine, x.change, x.type_change) for x in drawn if x.group == p]
        row: dict[str, object] = {"group": group, "n_cells": len(own), "n_changed": n}
        for i, (name, mean_name, p_name) in enumerate(_MEASURES):
            null_N = np.array([x[i] for x in null], dtype=float)
            null_N = null_N[np.isfinite(null_N)]
            row[name], row[mean_name] = found[i], null_N.mean() if len(null_N) else np.nan
            row[p_name] = _p(found[i], null_N) if n >= FEWEST_CHANGED else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


def _p(found: float, null_N: np.ndarray) -> float:
    """Return the share of the null that is as large, the finding itself counted to it."""
    if not len(null_N) or np.isnan(found):
        return float("nan")
    return float((1 + (np.abs(null_N) >= abs(found)).sum()) / (1 + len(null_N)))


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

    A gene has no shift in a draw that removes it, which then does not count for it. The shifts of
    the null are moved by what the dilution of its genes lacks to that of the perturbed ones. By
    falling absolute z, and those without by falling absolute shift behind them.
    """
    unread = np.nan if share_changed else 0.0  # where no cell changed, nothing has shifted
    shift_Q = own.shift_Q if own.n_read else np.full(len(gene_Q), unread)
    null_NQ = np.full((len(null), len(gene_Q)), np.nan)
    for n, one in enumerate(null):
        if one.n_read:
            alike_Q = one.shift_Q + (own.dilution - one.dilution)
            null_NQ[n] = np.where(np.isin(gene_Q, one.gene_K), np.nan, alike_Q)
    told = _null_numbers(shift_Q, null_NQ if own.n_read else null_NQ[:0], own.dilution)
    table = pd.DataFrame(
        {
            "gene": gene_Q,
            "n_read": own.n_read,
            "before": own.before_Q,
            "after": own.after_Q,
            "shift": shift_Q,
            "dilution": own.dilution,
            "shift_all": shift_Q * share_changed,
            **told,
        }
    )
    order = np.lexsort((-np.abs(np.nan_to_num(shift_Q)), -np.abs(np.nan_to_num(told["z"]))))
    return table.iloc[order]


def _null_numbers(
    shift_Q: np.ndarray, null_NQ: np.ndarray, dilution: float
) -> dict[str, np.ndarray]:
    """Summarise the null of each gene; p is two-sided about the dilution."""
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
        larger = (np.abs(null_NS - dilution) >= np.abs(shift_Q[some] - dilution)).sum(axis=0)
        p = (1 + larger) / (1 + n_Q[some])
        for name, value in zip(names, (mean, sd, low, high, z, p), strict=True):
            told[name][some] = value
    return told | {"n_null": n_Q}
