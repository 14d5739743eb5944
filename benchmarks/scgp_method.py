"""scgp in its own benchmark: train on the fold's cells, annotate the query.

Owns the calls of the package, and the ways in which a reference of one study can be used. Knows
nothing of folds or scores.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.scores import UNKNOWN, Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import anndata as ad

    from benchmarks.baselines import Rows
    from scgp.model.checkpoint import Model
    from scgp.reference.index import ReferenceIndex

    # A model and an index of its vectors, made of a model and a reference with ``obs["label"]``.
    Maker = Callable[[Model, ad.AnnData], tuple[Model, ReferenceIndex]]

NAME = "scgp"


def fit_scgp(train_adatas: Sequence[ad.AnnData], seed: int, out_dir: Path) -> Path:
    """Train a model on exactly these cells, the drawn ones among them, with its index.

    ``obs["label"]``, ``obs["study"]`` and ``obs["donor"]`` are there. The drawn cells come as
    cells, as for every method, and not as profiles to draw from anew. The transformer, which has no
    part in labels (a test of `scgp.train` holds that), is left untrained.
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
        settings=TrainConfig(steps=0, seed=seed),
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
    from scgp.model.checkpoint import Model

    model = Model.load(model_dir)
    return _predicted(model, model_index(model), query)


def _predicted(model: Model, index: ReferenceIndex, query: ad.AnnData) -> dict[str, Any]:
    from scgp.annotate import label_cells

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
    return _rows(predict_scgp(model_dir, query), NAME)


def _rows(found: dict[str, Any], name: str) -> Rows:
    default = Answer(found["label_ids"], found["confidence"].astype(np.float32), found["status"])
    forced = Answer(found["leaf_ids"], found["leaf_confidence"].astype(np.float32))
    return {name: default, f"{name}, forced": forced}


def own_reference(model: Model, reference: ad.AnnData) -> tuple[Model, ReferenceIndex]:
    """Return what ``annotate(reference=, label_key=)`` answers with."""
    from scgp.build import build_index

    return model, build_index(reference, label_key="label", model=model, progress=False)


def with_fusion(**fields: float) -> Maker:
    """Return a way to use a reference as `own_reference`, with other fields of its `Fusion`."""

    def make(model: Model, reference: ad.AnnData) -> tuple[Model, ReferenceIndex]:
        model, index = own_reference(model, reference)
        return model, replace(index, calibration=replace(index.calibration, **fields))

    return make


#: Ways to use a reference of one study, each with two rows in the table of pairs: its name, and its
#: name with ", forced". Another way to be compared is another line here.
VARIANTS: dict[str, Maker] = {
    NAME: own_reference,
}


def pair_rows(model_dir: Path, reference: ad.AnnData, queries: Sequence[ad.AnnData]) -> list[Rows]:
    """Annotate each query with a reference and a model that saw neither, in all `VARIANTS`."""
    from scgp.model.checkpoint import Model

    rows: list[Rows] = [{} for _ in queries]
    for name, make in VARIANTS.items():
        model, index = make(Model.load(model_dir), reference)
        for row, query in zip(rows, queries, strict=True):
            row.update(_rows(_predicted(model, index, query), name))
    return rows
