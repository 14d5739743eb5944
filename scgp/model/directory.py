"""Directories that are complete or refused: how models and indexes lie on disk.

Owns the manifest (kind, format version, size and sha256 of every file), the atomic write and the
one ``numpy.load`` of the package. Knows nothing of what the files mean.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from scgp.errors import ArgumentError, CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FORMAT_VERSION = 1
# Files that can hold pickles: never read here, and refused so that nobody else reads them either.
PICKLE_SUFFIXES = frozenset([".bin", ".ckpt", ".dill", ".joblib", ".pickle", ".pkl", ".pt", ".pth"])
RESERVED = ("kind", "format_version", "files", "checksum")


def write_directory(
    path: str | Path,
    files: Mapping[str, bytes | Callable[[Path], None]],
    manifest: Mapping[str, Any],
    *,
    kind: str,
    manifest_name: str,
    beside: Mapping[str, Callable[[Path], None]] | None = None,
    overwrite: bool = False,
    format_version: int = FORMAT_VERSION,
    newest: int = FORMAT_VERSION,
) -> None:
    """Write a directory at once: whatever goes wrong, ``path`` is as before.

    The files are written to a temporary directory beside ``path``, flushed to disk, and renamed.

    Parameters
    ----------
    path
        The directory to make.
    files
        Content of each file by its relative name, or a function that writes it to the path given.
    manifest
        What else the manifest says; JSON values.
    kind, manifest_name
        What the directory is (``"model"``), and the name of its manifest (``"config.json"``).
    beside
        Directories that come inside with a manifest of their own, beside the files: for each
        name, a function that makes the directory at the path given. The manifest does not list
        them.
    overwrite
        Replace a directory of the same kind, with all that is in it. Anything else that stands at
        ``path`` is never replaced.
    format_version
        The format that is written: the oldest one that can say it.
    newest
        The newest format of this kind of directory.

    Raises
    ------
    ArgumentError
        ``path`` exists, or two things have one name.
    """
    path = check_target(
        path, kind=kind, manifest_name=manifest_name, overwrite=overwrite, newest=newest
    )
    names = [_safe_name(name) for name in files]
    if any(key in manifest for key in RESERVED) or manifest_name in names:
        message = f"the manifest keeps {RESERVED} and the file {manifest_name} for itself"
        raise ArgumentError(message)
    inside = {_safe_name(name): make for name, make in (beside or {}).items()}
    if taken := set(inside) & {name.split("/")[0] for name in (manifest_name, *names)}:
        message = f"no directory {taken.pop()!r} can come inside: a file has that name"
        raise ArgumentError(message)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}.tmp"
    temporary.mkdir()
    try:
        listed = {name: _write_file(temporary / name, files[name]) for name in names}
        content = {"kind": kind, "format_version": format_version, **manifest, "files": listed}
        content["checksum"] = _checksum(content)
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        _write_file(temporary / manifest_name, text.encode())
        for name, make in inside.items():
            make(temporary / name)
        sync_folder(temporary)
        _swap(temporary, path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_target(
    path: str | Path,
    *,
    kind: str,
    manifest_name: str,
    overwrite: bool = False,
    newest: int = FORMAT_VERSION,
) -> Path:
    """Refuse a target that exists, unless it is to be replaced and is what we would write.

    `write_directory` asks it; so may whoever works for long before it writes.

    Returns
    -------
    The absolute path.

    Raises
    ------
    ArgumentError
        ``path`` exists.
    """
    path = Path(path).expanduser().absolute()
    if not (path.exists() or path.is_symlink()):
        return path
    if not overwrite:
        message = f"{path} exists; choose another path or pass overwrite=True"
        raise ArgumentError(message)
    if path.is_symlink() or not path.is_dir():
        message = f"{path} is no directory, so overwrite=True does not replace it"
        raise ArgumentError(message)
    try:
        _read_manifest(path, kind=kind, manifest_name=manifest_name, newest=newest)
    except CheckpointError as error:
        message = (
            f"{path} exists and is no saved {kind}, so overwrite=True does not replace it: {error}"
        )
        raise ArgumentError(message) from error
    return path


def read_directory(
    path: str | Path,
    *,
    kind: str,
    manifest_name: str,
    newest: int = FORMAT_VERSION,
    not_read: Callable[[str], bool] | None = None,
) -> dict[str, Any]:
    """Return the manifest of a directory once every file of it is proved whole.

    Parameters
    ----------
    newest
        The newest format that the caller reads.
    not_read
        Tells of the name of a file that it is not read: its size is compared, its sha256 is not.

    Raises
    ------
    CheckpointError
        The directory or a file of it is missing, truncated, altered, a link, of another kind or a
        later format, or a file that could hold a pickle lies in it.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        found = "is a file" if path.exists() else "does not exist"
        message = f"{path} {found}; expected the directory of a saved {kind}"
        raise CheckpointError(message)
    manifest = _read_manifest(path, kind=kind, manifest_name=manifest_name, newest=newest)
    for name, facts in manifest["files"].items():
        _check_file(path, name, facts, read=not_read is None or not not_read(name))
    for root, _, names in os.walk(path):
        for name in names:
            if Path(name).suffix.lower() in PICKLE_SUFFIXES:
                message = (
                    f"{Path(root) / name} could hold a pickle, which runs code when it is read; a "
                    f"saved {kind} has none. Remove it if you trust the rest, or fetch {path} anew"
                )
                raise CheckpointError(message)
    return manifest


def save_npz(path: str | Path, arrays: Mapping[str, np.ndarray], *, compress: bool = True) -> None:
    """Write arrays as a compressed npz; the same arrays give the same bytes.

    `compress` False takes more room and less time; each array has its checksum either way.

    Raises
    ------
    ArgumentError
        An array holds Python objects, which only a pickle could keep.
    """
    for name, array in arrays.items():
        if np.asarray(array).dtype.hasobject:
            message = f"array {name!r} holds Python objects; expected numbers, booleans or strings"
            raise ArgumentError(message)
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(Path(path), "w", method) as archive:
        for name in sorted(arrays):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(arrays[name]), allow_pickle=False)


def load_npz(path: str | Path) -> dict[str, np.ndarray]:
    """Return the arrays of an npz; nothing in it is ever unpickled.

    Raises
    ------
    CheckpointError
        The file is no npz, is damaged, or holds Python objects.
    """
    try:
        with Path(path).open("rb") as file:
            if not zipfile.is_zipfile(file):
                message = f"{path} is no npz file"
                raise CheckpointError(message)
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, CheckpointError):
            raise
        message = f"{path} cannot be read as arrays without a pickle: {error}"
        raise CheckpointError(message) from error


def _safe_name(name: str) -> str:
    """Return ``name`` if it stays inside its directory on every system."""
    parts = PurePosixPath(name).parts
    # An absolute name is not the join of its parts either.
    odd = not parts or ".." in parts or name != "/".join(parts)
    if odd or any(sign in name for sign in "\\:\0"):
        message = f"file name {name!r} leaves its directory; expected a plain relative name"
        raise CheckpointError(message)
    return name


def _write_file(path: Path, content: bytes | Callable[[Path], None]) -> dict[str, Any]:
    """Write one file to disk and return its size and sha256, read back from the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": path.stat().st_size, "sha256": digest}


def sync_folder(folder: Path) -> None:
    """Flush the names in ``folder`` to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _swap(temporary: Path, path: Path) -> None:
    """Put ``temporary`` where ``path`` is; the old directory goes only when the new one stands."""
    if not path.exists():
        temporary.rename(path)
        return
    old = path.parent / f".{path.name}.{secrets.token_hex(8)}.old"
    path.rename(old)
    try:
        temporary.rename(path)
    except BaseException:  # Ctrl-C here must not leave the user without either
        old.rename(path)
        raise
    shutil.rmtree(old)


def _checksum(content: Mapping[str, Any]) -> str:
    """Return the sha256 of a manifest without its own checksum."""
    rest = {key: value for key, value in content.items() if key != "checksum"}
    text = json.dumps(rest, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _read_manifest(path: Path, *, kind: str, manifest_name: str, newest: int) -> dict[str, Any]:
    """Return a manifest of the right kind and version that is as it was written."""
    file = path / manifest_name
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        message = f"{path} has no {manifest_name}: it is no saved {kind}, or not all of one"
        raise CheckpointError(message) from error
    except (OSError, ValueError, RecursionError) as error:
        message = f"{file} is no JSON: truncated or edited ({error})"
        raise CheckpointError(message) from error
    if not isinstance(content, dict) or content.get("kind") != kind:
        found = content.get("kind") if isinstance(content, dict) else type(content).__name__
        message = f"{file} describes {found!r}, expected a saved {kind!r}"
        raise CheckpointError(message)
    version = content.get("format_version")
    if not isinstance(version, int) or not 1 <= version <= newest:
        message = (
            f"{file} has format version {version!r}; this scgp reads 1 to {newest}: upgrade scgp"
        )
        raise CheckpointError(message)
    if content.get("checksum") != _checksum(content) or not isinstance(content.get("files"), dict):
        message = f"{file} was edited after it was saved (checksum); save or fetch {path} anew"
        raise CheckpointError(message)
    return content


def _check_file(path: Path, name: str, facts: Any, *, read: bool) -> None:
    """Prove one listed file to be there, plain, and unaltered if it is read."""
    file = path / _safe_name(name)
    advice = f"{path} is not complete; save or fetch it anew"
    if not isinstance(facts, dict) or facts.keys() != {"size", "sha256"}:
        message = f"the manifest of {path} lists {name} without size and sha256"
        raise CheckpointError(message)
    if not (file.exists() or file.is_symlink()):
        message = f"{file} is missing: {advice}"
        raise CheckpointError(message)
    inside = [path / part for part in PurePosixPath(name).parents if part.name]
    if any(part.is_symlink() for part in [file, *inside]) or not stat.S_ISREG(file.stat().st_mode):
        message = f"{file} is a link or no plain file; expected the file itself"
        raise CheckpointError(message)
    size = file.stat().st_size
    if size != facts["size"]:
        message = (
            f"{file} has {size} bytes, expected {facts['size']}: truncated or edited. {advice}"
        )
        raise CheckpointError(message)
    if not read:
        return
    with file.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != facts["sha256"]:
        message = f"{file} was altered: sha256 {found}, expected {facts['sha256']}. {advice}"
        raise CheckpointError(message)
