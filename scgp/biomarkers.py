"""biomarkers(): genes that mark a phenotype wherever it is found.

Owns the order of the work. Must not know which cells are compared (`cohorts`), what an index is
asked (`asked`), what a unit says (`unit_evidence`), nor how that becomes a table (`marker_table`).

Shape suffixes: B cells, G genes of the model, R genes removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgp.cells.counts import choose_counts
from scgp.cells.genes import match_genes
from scgp.device import resolve_device
from scgp.embed import resolve_model
from scgp.errors import ArgumentError, warn_user
from scgp.in_context.reading import check_context
from scgp.number import whole_number
from scgp.own import model_index
from scgp.slots import check_adata
from scgp.what_if.asked import asked_of
from scgp.what_if.cohorts import read_cohorts, with_enough
from scgp.what_if.contextual_shift import SHIFT, contextual_shift
from scgp.what_if.marker_table import beside as joined
from scgp.what_if.marker_table import check_beside, each, whole
from scgp.what_if.removals import Cells
from scgp.what_if.unit_evidence import Asking, drawn, gathered, removed, values
from scgp.which import opened

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import anndata as ad

    from scgp.model.checkpoint import Model
    from scgp.reference.index import ReferenceIndex
    from scgp.what_if.marker_table import Evidence


def biomarkers(
    adata: ad.AnnData,
    *,
    groupby: str,
    across: str,
    groups: str | Sequence[str] | None = None,
    model: Model | str | Path | None = None,
    index: ReferenceIndex | str | Path | Mapping[str, ReferenceIndex | str | Path] | None = None,
    rivals: str = "phenotypes",
    layer: str | None = None,
    use_raw: bool | None = None,
    n_genes: int = 20,
    min_cells: int = 10,
    max_cells: int = 500,
    exact_cells: int = 5,
    contextual: bool = False,
    all_genes: bool = False,
    by_unit: bool = False,
    beside: pd.DataFrame | None = None,
    seed: int = 0,
    device: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Find genes that mark a phenotype in one tissue or study after another.

    Two lists side by side: genes whose *removal* costs the phenotype's posterior most, and genes
    that Wilcoxon's test finds, each judged by whether it holds in unit after unit.

    Parameters
    ----------
    adata
        Cells x genes with raw counts, in memory or backed; its counts are read into memory. It is
        only read.
    groupby, across
        Columns of ``obs``: the phenotypes, and the units (tissue, study, donor) in which their
        markers shall hold. Cells without a value in one of them are left out.
    groups
        The phenotypes to find markers of, one or several; None: all. Cells of the others are what
        they are compared with.
    model
        A :class:`scgp.Model`, its directory, or None for the default checkpoint.
    index
        The reference whose posterior is asked, or its directory; None for that of the model. Or a
        dict with one for each unit, such as :func:`scgp.leave_one_out` makes.
    rivals
        What the odds of a phenotype are against: "phenotypes", the labels of all other phenotypes
        of the data, as in Wilcoxon's test; or "labels", all other labels of the index, also those
        of cells that the data do not have.
    layer, use_raw
        Where the counts are, if not in ``X``.
    n_genes
        Genes of each of the two rankings that count as found.
    min_cells
        Cells of a phenotype that a unit must have, to say anything of it; for Wilcoxon's test also
        of all others.
    max_cells
        Cells of each phenotype and unit whose genes are removed, drawn at random. Wilcoxon's test
        has all.
    exact_cells
        Cells of each phenotype and unit from which a gene that was found is truly removed; 0 leaves
        that out, and NaN in its columns.
    contextual
        Also test whether the contextual embedding of each gene of the table differs between the
        phenotype and other cells of its units (:func:`scgp.polyfunctionality`): `max_cells` of
        each, and a few hundred expression-matched genes read in all of them, which is most of the
        time. Not with `by_unit`.
    all_genes
        Also return the genes that neither finds.
    by_unit
        Return one row for each phenotype, unit and gene instead.
    beside
        A table with ``group`` and ``gene`` (with `by_unit` also ``unit``), each combination once:
        its other columns are joined to the right, with ``_beside`` behind a name that is taken.
    seed
        Of the drawing of cells.
    device
        ``"cpu"``, ``"cuda"`` or None for the CPU.
    progress
        Show a progress bar.

    Returns
    -------
    A table, by ``group`` and ``removal_rank``, with the columns

    ``group``, ``ontology_id``, ``asked`` : str
        The phenotype, its Cell Ontology id ("" for none), and the label whose posterior was taken:
        that of its term, or of the nearest broader term that the index has.
    ``gene``, ``ensembl_id`` : str
        As the model names it; genes that the model does not know are not in the table.
    ``effect``, ``effect_expressing`` : float
        Log odds of the phenotype (nats) that a cell loses without the gene, to first order: mean
        over all cells of the phenotype, and over those with a count of the gene; of each unit,
        then over the units. Positive: the gene speaks for the phenotype.
    ``removal_rank`` : int
        By ``effect``, 1 for the largest.
    ``n_units``, ``n_units_positive``, ``n_units_top`` : int
        Units in which the gene was measured (some cell of the unit has a count of it); in which the
        effect is positive; in which it is positive and among the first `n_genes`.
    ``smallest_effect`` : float
        The smallest ``effect`` of a unit.
    ``p``, ``q`` : float
        One-sided p that the mean effect over units is not above 0, by random effects, with units as
        the replicates; NaN with fewer than two. And Benjamini and Hochberg's q over the genes.
    ``detected``, ``detected_outside``, ``log2_fold_change`` : float
        Share of cells with a count, inside the phenotype and outside; log2 of the ratio of mean
        CP10k (0.1 added to both). Of each unit, then the mean over units.
    ``wilcoxon_score``, ``wilcoxon_rank``, ``wilcoxon_q`` : float
        Stouffer's sum of the z scores of the units, each weighted by the root of the phenotype's
        cells; its rank; and q of the two-sided p. Cells are its replicates, while units are those
        of ``p`` and ``q``: 1e-50 beside .4 is no contradiction, and says nothing of further units.
        NaN where no unit has a test, and with `by_unit` where the unit has none: it has fewer than
        `min_cells` other cells.
    ``wilcoxon_n_units``, ``wilcoxon_n_units_top``, ``wilcoxon_smallest_score`` : int, int, float
        Units with a test; with the gene among the first `n_genes`; the smallest z score.
    ``found_by`` : str
        Whose first `n_genes`, with a positive sign, have it: "both", "removal" or "wilcoxon"; with
        `all_genes` also "neither". By rank alone, whatever ``q`` and ``wilcoxon_q`` are.
    ``exact_effect``, ``exact_difference``, ``n_exact`` : float, float, int
        What true removal costs cells with a count of the gene: log odds (compare with
        ``effect_expressing``) and fused probability, mean over units; and the number of cells.

    With `contextual` also ``contextual_effect``, ``contextual_excess``, ``contextual_p`` and
    ``contextual_replication`` : float, which are ``effect``, ``excess``, ``p`` and ``replication``
    of :func:`scgp.polyfunctionality` for the two contexts, with units as donors; NaN for a gene
    that too few cells of one of them express.

    With `by_unit`: ``group``, ``unit``, ``gene``, ``ensembl_id``, ``n_cells``, ``effect``,
    ``effect_expressing``, ``removal_rank``, ``detected``, ``detected_outside``,
    ``log2_fold_change``, ``wilcoxon_score``, ``wilcoxon_rank`` and ``wilcoxon_q`` (adjusted by
    scanpy) of each unit, for all genes.

    Raises
    ------
    MissingColumnError
        ``obs`` has no column `groupby` or `across`, or `beside` lacks a column.
    ArgumentError
        `groupby` and `across` are one column, or have fewer than two values; or another argument
        has a value that cannot be used.
    LabelError
        `groups` names a phenotype without cells; none has `min_cells` cells in a unit; or the index
        knows none.
    CountsError, GeneError, FingerprintError, DeviceError
        As in :func:`scgp.annotate`.

    Warns
    -----
    ScgpWarning
        Cells, or phenotypes, that are left out; phenotypes of one unit only; phenotypes asked by a
        broader term; phenotypes and units without a Wilcoxon test. And as in :func:`scgp.annotate`.

    Notes
    -----
    The fused posterior that :func:`scgp.annotate` answers by is asked, but for the pairwise stream,
    which leaps from label to label (:func:`scgp.explain` has it); removal is occlusion (Zeiler and
    Fergus 2014), its first-order estimate the gradient times the change of all values, for a cell's
    counts are normalised anew. Random effects are those of DerSimonian and Laird (1986), tested
    after Knapp and Hartung (2003) with the scale factor of Roever, Knapp and Friede (2015).
    Wilcoxon is ``scanpy.tl.rank_genes_groups`` on log1p(CP10k) within each unit.

    An effect says what the *model* reads in cells of that label. It is consistent over units if the
    cells are alike and the model is one: a small q is no sign of a large effect, nor of a causal
    one. A gene that the reference does not use has none, however well it marks the phenotype. The
    fusion multiplies (see :func:`scgp.explain`): of the many labels of the default index, a marker
    that moves the streams to different ones, such as CD79A between kinds of B cells, can have a
    negative effect. By the default index, which was made with marker databases and of the very
    cells that were asked, .850, .625 and .353 of the first 10, 20 and 50 genes are known markers;
    by indexes of :func:`scgp.leave_one_out`, made without these databases, .750, .622 and .348
    (``benchmarks/results/biomarkers.md``, ``biomarkers_left_out.md``). The former shows nothing:
    use the latter.

    Examples
    --------
    >>> import scgp
    >>> adata = scgp.demo.counts()
    >>> adata.obs["type"] = adata.obs["bulk_labels"].astype(str).map(
    ...     scgp.demo.BULK_LABEL_TO_CL)
    >>> adata.obs["part"] = ["abc"[i % 3] for i in range(adata.n_obs)]  # three units, for show
    >>> found = biomarkers(adata, groupby="type", across="part", groups="CL:0000236",
    ...                    progress=False)
    >>> "MS4A1" in found.loc[found["found_by"] == "both", "gene"].tolist()  # CD20
    True
    """
    check_adata(adata)
    seed = whole_number(seed, "seed", least=0)
    _check(n_genes=n_genes, min_cells=min_cells, max_cells=max_cells, exact_cells=exact_cells)
    if contextual and by_unit:
        msg = "contextual=True and by_unit=True do not go together: units are its replicates"
        raise ArgumentError(msg)
    keys = ["group", "unit", "gene"] if by_unit else ["group", "gene"]
    check_beside(beside, keys)
    if rivals not in {"phenotypes", "labels"}:
        msg = f"rivals is {rivals!r}; expected 'phenotypes' or 'labels'"
        raise ArgumentError(msg)
    on = resolve_device(device)
    cohorts = read_cohorts(adata, groupby, across, groups)
    model = resolve_model(model)
    if contextual:
        check_context(model)
    index_of = _indexes(index, model, cohorts.units)
    counts = choose_counts(adata, layer=layer, use_raw=use_raw)
    cells = Cells(counts, match_genes(counts, model.genes).token_of_column, model, on)
    value_BG = values(cells)
    filled_B = np.diff(value_BG.indptr) > 0
    _warn_empty(filled_B)
    cohorts = with_enough(cohorts.kept(filled_B), across, min_cells=min_cells)
    rows_of = drawn(cohorts, min_cells=min_cells, max_cells=max_cells, seed=seed)
    names_of = {unit: [name for name, of in rows_of if of == unit] for unit in cohorts.units}
    asked = asked_of(names_of, index_of, phenotypes=cohorts.phenotypes, rivals=rivals)
    rows_of = {pair: rows for pair, rows in rows_of.items() if pair[0] in asked[pair[1]]}
    asking = Asking(cells, cohorts, value_BG, index_of, asked, rows_of)
    found = gathered(asking, min_cells=min_cells, progress=progress)
    names = pd.DataFrame({"gene": model.genes.symbol, "ensembl_id": model.genes.ensembl})
    if by_unit:
        tables = [each(evidence, names=names) for evidence in found]
    else:
        tables = [
            _chosen(asking, evidence, whole(evidence, n_genes=n_genes, names=names),
                    all_genes=all_genes, exact_cells=exact_cells, seed=seed)
            for evidence in found
        ]  # fmt: skip
        if contextual:
            tables = [
                _with_contexts(asking, table, min_cells=min_cells, max_cells=max_cells, seed=seed)
                for table in tables
            ]
    table = pd.concat(tables, ignore_index=True)
    return table if beside is None else joined(table, beside, keys)


def _chosen(
    asking: Asking,
    evidence: Evidence,
    table: pd.DataFrame,
    *,
    all_genes: bool,
    exact_cells: int,
    seed: int,
) -> pd.DataFrame:
    """Keep the genes that were found, or all, and remove the found ones from some cells."""
    columns = {"exact_effect": np.nan, "exact_difference": np.nan, "n_exact": 0}
    table = table.assign(**columns)
    is_found = (table["found_by"] != "neither").to_numpy()
    gene_R = table.index[is_found].to_numpy()
    if exact_cells and len(gene_R):
        told = removed(asking, evidence, gene_R, n_cells=exact_cells, seed=seed)
        for name, value_R in told.items():
            table.loc[gene_R, name] = value_R
    return table if all_genes else table[is_found]


def _with_contexts(
    asking: Asking, table: pd.DataFrame, *, min_cells: int, max_cells: int, seed: int
) -> pd.DataFrame:
    """Add the columns of contextual shift to the table of one phenotype; its index has genes."""
    if table.empty:
        return table.assign(**dict.fromkeys(SHIFT, np.nan))
    columns = contextual_shift(
        asking.cells, asking.cohorts, asking.rows_of, table["group"].iloc[0],
        table.index.to_numpy(), min_cells=min_cells, max_cells=max_cells, seed=seed,
    )  # fmt: skip
    return table.join(columns)


def _indexes(
    index: ReferenceIndex | str | Path | Mapping[str, ReferenceIndex | str | Path] | None,
    model: Model,
    units: Sequence[str],
) -> dict[str, ReferenceIndex]:
    """Return the index of each unit."""
    if isinstance(index, Mapping):
        missing = [unit for unit in units if unit not in index]
        if missing:
            there = ", ".join(map(repr, index)) or "none"
            msg = f"index has none for the unit {missing[0]!r}; it has {there}"
            raise ArgumentError(msg)
        return {unit: opened(index[unit], model.fingerprint) for unit in units}
    one = model_index(model) if index is None else opened(index, model.fingerprint)
    return dict.fromkeys(units, one)


def _check(*, n_genes: int, min_cells: int, max_cells: int, exact_cells: int) -> None:
    """Refuse numbers that nothing can be found with."""
    given = {"n_genes": n_genes, "min_cells": min_cells, "max_cells": max_cells}
    least = {"n_genes": 1, "min_cells": 2, "max_cells": 2, "exact_cells": 0}
    for name, value in (given | {"exact_cells": exact_cells}).items():
        if not isinstance(value, Integral) or value < least[name]:
            msg = f"{name} is {value}; expected a whole number of at least {least[name]}"
            raise ArgumentError(msg)


def _warn_empty(filled_B: np.ndarray) -> None:
    if not filled_B.all():
        warn_user(
            f"{int((~filled_B).sum())} of {len(filled_B)} cells have no count in the genes of the "
            "model: left out"
        )
