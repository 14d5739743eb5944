"""The sets of genes that are perturbed, the user's and those of the null, and their cells.

Owns which cells are read for which set, and the loops over them. Must not know what a user named.

Shape suffixes: B cells, P groups, G genes of the model, K genes perturbed, Q genes read, N draws of
the null, T labels.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgp.errors import CountsError, GeneError, warn_user
from scgp.what_if.coexpression import coexpression
from scgp.what_if.matched_genes import Levels, expressing, matched, unmatched
from scgp.what_if.perturbation_tables import (
    FEWEST_CHANGED,
    Drawn,
    cell_rows,
    expression_rows,
    type_changes,
)
from scgp.what_if.perturbed_cells import change_of, dilution, mean_rates

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scgp.cells.vocabulary import GeneVocabulary
    from scgp.reference.index import ReferenceIndex
    from scgp.what_if.removals import Cells


@dataclasses.dataclass(frozen=True, eq=False)
class Work:
    """What every step needs.

    ``group_B`` is the number of groups for a cell without one; ``type_PT`` says which labels of the
    index are a group's own type.
    """

    cells: Cells
    index: ReferenceIndex
    groups: list[str]
    group_B: np.ndarray
    found: Levels
    gene_K: np.ndarray
    factor_K: np.ndarray
    gene_Q: np.ndarray
    type_PT: np.ndarray
    batch_size: int

    def factors(self, gene_K: np.ndarray) -> np.ndarray:
        """Return the factor of every gene, where these take the places of the perturbed ones."""
        factor_G = np.ones(self.cells.model.config.n_genes)
        factor_G[gene_K] = self.factor_K
        return factor_G

    @property
    def deletes(self) -> bool:
        """Whether genes are deleted, and none has more or less of its counts."""
        return bool(np.isin(self.factor_K, (0, 1)).all())


def sets_of(
    work: Work, n_null: int, max_cells: int, rng: np.random.Generator
) -> list[tuple[int, bool, np.ndarray, np.ndarray]]:
    """Return group, whether it is of the null, genes and cells of each set to perturb."""
    unequal_K = work.factor_K != 1
    left_out_G = ~work.cells.measured_G
    left_out_G[work.gene_K] = True
    pairs, few = [], []
    for p in range(len(work.groups)):
        pairs.append((p, False, work.gene_K))
        if n_null and unequal_K.any() and np.any(work.found.detected_PG[p, work.gene_K] > 0):
            drawn_NK = matched(work.found, p, work.gene_K, n_null, left_out_G)
            pairs += [(p, True, drawn_K) for drawn_K in drawn_NK]
            few += [f"{work.groups[p]!r} {len(drawn_NK)}"] if len(drawn_NK) < n_null else []
    if few:
        warn_user(f"fewer genes for the null than n_null={n_null}: {', '.join(few)}")
    filled_B = work.found.total_B > 0
    rows = expressing(
        work.cells.counts, work.cells.token_V, work.cells.model.config.n_genes,
        [genes[unequal_K] for _, _, genes in pairs],
        lambda i: filled_B & (work.group_B == pairs[i][0]), batch_size=work.batch_size,
    )  # fmt: skip
    return [
        (p, is_null, genes, np.sort(rng.permutation(own)[:max_cells]))
        for (p, is_null, genes), own in zip(pairs, rows, strict=True)
    ]


def all_cells(
    work: Work, advance: Callable[[int], object]
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Return the table of cells, the shifts of their vectors, and posteriors (2 x P x T)."""
    counts, n_groups = work.cells.counts, len(work.groups)
    factor_G = work.factors(work.gene_K)
    sum_2PT = np.zeros((2, n_groups + 1, len(work.index.labels)))
    tables, shifts = [], []
    for start in range(0, counts.n_cells, work.batch_size):
        block_BV = counts.rows(start, start + work.batch_size)
        change = change_of(work.cells, work.index, block_BV, factor_G)
        tables.append(cell_rows(change, work.index.labels))
        shifts.append(change.shift_BE)
        group_B = work.group_B[start : start + work.batch_size]
        for p in np.unique(group_B):
            own = group_B == p
            sum_2PT[0, p] += change.before_BT[own].sum(axis=0)
            sum_2PT[1, p] += change.after_BT[own].sum(axis=0)
        advance(block_BV.shape[0])
    mean_2PT = sum_2PT / np.maximum(work.found.n_P, 1)[:, None]
    return pd.concat(tables, ignore_index=True), np.concatenate(shifts), mean_2PT[:, :n_groups]


def one_set(
    work: Work,
    group: int,
    is_null: bool,  # noqa: FBT001 (one of the four parts of a set)
    gene_K: np.ndarray,
    rows: np.ndarray,
    *,
    advance: Callable[[int], object],
) -> Drawn:
    """Perturb one set of genes in the cells drawn for it."""
    nothing_Q = np.full(len(work.gene_Q), np.nan)
    if not len(rows):
        return Drawn(group, is_null, gene_K, 0, np.nan, np.nan, nothing_Q, nothing_Q)
    block_BV, factor_G = work.cells.counts.take(rows), work.factors(gene_K)
    diluted = dilution(work.cells, block_BV, factor_G) if work.deletes else 0.0
    cosine = change = type_change = np.nan
    if is_null:  # of the user's genes all cells are asked
        seen = change_of(work.cells, work.index, block_BV, factor_G)
        cosine = float(np.mean(seen.cosine_B[np.isfinite(seen.cosine_B)]))
        change = float(np.mean(seen.probability_after_B - seen.probability_B))
        mean_21T = np.stack([seen.before_BT, seen.after_BT]).mean(axis=1, keepdims=True)
        type_change = float(type_changes(mean_21T, work.type_PT[[group]])[0])
    if len(work.gene_Q):
        read = mean_rates(work.cells, block_BV, factor_G, work.gene_Q)
    else:
        read = (len(rows), nothing_Q, nothing_Q)
    advance(len(rows))
    return Drawn(
        group, is_null, gene_K, read[0], cosine, change, read[1], read[2], type_change, diluted
    )


def null_levels(work: Work, null: Sequence[Drawn]) -> tuple[pd.DataFrame, list[str]]:
    """Return ``level`` and ``null_level`` of each group, and what is wrong with its null.

    Levels are mean CP10k, of several genes together; that of the null is the median of its draws.
    """
    unequal_K = work.factor_K != 1
    rows, told = [], []
    for p in range(len(work.groups)):
        mean_G = work.found.mean_PG[p]
        level_K = mean_G[work.gene_K]
        level_NK = mean_G[np.array([x.gene_K for x in null if x.group == p], np.int64)]
        median = np.median(level_NK[:, unequal_K].sum(axis=1)) if len(level_NK) else np.nan
        rows.append((level_K[unequal_K].sum(), median))
        wrong = [
            f"{work.cells.model.genes.symbol[gene]} {said}"
            for k, gene in enumerate(work.gene_K)
            if len(level_NK) and level_K[k] > 0 and unequal_K[k]
            and (said := unmatched(level_K[k], level_NK[:, k]))
        ]  # fmt: skip
        told.append(", ".join(wrong))
    return pd.DataFrame(rows, columns=["level", "null_level"]), told


def warn_unmatched(work: Work, wrong: Sequence[str]) -> None:
    """Say in which groups the null has other levels than the perturbed genes."""
    named = [f"{g!r} ({said})" for g, said in zip(work.groups, wrong, strict=True) if said]
    if named:
        effect = (
            "dilution is taken out of z and p of expression, but not out of those of groups"
            if work.deletes
            else "so that no z and p of expression is told there; those of groups hold the level"
        )
        more = f" and {len(named) - 5} more groups" if len(named) > 5 else ""
        warn_user(
            "genes of the null are of other levels than what is perturbed (mean CP10k): "
            f"{', '.join(named[:5])}{more}; {effect}"
        )


def expression_table(
    work: Work, drawn: Sequence[Drawn], table: pd.DataFrame, wrong: Sequence[str]
) -> pd.DataFrame:
    """Return ``Perturbation.expression``.

    Without a null in groups whose null is ``wrong`` (`null_levels`), unless genes are deleted:
    then dilution, which is most of what a level does, can be taken out.
    """
    genes = work.cells.model.genes
    together_PQ = coexpression(
        work.cells.counts, work.cells.token_V, work.cells.model.config.n_genes,
        groups=(work.group_B, len(work.groups)), total_B=work.found.total_B,
        perturbed=(work.gene_K, work.factor_K), gene_Q=work.gene_Q, batch_size=work.batch_size,
    )  # fmt: skip
    tables = []
    for p, group in enumerate(work.groups):
        own = next(one for one in drawn if one.group == p and not one.is_null)
        null = [one for one in drawn if one.group == p and one.is_null]
        null = null if work.deletes or not wrong[p] else []
        n_changed = int((table["changed"].to_numpy() & (work.group_B == p)).sum())
        share = n_changed / max(1, int(work.found.n_P[p]))
        rows = expression_rows(own, null, work.gene_Q, share)
        token = rows["gene"].to_numpy()
        rows["coexpression"] = together_PQ[p, rows.index]  # its place among the genes
        rows = rows.assign(gene=genes.symbol[token])
        rows["p"] = rows["p"] if n_changed >= FEWEST_CHANGED else np.nan
        rows.insert(0, "group", group)
        rows.insert(2, "ensembl_id", genes.ensembl[token])
        tables.append(rows)
    return pd.concat(tables, ignore_index=True)


def null_table(work: Work, null: Sequence[Drawn]) -> pd.DataFrame:
    """Return ``Perturbation.null``."""
    genes, found = work.cells.model.genes, work.found
    columns = ("group", "set", "gene", "ensembl_id", "like", "mean", "detected", "n_read")
    rows: list[tuple[Any, ...]] = []
    for number, one in enumerate(null):
        for gene, like in zip(one.gene_K.tolist(), work.gene_K.tolist(), strict=True):
            rows.append(
                (
                    work.groups[one.group], number, genes.symbol[gene], genes.ensembl[gene],
                    genes.symbol[like], found.mean_PG[one.group, gene],
                    found.detected_PG[one.group, gene], one.n_read, one.cosine, one.change,
                    one.type_change,
                )
            )  # fmt: skip
    measures = ("cosine_distance", "probability_change", "group_type_change")
    return pd.DataFrame(rows, columns=[*columns, *measures])


def perturbed_table(
    found: Levels, genes: GeneVocabulary, gene_K: np.ndarray, factor_K: np.ndarray
) -> pd.DataFrame:
    """Return ``Perturbation.perturbed``; refuse a gene of which no cell has a count."""
    n_all = int(found.n_P.sum())
    if not n_all:
        msg = f"none of {len(found.total_B)} cells has a count in the genes of the model"
        raise CountsError(msg)
    n_K = np.rint(found.n_P @ found.detected_PG[:, gene_K]).astype(np.int64)
    for gene, n in zip(gene_K, n_K, strict=True):
        if not n:
            msg = (
                f"no cell has a count of {genes.symbol[gene]!r}: there is nothing to "
                "perturb, and a factor cannot make a gene appear"
            )
            raise GeneError(msg)
    return pd.DataFrame(
        {
            "gene": genes.symbol[gene_K],
            "ensembl_id": genes.ensembl[gene_K],
            "factor": factor_K,
            "n_cells": n_K,
            "detected": n_K / n_all,
            "mean": found.n_P @ found.mean_PG[:, gene_K] / n_all,
        }
    )
