"""The gene head: ridge regression from expressed genes to labels, in closed form.

A linear model of genes errs otherwise than the network does, so that the two together are better
than either. Knows genes as columns, values and label codes; neither AnnData nor the network.

Shapes: N reference cells, B cells, G genes of the vocabulary, H genes of the head, T labels, S
scores (one or two a label).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from scgp.cells.gene_sets import GeneSets
from scgp.reference.products import one_thread, weighted_sums
from scgp.reference.unmeasured import Cells, fit_fill

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Genes of the head, those of the largest variance over (mean + `PRIOR`) of log1p(CP10k).
N_GENES, PRIOR = 3000, 0.3
#: Values are divided by a gene's deviation (plus `FLOOR`), and what is above `CLIP` is cut, as in
#: scanpy's scaling: one count of a rare gene must not decide.
FLOOR, CLIP = 0.1, 10.0
#: The penalty: that of losing genes at random (marginalised dropout, van der Maaten et al. 2013),
#: as a share of each gene's second moment.
PENALTY = 0.3
#: What keeps the system solvable where genes are copies of each other.
RIDGE = 1e-3
#: How much more what separates the studies of one label is penalised than what separates its cells:
#: the scatter between a label's studies is added to that within them this many times.
SCATTER = 3.0
#: Weight of a drawn cell beside that of a real one.
DRAWN_WEIGHT = 0.5
#: Divides the scores before the softmax.
TEMPERATURE = 0.25
#: Cells of each label and study that the head is fitted to, and of each label and profile.
CELLS, DRAWN_CELLS = 100, 8


@dataclasses.dataclass(frozen=True, eq=False)
class GeneHead:
    """A linear map from scaled log1p(CP10k) of some genes to scores of labels.

    Attributes
    ----------
    gene_H
        Genes of the vocabulary, int32, ascending.
    scale_H
        What values are divided by, float32.
    mean_H
        Mean scaled value over the reference, float32: stands in for a gene that is not measured.
    weight_HT
        Weights, float16.
    bias_T
        Scores of a cell in which every gene has its mean, float32; NaN for a label that the head
        was not fitted to (`ReferenceIndex.add`): its scores are NaN, and its weights 0.
    described_HT
        Weights that the labels have by their descriptions (`kinship.describing_head`), float16; its
        own, of length 1, for a label that nothing describes. None: not there (before 0.5.0).
    """

    gene_H: NDArray[np.int32]
    scale_H: NDArray[np.float32]
    mean_H: NDArray[np.float32]
    weight_HT: NDArray[np.float16]
    bias_T: NDArray[np.float32]
    described_HT: NDArray[np.float16] | None = None

    @property
    def n_scores(self) -> int:
        """Number of scores of a cell: one a label, or two."""
        return len(self.bias_T) * (1 if self.described_HT is None else 2)

    def scores(self, value_BG: sp.csr_matrix, measured_G: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return the scores of the labels (B x T), or these and those by description (B x 2T).

        Parameters
        ----------
        value_BG
            log1p(CP10k) over the vocabulary.
        measured_G
            Genes that the data measure; another is not zero but unknown, and has its mean.
        """
        mean_H = np.where(measured_G[self.gene_H], self.mean_H, np.float32(0))
        weight_HS = self._weight_HS
        # summed in double precision, and not by BLAS: its float32 depends on the number of threads
        offset_S = -(mean_H[:, None].astype(np.float64) * weight_HS).sum(axis=0)
        offset_S = offset_S.astype(np.float32)
        offset_S[: len(self.bias_T)] += self.bias_T
        x_BH = _scaled(value_BG, self.gene_H, self.scale_H)
        # A cell expresses a sixth of these genes: sums over those take half the time of a product,
        # and the sum of a cell depends on no other cell.
        score_BS: NDArray[np.float32] = weighted_sums(x_BH, weight_HS) + offset_S
        return score_BS

    @functools.cached_property
    def _weight_HS(self) -> NDArray[np.float32]:
        parts = [x for x in (self.weight_HT, self.described_HT) if x is not None]
        return np.concatenate(parts, axis=1).astype(np.float32)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what is stored, by name."""
        names = [field.name for field in dataclasses.fields(self)]
        return {name: x for name in names if (x := getattr(self, name)) is not None}


def _scaled(
    value_NG: sp.csr_matrix, gene_H: NDArray[np.integer], scale_H: NDArray[np.float32]
) -> sp.csr_matrix:
    x_NH = sp.csr_matrix(value_NG[:, gene_H], dtype=np.float32)
    x_NH.sort_indices()
    x_NH.data = np.minimum(x_NH.data / scale_H[x_NH.indices], np.float32(CLIP))
    return x_NH


@one_thread()
def fit_gene_head(
    value_NG: sp.csr_matrix,
    code_N: NDArray[np.integer],
    n_labels: int,
    *,
    study_N: NDArray[np.integer] | None = None,
    drawn_N: NDArray[np.bool_] | None = None,
    gene_sets: GeneSets | None = None,
    n_genes: int = N_GENES,
) -> GeneHead:
    """Fit the head to reference cells.

    Ridge regression of the indicator of each label on the scaled genes, every cell weighted by one
    over the root of its label's cells. Scores are divided by the root of the label's share, which
    puts rare and frequent labels on one scale. Directions in which the studies of one label differ
    are penalised (`SCATTER`), as in within-class covariance normalisation (Hatch et al. 2006): a
    further study will differ there too. Where sources measure different genes, a gene that a cell's
    source lacks has its expected value given the others (`unmeasured`).

    Parameters
    ----------
    value_NG
        log1p(CP10k) over the vocabulary.
    code_N
        Label of each cell.
    study_N
        Study of each cell, any integers (of a drawn cell: its profile); None: all of one.
    drawn_N
        Cells drawn from mean profiles, which count half.
    gene_sets
        Which genes each cell's source measures, over the vocabulary; None: all of them all.
    n_genes
        Most genes that are used.
    """
    count_T = np.bincount(code_N, minlength=n_labels)
    weight_N = 1 / np.sqrt(count_T[code_N])
    if drawn_N is not None:
        weight_N = weight_N * np.where(drawn_N, DRAWN_WEIGHT, 1.0)
    weight_N /= weight_N.sum()
    if gene_sets is None:
        everything_1G = np.ones((1, value_NG.shape[1]), bool)
        gene_sets = GeneSets(np.zeros(len(code_N), np.int64), everything_1G)
    gene_H, scale_H, share_H = _variable(value_NG, weight_N, gene_sets, n_genes)
    x_NH = _scaled(value_NG, gene_H, scale_H)
    mean_H = ((x_NH.T @ weight_N) / share_H).astype(np.float32)
    square_H = (x_NH.power(2).T @ weight_N) / share_H
    cells = Cells(x_NH, weight_N, gene_sets.set_N, gene_sets.measured_PG[:, gene_H], mean_H)
    fill = fit_fill(cells)
    study_N = np.zeros_like(code_N) if study_N is None else study_N
    pairs, pair_N = np.unique(np.stack([code_N, study_N]), axis=1, return_inverse=True)
    second_HH, sum_PH = cells.moments(fill, pair_N.ravel())
    weight_P = np.bincount(pair_N.ravel(), weight_N).astype(np.float64)
    off_H = sum_PH.sum(axis=0)  # of the means, where genes were filled in
    ridge_H = PENALTY * square_H + RIDGE
    if fill is not None:
        ridge_H += fill.noise_H * cells.missing_H
    spread_HH = second_HH - np.outer(off_H, off_H) + np.diag(ridge_H)
    spread_HH += SCATTER * _scatter(sum_PH, weight_P, pairs[0])
    sum_TH = _summed(sum_PH, pairs[0], n_labels)
    share_T = np.bincount(code_N, weight_N, minlength=n_labels)
    weight_HT = np.linalg.solve(spread_HH, sum_TH.T - np.outer(off_H, share_T))
    root_T = np.sqrt(np.maximum(share_T, np.finfo(float).tiny))
    return GeneHead(
        gene_H=gene_H,
        scale_H=scale_H,
        mean_H=(mean_H + off_H).astype(np.float32),
        weight_HT=(weight_HT / root_T).astype(np.float16),
        bias_T=root_T.astype(np.float32),
    )


def _variable(
    value_NG: sp.csr_matrix, weight_N: NDArray[np.float64], gene_sets: GeneSets, n_genes: int
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float64]]:
    """Choose the genes; return them, their scales, and the share of the weight that measures them.

    Means and variances are of the cells that measure a gene, and its rank is less where few do.
    """
    weight_P = np.bincount(gene_sets.set_N, weight_N, minlength=len(gene_sets.measured_PG))
    share_G = weight_P @ gene_sets.measured_PG
    held_G = np.maximum(share_G, np.finfo(float).tiny)
    mean_G = (value_NG.T @ weight_N) / held_G
    variance_G = np.maximum((value_NG.power(2).T @ weight_N) / held_G - mean_G**2, 0.0)
    # ties go to the lower gene, and a gene that never varies says nothing
    order_G = np.argsort(-variance_G * share_G / (mean_G + PRIOR), kind="stable")
    gene_H = np.sort(order_G[: min(n_genes, int((variance_G > 0).sum()))]).astype(np.int32)
    scale_H = (np.sqrt(variance_G[gene_H]) + FLOOR).astype(np.float32)
    return gene_H, scale_H, share_G[gene_H]


def _summed(
    sum_PH: NDArray[np.float64], label_P: NDArray[np.integer], n_labels: int
) -> NDArray[np.float64]:
    entries = (np.ones(len(label_P)), (label_P, np.arange(len(label_P))))
    sum_TH: NDArray[np.float64] = sp.csr_matrix(entries, (n_labels, len(label_P))) @ sum_PH
    return sum_TH


def _scatter(
    sum_PH: NDArray[np.float64], weight_P: NDArray[np.float64], label_P: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Return the weighted scatter of the studies' means around those of their labels (H x H).

    ``sum_PH`` has the weighted sums of pairs of label and study, ``weight_P`` their weights.
    """
    n_labels = int(label_P.max()) + 1
    weight_T = np.maximum(np.bincount(label_P, weight_P), np.finfo(float).tiny)
    mean_TH = _summed(sum_PH, label_P, n_labels) / weight_T[:, None]
    apart_PH = (sum_PH / weight_P[:, None] - mean_TH[label_P]) * np.sqrt(weight_P)[:, None]
    scatter_HH: NDArray[np.float64] = apart_PH.T @ apart_PH
    return scatter_HH
