"""Which device computes, and what it is good at; knows nothing of models or cells."""

import contextlib
import platform
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from scgp.errors import DeviceError

Found = TypeVar("Found")


def resolve_device(device: str | None) -> torch.device:
    """Return the device named, which must be there; None is the CPU."""
    try:
        found = torch.device("cpu" if device is None else device)
    except RuntimeError as error:
        msg = f"device {device!r} is none that torch knows; expected 'cpu' or 'cuda'"
        raise DeviceError(msg) from error
    if found.type == "cuda" and not torch.cuda.is_available():
        msg = f"device={device!r}, but torch sees no CUDA device here; pass device='cpu' or None"
        raise DeviceError(msg)
    if found.type not in {"cpu", "cuda"}:
        msg = f"device {device!r} is not supported; expected 'cpu' or 'cuda'"
        raise DeviceError(msg)
    return found


@contextlib.contextmanager
def lent(network: torch.nn.Module, device: torch.device | str) -> Iterator[None]:
    """Lend the network to a device; whatever happens, it goes back to where it was."""
    home = next(network.parameters()).device
    network.to(device)
    try:
        yield
    finally:
        network.to(home)


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware; elsewhere it is emulated, and slower.

    On x86 oneDNN says yes wherever there is AVX-512, also where it converts every operand: matrix
    products of this package's sizes were five to seven times slower than in float32 then.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if platform.machine().lower() in {"x86_64", "amd64"}:
        asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, name, bool)() for name in asked)
    return bool(
        torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


class Portions:
    """How many rows a device computes at once: half as many whenever its memory is out.

    Parameters
    ----------
    size
        Rows to begin with.
    least
        Rows that are not halved any more.

    Examples
    --------
    >>> def compute(part):
    ...     if part.stop - part.start > 2:
    ...         raise torch.OutOfMemoryError("synthetic")
    ...     return part.stop - part.start
    >>> list(Portions(8, least=1).run(compute, 5))
    [2, 2, 1]
    """

    def __init__(self, size: int, *, least: int) -> None:
        self.size = size
        self.least = least

    def run(self, compute: Callable[[slice], Found], n_rows: int) -> Iterator[Found]:
        """Compute all rows, portion after portion, in order.

        Raises
        ------
        DeviceError
            The memory is not enough for the least portion.
        """
        start = 0
        while start < n_rows:
            part = slice(start, min(start + self.size, n_rows))
            try:
                found = compute(part)
            except torch.OutOfMemoryError as error:
                # of what was asked for: the last portion may be smaller than the size
                self.size = (part.stop - part.start) // 2
                if self.size < self.least:
                    msg = (
                        f"the device has no memory for {part.stop - part.start} cells; stop what "
                        "else runs on it, or pass device=None for the CPU"
                    )
                    raise DeviceError(msg) from error
            else:
                yield found
                start = part.stop
                continue
            # here, not above: there the error's traceback still holds what was computed
            torch.cuda.empty_cache()
