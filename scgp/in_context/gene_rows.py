"""One row of the table of polyfunctionality: a gene's effects, its p and its controls.

Must not know which genes a user asked for (`polyfunction`).

Shape suffixes: N cells, M cells of one gene, D width, R directions, K contexts, S donors, C
covariates, G genes of the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from scgp.in_context.between import (
    Design,
    adjusted,
    apart,
    between,
    centred,
    comparable,
    effect,
    effects,
    permuted_between,
    replication,
)
from scgp.in_context.panel import Panel, read_panel
from scgp.in_context.reading import CellsToRead, Read, expressed_of
from scgp.what_if.replication import adjusted as false_discovery

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scgp.cells.vocabulary import GeneVocabulary
    from scgp.model.network import CellTransformer

COLUMNS = [
    "gene", "ensembl_id", "n_cells", "n_contexts", "n_donors", "value", "effect", "p", "q",
    "effect_matched", "excess", "rank_matched", "replication", "effect_adjusted",
    "effect_embedding", "effect_static", "effect_value", "effect_coexpression", "effect_untrained",
    "context",
]  # fmt: skip
#: Pairs of cell and gene that are held at once.
MOST_PAIRS = 1_500_000
#: Principal components of the panel's values that a gene's co-expression is measured with.
N_COMPONENTS = 16


@dataclass(frozen=True, eq=False)
class Cohort:
    """Contexts and donors of the cells, and how they are compared.

    ``counted_N``: the donors that are counted, where they are not those within which contexts are
    compared (where both are confounded, all cells are as of one donor).
    """

    group_N: np.ndarray
    donor_N: np.ndarray
    used_N: np.ndarray
    names: tuple[str, ...]
    min_cells: int
    n_permutations: int
    seed: int
    counted_N: np.ndarray | None = None

    def cells_of(self, cell_M: np.ndarray) -> tuple[np.ndarray, Design, np.ndarray, np.ndarray]:
        """Return which cells of a gene count, sorted by donor, with their design.

        Those that are `comparable`: every context has ``min_cells`` of them, every donor two
        contexts.

        Returns
        -------
        Places in `cell_M`; the design; the contexts that its codes stand for; the donors.
        """
        place = np.flatnonzero(self.used_N[cell_M])
        place = place[np.lexsort([cell_M[place], self.donor_N[cell_M[place]]])]
        group, donor = self.group_N[cell_M[place]], self.donor_N[cell_M[place]]
        place = place[comparable(group, donor, self.min_cells)]
        donor = self.donor_N[cell_M[place]]
        kept, code = np.unique(self.group_N[cell_M[place]], return_inverse=True)
        start = np.concatenate([[0], np.flatnonzero(np.diff(donor)) + 1, [len(donor)]])
        return place, Design(code, start, len(kept)), kept, donor


@dataclass(frozen=True, eq=False)
class Pairs:
    """One gene in the cells that express it: their rows, its values, its embeddings."""

    gene: int
    cell_M: np.ndarray
    own_M: np.ndarray
    context_MR: np.ndarray


@dataclass(frozen=True, eq=False)
class Setting:
    """What the genes of a data set are measured against."""

    cohort: Cohort
    panel: Panel
    facts_NC: np.ndarray
    component_NC: np.ndarray


def measure(
    cells: CellsToRead,
    genes: np.ndarray,
    chosen: tuple[np.ndarray, np.ndarray, np.ndarray],
    cohort: Cohort,
    network: CellTransformer,
    *,
    effect_alone: bool,
) -> dict[int, dict[str, Any]]:
    """Return the row of each gene; of the effect alone for a control network."""
    panel = read_panel(cells, chosen, network)
    facts_NC, value_NP, n_expressing_G = facts_of(cells, panel.gene_P)
    setting = Setting(cohort, panel, facts_NC, principal_components(value_NP))
    rows: dict[int, dict[str, Any]] = {}
    for i, batch in enumerate(_batches(genes, n_expressing_G)):
        choose = expressed_of(batch, cells.model.config.n_genes)
        for pairs in pairs_by_gene(cells.read(choose, network, tell=i == 0), panel.basis_DR):
            rows[pairs.gene] = row_of(pairs, setting, network, effect_alone=effect_alone)
    return rows


def _batches(genes: np.ndarray, n_expressing_G: np.ndarray) -> list[np.ndarray]:
    """Split genes so that each part has at most `MOST_PAIRS` pairs of cell and gene."""
    part = np.cumsum(n_expressing_G[genes]) // MOST_PAIRS
    return [genes[part == i] for i in np.unique(part)]


def facts_of(cells: CellsToRead, gene_P: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return log counts and log genes of each cell, the panel's values, and cells of each gene."""
    model = cells.model
    facts, values = [], []
    n_G = np.zeros(model.config.n_genes + 1, np.int64)
    for block in cells.blocks():
        tokens = model.tokenizer.tokenize(block, cells.token_V)
        n_genes_B = np.diff(tokens.offset_B)
        facts.append(np.log1p(np.stack([tokens.total_B, n_genes_B], axis=1)))
        values.append(tokens.values(model.config.n_genes)[:, gene_P].toarray())
        n_G += np.bincount(tokens.pool_gene_N, minlength=len(n_G))
    return np.concatenate(facts), np.concatenate(values), n_G


def principal_components(value_NP: np.ndarray) -> np.ndarray:
    """Return the first principal components of standardised values."""
    apart = value_NP - value_NP.mean(axis=0)
    apart /= np.maximum(apart.std(axis=0), 1e-6)
    vectors = np.linalg.eigh(apart.T @ apart)[1][:, ::-1]
    scores: np.ndarray = apart @ vectors[:, :N_COMPONENTS]
    return scores / np.maximum(scores.std(axis=0), 1e-6)


def pairs_by_gene(reads: Iterator[Read], basis_DR: np.ndarray) -> Iterator[Pairs]:
    """Collect pairs and give them gene by gene, cells in order."""
    parts = [(r.gene_M, r.cell_M, r.own_M, r.context_MD @ basis_DR) for r in reads]
    if not parts:
        return
    gene_M, cell_M, own_M, context_MR = (np.concatenate(x) for x in zip(*parts, strict=True))
    del parts
    order = np.lexsort([cell_M, gene_M])
    found, first = np.unique(gene_M[order], return_index=True)
    for gene, a, b in zip(found, first, [*first[1:], len(order)], strict=True):
        mine = order[a:b]
        yield Pairs(int(gene), cell_M[mine], own_M[mine], context_MR[mine])


def row_of(
    pairs: Pairs, setting: Setting, network: CellTransformer, *, effect_alone: bool
) -> dict[str, Any]:
    """Return what is measured of one gene."""
    cohort = setting.cohort
    place, design, kept, donor_M = cohort.cells_of(pairs.cell_M)
    if design.n_contexts < 2:
        return {}
    cell_M, own_M, context_MR = pairs.cell_M[place], pairs.own_M[place], pairs.context_MR[place]
    shift_MR, mate_MQR = setting.panel.own_shift(context_MR, cell_M, pairs.gene)
    shift_MR = centred(shift_MR, design)
    found: dict[str, Any] = {"effect": effect(shift_MR, design)}
    if effect_alone:
        return found
    flat = centred(mate_MQR.reshape(len(cell_M), -1), design)
    matched = effects(flat.reshape(mate_MQR.shape), design)
    counted_N = cohort.counted_N
    return (
        found
        | _controls(cell_M, own_M, shift_MR, design, setting, network)
        | {
            "n_cells": len(place),
            "n_contexts": design.n_contexts,
            "n_donors": len(np.unique(donor_M if counted_N is None else counted_N[cell_M])),
            "value": float(own_M.mean(dtype=np.float64)),
            "p": _p(shift_MR, design, cohort, pairs.gene),
            "effect_matched": float(np.median(matched)),
            "rank_matched": float((1 + (matched >= found["effect"]).sum()) / (1 + len(matched))),
            "replication": replication(shift_MR, design, cohort.seed),
            "effect_embedding": effect(centred(context_MR, design), design),
            "context": _farthest(shift_MR, design, [cohort.names[k] for k in kept]),
        }
    )


def _farthest(shift_MR: np.ndarray, design: Design, names: list[str]) -> str:
    """Name the context that is farthest from the mean of all; of two, both are as far."""
    square_K = (apart(shift_MR, design) ** 2).sum(axis=1)
    if design.n_contexts < 3 or np.isnan(square_K).any():
        return ""
    return names[int(square_K.argmax())]


def _controls(  # noqa: PLR0917 (arrays of one gene)
    cell_M: np.ndarray,
    own_M: np.ndarray,
    shift_MR: np.ndarray,
    design: Design,
    setting: Setting,
    network: CellTransformer,
) -> dict[str, float]:
    """Return the effects that need no embedding of the gene in its context, and the adjusted one.

    The static embedding is the same in every cell, as any constant, and has an effect of 0 by
    construction: it guards the arithmetic alone. The token of the value says what the level
    does; co-expression is the product of the gene's value and the panel's components.
    """
    assert network.context is not None
    value_M1 = own_M.astype(np.float64)[:, None]
    covariate_MC = np.column_stack([value_M1, value_M1**2, setting.facts_NC[cell_M]])
    with torch.inference_mode():
        device = network.gene.weight.device
        token_MD = network.context.value(torch.from_numpy(own_M[:, None]).to(device)).cpu().numpy()
    apart_MC = centred(setting.component_NC[cell_M], design) * centred(value_M1, design)
    return {
        "effect_adjusted": effect(adjusted(shift_MR, covariate_MC, design), design),
        "effect_static": effect(centred(np.ones_like(shift_MR), design), design),
        "effect_value": effect(centred(token_MD, design), design),
        "effect_coexpression": effect(centred(apart_MC, design), design),
    }


def _p(vector_MR: np.ndarray, design: Design, cohort: Cohort, gene: int) -> float:
    if not cohort.n_permutations:
        return float("nan")
    found = between(vector_MR, design.code_M, design.n_contexts)
    null_P = permuted_between(vector_MR, design, cohort.n_permutations, [cohort.seed, gene])
    return float((1 + (null_P >= found * (1 - 1e-6)).sum()) / (1 + len(null_P)))


def table_of(parts: list[dict[int, dict[str, Any]]], genes: GeneVocabulary) -> pd.DataFrame:
    """Join the rows of the networks, with q and excess; genes that cannot be tested stay out."""
    control = parts[1] if len(parts) > 1 else {}
    rows = [
        {"gene": genes.symbol[g], "ensembl_id": genes.ensembl[g]}
        | row
        | {"effect_untrained": control.get(g, {}).get("effect", np.nan)}
        for g, row in parts[0].items()
        if row
    ]
    table = pd.DataFrame(rows, columns=[c for c in COLUMNS if c not in {"q", "excess"}])
    table["q"] = false_discovery(table["p"].to_numpy())
    table["excess"] = table["effect"] - table["effect_matched"]
    order = np.lexsort([table["ensembl_id"].to_numpy(str), -table["excess"].to_numpy(float)])
    return table.iloc[order].reset_index(drop=True)
