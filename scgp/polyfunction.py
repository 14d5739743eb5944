"""polyfunctionality(): how much what a gene does depends on where it is, with a null and controls.

Owns the verb: which genes, cells, contexts and donors are used, and what is refused. Must not know
how they are compared (`contexts`), the statistic (`between`), nor its null genes (`panel`).

Shape suffixes: N cells, G genes of the model, K contexts.
"""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgp.cells.counts import choose_counts
from scgp.cells.genes import match_genes
from scgp.cells.named import named_genes
from scgp.device import resolve_device
from scgp.embed import resolve_model
from scgp.errors import ArgumentError, GeneError, warn_user
from scgp.groups import column_text, group_codes
from scgp.in_context.contexts import LEAST_GENES, Contexts, of_one_context
from scgp.in_context.reading import check_context
from scgp.number import whole_number
from scgp.slots import check_adata

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import anndata as ad

    from scgp.model.checkpoint import Model

#: Names of columns, in lower case, that by their names have donors.
DONOR_COLUMNS = frozenset(
    {"donor", "donor_id", "sample", "sample_id", "patient", "patient_id", "individual"}
)


def polyfunctionality(
    adata: ad.AnnData,
    genes: str | Sequence[str] | None = None,
    *,
    groupby: str,
    donor_key: str | None = None,
    min_cells: int = 10,
    n_permutations: int = 999,
    controls: bool = True,
    model: Model | str | Path | None = None,
    layer: str | None = None,
    use_raw: bool | None = None,
    seed: int = 0,
    device: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Test how much a gene's contextual embedding changes between contexts, beyond its level.

    Parameters
    ----------
    adata
        Cells x genes with raw counts; in memory or backed. It is only read.
    genes
        HGNC symbols or Ensembl ids; None: all genes with `min_cells` cells in two contexts.
    groupby
        Column of ``obs`` with the contexts; cells without a value are left out. Cell types are
        what this is for. Tissues and conditions differ in their cell types too, and any gene then
        seems to change: name strata of donor and cell type in `donor_key`, as in the notes.
    donor_key
        Column of ``obs`` with the donors (or studies): contexts are compared within donors, and
        dealt anew within donors for the permutation test. p says that the cells of *some* donor
        differ between contexts, and never that new donors would: one donor of many is enough for a
        small p. What speaks of donors is ``replication``. None takes all cells as of one donor:
        what differs between donors then counts as a difference between contexts, as far as donors
        have these in unequal shares.
    min_cells
        A context counts for a gene if it has this many cells that express it, of donors with cells
        of two such contexts.
    n_permutations
        Permutations of the test; the smallest p is 1 / (1 + n_permutations).
    controls
        Also measure an untrained network of the same shape, which reads everything once more.
    model
        A :class:`scgp.Model`, its directory, or None for the default checkpoint.
    layer, use_raw
        Where the counts are, if not in ``X``.
    seed
        Of permutations, of matched genes and of the untrained network: the same seed, the same
        table.
    device
        ``"cpu"``, ``"cuda"`` or None for the CPU.
    progress
        Show a progress bar.

    Returns
    -------
    A DataFrame with a row for each gene, by falling ``excess``. Effects are shares of variance
    between contexts, corrected for chance: 0 none, 1 all.

    ``gene``, ``ensembl_id`` : str
    ``n_cells``, ``n_contexts``, ``n_donors`` : int64
        Cells that express the gene and are used, their contexts and donors.
    ``value`` : float
        Mean log1p(CP10k) of the gene in these cells.
    ``effect`` : float
        Of the interaction: the gene's embedding less what its matched genes show, read in the same
        cells. These are genes of a like mean level over all cells of the call; in the cells that
        express the gene, most of them may be absent.
    ``p``, ``q`` : float
        Permutation p of the effect, and Benjamini-Hochberg's q over the genes of the table; NaN
        where contexts and donors are confounded.
    ``effect_matched`` : float
        Median effect of the matched genes, in the same cells.
    ``excess`` : float
        ``effect`` less ``effect_matched``: what is the gene's own, as this network reads it.
        **Networks do not agree on it**: of all genes of a tissue, the excess by two networks of
        other seeds correlates .03 to .06. So it is no property of a gene, and a list of the genes
        with the largest is no finding; docs/genes-in-context.md has what was measured.
    ``rank_matched`` : float
        Share of the matched genes whose effect is as large: a small one says that the gene stands
        out. No p of a test.
    ``replication`` : float
        Cosine between two halves of the donors of how far contexts are apart, donors and contexts
        fitted together in each half, over the contexts that both have; mean over up to ten ways to
        halve them. Ways that leave a half whose donors do not join its contexts do not count; NaN
        where none is left. Below 0 donors contradict each other. With two contexts it is of one
        difference alone: where donors have nothing in common its sign is chance, and often the same
        for most genes of a call.
    ``effect_adjusted`` : float
        Effect after the gene's own value and its square, and the cell's counts and detected genes
        (logarithms) were regressed out.
    ``effect_embedding`` : float
        Of the embedding itself, with the state of the cell that every gene carries.
    ``effect_static``, ``effect_value``, ``effect_coexpression``, ``effect_untrained`` : float
        Controls: the gene's static embedding (one vector in all cells, so 0 by construction: it
        shows nothing of a gene), its value's token alone, its co-expression with the principal
        components of the panel, and an untrained network (NaN without `controls`), treated as
        ``effect`` is.
    ``context`` : str
        Context that is farthest from the unweighted mean of all, donors and contexts fitted
        together by least squares; of contexts with few cells, noise is a part of that. Empty where
        there are two contexts, which are as far, or where no chain of donors joins all of them.

    Raises
    ------
    ArgumentError
        Fewer than two contexts have `min_cells` cells; a number is out of range.
    GeneError
        A gene is not among the model's or not measured, none can be tested, or fewer than three
        could be, so that there is nothing to match.
    MissingColumnError, CheckpointError, CountsError, DeviceError
        As in :func:`scgp.embed_genes`.

    Warns
    -----
    ScgpWarning
        Cells without a context or donor; genes with too few cells; donors with cells of one context
        only, which are left out, and contexts that are too small without them; contexts that are
        confounded with donors, for which there is no p;
        genes with a small q on which donors contradict each other; a column of ``obs`` that by its
        name has donors, most of them of one context, where `donor_key` is None.

    Notes
    -----
    For contexts such as tissues and conditions, compare within donor and cell type (both columns of
    text): ``adata.obs["donor_type"] = adata.obs["donor"] + "|" + adata.obs["cell_type"]`` and
    ``donor_key="donor_type"``. ``n_donors`` and ``replication`` are then of these strata, and two
    halves of them can be of the same donors.

    About 26 KB of memory a cell for the matched genes, and 200 MB for each million pairs of cell
    and gene, of which at most one and a half are held at once.
    The page "Genes in their context" of the documentation has the formulas, assumptions and limits.

    Examples
    --------
    >>> import scgp
    >>> adata = scgp.demo.counts()
    >>> table = scgp.polyfunctionality(
    ...     adata, ["CD74", "LYZ"], groupby="bulk_labels", controls=False, progress=False
    ... )
    >>> sorted(table["gene"])
    ['CD74', 'LYZ']
    """
    check_adata(adata)
    seed = whole_number(seed, "seed", least=0)
    _check_numbers(min_cells, n_permutations)
    model = resolve_model(model)
    check_context(model)
    on = resolve_device(device)
    group_N, names = group_codes(adata, groupby)
    donor_N = np.zeros(adata.n_obs, np.int64)
    if donor_key is not None:
        donor_N = group_codes(adata, donor_key)[0]
    counts = choose_counts(adata, layer=layer, use_raw=use_raw)
    token_V = match_genes(counts, model.genes).token_of_column
    asked = None if genes is None else named_genes(genes, model.genes, token_V)
    contexts = Contexts(
        model, counts, token_V, group_N, tuple(names), donor_N, min_cells=min_cells, seed=seed
    )
    _say_left_out(contexts.used_N, groupby, donor_key)
    _check_contexts(contexts, groupby)
    _say_lone_donors(contexts, adata, groupby, donor_key)
    testable_G = contexts.survey[1]
    n_testable = int(testable_G.sum())
    tested = (
        np.flatnonzero(testable_G)
        if asked is None
        else _tested(asked, testable_G, model, min_cells)
    )
    if not len(tested):
        msg = f"no gene has {min_cells} cells that express it in two contexts (min_cells)"
        raise GeneError(msg)
    if n_testable < LEAST_GENES:
        msg = (
            f"{n_testable} genes of these data have {min_cells} cells that express them in two "
            f"contexts; a gene is held against others of its level, so {LEAST_GENES} are needed"
        )
        raise GeneError(msg)
    table, lost = contexts.table(
        tested, n_permutations=n_permutations, controls=controls, device=on, progress=progress
    )
    _say_lost(lost, len(tested), model, min_cells)
    _say_contradicted(table)
    return table


def _check_numbers(min_cells: int, n_permutations: int) -> None:
    whole = all(isinstance(x, Integral) for x in (min_cells, n_permutations))
    if not whole or min_cells < 2 or n_permutations < 1:
        msg = (
            f"min_cells is {min_cells} and n_permutations is {n_permutations}; expected whole "
            "numbers, at least 2 and at least 1"
        )
        raise ArgumentError(msg)


def _say_left_out(used_N: np.ndarray, groupby: str, donor_key: str | None) -> None:
    n_out = int((~used_N).sum())
    if n_out:
        keys = f"{groupby!r}" if donor_key is None else f"{groupby!r} or {donor_key!r}"
        warn_user(f"{n_out} of {len(used_N)} cells have no value in obs[{keys}] and are left out")


def _check_contexts(contexts: Contexts, groupby: str) -> None:
    """Refuse where there are no two contexts."""
    names, min_cells = contexts.names, contexts.min_cells
    if (contexts.size_K >= min_cells).sum() < 2:
        found = ", ".join(f"{name!r} {n}" for name, n in zip(names, contexts.size_K, strict=True))
        msg = (
            f"fewer than two contexts of obs[{groupby!r}] have {min_cells} cells (min_cells): "
            f"{found[:300]}"
        )
        raise ArgumentError(msg)


def _say_lone_donors(
    contexts: Contexts, adata: ad.AnnData, groupby: str, donor_key: str | None
) -> None:
    """Tell of donors that have cells of one context, or of a column that seems to have such."""
    if donor_key is None:
        _hint_at_donors(contexts, adata, groupby)
        return
    large_N, compared_N = contexts.large_N, contexts.compared_N
    if contexts.confounded:
        warn_user(
            f"contexts and donors are confounded: without donors that have cells of one value of "
            f"obs[{groupby!r}] only, no two values have {contexts.min_cells} cells (min_cells). "
            "What differs between contexts may differ between donors, so there is no p, and "
            "effects are of both together"
        )
    elif (large_N & ~compared_N).any():
        n_donors, n_left = (len(np.unique(contexts.donor_N[x])) for x in (large_N, compared_N))
        codes = np.setdiff1d(contexts.group_N[large_N], contexts.group_N[compared_N])
        too_small = (
            f", and so are contexts with fewer than {contexts.min_cells} cells (min_cells) without "
            f"them: {', '.join(repr(contexts.names[k]) for k in codes[:5])}"
        )
        warn_user(
            f"{n_donors - n_left} of {n_donors} donors of obs[{donor_key!r}] have cells of one "
            f"context only and are left out{too_small if len(codes) else ''} "
            f"({(large_N & ~compared_N).sum()} of {large_N.sum()} cells); what remains is of "
            f"{n_left} donor{'s' if n_left > 1 else ''}"
        )


def _hint_at_donors(contexts: Contexts, adata: ad.AnnData, groupby: str) -> None:
    """Tell of a column with the name of one of donors, most of which have one context."""
    columns = adata.obs.columns
    for name in columns[~columns.duplicated(keep=False)]:  # of two, nobody knows which is meant
        if str(name).casefold() not in DONOR_COLUMNS or name == groupby:
            continue
        donor_N = pd.factorize(column_text(adata, name).to_numpy(dtype=object))[0]
        known_N = (donor_N >= 0) & contexts.used_N
        alone_S = of_one_context(donor_N[known_N], contexts.group_N[known_N])
        if len(alone_S) > 1 and 2 * alone_S.sum() > len(alone_S):
            warn_user(
                f"obs[{name!r}]: {alone_S.sum()} of {len(alone_S)} have cells of one context only, "
                "so that what differs between contexts may differ between them; "
                f"donor_key={name!r} compares within them"
            )
            return


def _tested(asked: np.ndarray, testable_G: np.ndarray, model: Model, min_cells: int) -> np.ndarray:
    """Return those genes that can be tested, and name the others."""
    lost = [str(model.genes.symbol[g]) for g in asked if not testable_G[g]]
    if lost:
        msg = (
            f"{len(lost)} of {len(asked)} genes have fewer than two contexts with {min_cells} "
            f"cells that express them (min_cells): {', '.join(lost[:5])}"
        )
        if len(lost) == len(asked):
            raise GeneError(msg)
        warn_user(msg)
    return asked[testable_G[asked]]


def _say_lost(lost: list[int], n_tested: int, model: Model, min_cells: int) -> None:
    """Name genes that cannot be compared within donors; refuse where no others are left."""
    if not lost:
        return
    msg = (
        f"{len(lost)} of {n_tested} genes are left out: without donors that express them in one "
        f"context only, no two contexts have {min_cells} cells that do (min_cells): "
        f"{', '.join(str(model.genes.symbol[g]) for g in lost[:5])}"
    )
    if len(lost) == n_tested:
        raise GeneError(msg)
    warn_user(msg)


def _say_contradicted(table: pd.DataFrame) -> None:
    """Name genes that differ between contexts, but otherwise in some donors than in others."""
    rows = table[(table["q"] <= 0.05) & (table["replication"] < 0)]
    if len(rows):
        warn_user(
            f"{len(rows)} of {len(table)} genes have q <= .05 but a replication below 0: "
            f"{', '.join(rows['gene'][:5])}. p says that cells of some donor differ between "
            "contexts; donors do not agree on how"
        )
