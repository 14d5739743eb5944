"""gene_roles(): the roles of one gene, by its contexts, with names.

Owns the verb and how contexts become roles. Must not know how sets of genes are scored
(`gene_sets`) nor how genes are read (`reading`).

Shape suffixes: C cells read, K contexts, T genes read, R directions, W roles, E width of the joint
space.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgp.cells.counts import choose_counts
from scgp.cells.genes import match_genes
from scgp.cells.named import named_genes
from scgp.device import resolve_device
from scgp.embed import embed_rows, resolve_model
from scgp.errors import ArgumentError
from scgp.groups import group_codes, say_left_out
from scgp.in_context.gene_sets import enriched, read_gene_sets
from scgp.in_context.panel import choose_panel
from scgp.in_context.reading import CellsToRead, always, check_context
from scgp.number import whole_number
from scgp.phenotypes.ontology import Ontology
from scgp.progress import progress_bar
from scgp.slots import check_adata

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import anndata as ad

    from scgp.model.checkpoint import Model

#: Genes that the gene's shifts are compared with, and the nearest of them whose sets are scored.
N_READ, N_NEAREST = 2000, 100
#: Names, genes and terms told of each role; a silhouette below this means one role.
N_TOLD, LEAST_SILHOUETTE = 3, 0.25
#: Most roles that are looked for.
MOST_ROLES = 6
#: A distance that noise explains whole still counts this share of what it was measured to be.
LEAST_APART = 1e-6
_COLUMNS = [
    "gene", "role", "contexts", "n_cells", "shift", "nearest_genes", "gene_sets", "gene_set_q",
    "terms",
]  # fmt: skip


def gene_roles(
    adata: ad.AnnData,
    gene: str,
    *,
    groupby: str,
    n_roles: int | None = None,
    gene_sets: Mapping[str, Sequence[str]] | str | Path | None = None,
    min_cells: int = 10,
    most_cells: int = 60,
    model: Model | str | Path | None = None,
    layer: str | None = None,
    use_raw: bool | None = None,
    seed: int = 0,
    device: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Group the contexts of a gene into roles, and name each by what is nearest to it.

    Parameters
    ----------
    adata
        Cells x genes with raw counts. It is only read.
    gene
        HGNC symbol or Ensembl id.
    groupby
        Column of ``obs`` with the contexts.
    n_roles
        Number of roles; None lets the silhouette choose, one included. It takes four contexts to
        find two roles: two contexts are always one, and three are two only where two of them are
        much nearer to each other (less than .625 of the way) than to the third. One role of few
        contexts is no finding.
    gene_sets
        Names and genes of sets, or the path of a .gmt file (.gz too), such as GO or Reactome; None
        names roles by genes and phenotype terms alone.
    min_cells, most_cells
        Contexts with fewer cells that express the gene are left out; of others at most
        `most_cells` are read, drawn with `seed`.
    model, layer, use_raw, seed, device, progress
        As in :func:`scgp.polyfunctionality`.

    Returns
    -------
    A DataFrame with a row for each role, the largest shift first:

    ``gene``, ``role`` (1, 2, ...), ``contexts`` (joined by "; "), ``n_cells`` read;
    ``shift`` : length of the role's mean interaction, of no unit; NaN where there is one role, for
    interactions sum to about 0 over all contexts;
    ``nearest_genes`` : the genes whose predicted expression moves with the gene's over these cells,
    within contexts (correlation);
    ``gene_sets``, ``gene_set_q`` : the sets that stand out among the 100 nearest, and the q of the
    best (hypergeometric test against the genes read, Benjamini-Hochberg); empty and NaN where none
    has q below .1. A score for ranking sets and not the chance of an error: the test takes genes as
    independent, and genes of a set move together, so that any gene has some set of a tiny q;
    ``terms`` : the Cell Ontology terms whose text is nearest to the role's cells.

    Raises
    ------
    ArgumentError
        Fewer than two contexts have `min_cells` cells that express the gene; a bad number.
    GeneError
        The gene is not among the model's, or not measured; a gene set file cannot be read.
    MissingColumnError, CheckpointError, CountsError, DeviceError
        As in :func:`scgp.embed_genes`.

    Notes
    -----
    The interaction is like that of :func:`scgp.polyfunctionality`, against all genes read that
    are of a like mean level over these cells, and without donors. Contexts are joined by average
    linkage on the distance of their mean interactions. The nearest genes are those that the model
    moves as it moves this gene: a hypothesis about roles, not a measurement of them. Terms describe
    the cells, not the gene.

    Examples
    --------
    >>> import scgp
    >>> adata = scgp.demo.counts()
    >>> roles = scgp.gene_roles(
    ...     adata, "CD74", groupby="bulk_labels", n_roles=2, progress=False
    ... )
    >>> len(roles)
    2
    """
    check_adata(adata)
    seed = whole_number(seed, "seed", least=0)
    n_roles = None if n_roles is None else whole_number(n_roles, "n_roles", least=1)
    if not isinstance(gene, str):
        msg = f"gene is {gene!r}; expected the name of one gene"
        raise ArgumentError(msg)
    if min_cells < 2 or most_cells < min_cells:
        msg = (
            f"min_cells is {min_cells} and most_cells {most_cells}; expected at least 2, and at "
            "least min_cells"
        )
        raise ArgumentError(msg)
    model = resolve_model(model)
    check_context(model)
    on = resolve_device(device)
    sets = None if gene_sets is None else read_gene_sets(gene_sets, model.genes)
    group_N, names = group_codes(adata, groupby)
    say_left_out(group_N, groupby)
    counts = choose_counts(adata, layer=layer, use_raw=use_raw)
    token_V = match_genes(counts, model.genes).token_of_column
    own = int(named_genes(gene, model.genes, token_V)[0])
    expressing = np.flatnonzero(_counts_of(counts, token_V, own) > 0)
    row_C, code_C, kept = _drawn(expressing, group_N, names, min_cells, most_cells, seed)
    if len(kept) < 2:
        msg = (
            f"{gene} is expressed in {min_cells} cells (min_cells) of {len(kept)} contexts of "
            f"obs[{groupby!r}]; roles need two"
        )
        raise ArgumentError(msg)
    if n_roles is not None and n_roles > len(kept):
        msg = f"n_roles is {n_roles}, but {gene} has {len(kept)} contexts to group"
        raise ArgumentError(msg)
    rows = counts.take(row_C)
    with progress_bar(len(row_C), what="read", unit="cell", shown=progress) as advance:
        cells = CellsToRead(model, lambda: [rows], token_V, len(row_C), on, advance)
        interactions = _interactions(cells, own, code_C, len(kept), seed)
    role_K = _roles(interactions.of_gene_KD, interactions.noise_K, n_roles)
    vectors = embed_rows(model, [rows], token_V, device=on).type_BE
    table = [
        _role(model, own, np.flatnonzero(role_K == w), code_C, kept, interactions, vectors, sets)
        for w in np.unique(role_K)
    ]
    if len(table) == 1:
        table[0]["shift"] = float("nan")
    order = np.argsort([-row["shift"] for row in table], kind="stable")
    return pd.DataFrame(
        [{**table[i], "role": n + 1} for n, i in enumerate(order)], columns=_COLUMNS
    )


def _counts_of(counts: Any, token_V: np.ndarray, gene: int) -> np.ndarray:
    """Return the counts of one gene in all cells."""
    columns = np.flatnonzero(token_V == gene)
    parts = [
        np.asarray(counts.rows(a, min(a + 4096, counts.n_cells))[:, columns].sum(axis=1)).ravel()
        for a in range(0, counts.n_cells, 4096)
    ]
    return np.concatenate(parts)


def _drawn(  # noqa: PLR0917 (what is known of the cells)
    expressing: np.ndarray,
    group_N: np.ndarray,
    names: list[str],
    min_cells: int,
    most_cells: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return cells of each context that is large enough, their codes, and the contexts' names."""
    rng = np.random.default_rng([seed, 12])
    rows, kept = [], []
    for k, name in enumerate(names):
        mine = expressing[group_N[expressing] == k]
        if len(mine) >= min_cells:
            rows.append(np.sort(rng.permutation(mine)[:most_cells]))
            kept.append(name)
    sizes = [len(part) for part in rows]
    return (
        np.concatenate(rows) if rows else np.zeros(0, np.int64),
        np.repeat(np.arange(len(rows)), sizes),
        kept,
    )


@dataclass(frozen=True, eq=False)
class _Interactions:
    """What was read: the gene's mean interaction by context and its noise, and predicted rates.

    ``rate_CT`` is the predicted log CP10k of every gene read, in every cell.
    """

    gene_T: np.ndarray
    rate_CT: np.ndarray
    of_gene_KD: np.ndarray
    noise_K: np.ndarray


def _interactions(
    cells: CellsToRead, own: int, code_C: np.ndarray, n_contexts: int, seed: int
) -> _Interactions:
    """Read the gene and the most detected others in all cells, and take the bins' means away."""
    config = cells.model.config
    (rows,) = cells.blocks()
    tokens = cells.model.tokenizer.tokenize(rows, cells.token_V)
    value_CG = tokens.values(config.n_genes)
    detected_G = np.asarray((value_CG > 0).sum(axis=0)).ravel()
    detected_G[own] = len(code_C) + 1
    gene_T = np.sort(np.argsort(-detected_G, kind="stable")[:N_READ])
    gene_T = gene_T[detected_G[gene_T] > 0]
    level_T = np.asarray(value_CG[:, gene_T].mean(axis=0)).ravel()
    bin_T = choose_panel(level_T, gene_T, config.n_genes, seed)[2][gene_T]
    place_G = np.zeros(config.n_genes + 1, np.int64)
    place_G[gene_T] = np.arange(len(gene_T))
    size_K = np.bincount(code_C, minlength=n_contexts)
    sum_TKD = np.zeros((len(gene_T), n_contexts, config.width))
    own_CD = np.zeros((len(code_C), config.width))
    rate_CT = np.zeros((len(code_C), len(gene_T)), np.float32)
    for read in cells.read(always(gene_T)):
        np.add.at(sum_TKD, (place_G[read.gene_M], code_C[read.cell_M]), read.context_MD)
        rate_CT[read.cell_M, place_G[read.gene_M]] = read.log_rate_M
        mine = read.gene_M == own
        own_CD[read.cell_M[mine]] = read.context_MD[mine]
        if cells.advance is not None:  # a chunk has all that is read of its cells
            cells.advance(len(np.unique(read.cell_M)))
    shift_TKD = sum_TKD / size_K[:, None]
    shift_TKD -= shift_TKD.mean(axis=1, keepdims=True)
    of_gene_KD = (shift_TKD - _of_neighbouring_bins(shift_TKD, bin_T))[place_G[own]]
    mean_KD = sum_TKD[place_G[own]] / size_K[:, None]
    spread_K = np.bincount(code_C, ((own_CD - mean_KD[code_C]) ** 2).sum(axis=1))
    noise_K = spread_K / np.maximum(size_K - 1, 1) / size_K
    return _Interactions(gene_T, rate_CT, of_gene_KD, noise_K)


def _of_neighbouring_bins(shift_TKD: np.ndarray, bin_T: np.ndarray) -> np.ndarray:
    """Return the mean of the other genes of the same bin and the two beside it."""
    n_bins = int(bin_T.max()) + 1
    sums = np.zeros((n_bins, *shift_TKD.shape[1:]))
    np.add.at(sums, bin_T, shift_TKD)
    size = np.bincount(bin_T, minlength=n_bins)
    near = np.abs(np.arange(n_bins)[:, None] - np.arange(n_bins)) <= 1
    total = np.einsum("ab,bkd->akd", near, sums)[bin_T] - shift_TKD
    others: np.ndarray = total / np.maximum(near @ size - 1, 1)[bin_T][:, None, None]
    return others


def _roles(shift_KR: np.ndarray, noise_K: np.ndarray, n_roles: int | None) -> np.ndarray:
    """Join contexts by average linkage on distances corrected for the noise of the means."""
    from scipy.cluster.hierarchy import cut_tree, linkage
    from scipy.spatial.distance import squareform

    square = ((shift_KR[:, None] - shift_KR[None]) ** 2).sum(axis=-1)
    distance = np.sqrt(np.maximum(square - noise_K[:, None] - noise_K[None], 0))
    np.fill_diagonal(distance, 0)
    n_contexts = len(shift_KR)
    # contexts that noise does not tell apart are joined first, the nearest of them before others
    apart = np.maximum(distance, LEAST_APART * np.sqrt(square))
    tree = linkage(squareform(apart, checks=False), "average")
    if n_roles is not None:
        return np.asarray(cut_tree(tree, min(n_roles, n_contexts))[:, 0])
    best, chosen = LEAST_SILHOUETTE, np.ones(n_contexts, np.int64)
    for n in range(2, min(MOST_ROLES, n_contexts - 1) + 1):
        role_K = np.asarray(cut_tree(tree, n)[:, 0])
        score = _silhouette(distance, role_K)
        if score > best:
            best, chosen = score, role_K
    return chosen


def _silhouette(distance: np.ndarray, role_K: np.ndarray) -> float:
    """Return the mean silhouette (Rousseeuw 1987); a context alone in its role counts 0."""
    scores = []
    for k, role in enumerate(role_K):
        own = np.flatnonzero((role_K == role) & (np.arange(len(role_K)) != k))
        if not len(own):
            scores.append(0.0)
            continue
        a = distance[k, own].mean()
        b = min(distance[k, role_K == other].mean() for other in set(role_K) - {role})
        scores.append((b - a) / max(a, b, 1e-12))
    return float(np.mean(scores))


def _role(  # noqa: PLR0917 (what is known of one role)
    model: Model,
    own: int,
    contexts: np.ndarray,
    code_C: np.ndarray,
    kept: list[str],
    found: _Interactions,
    type_CE: np.ndarray,
    sets: Mapping[str, np.ndarray] | None,
) -> dict[str, Any]:
    """Return the row of one role."""
    size = np.bincount(code_C)[contexts]
    weight = size / size.sum()
    mean_D = np.einsum("kd,k->d", found.of_gene_KD[contexts], weight)
    cosine_T = _moving_together(found, own, code_C, contexts)
    order = np.argsort(-cosine_T, kind="stable")
    told: list[str] = []
    q = float("nan")
    if sets is not None:
        others = found.gene_T[found.gene_T != own]
        told, q = enriched(found.gene_T[order[:N_NEAREST]], others, sets, n=N_TOLD)
    return {
        "gene": model.genes.symbol[own],
        "contexts": "; ".join(kept[k] for k in contexts),
        "n_cells": int(size.sum()),
        "shift": float(np.linalg.norm(mean_D)),
        "nearest_genes": ", ".join(model.genes.symbol[found.gene_T[order[:10]]]),
        "gene_sets": "; ".join(told),
        "gene_set_q": q,
        "terms": "; ".join(_terms(model, type_CE[np.isin(code_C, contexts)].mean(axis=0))),
    }


def _moving_together(
    found: _Interactions, own: int, code_C: np.ndarray, contexts: np.ndarray
) -> np.ndarray:
    """Correlate the gene's predicted rate with that of all others over the role's cells.

    Within contexts: the mean of each is taken away, so that what all genes of a cell type have in
    common does not make them alike. The gene itself gets minus infinity.
    """
    rows = np.isin(code_C, contexts)
    rate_CT = found.rate_CT[rows].astype(np.float64)
    for k in contexts:
        rate_CT[code_C[rows] == k] -= rate_CT[code_C[rows] == k].mean(axis=0)
    mine = int(np.searchsorted(found.gene_T, own))
    length_T = np.linalg.norm(rate_CT, axis=0)
    cosine_T: np.ndarray = rate_CT.T @ rate_CT[:, mine]
    cosine_T /= np.maximum(length_T * length_T[mine], 1e-12)
    cosine_T[mine] = -np.inf
    return cosine_T


def _terms(model: Model, mean_E: np.ndarray) -> list[str]:
    """Return the Cell Ontology terms whose projected text is nearest."""
    ids = [term for term in model.phenotypes.ids if term.startswith("CL:")]
    order = np.argsort(-(model.project_terms(ids) @ mean_E), kind="stable")[:N_TOLD]
    ontology = Ontology("CL")
    return [ontology.label(ids[i]) for i in order]
