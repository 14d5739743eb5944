"""Slots into an .h5ad file, in one step.

Owns what is changed in the file; `redo` owns that all of it is, or nothing. What stood in the slots
before is unlinked first, so that HDF5 uses its room again.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np

from scgp.errors import FileError
from scgp.scale.durable import check_writable, not_written, refused_in_words
from scgp.scale.redo import HeldFile, lock
from scgp.scale.stored import check_index, check_layout
from scgp.scale.written import ARRAY, Slots


def check_target(path: Path) -> None:
    """Refuse a file that cannot be written to, before any work.

    Raises
    ------
    FileError
        It cannot, or another program has it open.
    """
    with refused_in_words(path, another="file"):
        check_writable(path)
        with path.open("r+b") as file:
            lock(file, path)


def write_slots(path: Path, folder: Path, slots: Slots) -> None:
    """Write all slots, or leave the file as it was.

    Parameters
    ----------
    path
        The file.
    folder
        Its work folder, for the log.
    slots
        What is written.

    Raises
    ------
    FileError
        The disk is full or fails; the file is as before, or the message says how to finish it.
    """
    held = HeldFile(path, folder)
    try:
        try:
            with h5py.File(held, "r+") as file:
                put_slots(file, path, slots, held.check)
        finally:
            held.check()  # the reason, if HDF5 stumbled over a write that failed, or did not notice
        held.commit()
    except OSError as error:
        made = held.made
        held.give_up()
        if isinstance(error, FileError):
            raise
        raise not_written(path, error, made=made) from error
    except BaseException:
        held.give_up()
        raise


def put_slots(
    file: h5py.File, path: Path, slots: Slots, check: Callable[[], object] = lambda: None
) -> None:
    """Write all slots into an open file, and nothing else; `check` is called after each part.

    Raises
    ------
    ArgumentError, FileError
        As `check_index` and `check_layout` do.
    """
    check_layout(file, path)
    for group in ("obsm", "uns"):
        if group not in file:
            ad.io.write_elem(file, group, {})
    obs: Any = file["obs"]
    check_index(obs.attrs["_index"], slots.columns, path)
    slots.write_columns(obs)
    before = obs.attrs["column-order"]
    for name in slots.gone(before):
        del obs[name]
    obs.attrs["column-order"] = np.array(slots.order(before), object)
    slots.write_facts(file["uns"])
    check()
    if slots.shape is not None:
        obsm: Any = file["obsm"]
        if slots.vectors_key in obsm:
            del obsm[slots.vectors_key]
        array = obsm.create_dataset(slots.vectors_key, shape=slots.shape, dtype=np.float32)
        array.attrs.update(ARRAY)
        slots.fill(array, check)
