"""How much memory and disk there is. Knows nothing of what they are wanted for."""

import errno
import os
import shutil
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
#: Limits of a container: version 2 of control groups, then version 1. Of the second files, what is
#: used; the page cache in it can be given back and is named in the third.
GROUPS = (
    ("memory.max", "memory.current", "memory.stat"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
    ),
)
GROUP = Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Return the bytes of memory that can still be had, or None where Linux does not say.

    The least of what the machine has free or could free, and what is left to the container.
    """
    found = [_machine(), *(_container(*names) for names in GROUPS)]
    return min((size for size in found if size is not None), default=None)


def _machine() -> int | None:
    if not MEMINFO.is_file():
        return None
    for line in MEMINFO.read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _container(limit: str, used: str, stat: str) -> int | None:
    files = [GROUP / name for name in (limit, used, stat)]
    if not all(file.is_file() for file in files):
        return None
    texts = [file.read_text(encoding="ascii").strip() for file in files]
    if not (texts[0].isdigit() and texts[1].isdigit()):
        return None  # "max": no limit
    cache = [int(x.split()[1]) for x in texts[2].splitlines() if x.startswith("inactive_file ")]
    return max(int(texts[0]) - int(texts[1]) + sum(cache), 0)


def check_disk(path: Path, needed: int) -> None:
    """Refuse to begin to write what the disk has no room for.

    Raises
    ------
    OSError
        The disk of `path` has fewer bytes left than needed.
    """
    folder = path.expanduser().absolute().parent
    while not folder.exists():
        folder = folder.parent
    if (free := shutil.disk_usage(folder).free) < needed:
        message = (
            f"{os.strerror(errno.ENOSPC)}: {needed / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB "
            "are left; nothing was written"
        )
        raise OSError(errno.ENOSPC, message, str(path))
