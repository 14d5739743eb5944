"""Predictions on disk: one compressed JSON file per setting, fold, method and seed.

Owns the layout of the run folder. The files are committed, so that runs resume on any machine and
every table can be made again without training anything. Knows nothing of methods or scores.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from benchmarks.baselines import Rows
    from benchmarks.corpus import Source

FORMAT = 2
#: Digits of a confidence that are kept.
DIGITS = 3
#: What is true of the cells of a fold, beside its runs.
TRUTH = "truth.json.gz"
COLUMNS = ["setting", "fold", "method", "seed", "row", "file", "study", "true", "label"]


@dataclass(frozen=True)
class RunKey:
    """Names one run."""

    setting: str
    fold: str
    method: str
    seed: int

    def path(self, folder: Path) -> Path:
        """Return where the run is kept."""
        return folder / self.setting / self.fold / f"{self.method}-seed{self.seed}.json.gz"

    def choice_path(self, folder: Path) -> Path:
        """Return where the setting is kept that inner validation chose, for all seeds."""
        return folder / self.setting / self.fold / f"{self.method}-setting.json"


def is_done(folder: Path, key: RunKey, options: Mapping[str, Any], grid: list[Any]) -> bool:
    """Whether the run is there, made with the same options and settings to choose from.

    Raises
    ------
    ValueError
        It was made with others: the folder would mix two benchmarks.
    """
    path = key.path(folder)
    if not path.is_file():
        return False
    run = read_json(path)
    found = {"options": run["options"], "grid": run.get("grid")}
    expected = {"options": dict(options), "grid": grid}
    if found != expected:
        message = (
            f"{path} was made with {found}, and this run has {expected}; pass another --out, or "
            f"remove {path.parent}/{key.method}-*"
        )
        raise ValueError(message)
    return True


def write_truth(folder: Path, setting: str, fold: str, queries: list[Source]) -> None:
    """Write what is true of the query cells of a fold, in the order of their files.

    Unlike the runs this is the data's own, so it is made anew on each machine and not committed.
    """
    files = {
        source.name: {
            "study": _coded(source.cells.obs["study"]),
            "true": _coded(source.cells.obs["label"]),
        }
        for source in queries
    }
    write_json(folder / setting / fold / TRUTH, {"files": files, "sha256": digest(files)})


def write_run(
    folder: Path,
    key: RunKey,
    queries: list[Source],
    answers: list[Rows],
    facts: Mapping[str, Any],
) -> None:
    """Write one run at once or not at all: what each row of the method said of each cell.

    Cells are in the order of `write_truth`, which comes first. ``facts`` must hold ``options`` and
    ``trained`` (the labels of the training cells).
    """
    truth = read_json(folder / key.setting / key.fold / TRUTH)
    files = {
        source.name: {
            name: {
                "label": _coded(answer.label_N),
                "confidence": [round(float(c), DIGITS) for c in answer.confidence_N],
            }
            for name, answer in rows.items()
        }
        for source, rows in zip(queries, answers, strict=True)
    }
    content = {"format": FORMAT, **key.__dict__, **facts, "truth": truth["sha256"], "files": files}
    write_json(key.path(folder), content)


def write_json(path: Path, content: Any) -> None:
    """Write a file at once or not at all; compressed where its name ends in ``.gz``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    text = json.dumps(content, separators=(",", ":")).encode()
    # without a time in it, the same content gives the same bytes
    temporary.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """Return the content of a file that `write_json` wrote."""
    content = path.read_bytes()
    return json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)


def _coded(values: Any) -> dict[str, Any]:
    code, names = pd.factorize(np.asarray(values, dtype=object))
    return {"code": code.tolist(), "names": [str(name) for name in names]}


def _decoded(coded: Mapping[str, Any]) -> np.ndarray:
    return np.array([*coded["names"], ""], dtype=object)[coded["code"]]


def digest(content: Any) -> str:
    """Return the SHA-256 of what JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_runs(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield every run of the folder, in the order of its paths, as `read_run` reads it."""
    for path in sorted(folder.glob("*/*/*-seed*.json.gz")):
        if (path.parent / TRUTH).is_file():  # else of a setting that was not asked for
            yield read_run(path)


def read_run(path: Path) -> dict[str, Any]:
    """Return a run with the ``truth`` it was about, which must be there (`write_truth`).

    Raises
    ------
    ValueError
        The run has another format, or was made on other cells than those of the data at hand.
    """
    run = read_json(path)
    if run["format"] != FORMAT:
        message = f"{path} has format {run['format']}, expected {FORMAT}; remove it"
        raise ValueError(message)
    truth = read_json(path.parent / TRUTH)
    if truth["sha256"] != run["truth"]:
        message = f"{path} is about other cells than those of the data; remove it"
        raise ValueError(message)
    return {**run, "truth": truth["files"]}


def cells_of(run: Mapping[str, Any]) -> pd.DataFrame:
    """Return one line per row of the table and cell, with `COLUMNS` and ``confidence``."""
    parts = []
    for file, rows in run["files"].items():
        truth = run["truth"][file]
        for row, answer in rows.items():
            part = pd.DataFrame(
                {
                    "study": _decoded(truth["study"]),
                    "true": _decoded(truth["true"]),
                    "label": _decoded(answer["label"]),
                    "confidence": np.asarray(answer["confidence"], np.float32),
                }
            )
            names = {"file": file, "row": row}
            keys = {name: run[name] for name in ("setting", "fold", "method", "seed")}
            parts.append(part.assign(**names, **keys))
    return pd.concat(parts, ignore_index=True)[[*COLUMNS, "confidence"]]
