"""Files that are there whole or not at all, even after the power went.

Owns the write under another name, the flush to disk and the rename, and the question whether a
place can be written to, and what is told where it cannot. Knows nothing of contents.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scgp.errors import FileError
from scgp.model.directory import sync_folder

#: Ending of a file that is being written.
UNFINISHED = ".part"


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file under another name, flush it to disk, and give it its name."""
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        write(unfinished)
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:  # Ctrl-C too
        unfinished.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_tree(folder: Path) -> None:
    """Flush all files and names below a folder to disk."""
    for root, _, names in os.walk(folder):
        for name in names:
            with (Path(root) / name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(root))


def check_writable(path: Path) -> None:
    """Raise OSError where nothing may be written; for a folder, into it.

    The system lets the superuser write everywhere. Who has taken every right to write away from a
    file meant that for them, too.
    """
    if not path.stat().st_mode & 0o222:
        msg = "it is marked as read-only"
        raise PermissionError(msg)
    if path.is_dir():
        probe = path / f".scgp-{os.getpid()}"
        probe.touch()
        probe.unlink()
    else:
        path.open("r+b").close()


@contextmanager
def refused_in_words(path: Path, *, another: str) -> Iterator[None]:
    """Tell what is wrong with a place to be written to; `another` is what may be named instead.

    Raises
    ------
    FileError
        For an OSError inside; a FileError passes as it is.
    """
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        msg = (
            f"{path} cannot be written to ({error.strerror or error}); allow it, or name another "
            f"{another} for the output instead of writing in place"
        )
        raise FileError(msg) from error


def not_written(path: Path, error: OSError, *, made: bool) -> FileError:
    """Return the error for a write that failed, once its change was `made`, or before."""
    told = (
        "its change is in the work folder and will be finished when this is run again"
        if made
        else "it is as it was. The answers are kept: make room, and run this again"
    )
    return FileError(f"{path} could not be written ({error.strerror or error}); {told}")
