"""What it is worth to tell scgp which tissue the cells are of: annotate(tissue=).

    python benchmarks/tissue.py --data ../shared/data

Asks the models of ``run.py --settings folds eval`` (which it needs) about at most 60 cells of each
type of studies that they have not seen, with and without the tissue that the data sheet gives. Each
model knows the tissues of its own training cells and drawn profiles alone. See README.md.
"""  # fmt: skip

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import anndata as ad
    from numpy.typing import NDArray

    from benchmarks.corpus import Split
    from scgp.model.checkpoint import Model
    from scgp.reference.index import ReferenceIndex

    Ancestors = Callable[[str], frozenset[str]]

BLOOD = "UBERON:0000178"
TISSUE = "tissue_ontology_term_id"
#: Rows of the table: the default decision and the best label always, tissue told and not.
ROWS = {
    "scgp": ("label", False), "scgp, tissue told": ("label", True),
    "scgp, forced": ("leaf", False), "scgp, forced, tissue told": ("leaf", True),
}  # fmt: skip
SHOWN = {
    "macro_f1": "macro-F1", "macro_f1_exact": "exact macro-F1", "soft": "soft", "holds": "holds",
    "unknown": "unknown", "ece_holds": "ECE, holds", "aurc_holds": "AURC, holds",
    "elsewhere": "of another organ",
}  # fmt: skip


def known_places(trained: Iterable[ad.AnnData]) -> set[tuple[str, str]]:
    """Return the pairs of label and tissue of training cells and drawn profiles."""
    pairs: set[tuple[str, str]] = set()
    for adata in trained:
        columns = adata.obs[["label", TISSUE]].astype(str)
        pairs |= set(columns.drop_duplicates().itertuples(index=False, name=None))
    return {(label, place) for label, place in pairs if place.startswith("UBERON:")}


def labels_elsewhere(
    index: ReferenceIndex, places: set[tuple[str, str]], tissue_id: str
) -> NDArray[np.bool_]:
    """Tell which labels of an index are known from other organs alone (T)."""
    from scgp.phenotypes.ontology import Ontology
    from scgp.reference.elsewhere import known_elsewhere

    cell_types = Ontology("CL")
    terms = [(label, place) for label, place in places if cell_types.is_term(label)]
    return known_elsewhere(
        index.label_ids, terms, tissue_id, cell_types=cell_types, tissues=Ontology("UBERON")
    )


def ask(
    model: Model, index: ReferenceIndex, split: Split, places: set[tuple[str, str]]
) -> pd.DataFrame:
    """Ask a model about the query files of its split, tissue by tissue; one row a cell and answer.

    Columns: ``cell``, ``unit`` (study, or file of eval), ``true``, ``tissue``, ``told``; ``label``
    ("" for unknown), ``confidence``, ``label elsewhere`` (whether it is known from other organs
    alone), and the same of the best label (``leaf``).
    """
    from benchmarks.corpus import thin
    from benchmarks.doubt import named, one_answer
    from benchmarks.held_out import MOST, SEED, embedded

    term_of = dict(zip(index.labels, index.label_ids, strict=True))
    tables = []
    for source in split.queries:
        few = thin(source, most=MOST, seed=SEED)
        tissue_N = few.adata.obs[TISSUE].to_numpy(str)
        unit_N = few.cells.obs["file" if split.setting == "eval" else "study"].to_numpy(str)
        for tissue_id in np.unique(tissue_N):
            rows = np.flatnonzero(tissue_N == tissue_id)
            elsewhere_T = labels_elsewhere(index, places, tissue_id)
            names = tuple(np.array(index.labels, object)[elsewhere_T])
            odd = {term_of[name] or name for name in names}
            for told in (False, True):
                fusion = replace(index.calibration, elsewhere=names if told else ())
                asked = replace(index, calibration=fusion)
                said = one_answer(asked, embedded(model, asked, few.adata[rows]))
                label_N = named(said)
                leaf_N = np.array([term_of.get(x) or x for x in said.leaf], dtype=object)
                columns: dict[str, object] = {
                    "cell": [f"{source.name} {row}" for row in rows], "unit": unit_N[rows],
                    "true": few.cells.label_N[rows], "tissue": tissue_id, "told": told,
                    "label": label_N, "confidence": said.confidence,
                    "label elsewhere": [x in odd for x in label_N],
                    "leaf": leaf_N, "leaf confidence": said.leaf_confidence,
                    "leaf elsewhere": [x in odd for x in leaf_N],
                }  # fmt: skip
                tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def scored(cells: pd.DataFrame, ancestors: Ancestors) -> dict[str, dict[str, float]]:
    """Return the scores of the cells of one unit, by row of the table."""
    from benchmarks.scores import Answer, score

    found = {}
    for row, (kind, told) in ROWS.items():
        mine = cells[cells["told"] == told]
        sure = "confidence" if kind == "label" else "leaf confidence"
        answer = Answer(mine[kind].to_numpy(object), mine[sure].to_numpy(np.float32))
        found[row] = score(mine["true"].to_numpy(object), answer, ancestors)
        found[row]["elsewhere"] = float(mine[f"{kind} elsewhere"].mean())
    return found


def summarised(tables: dict[int, pd.DataFrame], ancestors: Ancestors) -> dict[str, Any]:
    """Return means over units by seed, those of solid tissue apart, and the paired differences."""
    from benchmarks.bootstrap import differences

    by_seed, units = [], {}
    for _, table in sorted(tables.items()):
        by_seed.append(
            {unit: scored(part, ancestors) for unit, part in table.groupby("unit", sort=True)}
        )
    first = tables[min(tables)]
    solid = sorted(set(first.loc[first["tissue"] != BLOOD, "unit"]))
    for unit in by_seed[0]:
        labels: dict[str, list[NDArray[np.object_]]] = {}
        for _, table in sorted(tables.items()):
            for row, (kind, told) in ROWS.items():
                mine = table[(table["unit"] == unit) & (table["told"] == told)].sort_values("cell")
                labels.setdefault(row, []).append(mine[kind].to_numpy(object))
        units[str(unit)] = (mine["true"].to_numpy(object), labels)
    gaps = {
        row: differences(units, ancestors, ours=f"{row}, tissue told")[row]
        for row in ("scgp", "scgp, forced")
    }
    return {"by_seed": by_seed, "solid": solid, "differences": gaps}


def shown(values: list[float]) -> str:
    """Return mean and spread over seeds."""
    mean = f"{np.mean(values):.3f}".replace("0.", ".", 1)
    spread = f"{np.std(values, ddof=1):.3f}".replace("0.", ".", 1) if len(values) > 1 else ""
    return f"{mean} ± {spread}" if spread else mean


def report(found: dict[str, dict[str, Any]], command: str) -> str:
    """Return the tables as Markdown."""
    lines = [f"Made by `{command}`.", "", NOTES]
    head = "| method | " + " | ".join(SHOWN.values()) + " |"
    for setting, content in found.items():
        parts = {setting: None, f"{setting}, units with solid tissue": set(content["solid"])}
        for title, kept in parts.items():
            n_units = len(content["by_seed"][0]) if kept is None else len(kept)
            lines += ["", f"## {title} ({n_units} units)", "", head]
            lines.append("| --- |" + " ---: |" * len(SHOWN))
            for row in ROWS:
                means = [
                    pd.DataFrame([s[row] for u, s in seed.items() if kept is None or u in kept])
                    .mean()
                    .to_dict()
                    for seed in content["by_seed"]
                ]
                cells = [shown([mean[key] for mean in means]) for key in SHOWN]
                lines.append(f"| {row} | {' | '.join(cells)} |")
        lines += ["", "| told less not told | macro-F1 | exact macro-F1 | soft |"]
        lines.append("| --- | ---: | ---: | ---: |")
        for row, gap in content["differences"].items():
            cells = ["{:+.3f} [{:+.3f}, {:+.3f}]".format(*gap[key]) for key in gap]
            lines.append(f"| {row} | {' | '.join(cells)} |")
        lines += ["", "| unit | macro-F1 / exact / soft, not told | told | of another organ |"]
        lines.append("| --- | ---: | ---: | ---: |")
        for unit in content["by_seed"][0]:
            lines.append(f"| {unit} | {_of_unit(content['by_seed'], unit)} |")
    return "\n".join([*lines, ""])


def _of_unit(by_seed: list[dict[str, Any]], unit: str) -> str:
    rows = {
        row: pd.DataFrame([seed[unit][row] for seed in by_seed]).mean()
        for row in ("scgp", "scgp, tissue told")
    }
    keys = ("macro_f1", "macro_f1_exact", "soft")
    three = [" / ".join(f"{x[key]:.2f}" for key in keys) for x in rows.values()]
    odd = " to ".join(f"{x['elsewhere']:.3f}" for x in rows.values())
    return " | ".join([*three, odd]).replace("0.", ".")


NOTES = """\
At most 60 cells of each type of a study (or file of eval) that the model has not seen; means over
these units, then mean ± standard deviation over seeds; scores as in `benchmark.md`. *Of another
organ*: answers that the training cells and profiles of the model know from other organs than that
of the cell alone (`scgp.reference.elsewhere`). Where the tissue is told, such labels have a
twentieth of their odds. Differences: default decision and best label, paired bootstrap over units
and cells (1,000 resamples, 95 %). Peers are not told the tissue anywhere, so these rows are to be
compared with each other, and not with peers. What makes a label one of another organ was chosen on
the left-out studies; the evaluation files were asked afterwards."""


def main(argv: list[str] | None = None) -> None:
    """Ask the models, write ``tissue.md`` and ``tissue.json``."""
    from benchmarks import corpus
    from benchmarks.held_out import read_arguments, write_tables
    from benchmarks.run import lineage, say
    from scgp.annotate import model_index
    from scgp.model.checkpoint import Model

    arguments = read_arguments(__doc__, argv)
    ancestors, vocabulary = lineage(), corpus.read_vocabulary(arguments.data)
    train = corpus.read_folder(arguments.data / "train", vocabulary)
    queries = corpus.read_folder(arguments.data / "eval", vocabulary)
    tables: dict[str, dict[int, list[pd.DataFrame]]] = {}
    for seed in arguments.seeds:
        drawn = corpus.draw(arguments.data, vocabulary, seed=seed)
        splits = [corpus.eval_split(train, drawn, queries)] if "eval" in arguments.settings else []
        if "folds" in arguments.settings:
            splits += list(corpus.fold_splits(train, drawn, n_folds=5))
        for split in splits:
            folder = arguments.runs / "models" / split.setting / split.name / f"seed{seed}"
            model = Model.load(folder)
            places = known_places(source.adata for source in split.train)
            said = ask(model, model_index(model), split, places)
            tables.setdefault(split.setting, {}).setdefault(seed, []).append(said)
            say(f"{split.setting} {split.name} seed {seed}")
    found = {
        setting: summarised(
            {seed: pd.concat(parts, ignore_index=True) for seed, parts in by_seed.items()},
            ancestors,
        )
        for setting, by_seed in sorted(tables.items(), reverse=True)
    }
    words = sys.argv[1:] if argv is None else argv
    text = report(found, shlex.join(["python", "benchmarks/tissue.py", *words]))
    write_tables(arguments.results, "tissue", text, found)


if __name__ == "__main__":
    main()
