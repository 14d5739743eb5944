"""What the streams of a model say of the cells of studies that it has not seen, kept in a file.

Owns the evidence that the ablations and the measures of doubt are made from. Knows nothing of how
a model was trained, nor of scores.

Shapes: N cells, T labels of the index, E width of the joint space.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from benchmarks.corpus import thin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import anndata as ad
    from numpy.typing import NDArray

    from benchmarks.corpus import Source, Split
    from scgp.model.checkpoint import Model
    from scgp.reference.index import ReferenceIndex

RESULTS = Path(__file__).resolve().parent / "results"
#: Cells of a type and study that are asked: more tell little more.
MOST = 60
#: Cells that are read at once.
BLOCK = 1024
#: The cells are the same for all seeds and models.
SEED = 0


@dataclass(frozen=True)
class Evidence:
    """What one index says of N held-out cells.

    ``streams`` has N x T probabilities each (`scgp.reference.answer.streams_of`), ``ids`` the term
    of each label ("" for none). ``true_N`` and ``study_N`` are text.
    """

    streams: dict[str, NDArray[np.float32]]
    ids: tuple[str, ...]
    true_N: NDArray[np.str_]
    study_N: NDArray[np.str_]
    cell_NE: NDArray[np.float32]
    type_NE: NDArray[np.float32]
    nearest_N: NDArray[np.float32]

    def save(self, path: Path) -> None:
        """Write the evidence, all of it or nothing."""
        from scgp.model.directory import save_npz

        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {f"stream_{name}": x.astype(np.float16) for name, x in self.streams.items()}
        arrays |= {"ids": np.array(self.ids), "true_N": self.true_N, "study_N": self.study_N}
        arrays |= {n: getattr(self, n) for n in ("cell_NE", "type_NE", "nearest_N")}
        partial = path.with_name(f"{path.name}.partial")
        save_npz(partial, arrays)
        partial.rename(path)

    @classmethod
    def load(cls, path: Path) -> Evidence:
        """Read what `save` wrote."""
        from scgp.model.directory import load_npz

        found = load_npz(path)
        names = [name for name in found if name.startswith("stream_")]
        streams = {n.removeprefix("stream_"): found.pop(n).astype(np.float32) for n in names}
        return cls(streams, tuple(found.pop("ids").tolist()), **found)


def ask(model: Model, index: ReferenceIndex, split: Split, *, most: int = MOST) -> Evidence:
    """Ask the index about the query cells of a split, at most ``most`` of a type and study."""
    sources = [thin(source, most=most, seed=SEED) for source in split.queries]
    cells = [embedded(model, index, source.adata) for source in sources]
    parts = [streams(index, part) for part in cells]
    return Evidence(
        {name: np.concatenate([found[name] for found, _ in parts]) for name in parts[0][0]},
        tuple(index.label_ids),
        _joined(source.cells.label_N for source in sources),
        _joined(source.cells.obs["study"].to_numpy() for source in sources),
        np.concatenate([part.cell_NE for part in cells]),
        np.concatenate([part.type_NE for part in cells]),
        np.concatenate([nearest_N for _, nearest_N in parts]),
    )


def _joined(columns: Iterable[NDArray[np.object_]]) -> NDArray[np.str_]:
    text: NDArray[np.str_] = np.concatenate([column.astype(str) for column in columns])
    return text


@dataclass(frozen=True)
class Embedded:
    """Vectors, gene scores and winners of the cells of a file: what an index answers from."""

    cell_NE: NDArray[np.float32]
    type_NE: NDArray[np.float32]
    score_NS: NDArray[np.float32] | None
    winner_N: NDArray[np.int32] | None


def embedded(model: Model, index: ReferenceIndex, adata: ad.AnnData) -> Embedded:
    """Embed a file and score its genes, as `scgp.annotate` does."""
    from scgp.cells.counts import choose_counts
    from scgp.cells.genes import match_genes
    from scgp.explaining.occlusion import embed_scored

    counts = choose_counts(adata)
    token_V = match_genes(counts, model.genes).token_of_column
    blocks = (
        counts.rows(i, min(i + BLOCK, counts.n_cells)) for i in range(0, counts.n_cells, BLOCK)
    )
    vectors, score_NS, winner_N = embed_scored(model, index, blocks, token_V, device="cpu")
    return Embedded(vectors.cell_BE, vectors.type_BE, score_NS, winner_N)


def streams(
    index: ReferenceIndex, cells: Embedded
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32]]:
    """Return the streams and the cosine to the nearest reference cell."""
    from scgp.reference.answer import streams_of

    found, nearest_N = streams_of(
        index, cells.cell_NE, cells.type_NE, cells.score_NS, index.calibration,
        winner_B=cells.winner_N,
    )  # fmt: skip
    return {name: stream.astype(np.float32) for name, stream in found.items()}, nearest_N


def read_arguments(
    about: str | None, argv: list[str] | None, *, settings: Sequence[str] = ("folds", "eval")
) -> argparse.Namespace:
    """Read the command line of what asks the models of ``run.py``, and set the threads.

    ``about`` is the text of the module, ``settings`` those asked where none is named.
    """
    import torch

    parser = argparse.ArgumentParser(description=(about or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and eval/")
    parser.add_argument("--settings", nargs="+", choices=("folds", "eval"), default=list(settings))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=RESULTS / "runs")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    return arguments


def tables_by_seed(
    settings: Sequence[str],
    seeds: Sequence[int],
    *,
    runs: Path,
    data: Path,
    train: list[Source],
    ask: Callable[[Model, ReferenceIndex, Split], pd.DataFrame],
) -> dict[str, dict[int, pd.DataFrame]]:
    """Ask the models of ``run.py`` about what each has not seen.

    Parameters
    ----------
    settings
        Of "folds" and "eval".
    runs
        The folder with the models.
    data, train
        The folder with ``eval/``, and what is in its ``train/``.
    ask
        Asks one model about the query files of its split; its index comes second.

    Returns
    -------
    The answers of all splits of a setting together, by name of the setting and seed.
    """
    from benchmarks import corpus
    from benchmarks.run import say
    from scgp.annotate import model_index
    from scgp.model.checkpoint import Model

    found: dict[str, dict[int, pd.DataFrame]] = {}
    for setting in settings:
        if setting == "eval":
            queries = corpus.read_folder(data / "eval", corpus.read_vocabulary(data))
            splits = [corpus.eval_split(train, [], queries)]
        else:
            splits = list(corpus.fold_splits(train, [], n_folds=5))
        parts: dict[int, list[pd.DataFrame]] = {seed: [] for seed in seeds}
        for split in splits:
            for seed in seeds:
                model = Model.load(runs / "models" / split.setting / split.name / f"seed{seed}")
                parts[seed].append(ask(model, model_index(model), split))
                say(f"{split.setting} {split.name} seed {seed}")
        whole = {seed: pd.concat(tables, ignore_index=True) for seed, tables in parts.items()}
        found[splits[0].setting] = whole
    return found


def write_tables(results: Path, name: str, text: str, found: object) -> None:
    """Write ``<name>.md`` and ``<name>.json``, and the text to the terminal."""
    results.mkdir(parents=True, exist_ok=True)
    (results / f"{name}.md").write_text(text, encoding="utf-8")
    (results / f"{name}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    sys.stdout.write(text)
