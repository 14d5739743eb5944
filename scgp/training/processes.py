"""Further processes on this machine, for as long as one training runs; knows no network.

They are started afresh (``spawn``), are sent what they work on, and only train: what is read,
fitted and written before and after is this process's alone.
"""

import contextlib
import multiprocessing
import multiprocessing.spawn
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from scgp.errors import ArgumentError, ScgpError

#: Seconds that are waited for a process to say why it failed, and to end when all is done.
_LAST_WORDS, _ENDING = 5.0, 60.0
#: How long a process waits for the others in a step.
STEP_TIMEOUT = timedelta(minutes=30)

Work = Callable[[int, Any], None]


def check_can_start() -> None:
    """Refuse to start processes while the main script is still being imported by one.

    Raises
    ------
    ArgumentError
        The script calls scgp.train at its top level, where each process would call it again.
    """
    try:
        multiprocessing.spawn.get_preparation_data("scgp")
    except RuntimeError as error:
        msg = (
            "devices > 1 starts further processes, which import the main script: call scgp.train "
            "under \"if __name__ == '__main__':\" in it"
        )
        raise ArgumentError(msg) from error


@contextlib.contextmanager
def beside(n_more: int, work: Work, content: Any, *, backend: str) -> Iterator[None]:
    """Run ``work(rank, content)`` in `n_more` processes beside the block, which is rank 0.

    In all of them, ``torch.distributed`` has its group while it runs.

    Raises
    ------
    ScgpError
        A process ended or failed before the work was done: which, and what it said.
    """
    # a file, since a TCPStore listens on all interfaces of the machine, to whoever asks
    folder = tempfile.TemporaryDirectory(prefix="scgp-")
    path = str(Path(folder.name) / "store")
    store = _store(path, n_more + 1)
    context = multiprocessing.get_context("spawn")
    started: list[tuple[BaseProcess, Connection]] = []
    try:
        for rank in range(1, n_more + 1):
            ours, theirs = context.Pipe()
            address = (rank, n_more + 1, path, backend)
            process: BaseProcess = context.Process(
                target=_follow, args=(work, theirs, address), daemon=True
            )
            process.start()
            theirs.close()
            started.append((process, ours))
        for rank in range(1, n_more + 1):
            _hear(started, rank)
        try:
            for _, pipe in started:
                pipe.send(content)
            with _group(store, 0, n_more + 1, backend):
                yield
                for rank in range(1, n_more + 1):
                    _hear(started, rank)
        except (RuntimeError, OSError) as error:  # as torch and pipes say that a process is gone
            _blame(started, error)
            raise
    finally:
        for process, pipe in started:
            pipe.close()
            process.terminate()
            process.join(_ENDING)
        folder.cleanup()


def _store(path: str, size: int) -> torch.distributed.Store:
    store = torch.distributed.FileStore(path, size)
    store.set_timeout(STEP_TIMEOUT)
    return store


@contextlib.contextmanager
def _group(store: torch.distributed.Store, rank: int, size: int, backend: str) -> Iterator[None]:
    torch.distributed.init_process_group(
        backend, store=store, rank=rank, world_size=size, timeout=STEP_TIMEOUT
    )
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def _follow(work: Work, pipe: Connection, address: tuple[int, int, str, str]) -> None:
    """Work as a further process; end when the first one is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the first, which ends the others
    rank, size, path, backend = address
    try:
        pipe.send(None)
        content = pipe.recv()
        with _group(_store(path, size), rank, size, backend):
            work(rank, content)
            pipe.send(None)
            with contextlib.suppress(EOFError):
                pipe.recv()  # the group is kept until the first has heard all
    except EOFError:
        return
    except Exception as error:
        with contextlib.suppress(OSError):
            pipe.send("".join(traceback.format_exception(error)))
        raise SystemExit(1) from error


def _hear(started: list[tuple[BaseProcess, Connection]], rank: int) -> None:
    """Wait until a process says that it is ready, or done; raise if any ends instead."""
    process, pipe = started[rank - 1]
    wait([pipe, process.sentinel])
    said = _said(pipe)
    if said is not None:
        raise ScgpError(_message(rank, process, said))


def _said(pipe: Connection) -> str | None:
    """Return the error that a process reported: None for none, "" where it is gone."""
    try:
        return pipe.recv() if pipe.poll() else ""
    except (EOFError, OSError):
        return ""


def _blame(started: list[tuple[BaseProcess, Connection]], error: Exception) -> None:
    """Raise the error of the process that failed, if there is one."""
    until = time.monotonic() + _LAST_WORDS
    while time.monotonic() < until:
        for rank, (process, pipe) in enumerate(started, start=1):
            said = _said(pipe) if pipe.poll() or not process.is_alive() else None
            if said is not None:
                process.join(_LAST_WORDS)
                raise ScgpError(_message(rank, process, said)) from error
        time.sleep(0.05)


def _message(rank: int, process: BaseProcess, said: str) -> str:
    process.join(_LAST_WORDS)
    if said:
        return f"process {rank} of the training failed:\n{said}"
    return (
        f"process {rank} of the training ended with exit code {process.exitcode} (-9: killed, "
        "often for want of memory); start again to go on from the last saved state, with fewer "
        "devices if memory is short"
    )
