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


class Scanvi:
    """scVI, then scANVI, then surgery on the query (scArches), with the advised options for it.

    Settings are fixed: inner validation of a model that trains for minutes would take hours.
    """

    name = "scANVI"
    grid: list[Setting] = [  # noqa: RUF012
        {"n_genes": 3000, "epochs": 30, "label_epochs": 15, "query_epochs": 40}
    ]

    def answers(
        self, train: Cells, query: Cells, settings: Sequence[Setting], *, seed: int
    ) -> list[Rows]:
        """Fit, adapt and predict once per setting."""
        batch_N = train.obs["batch"].to_numpy(dtype=object)
        value_NG = log_normalise(train.count_NG)
        rows = []
        for setting in settings:
            gene_H = variable_genes(value_NG, batch_N, n_top=setting["n_genes"])
            reference = _counts(train, gene_H, label_N=train.label_N)
            unlabelled_N = np.full(len(query.obs), UNLABELLED, dtype=object)
            target = _counts(query, gene_H, label_N=unlabelled_N)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore")  # the libraries' own, a page per call
                prob = _fit_and_predict(reference, target, setting, seed=seed)
            rows.append({self.name: best_of(prob.columns.to_numpy(dtype=object), prob.to_numpy())})
        return rows


def _counts(cells: Cells, gene_H: np.ndarray, *, label_N: np.ndarray) -> ad.AnnData:
    """Return counts on the chosen genes; cells without any get one count, which scVI needs."""
    count_NH = cells.count_NG[:, gene_H]
    empty_N = np.flatnonzero(np.diff(count_NH.indptr) == 0)
    at = (empty_N, np.zeros_like(empty_N))
    one_NH = sp.csr_matrix((np.ones(len(empty_N), np.float32), at), shape=count_NH.shape)
    obs = pd.DataFrame(
        {"batch": cells.obs["batch"].to_numpy(dtype=object), "label": label_N},
        index=[str(i) for i in range(len(label_N))],
    )
    var = pd.DataFrame(index=pd.Index(cells.gene_G[gene_H].astype(str)))
    return ad.AnnData(sp.csr_matrix(count_NH + one_NH), obs=obs, var=var)


def _fit_and_predict(
    reference: ad.AnnData, target: ad.AnnData, setting: Setting, *, seed: int
) -> pd.DataFrame:
    """Return the probability of each label (columns) for each query cell."""
    import scvi

    scvi.settings.seed = seed
    scvi.settings.verbosity = logging.ERROR
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    quiet: dict[str, Any] = {
        "enable_progress_bar": False,
        "logger": False,
        "accelerator": "cpu",
        "batch_size": BATCH_SIZE,
    }
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
    base.train(max_epochs=setting["epochs"], **quiet)
    model = scvi.model.SCANVI.from_scvi_model(base, unlabeled_category=UNLABELLED)
    model.train(max_epochs=setting["label_epochs"], **quiet)
    adapted = scvi.model.SCANVI.load_query_data(target, model)
    adapted.train(max_epochs=setting["query_epochs"], plan_kwargs={"weight_decay": 0.0}, **quiet)
    return adapted.predict(target, soft=True)
