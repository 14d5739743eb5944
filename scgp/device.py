"""Which device computes, and what it is good at; knows nothing of models or cells."""

import contextlib
import platform
from collections.abc import Iterator

import torch

from scgp.errors import DeviceError


def resolve_device(device: str | None) -> torch.device:
    """Return the device named, which must be there; None is the CPU."""
    try:
        found = torch.device(device or "cpu")
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
