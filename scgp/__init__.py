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
    from scgp.biomarkers import biomarkers
    from scgp.build import build_index
    from scgp.context import embed_genes
    from scgp.embed import embed
    from scgp.explain import explain
    from scgp.leave_one_out import leave_one_out
    from scgp.model.checkpoint import Model, load_model
    from scgp.perturb import perturb
    from scgp.polyfunction import polyfunctionality
    from scgp.predict import predict_expression
    from scgp.reference.index import ReferenceIndex
    from scgp.roles import gene_roles
    from scgp.scale.in_place import annotate_file
    from scgp.score import score_text
    from scgp.train import train

__version__ = "0.19.1"

__all__ = [
    "Model",
    "ReferenceIndex",
    "ScgpError",
    "ScgpWarning",
    "annotate",
    "annotate_file",
    "biomarkers",
    "build_index",
    "demo",
    "embed",
    "embed_genes",
    "errors",
    "explain",
    "gene_roles",
    "leave_one_out",
    "load_model",
    "perturb",
    "pl",
    "polyfunctionality",
    "predict_expression",
    "score_text",
    "train",
]

# Public name -> (module that has it, path of the name in that module).
_LAZY = {
    "Model": ("scgp.model.checkpoint", "Model"),
    "ReferenceIndex": ("scgp.reference.index", "ReferenceIndex"),
    "annotate": ("scgp.annotate", "annotate"),
    "annotate_file": ("scgp.scale.in_place", "annotate_file"),
    "biomarkers": ("scgp.biomarkers", "biomarkers"),
    "build_index": ("scgp.build", "build_index"),
    "demo": ("scgp.demo", ""),
    "embed": ("scgp.embed", "embed"),
    "embed_genes": ("scgp.context", "embed_genes"),
    "explain": ("scgp.explain", "explain"),
    "gene_roles": ("scgp.roles", "gene_roles"),
    "leave_one_out": ("scgp.leave_one_out", "leave_one_out"),
    "load_model": ("scgp.model.checkpoint", "load_model"),
    "perturb": ("scgp.perturb", "perturb"),
    "pl": ("scgp.pl", ""),
    "polyfunctionality": ("scgp.polyfunction", "polyfunctionality"),
    "predict_expression": ("scgp.predict", "predict_expression"),
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
