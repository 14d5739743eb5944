"""What perturb() returns: its tables, and how they read as text.

Must not know how they are made (`perturb`) or drawn (`panels_perturbation`).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

#: Groups and genes that the text shows.
_GROUPS, _GENES = 5, 5


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Perturbation:
    """What :func:`scgp.perturb` found.

    A cell is *changed* where it has a count of a perturbed gene whose factor is not 1. All others
    are as they were, to the last bit.

    Attributes
    ----------
    perturbed
        One row for each perturbed gene: ``gene`` (the model's symbol), ``ensembl_id``, ``factor``,
        ``n_cells`` with a count of it, ``detected`` (their share) and ``mean`` CP10k.
    cells
        One row a cell, by ``obs_names``: ``group``; whether it is ``changed``; ``cosine_distance``
        of its vector after from that before, 0 to 2; ``label`` and ``label_after``, what
        :func:`scgp.annotate` would answer (None for a cell without a count, before or after);
        ``explained``, that label, or the best of a cell that is "unknown"; ``probability`` and
        ``probability_after`` of ``explained`` and all labels below it (fused, not the calibrated
        confidence); ``gained`` and ``gain``, ``lost`` and ``loss``: the labels of the reference
        whose probability rises and falls most, and by how much.
    shift
        Unit vector after minus before, cells x width of the embedding, float32.
    groups
        One row a group (one in all, "all", without `groupby`): ``n_cells``, ``n_changed``;
        ``level``, mean CP10k of the perturbed genes (their sum), and ``null_level``, the median of
        that over the null: where they are far apart, what follows is of the level; and of the
        changed cells the means of ``cosine_distance``, of ``probability_change``, which is that
        of *each cell's own answer*, ``explained`` (where a cell is called "memory B cell", that
        this rises while "B cell" falls is a rise), and of ``group_type_change``, that of *the
        group's type*: the posterior summed over the term that the group is named by and everything
        below it. The latter is NaN for a group whose name is neither a term nor a label of the
        index, or has no label below it. ``null_distance``, ``null_change`` and
        ``null_type_change`` are the means of the same over the null; ``p_distance`` (one-sided: as
        far as this or farther), ``p_change`` and ``p_type_change`` (two-sided), NaN in a group with
        fewer than 10 changed cells.
    posterior
        ``group``, ``label``, ``ontology_id``, mean probability ``before`` and ``after`` over all
        cells of the group, and their ``change``, in falling order within a group. As all
        probabilities here it leaves the pairwise stream out, which names one label and so leaps
        from one to the next; the labels of the cells are those of :func:`scgp.annotate`, with it.
    expression
        ``group``, ``gene``, ``ensembl_id``; ``n_read``, the changed cells in which genes were read;
        ``before`` and ``after``, mean predicted log CP10k (natural logarithm) in them, in a study
        that the model does not know too high for rare genes; ``shift``, after minus before, the
        dilution by normalising anew included; ``dilution``, what is expected of it where genes are
        deleted, the mean of -log(1 - share of their counts), and 0 for other factors, which have no
        such formula; ``shift_all``, the shift over all cells of the group, of which those that are
        not changed have 0; ``null_mean``, ``null_sd``, ``null_low`` and ``null_high`` (2.5 and
        97.5 %) of the shifts of the null, each with its own dilution taken out and that of the
        perturbed genes put in; ``z``, the shift less the mean of the null, in its standard
        deviations; ``p``, two-sided about the dilution and empirical, NaN in a group with fewer
        than 10 changed cells; ``n_null``;
        ``coexpression``, the cheap competitor: partial correlation of log1p(CP10k) with the
        perturbed gene over all cells of the group, the logarithm of a cell's counts taken out of
        both, negative where the gene is lowered, mean over several genes; NaN for a gene that does
        not vary in the group, and in a group of fewer than 10 cells.
        All genes share the draws of the null, so that p counts no genes: rank by z. By falling
        absolute ``z`` within a group (``shift``, where there is no null). NaN where nothing was
        read (no changed cell has another gene; of a group without a changed cell the shifts are
        0), and in the columns of the null where there is none, or none of that level (but for
        deletions).
    null
        The expression-matched genes: ``group``, ``set`` (one for each draw), ``gene``,
        ``ensembl_id``, ``like`` (the perturbed gene it stands for), ``mean`` CP10k, ``detected``,
        ``n_read``, and ``cosine_distance``, ``probability_change`` and ``group_type_change`` of its
        set.
    facts
        Model, index, counts, genes and settings that were used.
    """

    perturbed: pd.DataFrame
    cells: pd.DataFrame
    shift: np.ndarray
    groups: pd.DataFrame
    posterior: pd.DataFrame
    expression: pd.DataFrame
    null: pd.DataFrame
    facts: dict[str, object]

    def __repr__(self) -> str:
        what = ", ".join(f"{gene} x {f:g}" for gene, f in self.perturbed[["gene", "factor"]].values)
        lines = [f"{what}: {int(self.cells['changed'].sum())} of {len(self.cells)} cells changed"]
        for _, row in self.groups.head(_GROUPS).iterrows():
            lines.append(
                f"  {row['group']}: {row['n_changed']} of {row['n_cells']} changed, cosine "
                f"distance {row['cosine_distance']:.2g} (null {row['null_distance']:.2g}, "
                f"p {row['p_distance']:.2g})"
            )
            own = self.expression[self.expression["group"] == row["group"]].head(_GENES)
            told = ", ".join(f"{gene} {x:+.2g}" for gene, x in own[["gene", "shift"]].values)
            lines += [f"    log CP10k: {told}"] if told else []
        more = len(self.groups) - _GROUPS
        return "\n".join([*lines, *([f"... and {more} more groups"] if more > 0 else [])])
