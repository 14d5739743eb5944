"""Which reference a verb answers from: the user's atlas, a saved index, or the model's own.

Must not know how an index answers (`reference`), nor how one is made (`build`).
"""

from pathlib import Path

import anndata as ad

from scgp.build import build_index
from scgp.errors import ArgumentError, CountsError, FingerprintError
from scgp.model.checkpoint import Model
from scgp.own import model_index
from scgp.reference.contents import OBSM, maker_fault
from scgp.reference.index import ReferenceIndex
from scgp.representation import warn_uncalibrated


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
    _check_named(reference, label_key, index)
    if reference is not None and label_key is not None:
        try:
            return build_index(
                reference, label_key=label_key, model=model, batch_size=batch_size,
                device=device, progress=progress,
            )  # fmt: skip
        except CountsError as error:
            msg = (
                f"the reference (here adata is the reference): {error}. For a reference layer= and "
                "use_raw= are arguments of scgp.build_index(reference, label_key=...), and what "
                "that returns is passed as index="
            )
            raise CountsError(msg) from error
    return model_index(model) if index is None else opened(index, model.fingerprint)


def represented_index(
    reference: ad.AnnData | None,
    label_key: str | None,
    index: ReferenceIndex | str | Path | None,
    use_rep: str,
) -> ReferenceIndex:
    """Return the index of a representation that one of the arguments names."""
    _check_named(reference, label_key, index)
    if reference is not None and label_key is not None:
        try:
            return build_index(reference, label_key=label_key, use_rep=use_rep)
        except ArgumentError as error:
            msg = f"the reference: {error}"
            raise ArgumentError(msg) from error
    if index is None:
        msg = (
            f"use_rep={use_rep!r} needs a reference with the same representation: pass reference= "
            "and label_key=, or index=. The default reference holds the vectors of its own model"
        )
        raise ArgumentError(msg)
    found = opened(index, f"{OBSM}{use_rep}")
    warn_uncalibrated(found)
    return found


def _check_named(
    reference: ad.AnnData | None, label_key: str | None, index: ReferenceIndex | str | Path | None
) -> None:
    """Refuse two references, and half of one."""
    if reference is not None and index is not None:
        msg = "pass reference= or index=, not both: one of them would be ignored"
        raise ArgumentError(msg)
    if reference is not None and not isinstance(reference, ad.AnnData):
        found = type(reference).__name__
        msg = f"reference has the type {found}; expected an AnnData, as anndata.read_h5ad gives"
        raise ArgumentError(msg)
    if (reference is None) != (label_key is None):
        msg = "reference= and label_key= go together: the atlas, and the obs column of its labels"
        raise ArgumentError(msg)


def opened(index: ReferenceIndex | str | Path, maker: str) -> ReferenceIndex:
    """Return the index, read if need be, of vectors of this maker only."""
    if not isinstance(index, ReferenceIndex | str | Path):
        found = type(index).__name__
        msg = f"index has the type {found}; expected what scgp.build_index returned, or a path"
        raise ArgumentError(msg)
    if not isinstance(index, ReferenceIndex):
        return ReferenceIndex.load(index, model_fingerprint=maker)
    if fault := maker_fault(index.model_fingerprint, maker):
        msg = f"the index {fault}"
        raise FingerprintError(msg)
    return index
