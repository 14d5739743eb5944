"""What annotate() is asked: its options read and refused, before any cell is.

Owns what the arguments mean for the labeller. Must not know how cells are labelled (`labelling`) or
what is written (`answer_columns`).
"""

import dataclasses
import numbers
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad

from scgp.cells.counts import CountMatrix, choose_counts
from scgp.cells.no_label import label_text
from scgp.embed import resolve_model
from scgp.errors import ArgumentError
from scgp.groups import one_column
from scgp.labelling import Labeller
from scgp.labels import check_labels, read_candidates
from scgp.model.checkpoint import Model
from scgp.number import whole_number
from scgp.phenotypes.text import TextEncoder
from scgp.reference.conformal import mass_for
from scgp.reference.index import ReferenceIndex
from scgp.texts import listed
from scgp.tissues import of_tissue
from scgp.which import opened, resolve_index

if TYPE_CHECKING:
    from scgp.reference.candidates import Candidates


def asked_labeller(
    adata: ad.AnnData,
    *,
    reference: ad.AnnData | None,
    label_key: str | None,
    index: ReferenceIndex | str | Path | None,
    labels: str | Sequence[str] | None,
    model: Model | str | Path | None,
    encoder: TextEncoder | None,
    tissue: str | None,
    min_confidence: float | None,
    min_confidence_broader: float | None,
    coverage: float | None,
    layer: str | None,
    use_raw: bool | None,
    batch_size: int,
    device: str | None,
    progress: bool,
) -> tuple[Labeller, CountMatrix, dict[str, object]]:
    """Read `annotate`'s arguments: what labels cells, their counts, and facts for ``uns``."""
    wanted = labels_wanted(labels, encoder, coverage)
    check_tissue(tissue, wanted, reference)
    check_confidence(min_confidence, min_confidence_broader)
    check_coverage(coverage, reference)
    whole_number(batch_size, "batch_size", least=1)
    model = resolve_model(model)
    # what can fail without a reference fails before one is embedded
    index = None if index is None else opened(index, model.fingerprint)
    counts = choose_counts(adata, layer=layer, use_raw=use_raw)
    given = reference if isinstance(reference, ad.AnnData) else None
    if wanted and given is not None and isinstance(label_key, str) and label_key in given.obs:
        names = label_text(one_column(given, label_key)).dropna().unique()
        encoder = check_labels(wanted, model, names, encoder)
    index = resolve_index(
        reference, label_key, index, model, batch_size=batch_size, device=device, progress=progress
    )
    index = asking_for(min_confidence, min_confidence_broader, index)
    index, of_cells = of_tissue(tissue, index)
    set_mass = mass_of_sets(coverage, index)
    candidates: Candidates | None = None
    asked: dict[str, object] = {}
    if wanted:
        candidates, asked = read_candidates(wanted, model, index, encoder)
    facts = {
        "index": repr(index),
        **asked,
        **of_cells,
        **given_facts(coverage, min_confidence, min_confidence_broader),
    }
    return Labeller(model, index, candidates, set_mass), counts, facts


def check_tissue(tissue: str | None, wanted: Sequence[str], reference: ad.AnnData | None) -> None:
    """Refuse a tissue beside what says more than it, before an atlas is embedded."""
    if tissue is None:
        return
    if wanted:
        msg = (
            "tissue= and labels= do not go together: labels= names what may be answered, so name "
            "the labels of that tissue"
        )
        raise ArgumentError(msg)
    if reference is not None:
        msg = (
            f"tissue={tissue!r} does not go with reference=, which does not say what tissues its "
            "labels are known from; leave tissue= out"
        )
        raise ArgumentError(msg)


def check_coverage(coverage: float | None, reference: ad.AnnData | None) -> None:
    """Refuse sets of labels of an atlas that is no index yet, before it is embedded."""
    if coverage is not None and reference is not None:
        msg = (
            f"coverage={coverage!r} does not go with reference=: sets of labels need a calibration "
            "on held-out studies, and a reference of one's own has none. Leave out coverage=, or "
            "reference= for the model's own; or pass, with use_rep=, the index= of a "
            "representation that scgp.build_index made with study_key="
        )
        raise ArgumentError(msg)


def check_confidence(min_confidence: float | None, min_confidence_broader: float | None) -> None:
    """Refuse what is no probability."""
    given = {"min_confidence": min_confidence, "min_confidence_broader": min_confidence_broader}
    for name, value in given.items():
        real = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if value is not None and not (real and 0 <= value <= 1):
            msg = f"{name} is {value!r}; expected a probability between 0 and 1"
            raise ArgumentError(msg)


def asking_for(
    min_confidence: float | None, min_confidence_broader: float | None, index: ReferenceIndex
) -> ReferenceIndex:
    """Return the index with other bounds for its labels and the terms above them.

    Where the bound of labels is 0 nothing is too novel.
    """
    if min_confidence is None and min_confidence_broader is None:
        return index
    fusion = index.calibration
    if min_confidence_broader is not None:
        broader = float(min_confidence_broader)
        fusion = dataclasses.replace(fusion, threshold_above=broader, threshold_outside=broader)
    if min_confidence is not None:
        fusion = dataclasses.replace(fusion, threshold=float(min_confidence))
    if min_confidence == 0:
        fusion = dataclasses.replace(fusion, novelty_threshold=-1.0, novelty_text=-1.0)
    return dataclasses.replace(index, calibration=fusion)


def given_facts(
    coverage: float | None, min_confidence: float | None, min_confidence_broader: float | None
) -> dict[str, float]:
    """Return what ``uns`` keeps of these arguments."""
    given = {
        "coverage": coverage, "min_confidence": min_confidence,
        "min_confidence_broader": min_confidence_broader,
    }  # fmt: skip
    return {name: float(value) for name, value in given.items() if value is not None}


def mass_of_sets(coverage: float | None, index: ReferenceIndex) -> float | None:
    """Return the mass of label sets, if they are asked for."""
    fitted = index.calibration
    return None if coverage is None else mass_for(coverage, fitted.set_mass, fitted.set_cells)


def labels_wanted(
    labels: str | Sequence[str] | None, encoder: TextEncoder | None, coverage: float | None
) -> list[str]:
    """Return the labels asked for; none for all of the reference."""
    if labels is not None:
        if coverage is not None:
            msg = "coverage= and labels= do not go together: sets are calibrated for all labels"
            raise ArgumentError(msg)
        return listed(labels, "labels")
    if encoder is not None:
        msg = "encoder= reads the free texts among labels=; name labels, or leave it out"
        raise ArgumentError(msg)
    return []
