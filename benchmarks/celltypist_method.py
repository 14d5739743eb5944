"""CellTypist with stochastic gradient descent, as its own functions train and annotate.

Owns the import of celltypist and how its options are set. Knows nothing of files, folds or scores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd

from benchmarks.baselines import best_of
from benchmarks.features import log_normalise, variable_genes
from benchmarks.scores import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import scipy.sparse as sp
    from numpy.typing import NDArray

    from benchmarks.baselines import Rows, Setting
    from benchmarks.corpus import Cells

# CellTypist's advice for large references: sample cells of each type, restrict to variable genes.
N_GENES = 2000
MOST_PER_STUDY_AND_TYPE = 200
# Majority voting clusters the query; fewer cells than this have no clusters to vote in.
MIN_CLUSTERED = 100


class CellTypist:
    """One-versus-rest logistic regression on scaled genes; rows with and without majority voting.

    Sparse input is scaled without centring (``with_mean=False``), which CellTypist offers for
    data of this size: centred, the matrix would be dense. CellTypist's own penalty (alpha 1e-4) and
    its mini-batches were clearly worse across studies in a trial, so alpha is chosen.
    """

    name = "CellTypist (SGD)"
    voted = "CellTypist (SGD), majority voting"
    grid: list[Setting] = [{"alpha": alpha} for alpha in (1e-1, 1e-2, 1.0)]  # noqa: RUF012

    def answers(
        self, train: Cells, query: Cells, settings: Sequence[Setting], *, seed: int
    ) -> list[Rows]:
        """Train and annotate once per setting; majority voting only for a single setting."""
        train = _sample(train, seed=seed)
        expressed_N = np.diff(query.count_NG.indptr) > 0
        reference, target = _prepared(train, query.take(expressed_N))
        rows = []
        for setting in settings:
            found = self._one(reference, train, target, setting, seed=seed, vote=len(settings) == 1)
            rows.append({name: _spread(a, expressed_N) for name, a in found.items()})
        return rows

    def _one(
        self,
        reference: ad.AnnData,
        train: Cells,
        target: ad.AnnData,
        setting: Setting,
        *,
        seed: int,
        vote: bool,
    ) -> Rows:
        import celltypist

        celltypist.logger.set_level("ERROR")
        model = celltypist.train(
            reference,
            labels=train.label_N.astype(str),
            with_mean=False,
            check_expression=False,  # it wants all genes; they were normalised over all
            use_SGD=True,
            alpha=setting["alpha"],
            random_state=seed,
        )
        vote = vote and target.n_obs >= MIN_CLUSTERED
        found = celltypist.annotate(target, model=model, majority_voting=vote)
        label_T = found.probability_matrix.columns.to_numpy(dtype=object)
        prob_QT = found.probability_matrix.to_numpy()
        rows = {self.name: best_of(label_T, prob_QT)}
        if vote:
            label_Q = found.predicted_labels["majority_voting"].astype(str).to_numpy(dtype=object)
            column_Q = pd.Index(label_T).get_indexer(label_Q)
            confidence_Q = prob_QT[np.arange(len(column_Q)), column_Q]
            rows[self.voted] = Answer(label_Q, confidence_Q.astype(np.float32))
        else:
            rows[self.voted] = rows[self.name]
        return rows


def over_clusters(train: Cells, query: Cells, *, seed: int) -> NDArray[np.int64]:
    """Return the over-clusters of a query that CellTypist votes in; -1 for cells in none.

    By its own function, on what `CellTypist` gives it: the same genes, values and settings. Cells
    without counts are in none, and nobody is where `CellTypist` does not vote.
    """
    from celltypist import logger
    from celltypist.classifier import Classifier

    logger.set_level("ERROR")
    expressed_N = np.diff(query.count_NG.indptr) > 0
    cluster_N = np.full(len(expressed_N), -1, np.int64)
    if expressed_N.sum() >= MIN_CLUSTERED:
        _, target = _prepared(_sample(train, seed=seed), query.take(expressed_N))
        cluster_N[expressed_N] = Classifier(target, model=None).over_cluster().astype(int)
    return cluster_N


def _prepared(train: Cells, query: Cells) -> tuple[ad.AnnData, ad.AnnData]:
    """Return training cells and query on the genes that vary in the training cells."""
    value_NG = log_normalise(train.count_NG)
    gene_H = variable_genes(value_NG, train.obs["batch"].to_numpy(dtype=object), n_top=N_GENES)
    target = _log_adata(log_normalise(query.count_NG), query, gene_H)
    # CellTypist 1.7 fails on a sparse query of a model trained without centring.
    target.X = target.X.toarray()
    return _log_adata(value_NG, train, gene_H), target


def _sample(train: Cells, *, seed: int) -> Cells:
    """Keep at most `MOST_PER_STUDY_AND_TYPE` cells of each study and type."""
    order_N = np.random.default_rng(seed).permutation(len(train.obs))
    shuffled = train.obs.iloc[order_N]
    rank_N = shuffled.groupby(["study", "label"], observed=True).cumcount().to_numpy()
    return train.take(np.sort(order_N[rank_N < MOST_PER_STUDY_AND_TYPE]))


def _log_adata(value_NG: sp.csr_matrix, cells: Cells, gene_H: NDArray[np.int64]) -> ad.AnnData:
    """Return the AnnData that CellTypist expects: log1p of counts per 10,000, on some genes."""
    var = pd.DataFrame(index=pd.Index(cells.gene_G[gene_H].astype(str)))
    obs = pd.DataFrame(index=[str(i) for i in range(len(cells.obs))])
    return ad.AnnData(value_NG[:, gene_H], obs=obs, var=var)


def _spread(answer: Answer, expressed_N: np.ndarray) -> Answer:
    """Give cells without counts, which CellTypist did not see, the most frequent answer."""
    names, counts = np.unique(answer.label_N.astype(str), return_counts=True)
    label_N = np.full(len(expressed_N), names[counts.argmax()], dtype=object)
    confidence_N = np.zeros(len(expressed_N), np.float32)
    label_N[expressed_N] = answer.label_N
    confidence_N[expressed_N] = answer.confidence_N
    return Answer(label_N, confidence_N)
