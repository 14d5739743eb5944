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
    from scgp.annotate import model_index
    from scgp.embed import embed_adata
    from scgp.model.checkpoint import Model
    from scgp.reference.answer import answer

    model = Model.load(model_dir)
    index = model_index(model)
    vectors, _ = embed_adata(
        query,
        model,
        layer=None,
        use_raw=None,
        batch_size=1024,
        device=None,
        progress=False,
    )
    parts = list(answer(index, vectors.cell_BE, vectors.type_BE))
    term_of = dict(zip(index.labels, index.label_ids, strict=True))

    def joined(field: str) -> np.ndarray:
        return np.concatenate([getattr(part, field) for part in parts])

    status, label, term = joined("status"), joined("label"), joined("ontology_id")
    named = np.where(term == "", label, term)
    called = np.isin(status, ["labelled", "ancestor"])
    return {
        "label_ids": np.where(called, named, UNKNOWN).astype(object),
        "confidence": joined("confidence"),
        "status": status,
        "leaf_ids": np.array([term_of.get(x) or x for x in joined("leaf")], dtype=object),
        "leaf_confidence": joined("leaf_confidence"),
    }


def scgp_rows(model_dir: Path, query: ad.AnnData) -> Rows:
    """Return the two rows: the default decision, and the best label always."""
    found = predict_scgp(model_dir, query)
    default = Answer(found["label_ids"], found["confidence"].astype(np.float32), found["status"])
    forced = Answer(found["leaf_ids"], found["leaf_confidence"].astype(np.float32))
    return {NAME: default, FORCED: forced}
