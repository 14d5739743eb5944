"""The rows of biomarkers(): from what each unit says of each gene to one table.

Owns the columns, the ranks and what counts as found. Must not know how effects or scores are made.

Shape suffixes: U units, G genes of the model.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from scgp.errors import ArgumentError, MissingColumnError
from scgp.what_if.replication import adjusted, combined_z, random_effects_p, ranks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: What a cell that finds nothing would have, in CP10k: keeps fold changes of rare genes small.
PSEUDO = 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """What the units say of one phenotype; U x G, NaN where a unit says nothing of a gene.

    Attributes
    ----------
    phenotype, term, asked
        Its name, its ontology id ("" for none), and the label whose posterior was taken.
    units
        Names of the units with enough of its cells.
    n_U
        Cells of the phenotype.
    effect_UG, expressing_UG, error_UG
        Log odds lost without the gene, in nats: mean over its cells, mean over those that express
        the gene, and standard error of the first.
    score_UG, adjusted_UG
        Wilcoxon's z score, and p adjusted within the unit.
    detected_UG, outside_UG, fold_UG
        Share of its cells and of all others with a count; log2 fold change of mean CP10k.
    """

    phenotype: str
    term: str
    asked: str
    units: tuple[str, ...]
    n_U: np.ndarray
    effect_UG: np.ndarray
    expressing_UG: np.ndarray
    error_UG: np.ndarray
    score_UG: np.ndarray
    adjusted_UG: np.ndarray
    detected_UG: np.ndarray
    outside_UG: np.ndarray
    fold_UG: np.ndarray


def whole(evidence: Evidence, *, n_genes: int, names: pd.DataFrame) -> pd.DataFrame:
    """Return one row a gene, over all units; the columns of `scgp.biomarkers` that need no cells.

    ``names`` has the columns ``gene`` and ``ensembl_id`` of the model's genes.
    """
    effect_UG, score_UG = evidence.effect_UG, evidence.score_UG
    top_UG, top_score_UG = (_top(x_UG, n_genes) for x_UG in (effect_UG, score_UG))
    effect_G = _over_units(np.nanmean, effect_UG)
    p_G = random_effects_p(effect_UG, evidence.error_UG)
    z_G = combined_z(score_UG, np.sqrt(evidence.n_U))
    told_G = np.isfinite(effect_UG).any(axis=0)
    table = names.assign(
        effect=effect_G,
        effect_expressing=_over_units(np.nanmean, evidence.expressing_UG),
        removal_rank=ranks(effect_G),
        n_units=np.isfinite(effect_UG).sum(axis=0),
        n_units_positive=(effect_UG > 0).sum(axis=0),
        n_units_top=top_UG.sum(axis=0),
        smallest_effect=_over_units(np.nanmin, effect_UG),
        p=p_G,
        q=adjusted(np.where(told_G, p_G, np.nan)),
        detected=_over_units(np.nanmean, evidence.detected_UG),
        detected_outside=_over_units(np.nanmean, evidence.outside_UG),
        log2_fold_change=_over_units(np.nanmean, evidence.fold_UG),
        wilcoxon_score=z_G,
        wilcoxon_rank=ranks(z_G),
        wilcoxon_q=adjusted(2 * stats.norm.sf(np.abs(z_G))),
        wilcoxon_n_units=np.isfinite(score_UG).sum(axis=0),
        wilcoxon_n_units_top=top_score_UG.sum(axis=0),
        wilcoxon_smallest_score=_over_units(np.nanmin, score_UG),
    )
    table["found_by"] = _found_by(table, n_genes)
    table.insert(0, "group", evidence.phenotype)
    table.insert(1, "ontology_id", evidence.term)
    table.insert(2, "asked", evidence.asked)
    table = table[told_G].astype({"removal_rank": np.int64})
    return table.sort_values("removal_rank", kind="stable")


def _found_by(table: pd.DataFrame, n_genes: int) -> np.ndarray:
    """Say which of the two rankings has a gene among its first, with a positive sign."""
    removal = (table["removal_rank"] <= n_genes) & (table["effect"] > 0)
    wilcoxon = (table["wilcoxon_rank"] <= n_genes) & (table["wilcoxon_score"] > 0)
    return np.select(
        [removal & wilcoxon, removal, wilcoxon], ["both", "removal", "wilcoxon"], "neither"
    )


def each(evidence: Evidence, *, names: pd.DataFrame) -> pd.DataFrame:
    """Return one row a unit and gene."""
    tables = []
    for u, unit in enumerate(evidence.units):
        effect_G, score_G = evidence.effect_UG[u], evidence.score_UG[u]
        table = names.assign(
            n_cells=int(evidence.n_U[u]),
            effect=effect_G,
            effect_expressing=evidence.expressing_UG[u],
            removal_rank=ranks(effect_G),
            detected=evidence.detected_UG[u],
            detected_outside=evidence.outside_UG[u],
            log2_fold_change=evidence.fold_UG[u],
            wilcoxon_score=score_G,
            wilcoxon_rank=ranks(score_G),
            wilcoxon_q=evidence.adjusted_UG[u],
        )
        table.insert(0, "group", evidence.phenotype)
        table.insert(1, "unit", unit)
        tables.append(table[np.isfinite(effect_G)].astype({"removal_rank": np.int64}))
    return pd.concat(tables)


def beside(table: pd.DataFrame, more: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Return the table with the columns of another that has the same keys; rows stay as they are.

    Of a column that both have, that of the other gets ``_beside`` behind its name.

    Examples
    --------
    >>> table = pd.DataFrame({"gene": ["A", "B"], "effect": [1.0, 2.0]})
    >>> beside(table, pd.DataFrame({"gene": ["B"], "shift": [0.5]}), ["gene"])["shift"].tolist()
    [nan, 0.5]
    >>> beside(table, pd.DataFrame({"gene": ["B"], "effect": [3.0]}), ["gene"]).columns.tolist()
    ['gene', 'effect', 'effect_beside']
    """
    names = ("", "_beside")
    return table.merge(more, how="left", on=list(keys), validate="many_to_one", suffixes=names)


def check_beside(beside: pd.DataFrame | None, keys: Sequence[str]) -> None:
    """Refuse a table that cannot be joined, before any work is done."""
    if beside is None:
        return
    if not isinstance(beside, pd.DataFrame):
        msg = f"beside has the type {type(beside).__name__}; expected a pandas.DataFrame"
        raise ArgumentError(msg)
    if missing := [key for key in keys if key not in beside]:
        there = ", ".join(map(repr, beside.columns)) or "none"
        msg = f"beside has no column {missing[0]!r}; its columns: {there}"
        raise MissingColumnError(msg)
    twice = beside.duplicated(list(keys))
    if twice.any():
        row = dict(zip(keys, beside.loc[twice, list(keys)].iloc[0].tolist(), strict=True))
        msg = f"beside has {row} more than once; expected each combination once"
        raise ArgumentError(msg)


def _top(value_UG: np.ndarray, n_genes: int) -> np.ndarray:
    """Whether a gene is among the first of a unit, with a positive value."""
    rank_UG = np.stack([ranks(value_G) for value_G in value_UG])
    return np.asarray((rank_UG <= n_genes) & (value_UG > 0))


def _over_units(how: Callable[..., np.ndarray], value_UG: np.ndarray) -> np.ndarray:
    """Apply a NaN-aware function over the units; NaN where no unit says anything."""
    said_G = ~np.isnan(value_UG).all(axis=0)
    found_G = np.full(value_UG.shape[1], np.nan)
    found_G[said_G] = how(value_UG[:, said_G], axis=0)
    return found_G
