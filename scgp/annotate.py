"""annotate(): AnnData in, labels out.

Owns the choice of the reference and the names of the slots. Must not know how an index is made
(`build`) or how slots are written (`slots`).

Shape suffixes: B cells, E width of the joint space.
"""

import dataclasses
import functools
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from scgp.build import build_index
from scgp.cells.counts import choose_counts
from scgp.cells.tokens import TokenBatch
from scgp.embed import CellVectors, embed_adata, resolve_model, warn_empty
from scgp.errors import ArgumentError, CountsError, FingerprintError
from scgp.model.checkpoint import Model
from scgp.reference.answer import answer
from scgp.reference.decision import STATUSES, Decision
from scgp.reference.index import ReferenceIndex
from scgp.slots import check_target, write_slots

#: Where a model keeps the index it was trained with.
INDEX = "index"


def annotate(
    adata: ad.AnnData,
    *,
    reference: ad.AnnData | None = None,
    label_key: str | None = None,
    index: ReferenceIndex | str | Path | None = None,
    model: Model | str | Path | None = None,
    layer: str | None = None,
    use_raw: bool | None = None,
    key_added: str = "scgp",
    batch_size: int = 1024,
    device: str | None = None,
    progress: bool = True,
    copy: bool = False,
) -> ad.AnnData | None:
    """Give every cell a Cell Ontology label, a confidence, and "unknown" where it should not guess.

    Parameters
    ----------
    adata
        Cells x genes with raw counts; in memory or backed. Genes by HGNC symbol or Ensembl id.
    reference, label_key
        Your own atlas, and the ``obs`` column with its labels; instead of the default reference.
    index
        What :func:`scgp.build_index` made, or its directory; instead of `reference`.
    model
        A :class:`scgp.Model`, its directory, or None for the default checkpoint.
    layer, use_raw
        Where the counts of `adata` are, if not in ``X``.
    key_added
        Prefix of the slots written.
    batch_size
        Cells read at once; bounds memory, does not change the answer.
    device
        ``"cpu"``, ``"cuda"`` or None for the CPU.
    progress
        Show a progress bar.
    copy
        Return a changed copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. Written are

    ``obs["scgp_cell_type"]`` : categorical
        The label, a broader term where the label is not decided, or "unknown"; missing for cells
        without a count.
    ``obs["scgp_cell_type_ontology_term_id"]`` : categorical
        Its Cell Ontology id; "" where it has none.
    ``obs["scgp_confidence"]`` : float32
        Probability of the label with all terms below it; 0 for "unknown" and empty cells.
    ``obs["scgp_status"]`` : categorical
        "labelled", "ancestor", "unknown" or "empty".
    ``obsm["X_scgp"]`` : float32, cells x 128
        Unit rows; zero rows for empty cells.
    ``uns["scgp"]`` : dict
        Model, index, counts and genes that were used.

    Raises
    ------
    CountsError
        The matrix does not hold raw counts; the message names where counts are.
    GeneError
        No gene is in common with the model.
    MissingColumnError
        The reference has no column `label_key`.
    FingerprintError
        The index was made by another model.
    DeviceError
        The device is not there.

    Warns
    -----
    ScgpWarning
        Few genes in common, duplicated genes (summed), empty cells, labels outside the ontology.

    Notes
    -----
    Four streams of evidence (nearest reference cells, similarity to the text of ontology terms,
    a linear head on the cell's vector and one on its genes) are fused with weights that were
    fitted on held-out studies; see "How annotation works" in the documentation.

    Examples
    --------
    >>> import scgp
    >>> adata = scgp.demo.counts()
    >>> scgp.annotate(adata, progress=False)
    >>> bool(adata.obs["scgp_cell_type"].isin(["unknown"]).mean() < 0.5)
    True
    """
    check_target(adata, key_added=key_added, copy=copy)
    model = resolve_model(model)
    choose_counts(adata, layer=layer, use_raw=use_raw)  # fails before a reference is embedded
    index = _resolve_index(
        reference, label_key, index, model, batch_size=batch_size, device=device, progress=progress
    )
    decision, vectors, facts = label_cells(
        adata, model, index, layer=layer, use_raw=use_raw, batch_size=batch_size, device=device,
        progress=progress,
    )  # fmt: skip
    warn_empty(vectors, "their label is missing, their confidence 0 and their vector zero")
    facts["index"] = repr(index)
    return write_slots(adata, _slots(decision, vectors, facts, key_added), copy=copy)


def label_cells(
    adata: ad.AnnData,
    model: Model,
    index: ReferenceIndex,
    *,
    layer: str | None = None,
    use_raw: bool | None = None,
    batch_size: int = 1024,
    device: str | None = None,
    progress: bool = False,
) -> tuple[Decision, CellVectors, dict[str, object]]:
    """Embed cells and answer; nothing is written. Also returns the facts for ``uns``."""
    head = index.gene_head
    scores: list[np.ndarray] = []

    def watch(_: int, tokens: TokenBatch, measured_G: np.ndarray) -> None:
        if head is not None:
            scores.append(head.scores(tokens.values(model.config.n_genes), measured_G))

    vectors, facts = embed_adata(
        adata, model, layer=layer, use_raw=use_raw, batch_size=batch_size, device=device,
        progress=progress, watch=watch,
    )  # fmt: skip
    score_BT = np.concatenate(scores) if scores else None
    return _joined(list(answer(index, vectors.cell_BE, vectors.type_BE, score_BT))), vectors, facts


def _resolve_index(
    reference: ad.AnnData | None,
    label_key: str | None,
    index: ReferenceIndex | str | Path | None,
    model: Model,
    *,
    batch_size: int,
    device: str | None,
    progress: bool,
) -> ReferenceIndex:
    """Return the index named by one of the arguments, or the model's own."""
    if reference is not None and index is not None:
        msg = "pass reference= or index=, not both: one of them would be ignored"
        raise ArgumentError(msg)
    if (reference is None) != (label_key is None):
        msg = "reference= and label_key= go together: the atlas, and the obs column of its labels"
        raise ArgumentError(msg)
    if reference is not None and label_key is not None:
        try:
            return build_index(
                reference, label_key=label_key, model=model, batch_size=batch_size,
                device=device, progress=progress,
            )  # fmt: skip
        except CountsError as error:
            msg = (
                f"the reference: {error}. For a reference these are arguments of "
                "scgp.build_index(reference, label_key=...); pass what it returns as index="
            )
            raise CountsError(msg) from error
    if isinstance(index, ReferenceIndex):
        if index.model_fingerprint != model.fingerprint:
            msg = (
                f"the index was made by the model {index.model_fingerprint[:12]}, and this is the "
                f"model {model.fingerprint[:12]}: their vectors cannot be compared. Make the index "
                "anew with scgp.build_index, or pass the model that made it"
            )
            raise FingerprintError(msg)
        return index
    if index is not None:
        return ReferenceIndex.load(index, model_fingerprint=model.fingerprint)
    return model_index(model)


def model_index(model: Model) -> ReferenceIndex:
    """Return the index that a model was trained with.

    Raises
    ------
    ArgumentError
        The model has none.
    """
    if model.directory is None or not (model.directory / INDEX).is_dir():
        msg = "this model has no reference of its own; pass reference= and label_key=, or index="
        raise ArgumentError(msg)
    return _load_index(model.directory / INDEX, model.fingerprint)


@functools.lru_cache(maxsize=2)
def _load_index(path: Path, fingerprint: str) -> ReferenceIndex:
    return ReferenceIndex.load(path, model_fingerprint=fingerprint)


def _joined(parts: list[Decision]) -> Decision:
    if not parts:
        nothing, zero = np.zeros(0, object), np.zeros(0, np.float32)
        return Decision(nothing, nothing, zero, nothing, nothing, zero)
    names = [field.name for field in dataclasses.fields(Decision)]
    return Decision(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))


def _slots(
    decision: Decision, vectors: CellVectors, facts: dict[str, object], key_added: str
) -> dict[str, dict[str, object]]:
    """Name everything that is written."""
    columns: dict[str, object] = {
        f"{key_added}_cell_type": pd.Categorical(decision.label),
        f"{key_added}_cell_type_ontology_term_id": pd.Categorical(decision.ontology_id),
        f"{key_added}_confidence": decision.confidence.astype(np.float32),
        f"{key_added}_status": pd.Categorical(decision.status, categories=list(STATUSES)),
    }
    return {"obs": columns, "obsm": {f"X_{key_added}": vectors.cell_BE}, "uns": {key_added: facts}}
