"""Every error and warning that scgp raises, and whose line a warning names.

Knows nothing else of the package.
"""

import os
import sys
import warnings
from pathlib import Path

_INSIDE = str(Path(__file__).parent) + os.sep


class ScgpError(Exception):
    """Parent of every error that scgp raises on purpose."""


class ArgumentError(ScgpError, ValueError):
    """An argument has a value that cannot be used."""


class CountsError(ScgpError, ValueError):
    """The chosen matrix does not hold raw counts."""


class GeneError(ScgpError, ValueError):
    """The genes of the data and of the model do not fit together."""


class LabelError(ScgpError, ValueError):
    """Labels cannot be used as they are."""


class MissingColumnError(ScgpError, KeyError):
    """A column of ``obs`` or ``var`` that was asked for is not there."""

    def __str__(self) -> str:
        """Return the message as written: ``KeyError`` would show its repr."""
        return str(self.args[0]) if self.args else ""


class CheckpointError(ScgpError, ValueError):
    """A saved model or index is incomplete, altered or of another format."""


class FingerprintError(CheckpointError):
    """A saved index was made by another model."""


class DeviceError(ScgpError, ValueError):
    """The device that was asked for is not there."""


class FileError(ScgpError, OSError):
    """A file cannot be written to, or what was left of an earlier run does not fit."""


class ScgpWarning(UserWarning):
    """Something the user should know, though the answer stands."""


def warn_user(message: str) -> None:
    """Issue a :class:`ScgpWarning` that names the caller's line: the first outside the package.

    However deep in the package the reason was found, the user sees their own call. Python has this
    as ``skip_file_prefixes`` from 3.12 on.
    """
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(_INSIDE) and frame.f_back is not None:
        frame = frame.f_back
    warnings.warn_explicit(
        message,
        ScgpWarning,
        filename=frame.f_code.co_filename,
        lineno=frame.f_lineno,
        module=frame.f_globals.get("__name__", "<string>"),
        registry=frame.f_globals.setdefault("__warningregistry__", {}),
    )
