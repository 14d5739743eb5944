"""A copy of a zarr store with labels, for the command line: it appears whole or not at all."""

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scgp.annotate import annotate
from scgp.answer_columns import column_names
from scgp.scale import zarr_store
from scgp.scale.stored import opened_cells
from scgp.scale.written import Slots, columns_of


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
    """
    use_rep, key_added = options.get("use_rep"), options["key_added"]
    obsm = () if use_rep is None else (use_rep,)
    columns, smooth = column_names(key_added), options.get("smooth")
    with opened_cells(source, obsm=obsm, columns=columns, smooth=smooth) as adata:
        annotate(adata, **options)
    vectors_BE = adata.obsm[f"X_{key_added}"] if use_rep is None else None

    def vectors() -> Iterator[tuple[int, np.ndarray]]:
        if vectors_BE is not None:
            yield 0, vectors_BE

    shape = None if vectors_BE is None else vectors_BE.shape
    slots = Slots(key_added, columns_of(adata.obs, columns), adata.uns[key_added], shape, vectors)
    temporary = target.with_name(f".{os.getpid()}-{target.name}")
    folder = target.with_name(f".{os.getpid()}-{target.name}.scgp")
    try:
        folder.mkdir()
        shutil.copytree(source, temporary)
        zarr_store.write_slots(temporary, folder, slots)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
    counts = adata.obs[f"{key_added}_status"].value_counts()
    return {str(name): int(n) for name, n in counts.items()}
