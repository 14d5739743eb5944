"""Every error and warning that scgp raises; knows nothing else of the package."""


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


class ScgpWarning(UserWarning):
    """Something the user should know, though the answer stands."""
