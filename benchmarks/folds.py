"""Which cells may never be split against each other, and how the folds follow from it.

Owns the table of groups (one study, sample or donor each) and the assignment of groups to folds.
Knows nothing of counts, methods or scores.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Group:
    """Files and studies that stay together, and why.

    A file of one study is listed under ``files``; a study that is one of several in a file
    under ``studies`` only, so that it moves without its neighbours.
    """

    name: str
    files: frozenset[str]
    studies: frozenset[str]
    reason: str


# The data sheet's list "Never split these against each other", word for word where it can be.
GROUPS: tuple[Group, ...] = (
    Group(
        "Zheng 2017",
        frozenset(
            {
                "zheng_sorted_fasttopics",
                "zheng_sorted_pbmc14k_scminer",
                "zheng_sorted_mudan",
                "zheng2017_frozen_pbmc_a",
            }
        ),
        frozenset({"Zheng 2017 (bead-sorted PBMC)", "Zheng 2017 (frozen PBMC donor A)"}),
        "one donor and one experiment; all share donor Zheng_donorA",
    ),
    Group(
        "Kang 2018",
        frozenset(
            {
                "kang2018_scgen",
                "kang2018_ctrl_harmony",
                "kang2018_ctrl_1287genes",
                "kang2018_stim_harmony",
                "kang2018_stim_scgen",
            }
        ),
        frozenset({"Kang 2018"}),
        "8 donors, pooled",
    ),
    Group(
        "10x PBMC3k and PBMC6k",
        frozenset({"pbmc3k_seurat"}),
        frozenset({"10x PBMC3k", "10x PBMC6k"}),
        "one donor: 10x_pbmc3k_6k; PBMC6k is one of the samples of pbmc_7studies_mangiola",
    ),
    Group(
        "GeACT",
        frozenset({"geact_fetal_7organs", "geact_sorted_blood"}),
        frozenset({"GeACT (fetal organs)", "GeACT (sorted adult blood)"}),
        "one laboratory and protocol, MALBAC-DT; different donors",
    ),
    Group(
        "10x PBMC protein",
        frozenset({"citeseq_pbmc10k", "pbmc5k_protein"}),
        frozenset({"10x pbmc_10k_protein_v3", "10x pbmc_5k_protein_v3"}),
        "one protocol and gene list; donors not stated",
    ),
    Group(
        "Baron 2016",
        frozenset({"baron2016_cider"}),
        frozenset({"Baron 2016"}),
        "14 profiles of hcl_ref_2020 are means of this study's own clusters (PROFILE_STUDIES)",
    ),
)

# Pseudobulk profiles that are means of a study which also stands here as cells: the end of the
# profile's name -> that study. Cells drawn from them belong to its group like its own cells.
PROFILE_STUDIES: dict[str, str] = {"_AdultPancreas_Baron": "Baron 2016"}

# Query groups of train -> eval that stay in training. Kang 2018 is there on purpose: control
# cells train, interferon-stimulated cells are the query; a test of that shift, not a new study.
SHIFT_GROUPS = frozenset({"Kang 2018"})


@dataclass(frozen=True)
class Fold:
    """One part of a leave-studies-out run: the groups whose cells are the query."""

    name: str
    held_out: frozenset[str]


def group_of(file: str, study: str) -> str:
    """Return the group of the cells of ``study`` in ``file``; a study of no group is its own.

    Examples
    --------
    >>> group_of("pbmc_7studies_mangiola", "10x PBMC6k")
    '10x PBMC3k and PBMC6k'
    >>> group_of("pbmc_7studies_mangiola", "SCP591")
    'SCP591'
    """
    for group in GROUPS:
        if study in group.studies or file in group.files:
            return group.name
    return study


def study_of_profile(profile: str, collection: str) -> str:
    """Return the study that a pseudobulk profile is a mean of.

    Profiles of studies that stand nowhere else here carry their collection's name.

    Examples
    --------
    >>> study_of_profile("Beta cell_AdultPancreas_Baron", "hcl_ref_2020")
    'Baron 2016'
    >>> study_of_profile("Beta cell_AdultPancreas1", "hcl_ref_2020")
    'drawn from hcl_ref_2020'
    """
    for ending, study in PROFILE_STUDIES.items():
        if profile.endswith(ending):
            return study
    return f"drawn from {collection}"


def assign_folds(groups: Iterable[str], *, n_folds: int | None) -> list[Fold]:
    """Spread groups over folds of similar numbers of cells.

    The largest group goes first, each to the fold that is smallest so far; ties by name, so the
    folds depend on nothing but the groups' sizes and names.

    Parameters
    ----------
    groups
        The group of each cell.
    n_folds
        Number of folds; ``None`` holds out every group by itself.

    Returns
    -------
    The folds; every group is held out by exactly one of them.

    Raises
    ------
    ValueError
        There are fewer groups than folds.

    Examples
    --------
    >>> [sorted(fold.held_out) for fold in assign_folds("aaabbc", n_folds=2)]
    [['a'], ['b', 'c']]
    """
    sizes = Counter(groups)
    n_folds = len(sizes) if n_folds is None else n_folds
    if not 2 <= n_folds <= len(sizes):
        message = (
            f"{n_folds} folds from {len(sizes)} groups of studies ({', '.join(sorted(sizes))}): "
            f"expected 2 to {len(sizes)}; pass --folds in that range, or --folds each"
        )
        raise ValueError(message)
    members: list[list[str]] = [[] for _ in range(n_folds)]
    cells = [0] * n_folds
    for name in sorted(sizes, key=lambda group: (-sizes[group], group)):
        smallest = min(range(n_folds), key=lambda fold: (cells[fold], fold))
        members[smallest].append(name)
        cells[smallest] += sizes[name]
    return [Fold(f"fold{i + 1}of{n_folds}", frozenset(m)) for i, m in enumerate(members)]
