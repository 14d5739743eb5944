"""A file of cells, opened without reading a matrix: .h5ad files and .zarr stores.

Owns which parts of a file are read, and when. Knows nothing of labels, and writes nothing.

``anndata.read_h5ad(path, backed="r")`` reads all of ``obs``, ``obsm``, ``uns`` and every layer into
memory. Here only names of cells, and names and table of genes, are; X, layers and raw stay on disk.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd

from scgp.cells.h5ad_file import of_10x
from scgp.errors import ArgumentError, FileError, MissingColumnError
from scgp.groups import no_column

#: What `choose_counts` asks of ``uns``: whether these keys are there.
_SCHEMA_KEYS = ("schema_version", "schema_reference")


def is_store(path: Path) -> bool:
    """Tell a zarr store from a file."""
    return path.is_dir() and any((path / name).is_file() for name in ("zarr.json", ".zgroup"))


def check_source(path: Path) -> None:
    """Refuse what is neither a file nor a zarr store.

    Raises
    ------
    ArgumentError
        It is neither.
    """
    if not (path.is_file() or is_store(path)):
        found = "is a folder, but no zarr store" if path.is_dir() else "is not a file"
        msg = f"{path} {found}; expected an .h5ad file or a .zarr store"
        raise ArgumentError(msg)


@contextmanager
def opened_group(path: Path) -> Iterator[Any]:
    """Open the root group of a file for reading."""
    check_source(path)
    if is_store(path):
        import zarr

        yield zarr.open_group(path, mode="r")
        return
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        msg = f"{path} cannot be read as an .h5ad file: {error}"
        raise FileError(msg) from error
    with file:
        yield file


@contextmanager
def opened_cells(
    path: Path,
    *,
    obsm: tuple[str, ...] = (),
    columns: tuple[str, ...] = (),
    smooth: str | None = None,
) -> Iterator[ad.AnnData]:
    """Open a file as an AnnData whose X, layers and raw are on disk.

    Its ``obs`` has names and, of all columns, only ``smooth``; its ``obsm`` only the arrays named,
    in memory. ``columns`` are those of ``obs`` that will be written.

    Raises
    ------
    ArgumentError
        ``obsm`` has no such array, or the names of the cells are where a column will be.
    MissingColumnError
        ``obs`` has no column ``smooth``.
    FileError
        The file cannot be read, or has a layout of before anndata 0.7.
    """
    with opened_group(path) as root:
        check_layout(root, path)
        check_index(root["obs"].attrs["_index"], columns, path)
        there = list(root["obsm"].keys()) if "obsm" in root else []
        if missing := [key for key in obsm if key not in there]:
            names = ", ".join(map(repr, there)) or "none"
            msg = f"use_rep is {missing[0]!r}, and obsm has no such key; its keys: {names}"
            raise ArgumentError(msg)
        layers, uns = root.get("layers", {}), root.get("uns", {})
        raw = None
        if "raw" in root and "X" in root["raw"]:
            raw = {"X": _on_disk(root["raw"]["X"]), "var": ad.io.read_elem(root["raw"]["var"])}
        yield ad.AnnData(
            X=_on_disk(root["X"]) if "X" in root else None,
            obs=pd.DataFrame(_column(root["obs"], smooth), index=_names(root["obs"])),
            var=ad.io.read_elem(root["var"]),
            layers={key: _on_disk(layers[key]) for key in layers.keys()},  # noqa: SIM118
            raw=raw,
            obsm={key: ad.io.read_elem(root["obsm"][key]) for key in obsm},
            uns={key: "" for key in _SCHEMA_KEYS if key in uns},
        )


def check_layout(root: Any, path: Path) -> None:
    """Refuse what no group can be added to.

    Raises
    ------
    FileError
        Its ``obs`` is missing or no group: no AnnData, or a layout of before anndata 0.7.
    """
    groups = [name for name in ("obs", "var", "obsm", "uns") if name in root]
    old = [name for name in groups if not hasattr(root[name], "keys")]
    if "obs" not in groups:
        msg = f"{path} holds no AnnData (there is no 'obs' in it){of_10x(root)}"
        raise FileError(msg)
    if old or "_index" not in root["obs"].attrs:
        found = f"{old[0]!r} is no group" if old else "'obs' has no names of cells"
        msg = (
            f"{path} has no layout of anndata 0.7 or later ({found}); read it with anndata, write "
            "it anew with write_h5ad or write_zarr, and annotate what that wrote"
        )
        raise FileError(msg)


def check_index(name: object, columns: Collection[str], path: Path) -> None:
    """Refuse columns of ``obs`` of which one would take the place of the names of the cells.

    Raises
    ------
    ArgumentError
        The index of ``obs``, which a file holds among the columns, has the name of one.
    """
    if name in columns:
        msg = (
            f"{path}: the index of obs, the names of the cells, is called {name!r}, which is the "
            "name of a slot; rename it (adata.obs.index.name = None) and write the file anew, or "
            "pass another key_added"
        )
        raise ArgumentError(msg)


def _names(obs: Any) -> pd.Index:
    return pd.Index(ad.io.read_elem(obs[obs.attrs["_index"]])).astype(str)


def _column(obs: Any, name: str | None) -> dict[str, Any]:
    """Return one column of a table, by its name; none where none is named."""
    if name is None:
        return {}
    there = [str(other) for other in obs.attrs["column-order"]]
    if name not in there:
        raise MissingColumnError(no_column(name, there))
    values = ad.io.read_elem(obs[name])
    if "categories" in obs[name].attrs:  # codes, in the layout of anndata 0.7: -1 has no value
        values = pd.Series(values, dtype="Int64").where(np.asarray(values) >= 0).array
    return {name: values}


def _on_disk(element: Any) -> Any:
    """Return a matrix that reads its rows when they are asked for."""
    if hasattr(element, "keys"):
        return ad.io.sparse_dataset(element)
    return element
