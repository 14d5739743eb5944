"""scgp in its own benchmark: train on the fold's cells, annotate the query.

Owns the two calls of the package. Knows nothing of folds or scores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.scores import UNKNOWN, Answer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import anndata as ad

    from benchmarks.baselines import Rows

NAME = "scgp"
FORCED = "scgp, forced"


def fit_scgp(train_adatas: Sequence[ad.AnnData], seed: int, out_dir: Path) -> Path:
    """Train a model on exactly these cells, the drawn ones among them, with its index.

    ``obs["label"]``, ``obs["study"]`` and ``obs["donor"]`` are there. The drawn cells come as
    cells, as for every method, and not as profiles to draw from anew.
    """
    from scgp.model.config import TrainConfig
    from scgp.train import train

    real = [adata for adata in train_adatas if not adata.obs["drawn"].all()]
    drawn = [adata for adata in train_adatas if adata.obs["drawn"].all()]
    train(
        real,
        drawn=drawn,
        out=out_dir,
        label_key="label",
        study_key="study",
        donor_key="donor",
        settings=TrainConfig(seed=seed),
        overwrite=True,
        progress=False,
    )
    return out_dir


def predict_scgp(model_dir: Path, query: ad.AnnData) -> dict[str, Any]:
    """Annotate a query with a model and the index inside its directory.

    Returns
    -------
    ``label_ids`` ("" for unknown and empty cells; the label itself where it is no term),
    ``confidence``, ``status`` of the default decision; ``leaf_ids``, ``leaf_confidence`` of the
    best label whatever the decision.
    """
    from scgp.annotate import label_cells, model_index
    from scgp.model.checkpoint import Model

    model = Model.load(model_dir)
    index = model_index(model)
    decision, _, _ = label_cells(query, model, index)
    term_of = dict(zip(index.labels, index.label_ids, strict=True))

    status, label, term = decision.status, decision.label, decision.ontology_id
    named = np.where(term == "", label, term)
    called = np.isin(status, ["labelled", "ancestor"])
    return {
        "label_ids": np.where(called, named, UNKNOWN).astype(object),
        "confidence": decision.confidence,
        "status": status,
        "leaf_ids": np.array([term_of.get(x) or x for x in decision.leaf], dtype=object),
        "leaf_confidence": decision.leaf_confidence,
    }


def scgp_rows(model_dir: Path, query: ad.AnnData) -> Rows:
    """Return the two rows: the default decision, and the best label always."""
    found = predict_scgp(model_dir, query)
    default = Answer(found["label_ids"], found["confidence"].astype(np.float32), found["status"])
    forced = Answer(found["leaf_ids"], found["leaf_confidence"].astype(np.float32))
    return {NAME: default, FORCED: forced}
