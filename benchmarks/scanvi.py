"""scANVI: a semi-supervised variational model of the training cells, adapted to each query.

Owns the import of scvi-tools, which costs seconds and hundreds of megabytes. Knows nothing of
files, folds or scores.
"""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from benchmarks.baselines import best_of
from benchmarks.features import log_normalise, variable_genes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.baselines import Rows, Setting
    from benchmarks.corpus import Cells

UNLABELLED = "unlabelled"
BATCH_SIZE = 256
# Cells of a query batch that the model is adapted to: what is learnt is one vector a batch.
MOST_ADAPTED = 1000
# Share of a model's genes that a query must measure, to be adapted to it.
ENOUGH = 0.95


class Scanvi:
    """scVI, then scANVI, then surgery on the query (scArches), with the advised options for it.

    Settings are fixed: inner validation of a model that trains for minutes would take hours. Every
    step of scANVI works out every label for every cell, so time grows with cells times labels. A
    model of the training cells serves the next query too, if that measures `ENOUGH` of its genes
    (the others are zero there, as in scArches); else the next query has a model on its own genes.
    One object serves one set of training cells.
    """

    name = "scANVI"
    grid: list[Setting] = [  # noqa: RUF012
        {"n_genes": 3000, "epochs": 60, "label_epochs": 10, "query_epochs": 40}
    ]

    def __init__(self) -> None:
        """Start without any model."""
        self._fitted: list[tuple[tuple[Any, ...], np.ndarray, Any]] = []

    def answers(
        self, train: Cells, query: Cells, settings: Sequence[Setting], *, seed: int
    ) -> list[Rows]:
        """Fit, adapt and predict once per setting."""
        rows = []
        for setting in settings:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore")  # the libraries' own, a page per call
                gene_H, model = self._reference(train, query, setting, seed=seed)
                unlabelled_N = np.full(len(query.obs), UNLABELLED, dtype=object)
                target = _counts(query, gene_H, label_N=unlabelled_N)
                prob = _adapt_and_predict(model, target, setting, seed=seed)
            rows.append({self.name: best_of(prob.columns.to_numpy(dtype=object), prob.to_numpy())})
        return rows

    def _reference(
        self, train: Cells, query: Cells, setting: Setting, *, seed: int
    ) -> tuple[np.ndarray, Any]:
        """Return a model of the training cells and its genes: one that is there, or a new one."""
        key = (seed, *setting.values(), frozenset(train.obs["batch"]))
        for made_with, gene_H, model in self._fitted:
            if made_with == key and np.isin(gene_H, query.gene_G).mean() >= ENOUGH:
                return gene_H, model
        batch_N = train.obs["batch"].to_numpy(dtype=object)
        value_NG = log_normalise(train.count_NG)
        gene_H = train.gene_G[variable_genes(value_NG, batch_N, n_top=setting["n_genes"])]
        model = _fit(_counts(train, gene_H, label_N=train.label_N), setting, seed=seed)
        self._fitted.append((key, gene_H, model))
        return gene_H, model


def _counts(cells: Cells, gene_H: np.ndarray, *, label_N: np.ndarray) -> ad.AnnData:
    """Return counts on the named genes; cells without any get one count, which scVI needs."""
    column_H = pd.Index(cells.gene_G).get_indexer(gene_H)
    to_H = (column_H[column_H >= 0], np.flatnonzero(column_H >= 0))
    shape = (cells.count_NG.shape[1], len(gene_H))
    pick_GH = sp.csr_matrix((np.ones(len(to_H[0]), np.float32), to_H), shape=shape)
    count_NH = sp.csr_matrix(cells.count_NG @ pick_GH)
    empty_N = np.flatnonzero(np.diff(count_NH.indptr) == 0)
    at = (empty_N, np.zeros_like(empty_N))
    one_NH = sp.csr_matrix((np.ones(len(empty_N), np.float32), at), shape=count_NH.shape)
    obs = pd.DataFrame(
        {"batch": cells.obs["batch"].to_numpy(dtype=object), "label": label_N},
        index=[str(i) for i in range(len(label_N))],
    )
    var = pd.DataFrame(index=pd.Index(gene_H.astype(str)))
    return ad.AnnData(sp.csr_matrix(count_NH + one_NH), obs=obs, var=var)


def _quiet() -> dict[str, Any]:
    """Return the options that every call of ``train`` has."""
    import scvi

    scvi.settings.verbosity = logging.ERROR
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    silent = {"enable_progress_bar": False, "logger": False}
    return {**silent, "accelerator": "cpu", "batch_size": BATCH_SIZE}


def _fit(reference: ad.AnnData, setting: Setting, *, seed: int) -> Any:
    """Return scANVI of the training cells."""
    import scvi

    scvi.settings.seed = seed
    scvi.model.SCVI.setup_anndata(reference, batch_key="batch", labels_key="label")
    # The options that scvi-tools advises for models that will be adapted to queries.
    base = scvi.model.SCVI(
        reference,
        n_layers=2,
        encode_covariates=True,
        deeply_inject_covariates=False,
        use_layer_norm="both",
        use_batch_norm="none",
    )
    base.train(max_epochs=setting["epochs"], **_quiet())
    model = scvi.model.SCANVI.from_scvi_model(base, unlabeled_category=UNLABELLED)
    model.train(max_epochs=setting["label_epochs"], **_quiet())
    return model


def _adapt_and_predict(
    model: Any, target: ad.AnnData, setting: Setting, *, seed: int
) -> pd.DataFrame:
    """Return the probability of each label (columns) for each query cell."""
    import scvi

    scvi.settings.seed = seed
    order_N = np.random.default_rng(seed).permutation(target.n_obs)
    rank_N = target.obs.iloc[order_N].groupby("batch").cumcount().to_numpy()
    some = np.sort(order_N[rank_N < MOST_ADAPTED])
    adapted = scvi.model.SCANVI.load_query_data(target[some].copy(), model)
    adapted.train(max_epochs=setting["query_epochs"], plan_kwargs={"weight_decay": 0.0}, **_quiet())
    return adapted.predict(target, soft=True)
