"""What a label in a tissue expresses: mean profiles of those that are known, and of any other.

Owns the regression from descriptions to mean profiles and what an index keeps of it
(``profiles.npz``). Knows labels and tissues as likenesses, genes as columns; neither texts nor
cells nor the network.

Kernel ridge regression in closed form, as in `kinship` (Romera-Paredes and Torr 2015), with mean
profiles in the place of attributes. Two groups of cells are alike as the likeness of labels times
1 + that of tissues, plus a quarter of the latter: what a tissue's cells have in common is often its
study. They are so by half where they are of different sources: levels of two sources cannot be
compared, their deviations can (intrinsic coregionalisation, Alvarez et al. 2012). Groups of one
term are more alike than their descriptions say (`OWN`): what sets alpha from beta cells is in no
description of either. A gene that a source does not measure is fitted to the other sources alone
(``benchmarks/predict_expression.py``).

What is fitted is kept in few components, and the few genes of which these say something else of a
known group are kept beside them (`Profiles.rest_PG`): hormones of an islet are in no component.

Shapes: P groups (one label, tissue and source), D descriptions, G genes of the vocabulary, V genes
asked for, K components, S sources.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from scgp.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from scgp.reference.groups import Groups

#: Penalty of a group of one row, where its likeness to itself is at most 3.25.
RIDGE = 1.0
#: What the likeness of tissues counts where labels are not alike. More is better for new types in
#: studies that are known, less for new studies.
TISSUE_ALONE = 0.25
#: What the likeness of two groups counts where they are of different sources.
SHARED = 0.5
#: What the same term adds to the likeness of two groups. More is better for known types in new
#: studies, less for types that were never shown (docs/log.md).
OWN = 0.5
#: Directions of the genes that are kept, of one byte a gene.
N_COMPONENTS = 160
#: Largest value of a signed byte.
BYTE = 127
#: What the components must miss a level by for it to be kept beside them, log1p(CP10k), and the
#: unit that it is kept in.
MISSED, UNIT = 0.3, 1 / 16


@dataclasses.dataclass(frozen=True, eq=False)
class Profiles:
    """Mean profiles in few components, and how they follow from likenesses. Made by `fit_profiles`.

    Attributes
    ----------
    label_ids, tissue_ids
        Ontology ids of the label and tissue of each group, P each; "" for an unknown tissue.
    weight_PK
        What a group's likeness adds to each component, float16.
    gene_GK
        Directions of the components in units of 1 / 127, int8.
    mean_G
        Mean profile, log1p(CP10k), float32.
    n_groups_G
        Groups that measure the gene and have a level, int32; 0: nothing is known of the gene.
    tissue_alone
        As in `joint`.
    own
        As `OWN`; 0 in those made before 0.12.0.
    rest_PG
        What the components miss of the level of a known group, in units of 1 / 16, int8, sparse;
        empty in those made before 0.12.0.
    """

    label_ids: list[str]
    tissue_ids: list[str]
    weight_PK: NDArray[np.float16]
    gene_GK: NDArray[np.int8]
    mean_G: NDArray[np.float32]
    n_groups_G: NDArray[np.int32]
    tissue_alone: float
    own: float
    rest_PG: sp.csr_matrix

    def deviation(
        self,
        likeness_DP: NDArray[np.floating[Any]],
        tissue_DP: NDArray[np.floating[Any]],
        columns: NDArray[np.integer] | None = None,
        *,
        term_ids: Sequence[str] | None = None,
    ) -> NDArray[np.float32]:
        """Return how descriptions deviate from the mean profile, D x genes, log1p(CP10k).

        Parameters
        ----------
        likeness_DP, tissue_DP
            How alike labels and tissues are to those of the groups; 0 for a tissue not known.
        columns
            Genes to return; None for all. What a gene is said to be does not depend on the others.
        term_ids
            Ontology id of each description, "" for free text; None: none is a known term.
        """
        columns = np.arange(len(self.mean_G)) if columns is None else columns
        if term_ids is not None:
            likeness_DP = likeness_DP + self.own * same_term(term_ids, self.label_ids)
        alike_DP = joint(likeness_DP, tissue_DP, self.tissue_alone)
        score_DK = alike_DP @ self.weight_PK.astype(np.float64)
        gene_VK = self.gene_GK[columns].astype(np.float64) / BYTE
        # not a matrix product: its rounding would depend on how many genes are asked for
        deviation_DV = np.einsum("dk,vk->dv", score_DK, gene_VK, optimize=False)
        if term_ids is not None:
            deviation_DV += self._missed(term_ids, tissue_DP, columns)
        return np.asarray(deviation_DV, np.float32)

    def _missed(
        self,
        term_ids: Sequence[str],
        tissue_DP: NDArray[np.floating[Any]],
        columns: NDArray[np.integer],
    ) -> NDArray[np.float64]:
        """Return what the components miss of known terms: the mean over the nearest tissues."""
        same_DP = same_term(term_ids, self.label_ids) > 0
        near_DP = np.where(same_DP, tissue_DP, -np.inf)
        kept_DP = same_DP & (near_DP >= near_DP.max(axis=1, keepdims=True) - 1e-6)
        share_DP = kept_DP / np.maximum(kept_DP.sum(axis=1, keepdims=True), 1)
        rest_PV = self.rest_PG[:, columns].astype(np.float64)
        return np.asarray((sp.csr_matrix(share_DP) @ rest_PV).toarray() * UNIT)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what is stored, by name."""
        rest_PG = self.rest_PG
        return {name: np.asarray(getattr(self, name)) for name in _KINDS} | {
            "own": np.asarray(self.own, np.float64),
            "rest_value": rest_PG.data,
            "rest_gene": rest_PG.indices.astype(np.int32),
            "rest_start": rest_PG.indptr.astype(np.int32),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Profiles:
        """Return the profiles of stored arrays.

        Raises
        ------
        CheckpointError
            Arrays are missing, of another type, or contradict each other.
        """
        if fault := _array_fault(arrays):
            msg = f"mean profiles {fault}; make the index anew"
            raise CheckpointError(msg)
        contents: dict[str, Any] = {name: arrays[name] for name in _KINDS}
        contents |= {name: arrays[name].tolist() for name in ("label_ids", "tissue_ids")}
        contents |= {"tissue_alone": float(arrays["tissue_alone"]), "own": 0.0}
        shape = (len(contents["label_ids"]), len(contents["mean_G"]))
        rest_PG = sp.csr_matrix(shape, dtype=np.int8)
        if _SINCE_0_12.keys() <= arrays.keys():
            parts = (arrays["rest_value"], arrays["rest_gene"], arrays["rest_start"])
            rest_PG = sp.csr_matrix(parts, shape=shape)
            contents["own"] = float(arrays["own"])
        return cls(**contents, rest_PG=rest_PG)


_KINDS = {
    "label_ids": "U",
    "tissue_ids": "U",
    "weight_PK": np.dtype(np.float16),
    "gene_GK": np.dtype(np.int8),
    "mean_G": np.dtype(np.float32),
    "n_groups_G": np.dtype(np.int32),
    "tissue_alone": np.dtype(np.float64),
}
#: All of them, or none: profiles made before 0.12.0.
_SINCE_0_12 = {
    "own": np.dtype(np.float64),
    "rest_value": np.dtype(np.int8),
    "rest_gene": np.dtype(np.int32),
    "rest_start": np.dtype(np.int32),
}


def _array_fault(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Look for stored arrays that are missing, of another type, or do not fit each other."""
    if odd := [
        name
        for name, kind in _KINDS.items()
        if name not in arrays or kind not in (arrays[name].dtype, arrays[name].dtype.kind)
    ]:
        return f"lack {', '.join(odd)}, or have them in another type"
    n_groups, n_genes = len(arrays["label_ids"]), len(arrays["mean_G"])
    n_components = arrays["weight_PK"].shape[-1]
    shapes = {
        "tissue_ids": (n_groups,),
        "weight_PK": (n_groups, n_components),
        "gene_GK": (n_genes, n_components),
        "n_groups_G": (n_genes,),
        "tissue_alone": (),
    }
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            return f"have {name} of the shape {arrays[name].shape}, expected {shape}"
    finite = all(
        np.isfinite(arrays[name]).all() for name in ("weight_PK", "mean_G", "tissue_alone")
    )
    if not (finite and n_groups):
        return "hold no group, or values that are not finite"
    return _rest_fault(arrays, n_groups, n_genes)


def _rest_fault(arrays: Mapping[str, NDArray[Any]], n_groups: int, n_genes: int) -> str:
    """Look for what does not fit in what the components miss; old profiles have none of it."""
    there = [name for name in _SINCE_0_12 if name in arrays]
    if not there:
        return ""
    if odd := [n for n, kind in _SINCE_0_12.items() if n not in there or arrays[n].dtype != kind]:
        return f"lack {', '.join(odd)}, or have them in another type"
    value, gene, start = (arrays[f"rest_{name}"] for name in ("value", "gene", "start"))
    fits = value.ndim == 1 and gene.shape == value.shape and start.shape == (n_groups + 1,)
    fits = fits and start[0] == 0 and start[-1] == len(value) and bool((np.diff(start) >= 0).all())
    fits = fits and (not len(gene) or (gene.min() >= 0 and gene.max() < n_genes))
    if not fits or arrays["own"].shape != () or not np.isfinite(arrays["own"]):
        return "have a remainder that does not fit them"
    return ""


def same_term(term_ids: Sequence[str], label_ids: Sequence[str]) -> NDArray[np.float64]:
    """Return whether descriptions and groups have one term; "" is none.

    Examples
    --------
    >>> same_term(["CL:0000236", ""], ["CL:0000236", "CL:0000084", ""]).tolist()
    [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    term_D, label_P = np.asarray(term_ids, object), np.asarray(label_ids, object)
    same_DP = (term_D[:, None] == label_P) & (term_D[:, None] != "")
    return np.asarray(same_DP, np.float64)


def joint(
    likeness_DP: NDArray[np.floating[Any]],
    tissue_DP: NDArray[np.floating[Any]],
    tissue_alone: float = TISSUE_ALONE,
) -> NDArray[np.float64]:
    """Return how alike pairs of label and tissue are.

    Examples
    --------
    >>> joint(np.array([[1.0, 0.5, 0.0]]), np.array([[1.0, 0.0, 1.0]])).tolist()
    [[2.25, 0.5, 0.25]]
    """
    return np.asarray(likeness_DP * (1.0 + tissue_DP) + tissue_alone * tissue_DP, np.float64)


def fit_profiles(
    groups: Groups,
    likeness_PP: NDArray[np.floating[Any]],
    tissue_PP: NDArray[np.floating[Any]],
    *,
    n_components: int = N_COMPONENTS,
    ridge: float = RIDGE,
    shared: float = SHARED,
    tissue_alone: float = TISSUE_ALONE,
    own: float = OWN,
    target: str | None = None,
) -> Profiles:
    """Fit profiles to groups of cells.

    Parameters
    ----------
    groups
        What is known.
    likeness_PP, tissue_PP
        How alike their labels are (`kinship.likeness`), and their tissues.
    n_components
        Most components that are kept.
    ridge, shared, tissue_alone, own
        `RIDGE`, `SHARED`, `TISSUE_ALONE`, `OWN`.
    target
        The source whose levels are predicted; None: the first of `Groups.widest`.
    """
    sources = groups.widest()
    target = sources[0] if target is None else target
    wide = [target, *(source for source in sources if source != target)]
    likeness_PP = likeness_PP + own * same_term(groups.label_ids, groups.label_ids)
    joint_PP = joint(likeness_PP, tissue_PP, tissue_alone)
    coef_PG = _coefficients(groups, joint_PP, ridge, shared)
    apart_PP = _across(groups.sources, groups.sources, shared)
    fitted_PG = (joint_PP * apart_PP).astype(np.float32) @ coef_PG
    direction_GK = _directions(fitted_PG, n_components)
    largest_K = np.maximum(np.abs(direction_GK).max(axis=0, initial=0), 1e-12)
    weight_PK = (coef_PG @ direction_GK) * largest_K
    weight_PK *= _across(groups.sources, [target], shared)
    of_target_1P = _across([target], groups.sources, shared)
    wanted_PG = (joint_PP * of_target_1P).astype(np.float32) @ coef_PG
    mean_G = np.zeros(coef_PG.shape[1])
    n_groups_G = np.zeros(coef_PG.shape[1], np.int32)
    for source in wide:
        source_G, measured_G = groups.source_mean(source)
        mean_G = np.where((n_groups_G == 0) & measured_G, source_G, mean_G)
        n_groups_G += groups.measured_PG[groups.rows_of(source)].sum(axis=0, dtype=np.int32)
    weight_PK = weight_PK.astype(np.float16)
    gene_GK = np.round(direction_GK / largest_K * BYTE).astype(np.int8)
    kept_PG = (joint_PP @ weight_PK.astype(np.float64)) @ (gene_GK.T.astype(np.float64) / BYTE)
    return Profiles(
        label_ids=groups.label_ids,
        tissue_ids=groups.tissue_ids,
        weight_PK=weight_PK,
        gene_GK=gene_GK,
        mean_G=mean_G.astype(np.float32),
        n_groups_G=n_groups_G,
        tissue_alone=tissue_alone,
        own=own,
        rest_PG=_remainder(wanted_PG, kept_PG, mean_G),
    )


def _remainder(
    wanted_PG: NDArray[np.floating[Any]],
    kept_PG: NDArray[np.floating[Any]],
    mean_G: NDArray[np.floating[Any]],
) -> sp.csr_matrix:
    """Return what is missed of levels by more than `MISSED`; none is below 0."""
    level_PG, kept_level_PG = (np.maximum(mean_G + x, 0) for x in (wanted_PG, kept_PG))
    far_PG = np.abs(level_PG - kept_level_PG) > MISSED
    missed_PG = np.clip(np.round((wanted_PG - kept_PG) / UNIT), -BYTE, BYTE)
    return sp.csr_matrix(np.where(far_PG, missed_PG, 0).astype(np.int8))


def _across(rows: Sequence[str], columns: Sequence[str], shared: float) -> NDArray[np.float64]:
    return np.where(np.array(rows)[:, None] == np.array(columns), 1.0, shared)


def _coefficients(
    groups: Groups, joint_PP: NDArray[np.float64], ridge: float, shared: float
) -> NDArray[np.float32]:
    """Return the dual coefficients of each gene, fitted to the sources that measure it."""
    names = sorted(set(groups.sources))
    deviation_PG, measured_SG = np.zeros_like(groups.mean_PG), []
    for name in names:
        rows, (mean_G, measured_G) = groups.rows_of(name), groups.source_mean(name)
        # a gene that one group of a source does not measure is taken to be at the source's mean
        deviation_PG[rows] = (groups.mean_PG[rows] - mean_G) * groups.measured_PG[rows]
        measured_SG.append(measured_G)
    source_P = np.array([names.index(source) for source in groups.sources])
    kernel_PP = joint_PP * _across(groups.sources, groups.sources, shared)
    kernel_PP += np.diag(ridge / groups.n_rows_P)
    patterns, pattern_G = np.unique(np.array(measured_SG), axis=1, return_inverse=True)
    coef_PG = np.zeros_like(deviation_PG)
    for i, measured_S in enumerate(patterns.T):
        rows, genes = np.flatnonzero(measured_S[source_P]), np.flatnonzero(pattern_G.ravel() == i)
        if len(rows):
            inverse = np.linalg.inv(kernel_PP[np.ix_(rows, rows)]).astype(np.float32)
            coef_PG[np.ix_(rows, genes)] = inverse @ deviation_PG[np.ix_(rows, genes)]
    return coef_PG


def _directions(fitted_PG: NDArray[np.float32], n_components: int) -> NDArray[np.float32]:
    """Return the leading right singular vectors of the fitted values, G x K."""
    value_P, vector_PP = np.linalg.eigh((fitted_PG @ fitted_PG.T).astype(np.float64))
    kept = np.flatnonzero(value_P > 1e-10 * max(value_P.max(initial=0), 1e-300))[::-1]
    kept = kept[:n_components]
    left_PK = (vector_PP[:, kept] / np.sqrt(value_P[kept])).astype(np.float32)
    direction_GK: NDArray[np.float32] = fitted_PG.T @ left_PK
    return direction_GK
