"""What a network has been trained on: facts of a corpus, and studies that are not new to it.

Knows corpora and what models say of themselves; nothing of training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scgp.errors import warn_user

if TYPE_CHECKING:
    from scgp.cells.corpus import Corpus
    from scgp.model.checkpoint import Model


def described(corpus: Corpus) -> dict[str, Any]:
    """Return the numbers of cells and labels, and the studies, that a model keeps of its corpus."""
    labelled = (corpus.label_N != "") & ~corpus.drawn_N
    return {
        "n_cells": corpus.n_cells,
        "n_labelled": int(labelled.sum()),
        "n_labels": len(set(corpus.label_N[labelled])),
        "n_drawn": int(corpus.drawn_N.sum()),
        "studies": sorted({corpus.studies[s] for s in corpus.study_N[~corpus.drawn_N]}),
    }


def seen_studies(model: Model) -> list[str]:
    """Return the studies that the network of a model, and of those it was made from, has seen."""
    corpus = model.details.get("corpus") or {}
    return sorted({*corpus.get("studies", []), *model.details.get("base_studies", [])})


def warn_of_seen(base: Model, corpus: Corpus) -> None:
    """Warn where studies are held out for calibration that the network has learnt from already."""
    seen = sorted(set(described(corpus)["studies"]) & set(seen_studies(base)))
    if seen:
        named = ", ".join(map(repr, seen[:3])) + (" ..." if len(seen) > 3 else "")
        warn_user(
            f"the base model was trained on {len(seen)} of these studies ({named}): "
            "held out, they are not new to the network, so that confidence, label sets and bounds "
            "of novelty will promise too much; train without base=, or keep the base's calibration "
            "(calibrate_on_studies=False)"
        )
