"""A file that changes in one step: it is as before, or all of the change is there.

Owns the redo log. Knows nothing of HDF5, which writes through `HeldFile` as if it were a file.

Why a log. HDF5 changes its own metadata in place, and a process that is killed among these writes
leaves a file that nothing opens. A copy of the file, changed and renamed, would be safe, but needs
the room and the time of a second file, which for an atlas is what an annotation in place is meant
to spare. HDF5 appends what is new and changes a few hundred bytes of what is old. So

1. what is written behind the old end of the file goes there at once: until the old bytes point to
   it nothing reads it;
2. what would change an old byte goes, page by page, into a log beside the file;
3. once all is written, the file is flushed to disk, and the log gets its checksum and its name:
   from here on the change is made;
4. the pages of the log are copied into the file, and the log is removed.

Killed before 3, the old bytes are untouched: `recover` cuts the new end off. Killed after,
`recover` copies the pages again, which may be done any number of times. Memory holds no page.
"""

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from scgp.errors import FileError
from scgp.model.directory import sync_folder
from scgp.scale.durable import UNFINISHED, write_whole

PAGE = 4096
LOG = "redo"
APPENDING = "appending.json"
_COPIED = 1 << 20  # bytes at once


class HeldFile(io.RawIOBase):
    """A file that is changed when `commit` is called, not before; for ``h5py.File(held, "r+")``.

    A write that fails raises nothing in the middle of HDF5, which could then not even close its
    file: the error is kept, what follows is dropped, and `check` raises it.

    Parameters
    ----------
    path
        The file. It is locked, so that no other process writes or reads it through HDF5.
    folder
        Where the log lies.

    Raises
    ------
    FileError
        Another process has the file open.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        super().__init__()
        self._path, self._folder = path, folder
        self._file = path.open("r+b", buffering=0)
        try:
            lock(self._file, path)
            self._old_end = self._size = os.fstat(self._file.fileno()).st_size
            note = {"old_end": self._old_end, "head": _head(self._file.fileno())}
            write_whole(folder / APPENDING, lambda to: to.write_text(json.dumps(note)))
            self._log = (folder / (LOG + UNFINISHED)).open("w+b", buffering=0)
        except BaseException:
            self._file.close()
            raise
        self._slot_of_page: dict[int, int] = {}
        self._place = 0
        self._error: OSError | None = None
        self._made = False  # from when the log has its name

    @property
    def made(self) -> bool:
        """Whether the change is made, though perhaps not yet all of it in the file."""
        return self._made

    def check(self) -> None:
        """Raise the error of a write that failed."""
        if self._error is not None:
            raise self._error

    def seekable(self) -> bool:
        """Tell that it can be sought in."""
        return True

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def writable(self) -> bool:
        """Tell that it can be written."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = base + offset
        return self._place

    def tell(self) -> int:
        """Return the place."""
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Read what the file will hold."""
        view = memoryview(buffer).cast("B")
        n = max(0, min(len(view), self._size - self._place))
        for start, stop in self._spans(self._place, self._place + n):
            view[start - self._place : stop - self._place] = self._read(start, stop)
        self._place += n
        return n

    def write(self, buffer: Any) -> int:
        """Write behind the old end at once, below it into the log."""
        view = memoryview(buffer).cast("B")
        begin, end = self._place, self._place + len(view)
        if self._error is None:
            try:
                for start, stop in self._spans(begin, end):
                    self._write(start, view[start - begin : stop - begin])
            except OSError as error:
                self._error = error
        self._size = max(self._size, end)
        self._place = end
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the size that the file will have."""
        self._size = self._place if size is None else size
        if self._error is None:
            try:
                os.ftruncate(self._file.fileno(), max(self._size, self._old_end))
            except OSError as error:
                self._error = error
        return self._size

    def commit(self) -> None:
        """Make the change, all of it. HDF5 must have closed its file before."""
        self.check()
        os.fsync(self._file.fileno())
        self._finish_log()
        apply(self._path, self._folder, self._file.fileno())
        self._close()

    def give_up(self) -> None:
        """Leave the file as it was; a change that is made already stays to be finished."""
        if self._made:
            self._close()
            return
        os.ftruncate(self._file.fileno(), self._old_end)
        self._close()
        for name in (LOG + UNFINISHED, APPENDING):
            (self._folder / name).unlink(missing_ok=True)

    def _close(self) -> None:
        self._log.close()
        self._file.close()

    def _spans(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Cut a span at the old end, and below it into pages; what the log has not is one span."""
        spans: list[tuple[int, int]] = []
        while start < stop:
            if start >= self._old_end or not self._slot_of_page:
                end = stop if start >= self._old_end else min(stop, self._old_end)
            else:
                end = min(stop, self._old_end, (start // PAGE + 1) * PAGE)
            spans.append((start, end))
            start = end
        return spans

    def _read(self, start: int, stop: int) -> bytes:
        slot = self._slot_of_page.get(start // PAGE) if start < self._old_end else None
        if slot is None:
            found = os.pread(self._file.fileno(), stop - start, start)
        else:
            found = os.pread(self._log.fileno(), stop - start, slot * PAGE + start % PAGE)
        return found.ljust(stop - start, b"\0")

    def _write(self, start: int, view: memoryview) -> None:
        if start >= self._old_end:
            _write_all(self._file.fileno(), view, start)
            return
        done = 0
        while done < len(view):
            page, inside = divmod(start + done, PAGE)
            piece = view[done : done + PAGE - inside]
            slot = self._slot_of_page.get(page)
            if slot is None:
                slot = len(self._slot_of_page)
                if len(piece) < PAGE:
                    old = os.pread(self._file.fileno(), PAGE, page * PAGE)
                    _write_all(self._log.fileno(), memoryview(old.ljust(PAGE, b"\0")), slot * PAGE)
                self._slot_of_page[page] = slot
            _write_all(self._log.fileno(), piece, slot * PAGE + inside)
            done += len(piece)

    def _finish_log(self) -> None:
        """Give the log its index, its checksum and its name."""
        fd, n_pages = self._log.fileno(), len(self._slot_of_page)
        index = np.fromiter(self._slot_of_page, np.int64, n_pages)  # in the order of the slots
        _write_all(fd, memoryview(index.tobytes()), n_pages * PAGE)
        body = n_pages * (PAGE + index.itemsize)
        note = {
            "pages": n_pages, "old_end": self._old_end, "new_end": self._size,
            "end": max(self._size, self._old_end), "sha256": _digest(fd, 0, body),
            "tail": _tail(self._file.fileno(), self._old_end, self._size),
        }  # fmt: skip
        text = json.dumps(note).encode()
        last = text + len(text).to_bytes(8, "little")
        _write_all(fd, memoryview(last), body)
        os.fsync(fd)
        (self._folder / (LOG + UNFINISHED)).replace(self._folder / LOG)
        self._made = True
        sync_folder(self._folder)


def recover(path: Path, folder: Path) -> bool:
    """Bring a file into order after a process was killed that changed it.

    Returns
    -------
    Whether a change that was whole was made to the file now.

    Raises
    ------
    FileError
        The log is damaged, or the file is another one than it was written for.
    """
    if (folder / LOG).exists():
        with path.open("r+b", buffering=0) as file:
            lock(file, path)
            apply(path, folder, file.fileno())
        return True
    note = folder / APPENDING
    if note.exists():
        facts = json.loads(note.read_text())
        with path.open("r+b", buffering=0) as file:
            lock(file, path)
            fd = file.fileno()
            # Another program that has written to the file since has changed its first page.
            longer = os.fstat(fd).st_size > facts["old_end"]
            if longer and _head(fd) == facts["head"]:
                os.ftruncate(fd, facts["old_end"])
                os.fsync(fd)
        (folder / (LOG + UNFINISHED)).unlink(missing_ok=True)
        note.unlink()
    return False


def apply(path: Path, folder: Path, fd: int) -> None:
    """Copy the pages of the log into the file, and remove the log. May be done again."""
    log = folder / LOG
    with log.open("rb", buffering=0) as file:
        note, body = _footer(file, log)
        if _digest(file.fileno(), 0, body) != note["sha256"]:
            _refuse(log, path, "the log is damaged (checksum)")
        size = os.fstat(fd).st_size
        if size not in {note["end"], note["new_end"]}:
            _refuse(log, path, f"the file has {size} bytes, expected {note['end']}")
        if _tail(fd, note["old_end"], note["new_end"]) != note["tail"]:
            _refuse(log, path, "the end of the file is not what was written")
        n_pages, source = note["pages"], file.fileno()
        index = np.frombuffer(os.pread(source, 8 * n_pages, n_pages * PAGE), np.int64)
        for slot, page in enumerate(index.tolist()):
            n = min(PAGE, note["old_end"] - page * PAGE)
            _write_all(fd, memoryview(os.pread(source, n, slot * PAGE)), page * PAGE)
        os.ftruncate(fd, note["new_end"])
        os.fsync(fd)
    (folder / APPENDING).unlink(missing_ok=True)
    log.unlink()
    sync_folder(folder)


def lock(file: Any, path: Path) -> None:
    """Lock a file as HDF5 does when it writes; where a file system has no locks, go on."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        msg = (
            f"{path} is open in another program (or in this session: an AnnData opened with "
            "backed= holds it; adata.file.close() lets it go); close it there, then run this again"
        )
        raise FileError(msg) from error
    except OSError as error:
        if error.errno not in {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}:
            raise


def _footer(file: Any, log: Path) -> tuple[dict[str, Any], int]:
    """Return what the log says of itself, and the length of what stands before that."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(os.pread(file.fileno(), 8, max(size - 8, 0)), "little")
    with contextlib.suppress(ValueError):
        note = json.loads(os.pread(file.fileno(), length, size - 8 - length))
        return note, size - 8 - length
    msg = f"{log} is damaged: it has no end; restore the file beside it from a copy"
    raise FileError(msg)


def _refuse(log: Path, path: Path, reason: str) -> None:
    msg = (
        f"a change of {path} was not finished and cannot be: {reason}. Was the file replaced "
        f"since? If it is as it should be, remove {log.parent}; if it cannot be read, restore it "
        "from a copy"
    )
    raise FileError(msg)


def _write_all(fd: int, view: memoryview, place: int) -> None:
    """Write all of it: the system may write less at a time."""
    while view:
        n = os.pwrite(fd, view, place)
        view, place = view[n:], place + n


def _head(fd: int) -> str:
    """Return a digest of the first page, where HDF5 keeps the length of its file."""
    return _digest(fd, 0, PAGE)


def _tail(fd: int, old_end: int, new_end: int) -> str:
    """Return a digest of the last bytes that were appended."""
    return _digest(fd, max(old_end, new_end - _COPIED), new_end)


def _digest(fd: int, start: int, stop: int) -> str:
    found = hashlib.sha256()
    while start < stop and (block := os.pread(fd, min(_COPIED, stop - start), start)):
        found.update(block)
        start += len(block)
    return found.hexdigest()
