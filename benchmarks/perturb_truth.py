"""Real knock-outs: what they do to every other gene, and what simple methods say they do.

Owns the reading of the two screens and the tests. Knows nothing of scgp's verb.

Shape suffixes: B cells, G genes of the screen, R replicates, P profiles.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy import stats

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

#: A gene moves where q is below the first and the absolute log2 fold change at least the second.
Q, LOG2_BOUND = 0.05, 0.25
#: Cells of a target, and of the controls, that a replicate must have; share of control cells that
#: must have a count of a gene for it to be read; pseudocount in CP10k of the panel.
FEWEST, DETECTED, PSEUDO = 10, 0.02, 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class Screen:
    """One screen.

    Attributes
    ----------
    name
        What it is called.
    controls
        Cells that are perturbed in silico: counts, genes by symbol.
    real, moves
        By target: log2 fold change of every gene, and whether it moves (NaN and False where it was
        not tested).
    others
        By target: what simple methods say of every gene.
    """

    name: str
    controls: ad.AnnData
    real: dict[str, NDArray[np.float64]]
    moves: dict[str, NDArray[np.bool_]]
    others: dict[str, dict[str, NDArray[np.float64]]]


def adjusted(p_G: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return q values of Benjamini and Hochberg; NaN stays."""
    q_G = np.full(len(p_G), np.nan)
    known = np.isfinite(p_G)
    q_G[known] = stats.false_discovery_control(p_G[known]) if known.any() else []
    return q_G


def stratified_test(
    value_BG: NDArray[np.float32], is_target_B: NDArray[np.bool_], replicate_B: NDArray[np.str_]
) -> NDArray[np.float64]:
    """Return two-sided p of Wilcoxon's rank sum within each replicate, combined by Stouffer.

    Replicates are weighted by the root of the harmonic number of their cells.
    """
    sum_G, weight = np.zeros(value_BG.shape[1]), 0.0
    for replicate in np.unique(replicate_B):
        own, other = (value_BG[(replicate_B == replicate) & x] for x in (is_target_B, ~is_target_B))
        if min(len(own), len(other)) < FEWEST:
            continue
        found = stats.mannwhitneyu(own, other, axis=0, method="asymptotic")
        size = len(own) * len(other)
        p_G = np.nan_to_num(np.clip(found.pvalue, 1e-300, 1), nan=1.0)
        z_G = np.sign(found.statistic - size / 2) * stats.norm.isf(p_G / 2)
        w = size / (len(own) + len(other))
        sum_G, weight = sum_G + np.sqrt(w) * z_G, weight + w
    return np.asarray(2 * stats.norm.sf(np.abs(sum_G) / np.sqrt(max(weight, 1e-9))))


def fold_changes(
    cp10k_BG: NDArray[np.float32], is_target_B: NDArray[np.bool_], replicate_B: NDArray[np.str_]
) -> NDArray[np.float64]:
    """Return log2 fold changes of pseudobulk, mean over replicates."""
    rows = []
    for replicate in np.unique(replicate_B):
        own, other = (cp10k_BG[(replicate_B == replicate) & x] for x in (is_target_B, ~is_target_B))
        if min(len(own), len(other)) >= FEWEST:
            rows.append(np.log2(own.mean(axis=0) + PSEUDO) - np.log2(other.mean(axis=0) + PSEUDO))
    return np.asarray(np.mean(rows, axis=0), dtype=np.float64)


def correlations(
    value_BG: NDArray[np.float32], target: int, cofactor_BC: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Return correlations with a gene, signed so that without it what goes with it falls."""
    rank_BG = stats.rankdata(value_BG, axis=0)
    solved = np.linalg.lstsq(cofactor_BC, value_BG, rcond=None)[0]
    forms = {
        "co-expression, Pearson": value_BG,
        "co-expression, Spearman": rank_BG,
        "co-expression, Pearson, without depth and replicate": value_BG - cofactor_BC @ solved,
    }
    found = {}
    for name, form_BG in forms.items():
        apart_BG = form_BG - form_BG.mean(axis=0)
        length_G = np.maximum(np.linalg.norm(apart_BG, axis=0), 1e-9)
        found[name] = -(apart_BG.T @ apart_BG[:, target]) / (length_G * length_G[target])
    return found


def mean_of_others(real: dict[str, NDArray[np.float64]], target: str) -> NDArray[np.float64]:
    """Return the mean real shift over the other targets."""
    rows = np.stack([x for name, x in real.items() if name != target])
    known = np.isfinite(rows).sum(axis=0)
    return np.where(known > 0, np.nansum(rows, axis=0) / np.maximum(known, 1), 0.0)


def stable(
    count_BG: NDArray[np.float32], target_B: NDArray[np.str_], replicate_B: NDArray[np.str_]
) -> NDArray[np.bool_]:
    """Return the genes to scale cells by: those that move with no target.

    In a panel of few genes the loss of some strong ones would make all others rise. A gene moves
    whose fold change, from the median of all genes, is beyond `LOG2_BOUND`.
    """
    control_B = target_B == "non-targeting"
    cp10k_BG = 1e4 * count_BG / np.maximum(count_BG.sum(axis=1, keepdims=True), 1)
    counted_G = cp10k_BG[control_B].mean(axis=0) > 10 * PSEUDO
    stable_G = counted_G.copy()
    for target in sorted(set(target_B) - {"non-targeting"}):
        both = control_B | (target_B == target)
        if (target_B == target).sum() < 300:  # too few cells to say that a gene moves
            continue
        log2_G = fold_changes(cp10k_BG[both], (target_B == target)[both], replicate_B[both])
        stable_G &= np.abs(log2_G - np.median(log2_G[counted_G])) < LOG2_BOUND
    return stable_G


def papalexi(data: Path) -> Screen:
    """Read the THP-1 knock-outs of Papalexi et al. 2021 (299 genes, three replicates)."""
    adata = ad.read_h5ad(data / "resources" / "perturb_papalexi_thp1_lowmoi.h5ad")
    count_BG = sp.csr_matrix(adata.X).toarray().astype(np.float32)
    target_B, replicate_B = (adata.obs[c].to_numpy(str) for c in ("target", "bio_rep"))
    control_B = target_B == "non-targeting"
    seen_G = (count_BG[control_B] > 0).mean(axis=0) >= DETECTED
    stable_G = stable(count_BG, target_B, replicate_B)
    total_B1 = np.maximum(count_BG[:, stable_G].sum(axis=1, keepdims=True), 1)
    cp10k_BG = 1e4 * count_BG / total_B1
    value_BG = np.log1p(cp10k_BG)
    cofactor_BC = np.column_stack(
        [np.log(total_B1), *(replicate_B == r for r in np.unique(replicate_B))]
    )[control_B].astype(float)
    real, moves = {}, {}
    for target in sorted(set(target_B) - {"non-targeting"}):
        both = control_B | (target_B == target)
        sets = ((target_B == target)[both], replicate_B[both])
        real[target] = np.where(seen_G, fold_changes(cp10k_BG[both], *sets), np.nan)
        q_G = adjusted(np.where(seen_G, stratified_test(value_BG[both], *sets), np.nan))
        moves[target] = (q_G < Q) & (np.abs(real[target]) >= LOG2_BOUND)
    names = list(adata.var_names)
    others = {}
    for target in [t for t in real if t in names and seen_G[names.index(t)]]:
        others[target] = correlations(value_BG[control_B], names.index(target), cofactor_BC)
        others[target]["mean shift of the other targets"] = mean_of_others(real, target)
        others[target]["expression in controls"] = cp10k_BG[control_B].mean(axis=0)
    return Screen("Papalexi THP-1", adata[control_B].copy(), real, moves, others)


def luhmes(data: Path, *, n_each: int = 10, depth: float = 5000.0, seed: int = 0) -> Screen:
    """Read the LUHMES knock-outs: tables alone, so that cells are drawn from neurons' profiles.

    Poisson draws from the profiles of neurons of other collections; what goes with a gene is its
    correlation over all profiles.
    """
    table = pd.read_csv(data / "resources/perturb/luhmes_cropseq_MAST_de.tsv.gz", sep="\t")
    profiles = ad.read_h5ad(data / "pseudobulk" / "cellprofilelibrary_human.h5ad")
    kinds = profiles.obs["cell_type"].astype(str)
    mean_PG = sp.csr_matrix(profiles.X).toarray().astype(np.float64)
    own = np.flatnonzero(kinds.isin(["Neuron", "Neuronal", "Inhibitory.interneurons"]))
    rng = np.random.default_rng(seed)
    rate_PG = mean_PG[own] / mean_PG[own].sum(axis=1, keepdims=True)
    count_BG = rng.poisson(depth * np.repeat(rate_PG, n_each, axis=0)).astype(np.float32)
    ids = profiles.var["ensembl_id"].astype(str).to_numpy()
    controls = ad.AnnData(sp.csr_matrix(count_BG), var=pd.DataFrame(index=ids))
    place = pd.Series(np.arange(len(ids)), index=ids)
    real, moves = {}, {}
    for target, told in table[table["target"] != "Nontargeting"].groupby("target"):
        rows = told[told["ensembl"].isin(place.index)].drop_duplicates("ensembl")
        at = place[rows["ensembl"]].to_numpy()
        log2_G, moves_G = np.full(len(ids), np.nan), np.zeros(len(ids), bool)
        log2_G[at] = rows["logFC"]
        moves_G[at] = (rows["FDR"] < Q) & (rows["logFC"].abs() >= LOG2_BOUND)
        real[str(target)], moves[str(target)] = log2_G, moves_G
    symbol = dict(zip(profiles.var_names.astype(str), ids, strict=True))
    ensembl = {t: place[symbol[t]] for t in real if t in symbol}
    value_PG = np.log1p(1e4 * mean_PG / mean_PG.sum(axis=1, keepdims=True)).astype(np.float32)
    others = {}
    for target, at in ensembl.items():
        if (count_BG[:, at] > 0).sum() >= FEWEST:
            one = np.ones((len(value_PG), 1))
            others[target] = {
                name: x for name, x in correlations(value_PG, int(at), one).items()
                if "without" not in name
            }  # fmt: skip
            others[target]["mean shift of the other targets"] = mean_of_others(real, target)
            others[target]["expression in controls"] = count_BG.mean(axis=0)
    controls.uns["target"] = {t: str(ids[at]) for t, at in ensembl.items()}
    return Screen("LUHMES neurons", controls, real, moves, others)
