"""Predicting the mean profile of a cell type that was never shown, from its description.

    python benchmarks/predict_expression.py --data ../shared/data [--seeds 0 1 2] [--folds 5]

Published mean profiles are held out by Cell Ontology term, with every term below, and by study; the
two files of profiles are never pooled in level. Settings of every method are chosen by an inner
split of the training profiles. Tables: ``predict_expression.md`` and ``.json`` under ``--out``.

Shapes: R mean profiles of all sources, A profiles asked, G genes.
"""  # fmt: skip

from __future__ import annotations

import argparse
import functools
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks import expression_methods as methods  # noqa: E402
from benchmarks.expression_methods import Fold, Table  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from scgp.training.mean_profiles import Rows

HERE = Path(__file__).resolve().parent
CELLS, LIBRARY, HCL = "cells", "cellprofilelibrary_human", "hcl_ref_2020"
#: Terms with more of a file's profiles below them are not held out: nothing would be left.
MAX_SHARE = 0.15
#: Folds of the inner split, and the share of genes that it looks at.
INNER, EVERY = 3, 8

#: Row of the table -> how it predicts, and the settings that it may choose from.
ROWS: dict[str, tuple[Callable[..., NDArray[np.float32]], Sequence[Mapping[str, Any]]]] = {
    "scgp, description": (methods.description, methods.OURS),
    "scgp, constants as shipped": (methods.description, [methods.SHIPPED]),
    "scgp, as shipped, other sources too": (
        functools.partial(methods.description, more=True), [methods.SHIPPED],
    ),
    "scgp, as shipped, the term itself no more than its description": (
        methods.description, [methods.NOT_OWN],
    ),
    "scgp, text of the label alone": (
        functools.partial(methods.description, parts=(1 / 3, 0.0, 0.0)), [methods.SHIPPED],
    ),
    "scgp, without markers": (
        functools.partial(methods.description, parts=(0.5, 0.5, 0.0)), [methods.SHIPPED],
    ),
    "scgp, without tissue": (
        functools.partial(methods.description, with_tissue=False), [methods.SHIPPED],
    ),
    "nearest term and tissue mean": (methods.term_and_tissue, methods.BOTH),
    "nearest term": (methods.nearest_term, methods.NEAREST),
    "nearest text": (methods.nearest_text, methods.NEAREST),
    "tissue mean": (methods.tissue_mean, methods.TISSUE),
    "mean of all": (methods.mean_of_all, [{}]),
}  # fmt: skip


def read_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n", 1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train/, pseudobulk/")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    return parser.parse_args(argv)


def read_table(data: Path) -> tuple[Table, NDArray[np.str_]]:
    """Read all mean profiles, and the study of each."""
    from scgp.cells.corpus import read_corpus
    from scgp.cells.draw import read_profiles
    from scgp.model.checkpoint import Model
    from scgp.training.mean_profiles import rows_of_corpus, rows_of_profiles
    from scgp.training.objective import TermTable

    model = Model.default()
    corpus = read_corpus(
        sorted((data / "train").glob("*.h5ad")), model.genes,
        label_key="cell_type_ontology_term_id", study_key="study", donor_key="donor",
        tissue_key="tissue_ontology_term_id",
    )  # fmt: skip
    types = TermTable.make("CL", list(corpus.label_N), model.phenotypes)
    library, hcl = read_profiles(data / "pseudobulk")
    parts: list[Rows] = [
        rows_of_corpus(model, corpus, types),
        rows_of_profiles(model, library, LIBRARY),
        rows_of_profiles(model, hcl, HCL),
    ]
    studies = [CELLS] * len(parts[0][2])
    studies += [study_of(name) for name in library.obs["study"].astype(str)]
    studies += [name.rstrip("0123456789") for name in hcl.obs["donor"].astype(str)]
    return _table(model, parts), np.array(studies)


def study_of(collection: str) -> str:
    """Return the study of a collection of the library: those of Descartes and of Wang are one.

    Examples
    --------
    >>> study_of("Human_Fetal_Eye_Descartes"), study_of("Human_Adult_Lung_HCA")
    ('Descartes', 'Human_Adult_Lung_HCA')
    """
    maker = collection.rpartition("_")[2]
    return collection if maker == "HCA" else maker


def _table(model: Any, parts: Sequence[Rows]) -> Table:
    from scgp.phenotypes.ontology import Ontology
    from scgp.what_if.alike import tissue_likeness

    keys = [key for part in parts for key in part[2]]
    label_R, tissue_R, source_R = (np.array(column) for column in zip(*keys, strict=True))
    labels, row_R = np.unique(label_R, return_inverse=True)
    square = np.ix_(row_R, row_R)
    text_UW = model.centred_texts(model.phenotypes.vectors(labels.tolist())).astype(np.float64)
    marker_UG = model.markers.weights(labels.tolist(), model.config.n_genes)
    ontology = Ontology("CL")
    steps_UU = np.array([[ontology.distance(a, b) for b in labels] for a in labels])
    return Table(
        value_RG=np.concatenate([part[0] for part in parts]),
        measured_RG=np.concatenate([part[1] for part in parts]),
        label_R=label_R,
        tissue_R=tissue_R,
        source_R=source_R,
        text_RR=(text_UW @ text_UW.T)[square],
        lineage_RR=ontology.soft_scores(labels.tolist()).astype(np.float64)[square],
        marker_RR=(marker_UG @ marker_UG.T).toarray()[square],
        tissue_RR=tissue_likeness(tissue_R.tolist(), tissue_R.tolist(), model),
        steps_RR=steps_UU[square],
    )


def with_genes(table: Table, columns: NDArray[np.integer]) -> Table:
    """Return the table of some genes."""
    return replace(
        table,
        value_RG=table.value_RG[:, columns],
        measured_RG=table.measured_RG[:, columns],
    )


def term_folds(table: Table, rows: NDArray[np.int64], n_folds: int, seed: int) -> Iterator[Fold]:
    """Hold out terms, each with all below it, of every source; each row is asked at most once."""
    from scgp.phenotypes.ontology import Ontology

    ontology, label_A = Ontology("CL"), table.label_R[rows]
    below = {term: list(ontology.descendants(term)) for term in np.unique(label_A).tolist()}
    terms = [t for t, ids in below.items() if np.isin(label_A, ids).mean() <= MAX_SHARE]
    others = np.flatnonzero(table.source_R != table.source_R[rows[0]])
    dealt = np.random.default_rng(seed).permutation(terms)
    for fold in range(n_folds):
        asked = dealt[fold::n_folds]
        closure = sorted({term for t in asked.tolist() for term in below[t]})
        yield Fold(
            train=rows[~np.isin(label_A, closure)],
            asked=rows[np.isin(label_A, asked)],
            others=others[~np.isin(table.label_R[others], closure)],
        )


def study_folds(
    table: Table, rows: NDArray[np.int64], n_folds: int, seed: int, *, study_R: NDArray[np.str_]
) -> Iterator[Fold]:
    """Hold out studies of a file; asked are their profiles of terms that other studies have."""
    dealt = np.random.default_rng(seed).permutation(np.unique(study_R[rows]))
    others = np.flatnonzero(table.source_R != table.source_R[rows[0]])
    for fold in range(min(n_folds, len(dealt))):
        held_A = np.isin(study_R[rows], dealt[fold::n_folds])
        train, asked = rows[~held_A], rows[held_A]
        known_A = np.isin(table.label_R[asked], table.label_R[train])
        if known_A.any():
            yield Fold(train, asked[known_A], others)


def choose(
    small: Table, fold: Fold, folds: Callable[..., Iterator[Fold]], row: str, seed: int
) -> Mapping[str, Any]:
    """Return the settings that do best on an inner split of the training profiles."""
    method, grid = ROWS[row]
    if len(grid) == 1:
        return grid[0]
    inner = list(folds(small, fold.train, INNER, seed))
    mean = [
        np.concatenate([methods.scores(small, f, method(small, f, s))[:, 1] for f in inner]).mean()
        for s in grid
    ]
    return grid[int(np.argmax(mean))]


def measure(
    table: Table,
    rows: NDArray[np.int64],
    folds: Callable[..., Iterator[Fold]],
    arguments: argparse.Namespace,
) -> tuple[dict[str, NDArray[np.float64]], dict[str, list[Mapping[str, Any]]]]:
    """Return the scores of each profile (seeds x rows x 2, NaN where not asked), and settings."""
    small = with_genes(table, np.arange(0, table.value_RG.shape[1], EVERY))
    place = {int(row): i for i, row in enumerate(rows)}
    shape = (len(arguments.seeds), len(rows), 2)
    found = {name: np.full(shape, np.nan) for name in ROWS}
    chosen: dict[str, list[Mapping[str, Any]]] = {name: [] for name in ROWS}
    for s, seed in enumerate(arguments.seeds):
        for fold in folds(table, rows, arguments.folds, seed):
            at = [place[int(row)] for row in fold.asked]
            for name, (method, _) in ROWS.items():
                settings = choose(small, fold, folds, name, seed)
                chosen[name].append(settings)
                found[name][s, at] = methods.scores(table, fold, method(table, fold, settings))
        sys.stderr.write(f"seed {seed} done\n")
    return found, chosen


def main(argv: list[str] | None = None) -> None:
    """Measure both files in both settings and write the tables."""
    arguments = read_arguments(argv)
    from threadpoolctl import threadpool_limits

    from benchmarks.expression_report import Part, write_report

    parts = []
    with threadpool_limits(limits=arguments.threads):
        table, study_R = read_table(arguments.data)
        for source in (LIBRARY, HCL):
            rows = np.flatnonzero(table.source_R == source)
            of_file = with_genes(table, np.flatnonzero(table.measured_RG[rows].any(axis=0)))
            by_study = functools.partial(study_folds, study_R=study_R)
            for setting, folds in {"terms": term_folds, "studies": by_study}.items():
                found, chosen = measure(of_file, rows, folds, arguments)
                unit_A = (table.label_R if setting == "terms" else study_R)[rows]
                parts.append(Part(source, setting, found, chosen, unit_A))
    words = sys.argv[1:] if argv is None else argv
    command = shlex.join(["python", "benchmarks/predict_expression.py", *words])
    sys.stdout.write(write_report(arguments.out, parts, command))


if __name__ == "__main__":
    main()
