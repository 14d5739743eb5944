"""Predictions on disk: one JSON file per setting, fold, method and seed, so that runs resume.

Owns the layout of the run folder. Knows nothing of methods or scores.
"""

from __future__ import annotations

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

FORMAT = 1
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
        return folder / self.setting / self.fold / f"{self.method}-seed{self.seed}.json"

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
            f"remove {path.parent}/{key.method}-*.json"
        )
        raise ValueError(message)
    return True


def write_run(
    folder: Path,
    key: RunKey,
    queries: list[Source],
    answers: list[Rows],
    facts: Mapping[str, Any],
) -> None:
    """Write one run at once or not at all: what was true, and what each row of the method said.

    ``facts`` must hold ``options`` and ``trained`` (the labels of the training cells).
    """
    files = {}
    for source, rows in zip(queries, answers, strict=True):
        obs = source.cells.obs
        files[source.name] = {
            "cell": obs.index.astype(str).tolist(),
            "study": _coded(obs["study"]),
            "true": _coded(obs["label"]),
            "rows": {
                name: {
                    "label": _coded(answer.label_N),
                    "confidence": [round(float(c), 5) for c in answer.confidence_N],
                }
                for name, answer in rows.items()
            },
        }
    content = {"format": FORMAT, **key.__dict__, **facts, "files": files}
    write_json(key.path(folder), content)


def write_json(path: Path, content: Any) -> None:
    """Write a file at once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    temporary.write_text(json.dumps(content), encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """Return the content of a file that `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def _coded(values: Any) -> dict[str, Any]:
    code, names = pd.factorize(np.asarray(values, dtype=object))
    return {"code": code.tolist(), "names": [str(name) for name in names]}


def _decoded(coded: Mapping[str, Any]) -> np.ndarray:
    return np.array([*coded["names"], ""], dtype=object)[coded["code"]]


def read_runs(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield every run of the folder, in the order of its paths."""
    for path in sorted(folder.glob("*/*/*-seed*.json")):
        run = read_json(path)
        if run["format"] != FORMAT:
            message = f"{path} has format {run['format']}, expected {FORMAT}; remove it"
            raise ValueError(message)
        yield run


def cells_of(run: Mapping[str, Any]) -> pd.DataFrame:
    """Return one line per row of the table and cell, with `COLUMNS` and ``confidence``."""
    parts = []
    for file, content in run["files"].items():
        for row, answer in content["rows"].items():
            part = pd.DataFrame(
                {
                    "study": _decoded(content["study"]),
                    "true": _decoded(content["true"]),
                    "label": _decoded(answer["label"]),
                    "confidence": np.asarray(answer["confidence"], np.float32),
                }
            )
            names = {"file": file, "row": row}
            keys = {name: run[name] for name in ("setting", "fold", "method", "seed")}
            parts.append(part.assign(**names, **keys))
    return pd.concat(parts, ignore_index=True)[[*COLUMNS, "confidence"]]
