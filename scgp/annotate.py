"""annotate(): AnnData in, labels out; build_index(): an atlas becomes a reference.

Shape suffixes: B cells.
"""

import dataclasses
import functools
import logging
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from scgp.cells.counts import choose_counts
from scgp.embed import (
    CellVectors,
    check_adata,
    check_target,
    embed_adata,
    resolve_model,
    warn_empty,
    writable,
)
from scgp.errors import (
    ArgumentError,
    CountsError,
    FingerprintError,
    LabelError,
    MissingColumnError,
    ScgpWarning,
)
from scgp.model.checkpoint import Model
from scgp.phenotypes.ontology import Ontology
from scgp.reference.answer import answer
from scgp.reference.decision import STATUSES, Decision
from scgp.reference.evidence import Fusion
from scgp.reference.index import ReferenceIndex

logger = logging.getLogger(__name__)

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
    Three streams of evidence (nearest reference cells, similarity to the text of ontology terms,
    a linear head) are fused with weights that were fitted on held-out studies; see
    "How annotation works" in the documentation.

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
    vectors, facts = embed_adata(
        adata, model, layer=layer, use_raw=use_raw, batch_size=batch_size, device=device,
        progress=progress,
    )  # fmt: skip
    decision = _joined(list(answer(index, vectors.cell_BE, vectors.type_BE)))
    warn_empty(vectors, "their label is missing, their confidence 0 and their vector zero")
    facts["index"] = repr(index)
    _write(writable_target := writable(adata, copy=copy), decision, vectors, facts, key_added)
    return writable_target if copy else None


def build_index(
    adata: ad.AnnData,
    *,
    label_key: str,
    model: Model | str | Path | None = None,
    study_key: str | None = None,
    layer: str | None = None,
    use_raw: bool | None = None,
    batch_size: int = 1024,
    device: str | None = None,
    progress: bool = True,
) -> ReferenceIndex:
    """Make a reference of labelled cells.

    Parameters
    ----------
    adata
        Cells x genes with raw counts; in memory or backed.
    label_key
        ``obs`` column with the labels: Cell Ontology ids, their labels or synonyms, or any text.
        Cells without a label, and cells without a count, are left out.
    model
        A :class:`scgp.Model`, its directory, or None for the default checkpoint.
    study_key
        ``obs`` column with the study of each cell, kept in the index.
    layer, use_raw, batch_size, device, progress
        As in :func:`scgp.annotate`.

    Returns
    -------
    The index; keep it with ``index.save("atlas.scgp")``.

    Raises
    ------
    MissingColumnError
        There is no column `label_key` or `study_key`.
    LabelError
        No cell has a label.
    CountsError, GeneError, DeviceError
        As in :func:`scgp.annotate`.

    Warns
    -----
    ScgpWarning
        Labels that are no ontology term: they are kept as given, without an id.
    """
    check_adata(adata)
    model = resolve_model(model)
    labels = _labels(adata, label_key)
    studies = None if study_key is None else _column(adata, study_key)
    vectors, _ = embed_adata(
        adata, model, layer=layer, use_raw=use_raw, batch_size=batch_size, device=device,
        progress=progress,
    )  # fmt: skip
    kept = np.flatnonzero(labels.notna().to_numpy() & (vectors.total_B > 0))
    if not len(kept):
        msg = f"no cell has both a label in obs[{label_key!r}] and a count"
        raise LabelError(msg)
    names, ids = _terms(labels.to_numpy(dtype=object)[kept], label_key)
    order = sorted(set(names))
    id_of = dict(zip(names, ids, strict=True))
    label_ids = [id_of[name] for name in order]
    return ReferenceIndex.build(
        vectors.cell_BE[kept],
        names,
        label_ids=label_ids,
        studies=None if studies is None else studies.to_numpy(dtype=object)[kept].tolist(),
        text_TD=model.project_terms(label_ids),
        model_fingerprint=model.fingerprint,
        calibration=_calibration(model),
    )


def _calibration(model: Model) -> Fusion | None:
    """Return the fusion that was fitted when the model was trained."""
    fitted = model.details.get("calibration")
    return None if fitted is None else Fusion.from_dict(fitted)


def _column(adata: ad.AnnData, key: str) -> pd.Series:
    if key not in adata.obs:
        there = ", ".join(map(repr, adata.obs.columns)) or "none"
        msg = f"obs has no column {key!r}; its columns: {there}"
        raise MissingColumnError(msg)
    return adata.obs[key]


def _labels(adata: ad.AnnData, label_key: str) -> pd.Series:
    """Return labels as text, missing where there is none, with a word about how many."""
    given = _column(adata, label_key)
    text = given.astype(object).where(given.notna(), None).map(str, na_action="ignore")
    text = text.where(text.str.strip().fillna("") != "", None)
    n_missing = int(text.isna().sum())
    if n_missing:
        warnings.warn(
            f"{n_missing} of {len(text)} cells have no label in obs[{label_key!r}]: left out",
            ScgpWarning,
            stacklevel=4,
        )
    return text


def _terms(labels: np.ndarray, label_key: str) -> tuple[list[str], list[str]]:
    """Name every label by its term, where it is one; one warning for those that are none."""
    ontology = Ontology("CL")
    unique = sorted(set(labels))
    id_of = dict(zip(unique, ontology.resolve(unique), strict=True))
    unknown = [label for label in unique if not id_of[label]]
    if unknown:
        shown = ", ".join(map(repr, unknown[:5])) + (" ..." if len(unknown) > 5 else "")
        warnings.warn(
            f"{len(unknown)} of {len(unique)} labels in obs[{label_key!r}] are no Cell Ontology "
            f"term: {shown}. They are kept as given, without an id",
            ScgpWarning,
            stacklevel=4,
        )
    # an id is named by its label; a name stays as the user wrote it
    name_of = {x: ontology.label(x) if x == id_of[x] else x for x in unique}
    first: dict[str, str] = {}
    for label in unique:  # two names of one term become one label
        name_of[label] = first.setdefault(id_of[label] or label, name_of[label])
    return [name_of[x] for x in labels], [id_of[x] for x in labels]


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


def _write(
    adata: ad.AnnData,
    decision: Decision,
    vectors: CellVectors,
    facts: dict[str, object],
    key_added: str,
) -> None:
    """Write all slots: the only place that changes the user's object."""
    columns = {
        f"{key_added}_cell_type": pd.Categorical(decision.label),
        f"{key_added}_cell_type_ontology_term_id": pd.Categorical(decision.ontology_id),
        f"{key_added}_confidence": decision.confidence.astype(np.float32),
        f"{key_added}_status": pd.Categorical(decision.status, categories=list(STATUSES)),
    }
    for name, values in columns.items():
        adata.obs[name] = values
    adata.obsm[f"X_{key_added}"] = vectors.cell_BE
    adata.uns[key_added] = facts
