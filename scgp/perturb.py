"""perturb(): what the model makes of cells without a gene, with less of it, or with more.

Owns the order of the work. Must not know how cells are asked (`perturbed_cells`), how genes are
matched (`matched_genes`) or named (`named_genes`), nor how numbers become tables
(`perturbation_tables`).

Shape suffixes: B cells, P groups, G genes of the model, K genes perturbed, Q genes read, T labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgp.cells.counts import choose_counts
from scgp.cells.genes import match_genes
from scgp.cells.named import named_factors, named_genes
from scgp.device import lent, resolve_device
from scgp.embed import CHUNK, resolve_model, rows_at_once
from scgp.errors import (
    ArgumentError,
    CheckpointError,
    warn_user,
)
from scgp.groups import group_codes
from scgp.in_context.reading import check_context
from scgp.number import whole_number
from scgp.own import model_index
from scgp.progress import progress_bar
from scgp.slots import check_adata
from scgp.what_if.asked import labels_of_groups
from scgp.what_if.matched_genes import levels
from scgp.what_if.perturbation import Perturbation
from scgp.what_if.perturbation_tables import (
    FEWEST_CHANGED,
    group_table,
    posterior_table,
    type_changes,
)
from scgp.what_if.perturbed_sets import (
    Work,
    all_cells,
    expression_table,
    null_levels,
    null_table,
    one_set,
    perturbed_table,
    sets_of,
    warn_unmatched,
)
from scgp.what_if.removals import Cells
from scgp.which import opened

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import anndata as ad

    from scgp.model.checkpoint import Model
    from scgp.reference.index import ReferenceIndex
    from scgp.what_if.matched_genes import Levels

#: Genes are read by default that this share of the cells of some group has a count of.
DETECTED = 0.05


def perturb(
    adata: ad.AnnData,
    perturbation: Mapping[str, float],
    *,
    groupby: str | None = None,
    genes: Iterable[str] | str | None = None,
    n_null: int = 20,
    max_cells: int = 50,
    model: Model | str | Path | None = None,
    index: ReferenceIndex | str | Path | None = None,
    layer: str | None = None,
    use_raw: bool | None = None,
    batch_size: int = 1024,
    seed: int = 0,
    device: str | None = None,
    progress: bool = True,
) -> Perturbation:
    """Delete, knock down or over-express genes in silico, and read the cells again.

    Parameters
    ----------
    adata
        Cells x genes with raw counts, in memory or backed. It is only read.
    perturbation
        Gene (HGNC symbol or Ensembl id) to the factor of its counts: 0 deletes it, below 1 knocks
        it down, above 1 over-expresses it. Several are perturbed together. A cell without a count
        of any of them stays as it is, whatever the factor.
    groupby
        Column of ``obs`` over whose groups shifts are averaged; None: over all cells, which matches
        the null to no type. Cells without a value are in no group. Values that name cell types also
        get the change of their own type.
    genes
        Genes whose predicted expression is read, however rare; None: all of which 5 % of the cells
        of some group with a changed cell have a count, but for the perturbed ones. An empty list
        leaves expression out, and needs no model with a context.
    n_null
        Expression-matched genes, or sets of genes, perturbed by the same factors as a null; 0
        leaves it out.
    max_cells
        Changed cells of each group, drawn at random, in which genes are read, and as many for
        each draw of the null. The time is that of ``2 x (1 + n_null) x max_cells x`` genes for
        each group: with the defaults, on one core, about 20 s a group for 700 genes, and two
        minutes for 3,500.
    model
        A :class:`scgp.Model`, its directory, or None for the default checkpoint.
    index
        The reference whose posterior is asked, or its directory; None for that of the model.
    layer, use_raw
        Where the counts are, if not in ``X``.
    batch_size
        Cells read at once; bounds memory.
    seed
        Of the drawing of cells.
    device
        ``"cpu"``, ``"cuda"`` or None for the CPU.
    progress
        Show a progress bar.

    Returns
    -------
    A :class:`scgp.what_if.perturbation.Perturbation`: the tables ``perturbed``, ``cells``,
    ``groups``, ``posterior``, ``expression`` and ``null``, the array ``shift``, and ``facts``.

    Raises
    ------
    ArgumentError
        `perturbation` is empty or has a factor that is no finite number of 0 or more; `genes` has a
        perturbed gene; or another argument has a value that cannot be used.
    GeneError
        A gene is not known to the model (nearest symbols are named), is not measured, or has no
        count in any cell; or as in :func:`scgp.annotate`.
    MissingColumnError
        ``obs`` has no column `groupby`.
    CheckpointError
        Expression is asked of a model that does not read genes in their context.
    CountsError, FingerprintError, DeviceError
        As in :func:`scgp.annotate`; also if no cell has a count.

    Warns
    -----
    ScgpWarning
        Cells without a count; cells without a group; fewer genes for the null than asked; groups
        in which no such genes have the level of a perturbed one; groups with fewer than 10 changed
        cells, which get no ``p``; how names of groups were read as cell types.

    Notes
    -----
    The parent is Geneformer's in-silico perturbation (Theodoris et al. 2023), which deletes a
    gene's token, or moves it to the front, and takes the cosine between the embeddings before and
    after. Here counts are scaled and the cell is normalised anew, as if it had been measured so:
    what is left takes the share of what is gone. The expression of each other gene is then
    predicted from the rest of the cell (the negative binomial mean of
    :class:`scgp.model.context.GeneContext`), before and after; no gene's own value has a part in
    its prediction, so that a perturbed gene itself has no shift. In a study that the network does
    not know, the level of a rare gene is predicted too high: compare a gene with itself.

    Any gene of that level shifts a cell when it goes, by dilution alone: what is left rises. So the
    same is done with other genes of about the same mean and detection in the group, and ``p`` is
    the rank of the shift among theirs. Of the most expressed genes there are none: where a gene is
    deleted, the expected dilution of each (-log(1 - f), f its share of a cell's counts) is taken
    out before ``z`` and ``p``. Other factors have no such formula, for predictions follow the
    dilution by less than half; ``z`` and ``p`` are then NaN in groups without genes of that level.
    With `n_null` draws never below 1 / (n_null + 1), and not
    corrected for the number of genes. The p of different genes share their draws: one gene that
    shifts its cells more than the others do brings half of the transcriptome to the smallest p. Do
    not count genes by it; rank them by ``z``.

    A shift is what *co-varies* in the cells that the model was trained with. It has no direction of
    cause: what the gene acts on and what acts on it look alike, and deleting a gene is not what a
    cell becomes of which it was knocked out days ago. ``benchmarks/results/perturb.md`` has how
    little it says of real knock-outs, ``perturb_drugs.md`` of drugs. What goes with the perturbed
    gene in the cells at hand, without any model, said more of the former: it stands beside the
    shifts as ``coexpression``.

    Examples
    --------
    >>> import scgp
    >>> adata = scgp.demo.counts()
    >>> found = scgp.perturb(adata, {"CD79A": 0.0}, genes=["MS4A1", "LYZ"], n_null=5, max_cells=10,
    ...                      progress=False)
    >>> bool(found.cells.loc[~found.cells["changed"], "cosine_distance"].max() == 0)
    True
    >>> found.perturbed[["gene", "factor"]].values.tolist()
    [['CD79A', 0.0]]
    >>> shift = found.expression.set_index("gene")["shift"]
    >>> bool(shift["MS4A1"] < 0 < shift["LYZ"])  # less of a B cell, more of a monocyte
    True
    """
    check_adata(adata)
    seed = whole_number(seed, "seed", least=0)
    _check(n_null=n_null, max_cells=max_cells, batch_size=batch_size)
    batch_size = rows_at_once(batch_size, CHUNK)  # less is filled up, and takes as long
    on = resolve_device(device)
    group_B, groups = _groups(adata, groupby)
    model = resolve_model(model)
    counts = choose_counts(adata, layer=layer, use_raw=use_raw)
    cells = Cells(counts, match_genes(counts, model.genes).token_of_column, model, on)
    gene_K, factor_K = named_factors(perturbation, model.genes, np.flatnonzero(cells.measured_G))
    gene_Q = _read(genes, model, cells.measured_G, gene_K)
    index = model_index(model) if index is None else opened(index, model.fingerprint)
    found = levels(
        counts, cells.token_V, model.config.n_genes, group_B, len(groups) + 1,
        batch_size=batch_size,
    )  # fmt: skip
    perturbed = perturbed_table(found, model.genes, gene_K, factor_K)
    _warn_empty(found.total_B)
    if gene_Q is None:
        gene_Q = _often(found, len(groups), gene_K)
    nothing_PT = np.zeros((1, len(index.labels)), bool)
    type_PT = nothing_PT if groupby is None else labels_of_groups(groups, index)
    work = Work(cells, index, groups, group_B, found, gene_K, factor_K, gene_Q, type_PT, batch_size)
    facts: dict[str, object] = {
        "model": model.fingerprint, "index": repr(index), "counts": counts.where,
        "groupby": groupby, "n_null": n_null, "max_cells": max_cells, "seed": seed,
        "n_genes_read": len(gene_Q),
    }  # fmt: skip
    result = _asked(
        work, n_null=n_null, max_cells=max_cells, seed=seed, progress=progress,
        perturbed=perturbed, facts=facts,
    )  # fmt: skip
    result.cells.index = adata.obs_names.copy()
    return result


def _asked(
    work: Work,
    *,
    n_null: int,
    max_cells: int,
    seed: int,
    progress: bool,
    perturbed: pd.DataFrame,
    facts: dict[str, object],
) -> Perturbation:
    """Ask about all cells, and about the cells drawn for each set; put the answers together."""
    n_cells = work.cells.counts.n_cells
    with lent(work.cells.model.network, work.cells.device):
        sets = sets_of(work, n_null, max_cells, np.random.default_rng(seed))
        total = n_cells + sum(len(rows) for *_, rows in sets)
        with progress_bar(total, what="perturb", unit="cell", shown=progress) as advance:
            table, shift_BE, mean_2PT = all_cells(work, advance)
            drawn = [one_set(work, *one, advance=advance) for one in sets]
    table.insert(0, "group", np.array([*work.groups, None], object)[work.group_B])
    null = [one for one in drawn if one.is_null]
    moved_P = type_changes(mean_2PT, work.type_PT)
    groups = group_table(table, work.groups, null, moved_P)
    level, wrong = null_levels(work, null)
    groups = pd.concat([groups.iloc[:, :3], level, groups.iloc[:, 3:]], axis=1)
    if null:
        _warn_few(groups)
        warn_unmatched(work, wrong)
    return Perturbation(
        perturbed=perturbed,
        cells=table,
        shift=shift_BE,
        groups=groups,
        posterior=posterior_table(mean_2PT[0], mean_2PT[1], work.groups, _labels(work.index)),
        expression=expression_table(work, drawn, table, wrong),
        null=null_table(work, null),
        facts=facts,
    )


def _read(
    genes: Iterable[str] | str | None, model: Model, measured_G: np.ndarray, gene_K: np.ndarray
) -> np.ndarray | None:
    """Return the genes to read, none of them perturbed; None for all that are expressed."""
    asked = None if genes is None else [genes] if isinstance(genes, str) else list(genes)
    if asked == []:
        return np.zeros(0, np.int64)
    try:
        check_context(model)
    except CheckpointError as error:
        msg = f"{error}. genes=[] leaves expression out, and asks for vectors and labels alone"
        raise CheckpointError(msg) from error
    gene_Q = None if asked is None else named_genes(asked, model.genes, np.flatnonzero(measured_G))
    if gene_Q is not None and (both := np.intersect1d(gene_Q, gene_K)).size:
        msg = (
            f"genes has {model.genes.symbol[both[0]]!r}, which is perturbed itself: no gene's own "
            "value has a part in its prediction, so there is no shift to tell; leave it out"
        )
        raise ArgumentError(msg)
    return gene_Q


def _often(found: Levels, n_groups: int, gene_K: np.ndarray) -> np.ndarray:
    """Return the genes, but for perturbed ones, that some group of changed cells has often enough.

    Of a gene that hardly any cell has, the prediction hardly knows more than the depth of the cell.
    """
    detected_PG = found.detected_PG[:n_groups]
    asked_P = np.any(detected_PG[:, gene_K] > 0, axis=1)
    often_G = np.any(detected_PG[asked_P] > DETECTED - 1e-9, axis=0)
    return np.setdiff1d(np.flatnonzero(often_G), gene_K)


def _groups(adata: ad.AnnData, groupby: str | None) -> tuple[np.ndarray, list[str]]:
    """Return the group of each cell, and their names; the number of groups for cells without."""
    if groupby is None:
        return np.zeros(adata.n_obs, np.int64), ["all"]
    code_B, names = group_codes(adata, groupby)
    if n_without := int((code_B < 0).sum()):
        warn_user(f"{n_without} of {adata.n_obs} cells have no obs[{groupby!r}]: in no group")
    return np.where(code_B < 0, len(names), code_B), names


def _labels(index: ReferenceIndex) -> pd.DataFrame:
    return pd.DataFrame({"label": list(index.labels), "ontology_id": list(index.label_ids)})


def _warn_empty(total_B: np.ndarray) -> None:
    if n_empty := int((total_B == 0).sum()):
        warn_user(
            f"{n_empty} of {len(total_B)} cells have no count in the genes of the model: nothing "
            "is told of them"
        )


def _warn_few(groups: pd.DataFrame) -> None:
    n_changed = groups["n_changed"]
    few = groups[(n_changed > 0) & (n_changed < FEWEST_CHANGED)]
    if len(few):
        told = ", ".join(f"{group!r} {n}" for group, n in few[["group", "n_changed"]].values)
        warn_user(f"no p for groups with fewer than {FEWEST_CHANGED} changed cells: {told}")


def _check(**given: int) -> None:
    """Refuse numbers that nothing can be found with."""
    for name, value in given.items():
        least = 0 if name == "n_null" else 1
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
            msg = f"{name} is {value!r}; expected a whole number of at least {least}"
            raise ArgumentError(msg)
