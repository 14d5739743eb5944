"""Slots into a .zarr store, in one step.

Owns how a store is changed. The new arrays are written as a store of their own in the work folder,
which lies on the same disk, and flushed. Then ``renames.json`` lists what goes where: from here on
the change is made. The renames follow, the list of the columns of ``obs`` after the columns, and
the copy of all metadata at the root, where there was one, last. Killed before the list, the store
is untouched; killed after, `recover` goes through the list again, which may be done any number of
times: what is not in the work folder any more is where it should be.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np

from scgp.errors import FileError
from scgp.model.directory import sync_folder
from scgp.scale.durable import (
    check_writable,
    not_written,
    refused_in_words,
    sync_tree,
    write_whole,
)
from scgp.scale.stored import check_index, check_layout
from scgp.scale.written import ARRAY, Slots

RENAMES = "renames.json"
STAGED, ASIDE = "new", "old"
ROWS = 16_384  # of a chunk of vectors: 8 MB


def check_target(path: Path) -> None:
    """Refuse a store that cannot be written to, before any work.

    Raises
    ------
    FileError
        It cannot.
    """
    for folder in (path, *(path / name for name in ("obs", "obsm", "uns"))):
        with refused_in_words(folder, another="store"):
            if folder.is_dir():
                check_writable(folder)


def write_slots(path: Path, folder: Path, slots: Slots) -> None:
    """Write all slots, or leave the store as it was.

    Parameters
    ----------
    path
        The store.
    folder
        Its work folder.
    slots
        What is written.

    Raises
    ------
    FileError
        The disk is full or fails; the store is as before, or the message says how to finish it.
    """
    try:
        _clear(folder)
        renames = _stage(path, folder, slots)
        sync_tree(folder / STAGED)
        text = json.dumps(renames)
        write_whole(folder / RENAMES, lambda to: to.write_text(text, encoding="utf-8"))
        apply(path, folder)
    except BaseException as error:
        made = (folder / RENAMES).exists()
        if not made:
            _clear(folder)
        if not isinstance(error, OSError) or isinstance(error, FileError):
            raise
        raise not_written(path, error, made=made) from error


def recover(path: Path, folder: Path) -> bool:
    """Finish a change that is made; throw away one that is not. Tells whether one was finished."""
    made = (folder / RENAMES).exists()
    if made:
        apply(path, folder)
    _clear(folder)
    return made


def apply(path: Path, folder: Path) -> None:
    """Rename what the list names, and remove the list. May be done again."""
    listed = json.loads((folder / RENAMES).read_text(encoding="utf-8"))
    (folder / ASIDE).mkdir(exist_ok=True)
    for number, (source, target) in enumerate(listed["renames"]):
        staged, place = folder / STAGED / source, path / target
        if not staged.exists():
            continue
        if staged.is_dir() and place.exists():
            aside = folder / ASIDE / str(number)
            if aside.exists():  # a second try, between the two renames of a pair
                shutil.rmtree(aside)
            place.rename(aside)
        staged.replace(place)
        sync_folder(place.parent)
    gone = listed.get("gone", [])  # a list of 0.11.0 or earlier has none
    for number, target in enumerate(gone):
        if (path / target).exists():
            aside = folder / ASIDE / f"gone{number}"
            if aside.exists():  # killed after an earlier removal: the store has it anew
                shutil.rmtree(aside)
            (path / target).rename(aside)
            sync_folder((path / target).parent)
    if listed["consolidated"]:
        _consolidate(path, [*(target for _, target in listed["renames"]), *gone])
    (folder / RENAMES).unlink()
    sync_folder(folder)


def _stage(path: Path, folder: Path, slots: Slots) -> dict[str, Any]:
    """Write everything that is new into the work folder; return what goes where."""
    import zarr

    root = zarr.open_group(path, mode="r", use_consolidated=False)
    check_layout(root, path)
    check_index(root["obs"].attrs["_index"], slots.columns, path)
    version = root.metadata.zarr_format
    metadata = "zarr.json" if version == 3 else ".zattrs"
    new = zarr.open_group(folder / STAGED, mode="w", zarr_format=version)
    for name in ("obs", "obsm", "uns"):
        ad.io.write_elem(new, name, {})
    parts: Any = [new[name] for name in ("obs", "obsm", "uns")]
    obs, obsm, uns = parts
    slots.write_columns(obs)
    slots.write_facts(uns)
    whole = [name for name in ("obsm", "uns") if name not in root]
    pairs = [f"obs/{name}" for name in slots.columns] + [f"uns/{slots.key_added}"]
    if slots.shape is not None:
        rows = min(ROWS, max(slots.shape[0], 1))
        chunks = (rows, slots.shape[1])
        array = obsm.create_array(
            slots.vectors_key, shape=slots.shape, chunks=chunks, dtype=np.float32
        )
        array.attrs.update(ARRAY)
        slots.fill(_Gathered(array, rows))
        pairs.append(f"obsm/{slots.vectors_key}")
    pairs = [*(name for name in pairs if name.split("/")[0] not in whole), *whole]
    content = json.loads((path / "obs" / metadata).read_text(encoding="utf-8"))
    attributes = content["attributes"] if version == 3 else content
    gone = [f"obs/{name}" for name in slots.gone(attributes["column-order"])]
    attributes["column-order"] = slots.order(attributes["column-order"])
    (folder / STAGED / "attributes").write_text(json.dumps(content, indent=2), encoding="utf-8")
    consolidated = (path / ".zmetadata").is_file()
    if version == 3:
        consolidated = bool(
            json.loads((path / "zarr.json").read_text()).get("consolidated_metadata")
        )
    return {
        "renames": [*([name, name] for name in pairs), ["attributes", f"obs/{metadata}"]],
        "gone": gone,
        "consolidated": consolidated,
        "zarr_format": version,
    }


def _consolidate(path: Path, changed: list[str]) -> None:
    """Bring the copy of all metadata at the root up to date, for what has changed below it.

    ``zarr.consolidate_metadata`` would read every node anew, and warn of a layout that is the
    store's already.
    """
    third = (path / "zarr.json").is_file()
    file = path / ("zarr.json" if third else ".zmetadata")
    content = json.loads(file.read_text(encoding="utf-8"))
    known = content["consolidated_metadata"]["metadata"] if third else content["metadata"]
    for target in changed:
        for key in [key for key in known if f"{key}/".startswith(f"{target}/")]:
            del known[key]
        place = path / target
        for node in [place] if place.is_file() else place.rglob("*"):  # nothing, if it is gone
            key = node.relative_to(path)
            if third and node.name == "zarr.json":
                known[key.parent.as_posix()] = _inline(node)
            elif not third and node.name in {".zarray", ".zgroup", ".zattrs"}:
                known[key.as_posix()] = json.loads(node.read_text(encoding="utf-8"))
    # zarr reads no other order: parents before their children, and these side by side.
    ordered = sorted(known.items(), key=lambda item: (item[0].count("/"), item[0]))
    known.clear()
    known.update(ordered)
    text = json.dumps(content, indent=2)
    write_whole(file, lambda to: to.write_text(text, encoding="utf-8"))


def _inline(node: Path) -> dict[str, Any]:
    """Return the metadata of a node of version 3 as the copy at the root has it."""
    content = json.loads(node.read_text(encoding="utf-8"))
    if content["node_type"] == "group":
        empty = {"kind": "inline", "must_understand": False, "metadata": {}}
        content["consolidated_metadata"] = empty
    return dict(content)


class _Gathered:
    """An array that is written a whole chunk at a time: half a chunk is read to be written."""

    def __init__(self, array: Any, rows: int) -> None:
        self._array, self._rows = array, rows
        self._buffer_RE = np.zeros((rows, array.shape[1]), np.float32)

    def __setitem__(self, where: slice, cell_BE: np.ndarray) -> None:
        start, n = where.start, self._array.shape[0]
        while len(cell_BE):
            first = start // self._rows * self._rows
            inside = start - first
            piece = cell_BE[: self._rows - inside]
            self._buffer_RE[inside : inside + len(piece)] = piece
            start += len(piece)
            cell_BE = cell_BE[len(piece) :]
            if start == min(first + self._rows, n):
                self._array[first:start] = self._buffer_RE[: start - first]


def _clear(folder: Path) -> None:
    for name in (STAGED, ASIDE):
        shutil.rmtree(folder / name, ignore_errors=True)
