"""Which of the likeliest labels a cell is most like, over the genes that set these labels apart.

Network and heads weigh thousands of genes at once; between two labels that both find likely, few
genes decide. Mean profiles of the reference's real cells are compared with the cell over the
markers of every pair of the likeliest labels, and again over those of the labels that are left: the
fine-tuning of SingleR (Aran et al. 2019), by Pearson's correlation instead of Spearman's, which
answers the same and takes no sorting. Knows genes as columns and labels as codes; neither AnnData,
nor the network, nor what makes a label likely.

Shapes: N reference cells, B cells, C candidates, G genes of the vocabulary, H genes with levels, P
mean profiles, T labels, L labels with a profile, M markers.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from scgp.reference.pairwise_loops import fill_markers, find_winners

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scgp.cells.gene_sets import GeneSets

#: Likeliest labels that are compared: 6 to 20 do the same on left-out studies (docs/log.md).
N_CANDIDATES = 8
#: Markers of a label against another: 5 gain less, and so do 20 and 40.
N_MARKERS = 10
#: Labels that correlate less than the best by more than this fall out (that of SingleR).
MARGIN = 0.05
#: What the stream counts: of the winner's odds, e**1.5, for the floor under the others is 1e-4. On
#: left-out studies 1 to 2 gain (docs/log.md).
WEIGHT = 0.16
#: Over fewer genes nothing is said.
FEWEST_GENES = 5
#: Studies that a label has a profile of, those of the most cells.
MOST_STUDIES = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Round:
    """One comparison of a cell with the labels left, best first.

    Attributes
    ----------
    label_C
        The labels.
    correlation_C
        Correlation with the nearest profile of each.
    n_genes
        Genes over which it is taken.
    markers
        Of each label its genes of the vocabulary against the best one (of the best, against the
        second), the strongest first.
    """

    label_C: NDArray[np.int32]
    correlation_C: NDArray[np.float64]
    n_genes: int
    markers: list[NDArray[np.int32]]


@dataclasses.dataclass(frozen=True, eq=False)
class PairwiseProfiles:
    """Mean profiles of real cells, one for each label and study.

    Attributes
    ----------
    gene_H
        Genes of the vocabulary, int32, ascending.
    mean_PH
        Mean log1p(CP10k), float16.
    label_P
        Label of each profile, int32, ascending.
    """

    gene_H: NDArray[np.int32]
    mean_PH: NDArray[np.float16]
    label_P: NDArray[np.int32]

    def winners(
        self,
        likely_BT: NDArray[np.floating[Any]],
        value_BG: sp.csr_matrix,
        measured_G: NDArray[np.bool_],
    ) -> NDArray[np.int32]:
        """Return the label that each cell is most like, of those likeliest; -1: cannot tell.

        Parameters
        ----------
        likely_BT
            The higher, the likelier a label. Those without a profile do not take part, nor do
            labels that are -inf for all cells.
        value_BG
            log1p(CP10k) over the vocabulary.
        measured_G
            Genes that the data measure: others are no markers.
        """
        label_L, start_L = np.unique(self.label_P, return_index=True)
        candidate_BC = self._candidates(likely_BT, label_L)
        winner_B = np.full(len(likely_BT), -1, np.int32)
        if candidate_BC.shape[1] < 2:
            return winner_B
        place_G = np.full(len(measured_G), -1, np.int32)
        place_G[self.gene_H] = np.arange(len(self.gene_H))
        find_winners(
            (value_BG.indptr, value_BG.indices, value_BG.data),
            place_G,
            candidate_BC.copy(),  # is overwritten
            self._profile_PH,
            np.append(start_L, len(self.label_P)),
            self._markers.filled(candidate_BC, measured_G[self.gene_H]),
            MARGIN,
            FEWEST_GENES,
            winner_B,
        )
        return np.where(winner_B >= 0, label_L[winner_B], -1).astype(np.int32)

    @staticmethod
    def _candidates(
        likely_BT: NDArray[np.floating[Any]], label_L: NDArray[np.integer]
    ) -> NDArray[np.int64]:
        """Return the likeliest of the labels with a profile, by their positions in `label_L`."""
        possible_L = np.flatnonzero(np.isfinite(likely_BT[:, label_L]).any(axis=0))
        order_BL = np.argsort(-likely_BT[:, label_L[possible_L]], axis=1, kind="stable")
        return possible_L[order_BL[:, :N_CANDIDATES]].astype(np.int64)

    def rounds(
        self,
        likely_T: NDArray[np.floating[Any]],
        value_1G: sp.csr_matrix,
        measured_G: NDArray[np.bool_],
    ) -> list[Round]:
        """Return the comparisons behind the winner of one cell, in their order.

        Empty where it cannot be told. Arguments as in `winners`.
        """
        label_L = np.unique(self.label_P)
        left = self._candidates(likely_T[None], label_L)[0]
        measured_H = measured_G[self.gene_H]
        x_H = value_1G[:, self.gene_H].toarray()[0].astype(np.float64)
        found: list[Round] = []
        while len(left) > 1:
            gene_LLM = self._markers.filled(left[None], measured_H)
            of_pairs = gene_LLM[left[:, None], left][~np.eye(len(left), dtype=bool)]
            genes = np.unique(of_pairs[of_pairs >= 0])
            if len(genes) < FEWEST_GENES or not np.ptp(x_H[genes]):
                break
            rows = [np.flatnonzero(self.label_P == label) for label in label_L[left]]
            correlation_C = np.array([_correlated(x_H, self._profile_PH[r], genes) for r in rows])
            order = np.argsort(-correlation_C, kind="stable")
            left, correlation_C = left[order], correlation_C[order]
            rival = [left[1], *[left[0]] * (len(left) - 1)]
            markers = [m[m >= 0] for m in gene_LLM[left, rival]]
            genes_C = [self.gene_H[m] for m in markers]
            found.append(Round(label_L[left], correlation_C, len(genes), genes_C))
            still = correlation_C >= correlation_C[0] - MARGIN
            if still.all():
                break
            left = left[still]
        return found

    @functools.cached_property
    def _profile_PH(self) -> NDArray[np.float32]:
        return self.mean_PH.astype(np.float32)

    @functools.cached_property
    def _markers(self) -> _Markers:
        label_L = np.unique(self.label_P)
        rows = [self._profile_PH[self.label_P == label] for label in label_L]
        return _Markers(np.stack([np.median(x_PH, axis=0) for x_PH in rows]))

    def taken(self, labels: NDArray[np.integer]) -> PairwiseProfiles | None:
        """Return the profiles of some labels, of which each becomes its position; None: of none."""
        rows = np.flatnonzero(np.isin(self.label_P, labels))
        if not len(rows):
            return None
        order = np.argsort(labels, kind="stable")
        code_P = order[np.searchsorted(labels, self.label_P[rows], sorter=order)]
        rows, code_P = (x[np.argsort(code_P, kind="stable")] for x in (rows, code_P))
        return PairwiseProfiles(self.gene_H, self.mean_PH[rows], code_P.astype(np.int32))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what is stored, by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def fault(self, n_labels: int) -> str:
        """Say what contradicts itself, or the number of labels; "" for nothing."""
        shape = (len(self.label_P), len(self.gene_H))
        if self.mean_PH.shape != shape or not all(shape):
            return f"pairwise profiles have the shape {self.mean_PH.shape}, expected {shape}"
        if not np.isfinite(self.mean_PH).all():
            return "pairwise profiles hold NaN or infinite values"
        if self.gene_H.min() < 0 or np.any(np.diff(self.gene_H) <= 0):
            return "genes of the pairwise profiles are not ascending, each once"
        if self.label_P.min() < 0 or self.label_P.max() >= n_labels:
            return f"pairwise profiles are of other than the {n_labels} labels"
        if np.any(np.diff(self.label_P) < 0):
            return "pairwise profiles do not stand label by label"
        return ""


class _Markers:
    """The markers of pairs of labels, found when a pair is first asked for.

    Those of one set of measured genes are kept.
    """

    def __init__(self, centre_LH: NDArray[np.float32]) -> None:
        self._centre_LH = centre_LH
        self._kept: tuple[bytes, NDArray[np.int32], NDArray[np.bool_]] | None = None

    def filled(
        self, candidate_BC: NDArray[np.int64], measured_H: NDArray[np.bool_]
    ) -> NDArray[np.int32]:
        """Return a table with the markers of all pairs of the candidates of each cell (L x L x M).

        Threads may ask at once: what two find for a pair is the same, and a pair is told to be
        there when all of it is.
        """
        n_labels, key = len(self._centre_LH), measured_H.tobytes()
        if (kept := self._kept) is None or kept[0] != key:
            shape = (n_labels, n_labels)
            kept = (key, np.zeros((*shape, N_MARKERS), np.int32), np.eye(n_labels, dtype=bool))
            self._kept = kept
        _, gene_LLM, there_LL = kept
        asked_LL = np.zeros_like(there_LL)
        asked_LL[candidate_BC[:, :, None], candidate_BC[:, None, :]] = True
        high_Q, low_Q = np.nonzero(asked_LL & ~there_LL)
        if len(high_Q):
            fill_markers(self._centre_LH, measured_H, high_Q, low_Q, gene_LLM)
            there_LL[high_Q, low_Q] = True
        return gene_LLM


def _correlated(
    x_H: NDArray[np.floating[Any]],
    profile_RH: NDArray[np.floating[Any]],
    genes: NDArray[np.integer],
) -> float:
    """Return the largest correlation with some profiles; 0 with one of a single level."""
    x = x_H[genes] - x_H[genes].mean()
    y_RN = profile_RH[:, genes].astype(np.float64)
    y_RN -= y_RN.mean(axis=1, keepdims=True)
    norm_R = np.linalg.norm(x) * np.linalg.norm(y_RN, axis=1)
    return float(np.divide(y_RN @ x, norm_R, out=np.zeros(len(y_RN)), where=norm_R > 0).max())


def fit_pairwise(
    value_NG: sp.csr_matrix,
    code_N: NDArray[np.integer],
    gene_H: NDArray[np.int32],
    *,
    study_N: NDArray[np.integer] | None = None,
    drawn_N: NDArray[np.bool_] | None = None,
    gene_sets: GeneSets | None = None,
) -> PairwiseProfiles | None:
    """Average the real cells of each label and study.

    None where fewer than two labels have any, or there is no gene.

    A gene that a study does not measure has its mean in the label's other studies, or in all.

    Parameters
    ----------
    value_NG, code_N, study_N, drawn_N, gene_sets
        As in `gene_head.fit_gene_head`; drawn cells are left out.
    gene_H
        Genes that are kept: those of the gene head, but for what is a state (`interferon`).
    """
    rows = np.arange(len(code_N)) if drawn_N is None else np.flatnonzero(~drawn_N)
    if len(np.unique(code_N[rows])) < 2 or not len(gene_H):
        return None
    study_N = np.zeros_like(code_N) if study_N is None else study_N
    pairs = np.stack([code_N[rows], study_N[rows]])
    label_study_2P, pair_N, n_P = np.unique(pairs, axis=1, return_inverse=True, return_counts=True)
    kept = np.flatnonzero(_place_in_label(n_P, label_study_2P[0]) < MOST_STUDIES)
    label_P, n_P = label_study_2P[0, kept], n_P[kept]
    new_P = np.full(label_study_2P.shape[1], -1)
    new_P[kept] = np.arange(len(kept))
    pair_N = new_P[pair_N.ravel()]
    rows, pair_N = rows[pair_N >= 0], pair_N[pair_N >= 0]
    member = (np.ones(len(rows), np.float32), (pair_N, np.arange(len(rows))))
    sum_PH = (sp.csr_matrix(member) @ value_NG[rows][:, gene_H]).toarray()
    n_PH = np.broadcast_to(n_P[:, None], sum_PH.shape).astype(np.float64)
    if gene_sets is not None:
        n_PS = np.zeros((len(kept), len(gene_sets.measured_PG)))
        np.add.at(n_PS, (pair_N, gene_sets.set_N[rows]), 1)
        n_PH = n_PS @ gene_sets.measured_PG[:, gene_H]
    mean_PH = sum_PH / np.maximum(n_PH, 1)
    for group_P in (label_P, np.zeros_like(label_P)):
        mean_PH, n_PH = _filled(mean_PH, n_PH, group_P)
    return PairwiseProfiles(gene_H, mean_PH.astype(np.float16), label_P.astype(np.int32))


def _filled(
    mean_PH: NDArray[np.float64],
    n_PH: NDArray[np.float64],
    group_P: NDArray[np.integer],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give a mean over no cell the mean of its group's others; 0 cells stay where there is none."""
    filled_PH, n_filled_PH = mean_PH.copy(), n_PH.copy()
    for group in np.unique(group_P):
        rows = np.flatnonzero(group_P == group)
        there_PH = n_PH[rows] > 0
        n_H = there_PH.sum(axis=0)
        mean_H = (mean_PH[rows] * there_PH).sum(axis=0) / np.maximum(n_H, 1)
        filled_PH[rows] = np.where(there_PH, mean_PH[rows], mean_H)
        n_filled_PH[rows] = np.where(there_PH, n_PH[rows], n_H)
    return filled_PH, n_filled_PH


def _place_in_label(n_P: NDArray[np.integer], label_P: NDArray[np.integer]) -> Any:
    """Return the place of each profile among those of its label, by cells, from 0 on."""
    place_P = np.zeros(len(n_P), np.int64)
    for label in np.unique(label_P):
        rows = np.flatnonzero(label_P == label)
        place_P[rows[np.argsort(-n_P[rows], kind="stable")]] = np.arange(len(rows))
    return place_P
