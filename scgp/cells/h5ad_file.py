"""An .h5ad file opened as an AnnData whose matrix stays in it.

Owns the refusal, in words, of what holds no AnnData. Knows nothing of what is read from it.
"""

from pathlib import Path
from typing import Any

import anndata as ad
import h5py

from scgp.errors import ArgumentError


def open_backed(path: Path) -> ad.AnnData:
    """Open a file for reading.

    Raises
    ------
    ArgumentError
        It is no HDF5 file, or holds no AnnData.
    """
    try:
        with h5py.File(path, "r") as file:
            missing = [name for name in ("obs", "var") if name not in file]
            told = of_10x(file)
        if not missing:
            return ad.read_h5ad(path, backed="r")
    except OSError as error:
        msg = f"{path} cannot be read as an .h5ad file: {error}"
        raise ArgumentError(msg) from error
    msg = (
        f"{path} holds no AnnData (there is no {missing[0]!r} in it); expected an .h5ad file{told}"
    )
    raise ArgumentError(msg)


def of_10x(root: Any) -> str:
    """Return how a file of 10x is made one of anndata, for the end of a message; else ""."""
    if "matrix" not in root or not hasattr(root["matrix"], "keys"):
        return ""
    return (
        ". It looks like one of 10x Genomics: scanpy.read_10x_h5(path).write_h5ad('cells.h5ad') "
        "makes an .h5ad file of it"
    )
