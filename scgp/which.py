"""Which reference a verb answers from: the user's atlas, a saved index, or the model's own.

Must not know how an index answers (`reference`), nor how one is made (`build`).
"""

import functools
from pathlib import Path

import anndata as ad

from scgp.build import build_index
from scgp.errors import ArgumentError, CountsError, FingerprintError
from scgp.model.checkpoint import Model
from scgp.reference.index import MANIFEST, ReferenceIndex

#: Where a model keeps the index it was trained with.
INDEX = "index"


def resolve_index(
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
    index = own_index(model)
    if index is None:
        msg = "this model has no reference of its own; pass reference= and label_key=, or index="
        raise ArgumentError(msg)
    return index


def own_index(model: Model) -> ReferenceIndex | None:
    """Return the index that a model was trained with, or None."""
    if model.directory is None or not (model.directory / INDEX).is_dir():
        return None
    path = model.directory / INDEX
    written = (path / MANIFEST).stat().st_mtime_ns if (path / MANIFEST).is_file() else 0
    return _load_index(path, model.fingerprint, written)


@functools.lru_cache(maxsize=2)
def _load_index(path: Path, fingerprint: str, _written: int) -> ReferenceIndex:
    """Load an index, once for each time that it was written."""
    return ReferenceIndex.load(path, model_fingerprint=fingerprint)
