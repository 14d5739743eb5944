"""gene_roles(): the roles of one gene, by its contexts, with names.

Owns the verb and what is told of a role. Must not know how contexts become roles (`role_groups`),
how sets of genes are scored (`gene_sets`) nor how genes are read (`reading`).

Shape suffixes: C cells read, K contexts, T genes read, G genes of the model, M pairs of cell and
gene, D width of the contextual embeddings, W roles, E width of the joint space.
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
from scgp.in_context.between import context_means
from scgp.in_context.gene_sets import enriched, read_gene_sets
from scgp.in_context.panel import choose_panel
from scgp.in_context.reading import CellsToRead, always, check_context
from scgp.in_context.role_groups import Noise, joined, noise_of
from scgp.number import whole_number
from scgp.phenotypes.ontology import Ontology
from scgp.progress import progress_bar
from scgp.slots import check_adata

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import anndata as ad

    from scgp.model.checkpoint import Model

#: Genes that the gene's shifts are compared with, and the nearest of them whose sets are scored: at
#: most this share of the others, or hardly a gene were left to hold them against.
N_READ, N_NEAREST, SHARE_NEAREST = 2000, 100, 0.1
#: Names, genes and terms told of each role.
N_TOLD = 3
_COLUMNS = [
    "gene", "role", "contexts", "n_cells", "detected", "shift", "nearest_genes", "gene_sets",
    "gene_set_q", "terms",
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
        Number of roles; None lets the silhouette choose, one included and six at most. It takes
        four contexts to find two roles: two contexts are always one, and three are two only where
        two of them are much nearer to each other (less than .625 of the way) than to the third. One
        role of few contexts is no finding.
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
    ``detected`` : share of all cells of these contexts that have a count of the gene. Where it is
    small beside that of another role, the counts may be RNA of other cells (ambient), and the role
    theirs: only cells with a count are read;
    ``shift`` : length of the role's mean interaction, of no unit; NaN where there is one role, for
    interactions sum to about 0 over all contexts;
    ``nearest_genes`` : the genes whose predicted expression moves with the gene's over these cells,
    within contexts (correlation);
    ``gene_sets``, ``gene_set_q`` : the sets that stand out among the 100 nearest (a tenth of the
    genes read, where these are fewer than 1,000), and the q of the best (hypergeometric test
    against the genes read, Benjamini-Hochberg), joined by "; " ("; " in a name becomes ", ");
    empty and NaN where none has q below .1. A score for ranking sets and not the chance of an
    error: the test takes genes as independent, and genes of a set move together, so that any gene
    has some set of a tiny q;
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
    linkage on the distance of their mean interactions, less the noise that these have because cells
    of a context differ. Two contexts are 0 apart unless they differ by more than noise would make
    any two of a table in 19 of 20 tables (chi-square with Satterthwaite's degrees of freedom;
    cells are taken as independent). The nearest genes are those that the model
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
    min_cells = whole_number(min_cells, "min_cells", least=2)
    most_cells = whole_number(most_cells, "most_cells", least=min_cells)
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
    role_K = joined(interactions.of_gene_KD, interactions.noise, n_roles)
    vectors = embed_rows(model, [rows], token_V, device=on).type_BE
    roles = [np.flatnonzero(role_K == w) for w in np.unique(role_K)]
    table = [_role(model, own, w, code_C, kept, interactions, vectors, sets) for w in roles]
    for row, contexts in zip(table, roles, strict=True):
        own_N = np.isin(group_N, [names.index(kept[k]) for k in contexts])
        row["detected"] = float(own_N[expressing].sum() / own_N.sum())
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
    """Return cells of each context that is large enough, their codes, and the contexts' names.

    Each context is drawn by itself, whatever contexts are called and which others there are.
    """
    rows, kept = [], []
    for k, name in enumerate(names):
        mine = expressing[group_N[expressing] == k]
        if len(mine) >= min_cells:
            rng = np.random.default_rng([seed, 12, mine[0]])
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

    ``rate_CT`` is the predicted log CP10k of every gene read, in every cell. Interactions are less
    their mean over contexts.
    """

    gene_T: np.ndarray
    rate_CT: np.ndarray
    of_gene_KD: np.ndarray
    noise: Noise


def _interactions(
    cells: CellsToRead, own: int, code_C: np.ndarray, n_contexts: int, seed: int
) -> _Interactions:
    """Read the gene and the most detected others in all cells, and take its mates' mean away.

    Its mates are the others of its bin of expression and the two beside it. They carry the state of
    the cell as the gene does, so it is no part of an interaction, nor of its noise.
    """
    config = cells.model.config
    (rows,) = cells.blocks()
    tokens = cells.model.tokenizer.tokenize(rows, cells.token_V)
    value_CG = tokens.values(config.n_genes)
    detected_G = np.asarray((value_CG > 0).sum(axis=0)).ravel()
    detected_G[own] = len(code_C) + 1
    gene_T = np.sort(np.argsort(-detected_G, kind="stable")[:N_READ])
    gene_T = gene_T[detected_G[gene_T] > 0]
    level_T = np.asarray(value_CG[:, gene_T].mean(axis=0)).ravel()
    bin_G = choose_panel(level_T, gene_T, config.n_genes, seed)[2]
    mate_G = (bin_G >= 0) & (np.abs(bin_G - bin_G[own]) <= 1)
    mate_G[own] = False
    place_G = np.zeros(config.n_genes + 1, np.int64)
    place_G[gene_T] = np.arange(len(gene_T))
    own_CD = np.zeros((len(code_C), config.width))
    mates_CD = np.zeros_like(own_CD)
    rate_CT = np.zeros((len(code_C), len(gene_T)), np.float32)
    for read in cells.read(always(gene_T)):
        mine, mate = read.gene_M == own, mate_G[read.gene_M]
        own_CD[read.cell_M[mine]] = read.context_MD[mine]
        np.add.at(mates_CD, read.cell_M[mate], read.context_MD[mate])
        rate_CT[read.cell_M, place_G[read.gene_M]] = read.log_rate_M
        if cells.advance is not None:  # a chunk has all that is read of its cells
            cells.advance(len(np.unique(read.cell_M)))
    interaction_CD = own_CD - mates_CD / max(int(mate_G.sum()), 1)
    mean_KD = context_means(interaction_CD, code_C, n_contexts)
    noise = noise_of(interaction_CD, mean_KD, code_C)
    return _Interactions(gene_T, rate_CT, mean_KD - mean_KD.mean(axis=0), noise)


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
    order = np.argsort(-cosine_T, kind="stable")[:-1]  # the gene itself comes last
    told: list[str] = []
    q = float("nan")
    if sets is not None:
        others = found.gene_T[found.gene_T != own]
        n_nearest = min(N_NEAREST, max(1, int(SHARE_NEAREST * len(others))))
        told, q = enriched(found.gene_T[order[:n_nearest]], others, sets, n=N_TOLD)
    return {
        "gene": model.genes.symbol[own],
        "contexts": "; ".join(kept[k] for k in contexts),
        "n_cells": int(size.sum()),
        "shift": float(np.linalg.norm(mean_D)),
        "nearest_genes": ", ".join(model.genes.symbol[found.gene_T[order[:10]]]),
        "gene_sets": "; ".join(name.replace("; ", ", ") for name in told),  # to be told apart
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
