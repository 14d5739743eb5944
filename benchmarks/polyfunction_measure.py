"""What the benchmark of polyfunctionality measures: data sets, agreement with GO, the real null.

Knows neither the command line nor the tables.
"""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scipy import stats

import scgp
from scgp.cells.counts import choose_counts
from scgp.cells.genes import match_genes
from scgp.context import count_blocks
from scgp.in_context.gene_rows import (
    Cohort,
    Setting,
    facts_of,
    pairs_by_gene,
    principal_components,
    row_of,
)
from scgp.in_context.gene_sets import read_gene_sets
from scgp.in_context.panel import choose_panel, read_panel
from scgp.in_context.reading import CellsToRead, always, expressed_of
from scgp.model.network import CellTransformer

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from scgp.model.checkpoint import Model

#: Cells of a context and donor that are used, so that one data set takes minutes.
MOST = 20
#: Processes with fewer or more genes say little of one gene.
PROCESS_SIZES = (10, 500)
#: Effects whose agreement with GO is compared.
SCORES = ("excess", "effect", "effect_adjusted", "effect_coexpression", "effect_untrained")
#: What VWF is known for, and two processes that it has no part in (GO's names).
PROCESSES = (
    "blood coagulation", "platelet activation", "cell-substrate adhesion", "angiogenesis",
    "T cell activation", "DNA replication",
)  # fmt: skip
#: File, contexts, donors: donors have several contexts each.
GENOME_WIDE = {
    "fetal organs": ("geact_fetal_7organs", "cell_type", "donor"),
    "liver": ("he2020_liver", "cell_type", "donor"),
    "breast": ("wu2021_breast_cid4465", "cell_type", "donor"),
    "PBMC, 8 donors": ("pbmc_7studies_mangiola", "cell_type", "donor"),
}


def read(data: Path, name: str) -> ad.AnnData:
    """Read one file of ``train/``."""
    return ad.read_h5ad(data / "train" / f"{name}.h5ad")


def thinned(adata: ad.AnnData, group: str, donor: str, seed: int) -> ad.AnnData:
    """Keep at most `MOST` cells of a context and donor."""
    order = np.random.default_rng(seed).permutation(adata.n_obs)
    rank = adata.obs.iloc[order].groupby([group, donor], observed=True).cumcount().to_numpy()
    return adata[np.sort(order[rank < MOST])].copy()


def endothelium(data: Path, model: Model) -> dict[str, ad.AnnData]:
    """Return the endothelial cells of liver, breast, fetal organs and skin."""
    from benchmarks.polyfunction_skin import skin_endothelium

    found = {}
    for label, name in (
        ("liver", "he2020_liver"),
        ("breast", "wu2021_breast_cid4465"),
        ("fetal organs", "geact_fetal_7organs"),
    ):
        adata = read(data, name)
        cells = adata[adata.obs["cell_type"].str.contains("endothelial").to_numpy()].copy()
        cells.obs["context"] = (
            cells.obs["cell_type" if label != "fetal organs" else "tissue"].astype(str).to_numpy()
        )
        found[label] = cells
    found["skin"] = skin_endothelium(data, model)
    return found


def n_processes(path: Path) -> dict[str, int]:
    """Return in how many GO processes each gene has experimental support."""
    found: dict[str, int] = {}
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            genes = line.rstrip("\n").split("\t")[2:]
            if PROCESS_SIZES[0] <= len(genes) <= PROCESS_SIZES[1]:
                for gene in genes:
                    found[gene] = found.get(gene, 0) + 1
    return found


def agreement(
    table: pd.DataFrame, processes: dict[str, int], seed: int, n_resamples: int = 500
) -> dict[str, dict[str, float]]:
    """Rank correlation of each score with the number of processes, level and cells taken out.

    Genes without any supported process are left out (nobody may have looked). Ranks of the level
    and of the number of cells, and their squares, are regressed out of the ranks of both sides;
    95 % interval by a bootstrap over genes, of the score and of its lead over each control.
    """
    table = table[table["gene"].isin(processes)]
    known = stats.rankdata(table["gene"].map(processes).to_numpy(float))
    level = np.column_stack(
        [stats.rankdata(table[c]) / len(table) for c in ("value", "n_cells", "n_contexts")]
    )
    design = np.column_stack([np.ones(len(table)), level, level**2])

    def left(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(x - design @ np.linalg.lstsq(design, x, rcond=None)[0])

    target = left(known)
    parts = {s: left(stats.rankdata(table[s].to_numpy(float))) for s in SCORES}
    rng = np.random.default_rng(seed)
    draws = [rng.integers(len(table), size=len(table)) for _ in range(n_resamples)]
    sampled = {
        s: np.array([np.corrcoef(x[d], target[d])[0, 1] for d in draws]) for s, x in parts.items()
    }
    found: dict[str, dict[str, float]] = {}
    for score, x in parts.items():
        low, high = np.quantile(sampled[score], [0.025, 0.975])
        lead = sampled["excess"] - sampled[score]
        found[score] = {
            "rho": float(np.corrcoef(x, target)[0, 1]),
            "low": float(low),
            "high": float(high),
            "lead_low": float(np.quantile(lead, 0.025)),
            "lead_high": float(np.quantile(lead, 0.975)),
        }
    found["n"] = {"genes": float(len(table))}
    return found


def null_p(
    model: Model,
    adata: ad.AnnData,
    donor_key: str,
    *,
    n_contexts: int,
    n_replicates: int,
    n_genes: int,
    seed: int,
) -> NDArray[np.float64]:
    """Return p of `n_genes` genes for contexts dealt at random within donors (replicates x genes).

    The cells are of one type; there is no context to be found. Embeddings are read once.
    """
    counts = choose_counts(adata)
    token_V = match_genes(counts, model.genes).token_of_column
    cells = CellsToRead(model, lambda: count_blocks(counts), token_V, counts.n_cells)
    detected_V = np.asarray((counts.rows(0, counts.n_cells) > 0).sum(axis=0)).ravel()
    level_G, detected_G = np.zeros(model.config.n_genes), np.zeros(model.config.n_genes)
    known = np.flatnonzero(token_V >= 0)
    np.add.at(detected_G, token_V[known], detected_V[known])
    level_G[:] = detected_G
    testable = np.flatnonzero(detected_G >= 40 * n_contexts)
    chosen = choose_panel(level_G[testable], testable, model.config.n_genes, seed)
    panel = read_panel(cells, chosen)
    facts, values, _ = facts_of(cells, panel.gene_P)
    rng = np.random.default_rng(seed)
    genes = rng.permutation(testable)[:n_genes]
    pairs = list(
        pairs_by_gene(cells.read(expressed_of(genes, model.config.n_genes)), panel.basis_DR)
    )
    donor_N = pd.factorize(adata.obs[donor_key])[0]
    found = np.zeros((n_replicates, len(pairs)))
    for r in range(n_replicates):
        cohort = Cohort(
            rng.integers(n_contexts, size=counts.n_cells), donor_N, donor_N >= 0,
            tuple(f"context {k}" for k in range(n_contexts)), min_cells=10, n_permutations=199,
            seed=seed * 1000 + r,
        )  # fmt: skip
        setting = Setting(cohort, panel, facts, principal_components(values))
        for i, pair in enumerate(pairs):
            found[r, i] = row_of(pair, setting, model.network, effect_alone=False)["p"]
    return found


def gradient(
    found: dict[str, ad.AnnData], model: Model, gene: str
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Compare what context predicts of a gene with what is measured, by endothelial type and place.

    The gene's own counts are hidden from the prediction; read in every cell, expressed or not.
    """
    rows = []
    for label, cells in found.items():
        cells.obs["place"] = (
            cells.obs["cell_type"].astype(str) + ", " + cells.obs["tissue"].astype(str)
        )
        table = scgp.embed_genes(
            cells, gene, groupby="place", expressed=False, model=model, progress=False
        ).obs
        for _, row in table.iterrows():
            if row["n_cells"] >= 10:
                own = cells[cells.obs["place"] == row["group"]]
                total = np.asarray(own.X.sum(axis=1), dtype=float).ravel()
                count = np.asarray(own[:, gene].X.sum(axis=1), dtype=float).ravel()
                measured = float((1e4 * count / total).mean())
                rows.append((label, row["group"], int(row["n_cells"]), measured, row["predicted"]))
    columns = ["data", "endothelial cells", "cells", "measured CP10k", "predicted log CP10k"]
    places = pd.DataFrame(rows, columns=columns)
    rho = stats.spearmanr(places["measured CP10k"], places["predicted log CP10k"])
    return places, {"spearman": float(rho.statistic), "n": float(len(places))}


def known_facts(data: Path, model: Model, gene: str, seed: int) -> list[dict[str, object]]:
    """Do genes of the processes that a gene is known for move with it, within contexts.

    For every other gene read (the 2,000 most detected), the correlation of its predicted log CP10k
    with that of `gene` over the endothelial cells, contexts' means taken away; beside it the same
    of an untrained network, and of the measured values (co-expression). AUROC of the genes of a
    process against the other genes, with the p of Mann and Whitney's test, two-sided.
    """
    path = data / "resources" / "genesets" / "go_bp_human_exp_2022-07.gmt.gz"
    sets = read_gene_sets(path, model.genes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        untrained = CellTransformer(model.config).eval()
    found: list[dict[str, object]] = []
    for label, adata in endothelium(data, model).items():
        counts = choose_counts(adata)
        token_V = match_genes(counts, model.genes).token_of_column
        cells = CellsToRead(model, lambda c=counts: count_blocks(c), token_V, counts.n_cells)
        tokens = model.tokenizer.tokenize(counts.rows(0, counts.n_cells), token_V)
        value_NG = tokens.values(model.config.n_genes)
        detected = np.asarray((value_NG > 0).sum(axis=0)).ravel()
        own = int(model.genes.match([gene]).token_of_column[0])
        detected[own] = counts.n_cells + 1
        genes = np.sort(np.argsort(-detected, kind="stable")[:2000])
        context_N = pd.factorize(adata.obs["context"])[0]
        scores = {
            "scgp": _rates(cells, genes, None),
            "untrained network": _rates(cells, genes, untrained),
            "co-expression": value_NG[:, genes].toarray().astype(np.float64),
        }
        for name, value_NT in scores.items():
            with_gene = _correlation(value_NT, context_N, int(np.searchsorted(genes, own)))
            for process in PROCESSES:
                members = np.isin(genes, sets[process]) & (genes != own)
                others = ~members & (genes != own)
                test = stats.mannwhitneyu(with_gene[members], with_gene[others])
                area = test.statistic / (members.sum() * others.sum())
                found.append(
                    {
                        "data": label, "score": name, "process": process, "auroc": float(area),
                        "p": float(test.pvalue), "genes": int(members.sum()),
                    }
                )  # fmt: skip
    return found


def _rates(
    cells: CellsToRead, genes: NDArray[np.int64], network: CellTransformer | None
) -> NDArray[np.float64]:
    """Return predicted log CP10k of genes in all cells (N x T)."""
    place = np.zeros(cells.model.config.n_genes + 1, np.int64)
    place[genes] = np.arange(len(genes))
    rate_NT = np.zeros((cells.n_cells, len(genes)))
    for read_part in cells.read(always(genes), network):
        rate_NT[read_part.cell_M, place[read_part.gene_M]] = read_part.log_rate_M
    return rate_NT


def _correlation(
    value_NT: NDArray[np.float64], context_N: NDArray[np.int64], own: int
) -> NDArray[np.float64]:
    """Correlate every column with one, contexts' means taken away; 0 where nothing varies."""
    apart = value_NT.copy()
    for k in np.unique(context_N):
        apart[context_N == k] -= apart[context_N == k].mean(axis=0)
    length = np.linalg.norm(apart, axis=0)
    return np.asarray(apart.T @ apart[:, own] / np.maximum(length * length[own], 1e-12))
