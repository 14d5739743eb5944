"""The work folder: answers kept as they come, beside the file that they will be written into.

Owns its layout, its lock, and the question whether an earlier run may be continued. Knows neither
how cells are answered nor how the file is written.

``big.h5ad.scgp/`` holds ``run.json`` (what is computed, from what), one npz for each block of
cells (``cells-000000000000-000000001024.npz``: answers and vectors of the cells 0 to 1,023),
``lock``, and what the writing of the file needs (`redo`, `zarr_store`). Every file has its name
only once all of it is on the disk.

Shape suffixes: B cells of a block, E width of the joint space.
"""

import dataclasses
import errno
import fcntl
import json
import logging
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pandas as pd

from scgp.errors import ArgumentError, CheckpointError, FileError
from scgp.labelling import Labelled
from scgp.model.directory import load_npz, save_npz
from scgp.reference.decision import Decision
from scgp.scale.durable import UNFINISHED, check_writable, write_whole

logger = logging.getLogger(__name__)

SUFFIX = ".scgp"
MANIFEST = "run.json"
LOCK = "lock"
FORMAT = 1
_PART = re.compile(r"cells-(\d{12})-(\d{12})\.npz")
_VECTORS, _NAMES = "cell_BE", "names of "


class WorkFolder:
    """The folder beside a file, locked for one process; a context manager.

    Left with an error, the folder stays if it holds answers, and goes if it holds none.

    Parameters
    ----------
    path
        The file that is annotated.

    Raises
    ------
    FileError
        The folder cannot be made, is not scgp's, or is in use by another process; or, when it is
        left, the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self._file = path
        self.folder = path.with_name(path.name + SUFFIX)
        self._parts: list[tuple[int, int]] = []

    def __enter__(self) -> Self:
        """Make the folder, or take the one that is there."""
        there = self.folder.is_dir()
        if there and any(self.folder.iterdir()) and not (self.folder / LOCK).is_file():
            msg = f"{self.folder} is no work folder of scgp; move it away, its name is needed"
            raise FileError(msg)
        try:
            check_writable(self.folder if there else self.folder.parent)
            self.folder.mkdir(exist_ok=True)
            self._lock = (self.folder / LOCK).open("w")
        except OSError as error:
            msg = (
                f"{self.folder} cannot be made ({error.strerror or error}): answers are kept there "
                "until all of them are; allow writing to the folder, or annotate a copy elsewhere"
            )
            raise FileError(msg) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            msg = f"{self._file} is being annotated by another process; wait until that has ended"
            raise FileError(msg) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Unlock the folder; remove it where nothing was kept."""
        names = {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()
        if names <= {LOCK, MANIFEST, MANIFEST + UNFINISHED}:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            msg = (
                f"answers cannot be kept in {self.folder} ({error.strerror}); {self._file} is as "
                "it was, and what was kept before stays: make room, and run this again"
            )
            raise FileError(msg) from error

    @property
    def n_done(self) -> int:
        """Number of cells whose answers are kept."""
        return self._parts[-1][1] if self._parts else 0

    @property
    def begun(self) -> dict[str, Any] | None:
        """What the run that is kept here computes, or None."""
        try:
            found = json.loads((self.folder / MANIFEST).read_bytes())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def holds(self, run: Mapping[str, Any]) -> bool:
        """Tell whether what is kept is of this run."""
        return self.begun == {"format": FORMAT, **run}

    def forget(self) -> None:
        """Remove what is kept; first what says what it is."""
        (self.folder / MANIFEST).unlink(missing_ok=True)
        for path in self.folder.iterdir():
            if path.name != LOCK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._parts = []

    def begin(self, run: Mapping[str, Any], *, resume: bool) -> None:
        """Begin a run, or continue the one that is kept if it is the same.

        Parameters
        ----------
        run
            What is computed, from what: JSON values, equal only where the answers are.
        resume
            Continue; False forgets what is kept.

        Raises
        ------
        ArgumentError
            What is kept is of another run.
        """
        run = {"format": FORMAT, **run}
        if not resume or self.begun is None:
            self.forget()
        kept = self.begun
        if kept is None:
            text = json.dumps(run, indent=1, ensure_ascii=False)
            write_whole(self.folder / MANIFEST, lambda to: to.write_text(text, encoding="utf-8"))
            return
        other = [key for key in {**kept, **run} if kept.get(key) != run.get(key)]
        if other:
            told = "; ".join(f"{key} was {kept.get(key)!r}, now {run.get(key)!r}" for key in other)
            raise self._other_run(told)
        self._parts = self._whole_parts()
        if self._parts:
            logger.info("%s cells were answered before; going on", f"{self.n_done:,}")

    def check_free(self, *, resume: bool) -> None:
        """Refuse what a run left, for one that keeps nothing; not where it is to be forgotten.

        Raises
        ------
        ArgumentError
            An unfinished run is kept here.
        """
        if resume and self.begun is not None:
            msg = "that one reads the counts of cells, this one use_rep"
            raise self._other_run(msg)

    def _other_run(self, told: str) -> ArgumentError:
        return ArgumentError(
            f"{self.folder} holds an unfinished run that is not this one: {told}. Run it as it "
            "was to finish it, or pass resume=False (--restart) to begin anew"
        )

    def keep(self, start: int, part: Labelled) -> None:
        """Keep the answers to a block of cells; `start` is the position of its first."""
        stop = start + part.n_cells
        path = self.folder / f"cells-{start:012d}-{stop:012d}.npz"
        arrays = _encoded(part.decision) | {_VECTORS: part.vectors.cell_BE}
        write_whole(path, lambda to: save_npz(to, arrays, compress=False))
        self._parts.append((start, stop))

    def answers(self) -> Iterator[tuple[int, Decision, np.ndarray]]:
        """Give the answers back in order, block by block, with the vectors (B x E)."""
        for start, stop in self._parts:
            decision, cell_BE = _decoded(load_npz(self._path(start, stop)))
            yield start, decision, cell_BE

    def _path(self, start: int, stop: int) -> Path:
        return self.folder / f"cells-{start:012d}-{stop:012d}.npz"

    def _whole_parts(self) -> list[tuple[int, int]]:
        """Return the blocks from the first cell on, up to one that is missing or damaged."""
        found: list[tuple[int, int]] = []
        names = sorted(path.name for path in self.folder.iterdir())
        spans = [tuple(map(int, match.groups())) for match in map(_PART.fullmatch, names) if match]
        for start, stop in spans:
            path = self._path(start, stop)
            if start == (found[-1][1] if found else 0) and _is_whole(path, stop - start):
                found.append((start, stop))
            else:
                logger.warning("%s is damaged or out of order; its cells are answered anew", path)
                path.unlink()
        return found


def _is_whole(path: Path, n_cells: int) -> bool:
    try:
        decision, cell_BE = _decoded(load_npz(path))
    except (CheckpointError, KeyError, TypeError):
        return False
    return len(decision.label) == len(cell_BE) == n_cells


def _encoded(decision: Decision) -> dict[str, np.ndarray]:
    """Return arrays without objects: a text is a place in a list of names, -1 for none."""
    arrays: dict[str, np.ndarray] = {}
    for field in dataclasses.fields(decision):
        value_B = getattr(decision, field.name)
        if value_B is None:
            continue
        if value_B.dtype == object:
            value_B, names = pd.factorize(value_B)
            arrays[_NAMES + field.name] = np.array(names, dtype=str)
            value_B = value_B.astype(np.int32)
        arrays[field.name] = value_B
    return arrays


def _decoded(arrays: dict[str, np.ndarray]) -> tuple[Decision, np.ndarray]:
    """Return what `_encoded` was given, and the vectors. Equal texts are one object."""
    cell_BE = arrays.pop(_VECTORS)
    lists = {name: arrays.pop(name) for name in list(arrays) if name.startswith(_NAMES)}
    for name, names in lists.items():
        texts = np.array([*(sys.intern(str(text)) for text in names), None], object)
        arrays[name.removeprefix(_NAMES)] = texts[arrays[name.removeprefix(_NAMES)]]
    return Decision(**arrays), cell_BE
