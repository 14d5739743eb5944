"""The index that a model was trained with, which lies in its directory.

Must not know how one is made (`build`), nor which one a verb answers from (`which`).
"""

import functools
from pathlib import Path

from scgp.errors import ArgumentError
from scgp.model.checkpoint import Model
from scgp.reference.index import MANIFEST, ReferenceIndex

#: Where a model keeps it.
INDEX = "index"


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
