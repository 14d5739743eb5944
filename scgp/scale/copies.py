"""A copy of a file with labels, for the command line.

That of a store appears whole or not at all; that of an .h5ad file has a passing name, and becomes
what was asked for by the caller, together with a picture.
"""

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import pandas as pd

from scgp.annotate import annotate
from scgp.answer_columns import column_names
from scgp.errors import FileError
from scgp.scale import zarr_store
from scgp.scale.h5ad import put_slots
from scgp.scale.stored import opened_cells
from scgp.scale.written import Slots, slots_of

#: Bytes that are reserved for what HDF5 writes beside the arrays, and for what ``uns`` says.
_BESIDE = 1 << 20
#: What file systems say that cannot reserve: HDF5 then finds out by itself.
_NOT_THERE = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENODEV}


def write_copy(
    source: Path, target: Path, adata: ad.AnnData, *, key_added: str, vectors: bool
) -> None:
    """Copy an .h5ad file, and write into the copy what `annotate` wrote into its AnnData.

    All else stays as it is, to the byte; a file of before anndata 0.7, to which nothing can be
    added, is written anew.

    Raises
    ------
    FileError
        The copy could not be written; what there is of it is left to the caller.
    """
    with h5py.File(source) as file:
        groups = ("obs", "var", "obsm", "uns")
        old = any(isinstance(file.get(group), h5py.Dataset) for group in groups)
    try:
        if old:
            adata.to_memory().write_h5ad(target)
            return
        shutil.copyfile(source, target)
        slots = slots_of(adata, key_added, vectors=vectors)
        _reserve(target, slots)
        with h5py.File(target, "r+") as file:
            put_slots(file, source, slots)
    except OSError as error:
        msg = (
            f"the copy of {source} could not be written ({_reason(error)}), and nothing of it was; "
            "make room, or name another place"
        )
        raise FileError(msg) from error


def _reserve(target: Path, slots: Slots) -> None:
    """Raise OSError where the disk has no room for slots: HDF5 tells it too late, at great length.

    What is reserved behind the end of an HDF5 file is given back when the file is closed.
    """
    size = _BESIDE + (0 if slots.shape is None else 4 * slots.shape[0] * slots.shape[1])
    for values in slots.columns.values():
        size += int(pd.Series(values).memory_usage(index=False, deep=True))
    if not hasattr(os, "posix_fallocate"):  # macOS has none
        return
    with target.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), target.stat().st_size, size)
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise


def annotate_copy(source: Path, target: Path, options: Mapping[str, Any]) -> dict[str, int]:
    """Copy a store, and write into the copy what `annotate` says of its cells.

    Parameters
    ----------
    source, target
        The store, and the one to make.
    options
        Arguments of :func:`scgp.annotate`, with ``key_added``.

    Returns
    -------
    The number of cells of each status.

    Raises
    ------
    FileError
        The copy could not be written; nothing of it is there.
    """
    use_rep, key_added = options.get("use_rep"), options["key_added"]
    obsm = () if use_rep is None else (use_rep,)
    columns, smooth = column_names(key_added), options.get("smooth")
    with opened_cells(source, obsm=obsm, columns=columns, smooth=smooth) as adata:
        annotate(adata, **options)
    slots = slots_of(adata, key_added, vectors=use_rep is None)
    temporary = target.with_name(f".{os.getpid()}-{target.name}")
    folder = target.with_name(f".{os.getpid()}-{target.name}.scgp")
    try:
        folder.mkdir()
        shutil.copytree(source, temporary)
        zarr_store.write_slots(temporary, folder, slots)
        temporary.rename(target)
    except OSError as error:  # what is told of a store in place would be untrue of a copy
        msg = (
            f"{target} could not be written ({_reason(error)}), and nothing of it was; make room, "
            "or name another place"
        )
        raise FileError(msg) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
    counts = adata.obs[f"{key_added}_status"].value_counts()
    return {str(name): int(n) for name, n in counts.items()}


def _reason(error: OSError) -> object:
    """Return why a write failed, of the first file that did, in the system's words."""
    if isinstance(error, FileError) and isinstance(error.__cause__, OSError):
        error = error.__cause__
    if isinstance(error, shutil.Error):
        return error.args[0][0][2]
    # HDF5 has a number of the system's, and a text of its own
    return os.strerror(error.errno) if error.errno else error
