"""The index directory: written at once, read whole or mapped, refused if it is not what we write.

Owns ``index.json``, ``labels.npz`` and ``profiles.npz``, and which file holds which segment. An
index that compares all its cells is written in format 1, as ever; one with lists or with removed
cells, or whose gene head does not know all labels, in format 2, which earlier versions refuse.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scgp.errors import ArgumentError, CheckpointError, FingerprintError
from scgp.model.directory import load_npz, read_directory, save_npz, write_directory
from scgp.reference.background import Background
from scgp.reference.contents import (
    ARRAYS,
    BACKGROUND_IDS,
    CENTRE,
    PAIRWISE,
    TEXTS,
    array_fault,
    content_fault,
    maker_fault,
    segment_fault,
)
from scgp.reference.fusion import Fusion
from scgp.reference.gene_head import GeneHead
from scgp.reference.memory import available_memory, check_disk
from scgp.reference.nearest import Lists, read_lists, read_vectors, write_lists, write_vectors
from scgp.reference.pairwise import PairwiseProfiles
from scgp.reference.profiles import Profiles
from scgp.reference.store import Segment, VectorStore

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from numpy.typing import NDArray

    from scgp.reference.index import ReferenceIndex

KIND = "reference index"
MANIFEST = "index.json"
# Only where there are mean profiles: as of 0.8.0, and of counts.
PROFILES = "profiles.npz"
VECTORS, LISTS, REMOVED = "vectors.faiss", "lists.faiss", "removed.npz"
NEWEST = 2


def write_index(index: ReferenceIndex, path: str | Path, *, overwrite: bool) -> None:
    """Write the directory of `ReferenceIndex.save`."""
    arrays = {name: np.asarray(getattr(index, name)) for name in (*ARRAYS, *TEXTS)}
    if index.names_N is not None:
        arrays["names_N"] = index.names_N
    if index.centre_D is not None:
        arrays[CENTRE] = index.centre_D
    if index.background is not None:
        arrays |= {
            BACKGROUND_IDS: np.array(index.background.ids),
            "background_text_UD": index.background.text_UD,
            "background_read_TU": index.background.read_TU,
        }
    head = index.gene_head
    if head is not None:
        arrays |= {f"gene_head_{name}": x for name, x in head.arrays().items()}
    if index.pairwise is not None:
        arrays |= {f"{PAIRWISE}{name}": x for name, x in index.pairwise.arrays().items()}
    manifest: dict[str, Any] = {
        "n_cells": index.n_cells,
        "width": index.width,
        "n_labels": len(index.labels),
        "model_fingerprint": index.model_fingerprint,
        "calibration": index.calibration.to_dict(),
    }
    knows_all = head is None or not np.isnan(head.bias_T).any()
    store = index.store
    plain = store.is_exact and knows_all
    files, segments = _whole(store) if store.is_exact else _in_segments(store)
    if not plain:
        manifest["segments"] = segments
    files["labels.npz"] = lambda p: save_npz(p, arrays)
    if index.profiles is not None:
        profiles = index.profiles.arrays()
        files[PROFILES] = lambda p: save_npz(p, profiles)
    check_disk(Path(path), _bytes_of(store))
    write_directory(
        path,
        files,
        manifest,
        kind=KIND,
        manifest_name=MANIFEST,
        overwrite=overwrite,
        format_version=1 if plain else NEWEST,
        newest=NEWEST,
    )


def _bytes_of(store: VectorStore) -> int:
    """Return about how many bytes the vectors and lists of a store take."""
    number = 4 * store.width
    lists = store.width + 8
    sizes = [(len(s.vectors_MD), s.lists is not None) for s in store.segments]
    return sum(n * (number + has * lists) for n, has in sizes)


_Files = dict[str, "bytes | Callable[[Path], None]"]


def _whole(store: VectorStore) -> tuple[_Files, list[dict[str, Any]]]:
    """Return the one file of vectors of an index without lists, which joins the segments."""
    parts = [segment.vectors_MD for segment in store.segments]
    facts = [{"vectors": VECTORS, "n_stored": store.n_cells}]
    return {VECTORS: lambda p: write_vectors(p, parts)}, facts


def _in_segments(store: VectorStore) -> tuple[_Files, list[dict[str, Any]]]:
    """Return the files of each segment, and what the manifest says of it."""
    files: _Files = {}
    facts: list[dict[str, Any]] = []
    removed: dict[str, NDArray[Any]] = {}
    for i, segment in enumerate(store.segments):
        vectors, lists = _numbered(VECTORS, i), _numbered(LISTS, i)
        files[vectors] = lambda p, s=segment: write_vectors(p, [s.vectors_MD])  # type: ignore[misc]
        fact: dict[str, Any] = {"vectors": vectors, "n_stored": len(segment.vectors_MD)}
        if segment.lists is not None:
            files[lists] = lambda p, s=segment: write_lists(p, s.lists)  # type: ignore[misc]
            fact["lists"] = {
                "file": lists,
                "n_lists": segment.lists.n_lists,
                "probes": segment.lists.probes,
                "recall_15": segment.lists.recall[0],
                "recall_15_moved": segment.lists.recall[1],
            }
        if segment.kept is not None:
            gone = np.setdiff1d(np.arange(len(segment.vectors_MD)), segment.kept)
            removed[f"removed_{i}"] = gone.astype(np.int64)
        facts.append(fact)
    if removed:
        files[REMOVED] = lambda p: save_npz(p, removed)
    return files, facts


def _numbered(name: str, i: int) -> str:
    stem, suffix = name.split(".")
    return name if i == 0 else f"{stem}-{i}.{suffix}"


def is_large(name: str) -> bool:
    """Whether a file grows with the vectors: it is mapped, and not read when it is opened."""
    return name.endswith(".faiss")


def read_index(
    cls: type[ReferenceIndex],
    path: str | Path,
    *,
    model_fingerprint: str | None,
    memory_map: bool,
) -> ReferenceIndex:
    """Read the directory of `ReferenceIndex.load`."""
    path = Path(path).expanduser()
    if not memory_map:
        _check_memory(path)
    manifest = read_directory(
        path, kind=KIND, manifest_name=MANIFEST, newest=NEWEST,
        not_read=is_large if memory_map else None,
    )  # fmt: skip
    made_by = str(manifest.get("model_fingerprint"))
    asked = made_by if model_fingerprint is None else model_fingerprint
    if fault := maker_fault(made_by, asked):
        message = f"the index {path} {fault}"
        raise FingerprintError(message)
    segments = manifest.get("segments", [{"vectors": VECTORS}])
    if fault := segment_fault(segments):
        message = f"index.json of {path} {fault}; save the index anew"
        raise CheckpointError(message)
    needed = {"labels.npz"} | {s["vectors"] for s in segments}
    needed |= {s["lists"]["file"] for s in segments if "lists" in s}
    missing = needed - set(manifest["files"])
    if missing or not isinstance(manifest.get("calibration"), dict):
        message = f"{path} lacks {sorted(missing) or 'its calibration'}; save the index anew"
        raise CheckpointError(message)
    arrays = load_npz(path / "labels.npz")
    if fault := array_fault(arrays):
        message = f"labels.npz of {path} {fault}; save the index anew"
        raise CheckpointError(message)
    contents: dict[str, Any] = {name: arrays[name] for name in ARRAYS}
    contents |= {name: arrays[name].tolist() for name in TEXTS}
    index = cls(
        store=_store(path, segments, manifest["files"], memory_map=memory_map),
        model_fingerprint=made_by,
        calibration=Fusion.from_dict(manifest["calibration"]),
        names_N=arrays.get("names_N"),
        gene_head=_gene_head(arrays),
        centre_D=arrays.get(CENTRE),
        profiles=_profiles(path, manifest["files"]),
        background=_background(arrays),
        pairwise=_pairwise(arrays),
        opened=(path, str(manifest["checksum"])),
        **contents,
    )
    fault = "" if memory_map else index.store.fault()
    if fault := fault or content_fault(index, n_cells=index.n_cells, width=index.width):
        message = f"{path} cannot be used: {fault}; save the index anew"
        raise CheckpointError(message)
    return index


def _check_memory(path: Path) -> None:
    """Refuse vectors and lists for which there is no memory, before they are read."""
    files = [file for file in path.glob("*.faiss") if file.is_file()]
    needed, there = sum(file.stat().st_size for file in files), available_memory()
    if there is not None and needed > there:
        message = (
            f"the vectors of {path} need {needed / 1e9:.2f} GB of memory, and {there / 1e9:.2f} GB "
            "are available. Open it with scgp.ReferenceIndex.load(path, memory_map=True), which "
            "reads what a search needs, and pass that as index="
        )
        raise ArgumentError(message)


def _store(
    path: Path, segments: list[dict[str, Any]], listed: Container[str], *, memory_map: bool
) -> VectorStore:
    removed = load_npz(path / REMOVED) if REMOVED in listed else {}
    parts = []
    for i, fact in enumerate(segments):
        vectors_MD = read_vectors(path / fact["vectors"], memory_map=memory_map)
        lists: Lists | None = None
        if "lists" in fact:
            said = fact["lists"]
            lists = read_lists(path / said["file"], *vectors_MD.shape, memory_map=memory_map)
            recall = (said["recall_15"], said["recall_15_moved"])
            lists = dataclasses.replace(lists, probes=said["probes"], recall=recall)
        kept = None
        if (gone := removed.get(f"removed_{i}")) is not None:
            kept = np.setdiff1d(np.arange(len(vectors_MD)), gone)
            if lists is None or len(kept) + len(gone) != len(vectors_MD) or not len(kept):
                message = f"{REMOVED} of {path} removes cells that are not there, or all of them"
                raise CheckpointError(message)
        parts.append(Segment(vectors_MD, lists, kept))
    if len({part.vectors_MD.shape[1] for part in parts}) > 1:
        message = f"the segments of {path} have several widths; save the index anew"
        raise CheckpointError(message)
    return VectorStore(tuple(parts))


def check_place(path: Path, checksum: str, *, whole: bool = False) -> None:
    """Refuse a directory that is no longer the one opened.

    Parameters
    ----------
    checksum
        That of the manifest of the directory opened.
    whole
        Read all files to their end; else their sizes are compared.

    Raises
    ------
    CheckpointError
        The directory was written anew, is incomplete, altered, or no index.
    """
    manifest = read_directory(
        path, kind=KIND, manifest_name=MANIFEST, newest=NEWEST,
        not_read=None if whole else lambda _: True,
    )  # fmt: skip
    if manifest["checksum"] != checksum:
        message = f"{path} was written anew since it was opened; load it again"
        raise CheckpointError(message)


def check_opened(index: ReferenceIndex) -> None:
    """Check what opening with ``memory_map=True`` leaves out, as `ReferenceIndex.check` says."""
    where = "the index"
    if index.opened is not None:
        path, checksum = index.opened
        where = str(path)
        check_place(path, checksum, whole=True)
    if fault := index.store.fault():
        message = f"{where} cannot be used: {fault}; save the index anew"
        raise CheckpointError(message)


def _gene_head(arrays: dict[str, NDArray[Any]]) -> GeneHead | None:
    """Return the gene head of labels.npz; indexes of earlier versions have none."""
    names = [field.name for field in dataclasses.fields(GeneHead)]
    found = {n: arrays[f"gene_head_{n}"] for n in names if f"gene_head_{n}" in arrays}
    return GeneHead(**found) if found else None


def _pairwise(arrays: dict[str, NDArray[Any]]) -> PairwiseProfiles | None:
    """Return the pairwise profiles of labels.npz; indexes of earlier versions have none."""
    names = [field.name for field in dataclasses.fields(PairwiseProfiles)]
    found = {n: arrays[f"{PAIRWISE}{n}"] for n in names if f"{PAIRWISE}{n}" in arrays}
    return PairwiseProfiles(**found) if found else None


def _background(arrays: dict[str, NDArray[Any]]) -> Background | None:
    """Return the background of labels.npz; indexes of earlier versions have none."""
    if BACKGROUND_IDS not in arrays:
        return None
    return Background(
        tuple(arrays[BACKGROUND_IDS].tolist()),
        arrays["background_text_UD"],
        tuple(arrays["label_ids"].tolist()),
        arrays["background_read_TU"],
    )


def _profiles(path: Path, listed: Container[str]) -> Profiles | None:
    """Return the mean profiles of a directory; indexes of earlier versions have none."""
    if PROFILES not in listed:
        return None
    try:
        return Profiles.from_arrays(load_npz(path / PROFILES))
    except CheckpointError as error:
        message = f"{PROFILES} of {path}: {error}"
        raise CheckpointError(message) from error
