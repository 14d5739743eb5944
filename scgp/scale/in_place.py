"""annotate_file(): a file in, labels in the file; it may be killed and run again.

Owns the order of the steps. Must not know how answers are kept (`parts`) or how a file is changed
in one step (`h5ad`, `zarr_store`).

Shape suffixes: B cells of a block, E width of the joint space.
"""

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np

from scgp.annotate import EMPTY, annotate
from scgp.answer_columns import column_names, label_columns, profile_facts
from scgp.asking import asked_labeller
from scgp.cells.counts import CountMatrix
from scgp.cells.genes import GeneMatch, match_genes
from scgp.device import resolve_device
from scgp.embed import facts_of
from scgp.errors import ArgumentError, warn_user
from scgp.labelling import Labeller, label_blocks
from scgp.model.checkpoint import Model
from scgp.phenotypes.text import TextEncoder
from scgp.progress import progress_bar
from scgp.reference.decision import STATUSES, Decision
from scgp.reference.index import ReferenceIndex
from scgp.scale import h5ad, redo, zarr_store
from scgp.scale.parts import WorkFolder
from scgp.scale.stored import check_source, is_store, opened_cells
from scgp.scale.written import Slots, slots_of
from scgp.slots import check_key
from scgp.smoothing import check_smooth, read_clusters, smoothed

__all__ = ["annotate_file"]

_PROBED = 64  # rows, at the two ends and in the middle, that tell one matrix from another


def annotate_file(
    path: str | Path,
    *,
    reference: ad.AnnData | None = None,
    label_key: str | None = None,
    index: ReferenceIndex | str | Path | None = None,
    labels: str | Sequence[str] | None = None,
    model: Model | str | Path | None = None,
    encoder: TextEncoder | None = None,
    tissue: str | None = None,
    min_confidence: float | None = None,
    min_confidence_broader: float | None = None,
    coverage: float | None = None,
    use_rep: str | None = None,
    smooth: str | None = None,
    layer: str | None = None,
    use_raw: bool | None = None,
    key_added: str = "scgp",
    batch_size: int = 1024,
    device: str | None = None,
    resume: bool = True,
    progress: bool = True,
) -> dict[str, int]:
    """Annotate the cells of a file, and write the labels into it, in bounded memory.

    The slots are those of :func:`scgp.annotate`, with the same values. Answers are kept as they
    come, in a folder beside the file (``big.h5ad.scgp``). A call that was ended, killed or stopped
    by a full disk is made again, with the same arguments: it goes on with the first cell that has
    no answer. Once all cells are answered the slots come into the file in one step, and the folder
    goes.

    Parameters
    ----------
    path
        An .h5ad file of anndata 0.7 or later, or a .zarr store in a folder. Nothing else in it
        changes.
    reference, label_key, index, labels, model, encoder, min_confidence, min_confidence_broader
        As in :func:`scgp.annotate`.
    tissue, coverage, use_rep, smooth
        As in :func:`scgp.annotate`.
    layer, use_raw, key_added, batch_size, device
        As in :func:`scgp.annotate`.
    resume
        Go on with what an earlier call left; False begins anew.
    progress
        Show a progress bar.

    Returns
    -------
    The number of cells of each status: "labelled", "ancestor", "unknown", "empty". Written into
    the file are the slots of :func:`scgp.annotate`.

    Raises
    ------
    ArgumentError
        The path is neither (cells in memory are for :func:`scgp.annotate`), an argument has a value
        that cannot be used, the names of the cells are stored under a name that a slot needs, or
        what an earlier call left is of other cells or arguments.
    FileError
        The file or its folder cannot be written to, another program has it open, it has an old
        layout, or the disk is full. The file is as before, or, if that came in the last step, is
        finished when this is called again.
    CountsError, GeneError, MissingColumnError, FingerprintError, DeviceError
        As in :func:`scgp.annotate`.

    Warns
    -----
    ScgpWarning
        As in :func:`scgp.annotate`.

    Notes
    -----
    Where nobody reads or writes the file but this call, it can be read by others at any moment but
    one: a process killed while the last bytes are copied leaves a file that may not open before
    this is called again. Cells are told from those of an earlier call by their names, their genes
    and three spans of their counts.

    Examples
    --------
    >>> import tempfile, pathlib, scgp
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "cells.h5ad"
    >>> scgp.demo.counts().write_h5ad(path)
    >>> n_cells = scgp.annotate_file(path, progress=False)
    >>> sum(n_cells.values())
    700
    """
    path = _checked(path).expanduser().resolve()
    check_source(path)
    check_key(key_added)
    check_smooth(smooth)
    target: Any = zarr_store if is_store(path) else h5ad
    target.check_target(path)
    with WorkFolder(path) as work:
        finished = (zarr_store if is_store(path) else redo).recover(path, work.folder)
        if use_rep is not None:
            if finished:
                work.forget()
            work.check_free(resume=resume)
            slots = _by_representation(
                path, use_rep, reference=reference, label_key=label_key, index=index,
                labels=labels, model=model, encoder=encoder, tissue=tissue,
                min_confidence=min_confidence,
                min_confidence_broader=min_confidence_broader,
                coverage=coverage, smooth=smooth, layer=layer, use_raw=use_raw,
                key_added=key_added, device=device,
            )  # fmt: skip
        else:
            columns = column_names(key_added)
            with opened_cells(path, columns=columns, smooth=smooth) as adata:
                cluster_N = read_clusters(adata, smooth)
                labeller, counts, asked = asked_labeller(
                    adata, reference=reference, label_key=label_key, index=index, labels=labels,
                    model=model, encoder=encoder, tissue=tissue, min_confidence=min_confidence,
                    min_confidence_broader=min_confidence_broader,
                    coverage=coverage, layer=layer, use_raw=use_raw, batch_size=batch_size,
                    device=device, progress=progress,
                )  # fmt: skip
                asked |= {} if smooth is None else {"smooth": smooth}
                match = match_genes(counts, labeller.model.genes)
                run = _run(
                    labeller, asked, counts, match, adata.obs_names, cluster_N=cluster_N,
                    key_added=key_added, device=device,
                )  # fmt: skip
                if finished and not work.holds(run):  # what is in the file now is another answer
                    work.forget()
                finished = finished and resume and work.holds(run)
                work.begin(run, resume=resume)
                _answer(
                    work, labeller, counts, match,
                    batch_size=batch_size, device=device, progress=progress,
                )  # fmt: skip
                facts = facts_of(labeller.model, counts, match)
            slots = _kept(work, labeller, facts | asked, key_added, cluster_N)
        if use_rep is not None or not finished:
            target.write_slots(path, work.folder, slots)
        work.forget()
    return _statuses(slots)


def _checked(path: object) -> Path:
    """Return the path given; refuse what is none, above all cells that are in memory."""
    if isinstance(path, str | os.PathLike):
        return Path(path)
    msg = (
        f"path is of type {type(path).__name__}; expected the path of an .h5ad file or .zarr store"
    )
    if isinstance(path, ad.AnnData):
        msg += ". Cells that are in memory are annotated by scgp.annotate(adata)"
    raise ArgumentError(msg)


def _answer(
    work: WorkFolder,
    labeller: Labeller,
    counts: CountMatrix,
    match: GeneMatch,
    *,
    batch_size: int,
    device: str | None,
    progress: bool,
) -> None:
    """Answer the cells that have no answer yet, and keep each block."""
    on = resolve_device(device)
    with progress_bar(counts.n_cells, what="annotate", unit="cell", shown=progress) as advance:
        advance(work.n_done)
        blocks = label_blocks(
            labeller, counts.rows, counts.n_cells, match.token_of_column,
            batch_size=batch_size, device=on, first=work.n_done,
        )  # fmt: skip
        for start, part in blocks:
            work.keep(start, part)
            advance(part.n_cells)


def _kept(
    work: WorkFolder,
    labeller: Labeller,
    facts: dict[str, object],
    key_added: str,
    cluster_N: np.ndarray | None,
) -> Slots:
    """Return what is written, of the answers kept; their vectors stay on the disk."""
    parts = [decision for _, decision, _ in work.answers()]
    decision = Decision.join(parts, sets=labeller.set_mass is not None)
    del parts
    facts |= profile_facts(decision, labeller.index, named=labeller.candidates is not None)
    n_cells = len(decision.label)
    n_empty = int((decision.status == "empty").sum())
    if n_empty:
        warn_user(f"{n_empty} of {n_cells} cells have no count in the genes of the model: {EMPTY}")

    def vectors() -> Iterator[tuple[int, np.ndarray]]:
        for start, _, cell_BE in work.answers():
            yield start, cell_BE

    return Slots(
        key_added,
        label_columns(decision, key_added, smoothed(decision, cluster_N, facts, labeller.index)),
        facts,
        (n_cells, labeller.model.config.embed_dim),
        vectors,
    )


def _by_representation(
    path: Path, use_rep: str, *, key_added: str, smooth: str | None, **arguments: Any
) -> Slots:
    """Answer by a representation: no network reads the cells, so all are answered at once."""
    columns = column_names(key_added)
    with opened_cells(path, obsm=(use_rep,), columns=columns, smooth=smooth) as adata:
        cells = ad.AnnData(obs=adata.obs, obsm=dict(adata.obsm))
    annotate(
        cells, use_rep=use_rep, smooth=smooth, key_added=key_added, progress=False, **arguments
    )
    return slots_of(cells, key_added, vectors=False)


def _statuses(slots: Slots) -> dict[str, int]:
    status = np.asarray(slots.columns[f"{slots.key_added}_status"])
    return {name: int((status == name).sum()) for name in STATUSES}


def _run(
    labeller: Labeller,
    asked: dict[str, object],
    counts: CountMatrix,
    match: GeneMatch,
    cell_names: Iterable[object],
    *,
    cluster_N: np.ndarray | None,
    key_added: str,
    device: str | None,
) -> dict[str, Any]:
    """Return what a run computes, from what: equal for two runs only if their answers are."""
    import scgp

    last = max(counts.n_cells - _PROBED, 0)
    probe = hashlib.sha256()
    for start in (0, last // 2, last):
        block = counts.rows(start, start + _PROBED)
        for array in (block.indptr, block.indices, block.data):
            probe.update(np.ascontiguousarray(array).tobytes())
    return {
        "scgp": scgp.__version__,
        "model": labeller.model.fingerprint,
        "reference": _reference_of(labeller.index),
        "labels": None if labeller.candidates is None else fingerprint(labeller.candidates),
        "tissue": asked.get("tissue"),
        "coverage": asked.get("coverage"),
        "min_confidence": asked.get("min_confidence"),
        "min_confidence_broader": asked.get("min_confidence_broader"),
        "smooth": None if cluster_N is None else fingerprint((asked["smooth"], cluster_N)),
        "counts": counts.where,
        "cells": counts.n_cells,
        "cell names": _digest_of(cell_names),
        "gene names": _digest_of(counts.var_names),
        "genes": fingerprint(match.token_of_column),  # also those that a column of var names
        "values": probe.hexdigest()[:16],
        "key_added": key_added,
        "device": device or "cpu",
    }


def _reference_of(index: ReferenceIndex) -> str:
    """Return what tells one index from another.

    One that was opened is told by the checksum of its manifest, which has those of all its files:
    its vectors, which may be on disk and larger than memory, are not read. What it answers with
    (`min_confidence` is part of that) may have changed since, so it counts, too.
    """
    if index.opened is None:
        return fingerprint(index)
    return fingerprint((index.opened[1], index.calibration))


def _digest_of(names: Iterable[object]) -> str:
    found = hashlib.sha256()
    for name in names:
        found.update(str(name).encode() + b"\0")
    return found.hexdigest()[:16]


def fingerprint(value: object) -> str:
    """Return a digest of a dataclass: of its numbers, texts and arrays, and of those in these.

    Of anything else, such as a FAISS index, it has only the type: what is in its lists stands in
    the vectors as well.
    """
    found = hashlib.sha256()
    _add(found, value)
    return found.hexdigest()[:16]


def _add(found: Any, value: object) -> None:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            found.update(field.name.encode() + b"=")
            _add(found, getattr(value, field.name))
    elif isinstance(value, np.ndarray):
        found.update(f"{value.dtype}{value.shape}".encode())
        text = value.dtype.hasobject
        found.update(repr(value.tolist()).encode() if text else np.ascontiguousarray(value).data)
    elif isinstance(value, list | tuple):
        for item in value:
            _add(found, item)
            found.update(b",")
    elif value is None or isinstance(value, str | int | float | np.generic):
        found.update(repr(value).encode())
    else:
        found.update(type(value).__qualname__.encode())
