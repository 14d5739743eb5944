"""Annotate single cells with Cell Ontology terms, offline, from an AnnData.

Owns the public names. Each is imported when it is first used (PEP 562), so that ``import scgp``
costs nothing but itself; nothing happens at import.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from scgp import errors
from scgp.errors import ScgpError, ScgpWarning

if TYPE_CHECKING:
    from scgp import demo, pl
    from scgp.annotate import annotate
    from scgp.build import build_index
    from scgp.embed import embed
    from scgp.explain import explain
    from scgp.model.checkpoint import Model
    from scgp.reference.index import ReferenceIndex
    from scgp.score import score_text
    from scgp.train import train

    load_model = Model.load

__version__ = "0.7.0"

__all__ = [
    "Model",
    "ReferenceIndex",
    "ScgpError",
    "ScgpWarning",
    "annotate",
    "build_index",
    "demo",
    "embed",
    "errors",
    "explain",
    "load_model",
    "pl",
    "score_text",
    "train",
]

# Public name -> (module that has it, path of the name in that module).
_LAZY = {
    "Model": ("scgp.model.checkpoint", "Model"),
    "ReferenceIndex": ("scgp.reference.index", "ReferenceIndex"),
    "annotate": ("scgp.annotate", "annotate"),
    "build_index": ("scgp.build", "build_index"),
    "demo": ("scgp.demo", ""),
    "embed": ("scgp.embed", "embed"),
    "explain": ("scgp.explain", "explain"),
    "load_model": ("scgp.model.checkpoint", "Model.load"),
    "pl": ("scgp.pl", ""),
    "score_text": ("scgp.score", "score_text"),
    "train": ("scgp.train", "train"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        message = f"module 'scgp' has no attribute {name!r}; it has: {', '.join(__all__)}"
        raise AttributeError(message)
    module, path = _LAZY[name]
    value: Any = importlib.import_module(module)
    for part in path.split(".") if path else ():
        value = getattr(value, part)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


class _Package(ModuleType):
    """The package itself, with its verbs protected from its files of the same name.

    Importing the file ``scgp/embed.py`` binds the attribute ``scgp.embed`` to that *file*, and
    ``scgp.embed(adata)`` would then fail after any import of it. The verb keeps the name.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _LAZY.get(name, ("", ""))[1]:
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
