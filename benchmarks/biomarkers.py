"""Genes that scgp.biomarkers finds: known ones among them, and what other studies find again.

    python benchmarks/biomarkers.py --data ../shared/data --seeds 0 1 2
    python benchmarks/biomarkers.py --data ../shared/data --seeds 0 1 2 --left-out

Studies of blood cells are split into halves. Genes are chosen on one half, by removal and by
Wilcoxon's test, and looked up in PanglaoDB and CellMarker, and in the other half. Removal asks an
index of the other half's cells, without any weight that comes from marker databases: the model
without its markers, and the gene head in the place of the stream by description. With --left-out,
genes are chosen on all studies, by an index of all others for each: known genes only. See
README.md.
"""  # fmt: skip

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.biomarkers_measure import known_share, markers_below, replicated  # noqa: E402

if TYPE_CHECKING:
    import anndata as ad

    from benchmarks.corpus import Source
    from scgp.model.checkpoint import Model
    from scgp.reference.index import ReferenceIndex

HERE = Path(__file__).resolve().parent
#: The phenotypes: terms with markers in the databases and cells in several studies.
TYPES = {
    "B cell": "CL:0000236",
    "natural killer cell": "CL:0000623",
    "CD4-positive, alpha-beta T cell": "CL:0000624",
    "CD8-positive, alpha-beta T cell": "CL:0000625",
    "monocyte": "CL:0000576",
    "dendritic cell": "CL:0000451",
}
#: Cells of a label and study, and of a phenotype that a study must have.
MOST, LEAST = 60, 15
#: Files with too few genes to find markers in.
NARROW = {"onek1k_1000genes", "kang2018_ctrl_1287genes", "wu2020_tcells_scirpy"}
#: Files of eval whose studies are not in train.
NEW = {"zilionis2019_nsclc", "pbmc_3tech_savercat"}


def joined(sources: list[Source], *, seed: int) -> ad.AnnData:
    """Return at most `MOST` cells of each label and study, in the shared gene space.

    ``obs["type"]`` is the phenotype, "" for cells of none.
    """
    import anndata as ad
    import scipy.sparse as sp

    from benchmarks.corpus import thin
    from scgp.phenotypes.ontology import Ontology

    below = {name: Ontology("CL").descendants(term) for name, term in TYPES.items()}
    few = [thin(source, most=MOST, seed=seed) for source in sources if source.name not in NARROW]
    obs = pd.concat([source.cells.obs[["label", "group"]] for source in few])
    columns = {
        "label": obs["label"].to_numpy(str),
        "type": [next((n for n, ids in below.items() if x in ids), "") for x in obs["label"]],
        "study": obs["group"].to_numpy(str),
    }
    return ad.AnnData(
        sp.vstack([source.cells.count_NG for source in few], format="csr"),
        obs=pd.DataFrame(columns, index=pd.Index(range(len(obs))).astype(str)),
        var=pd.DataFrame(index=pd.Index(few[0].cells.gene_G.astype(str))),
    )


def typed(cells: ad.AnnData) -> ad.AnnData:
    """Return the cells of the phenotypes, with the genes that one of them has a count of."""
    kept = cells[(cells.obs["type"] != "").to_numpy()]
    return kept[:, np.asarray(kept.X.sum(axis=0)).ravel() > 0].copy()


def unmarked(model: Model) -> Model:
    """Return the model without its marker genes, from which weights by description are made."""
    from scgp.model.checkpoint import Model

    return Model(
        model.config, model.network, model.genes, model.phenotypes, details=dict(model.details)
    )


def evaluation_index(cells: ad.AnnData, model: Model) -> ReferenceIndex:
    """Make an index without anything that comes from marker databases."""
    from scgp.build import build_index

    index = build_index(
        cells, label_key="label", study_key="study", model=model, background=False, progress=False
    )
    return undescribed(index)


def undescribed(index: ReferenceIndex) -> ReferenceIndex:
    """Return the index with the gene head in the place of the stream by description.

    That stream is the gene head's with weights shared and known markers added; where it had been
    switched off and nothing put in its place, the network's head answered alone (docs/log.md).
    """
    fitted = index.calibration
    fusion = dataclasses.replace(
        fitted, weight_described=0.0, weight_gene=fitted.weight_gene + fitted.weight_described
    )
    return dataclasses.replace(index, calibration=fusion)


def halves(cells: ad.AnnData, *, seed: int) -> tuple[set[str], set[str]]:
    """Split the studies at random, so that each half has every phenotype, and about as many."""
    of_type = cells.obs[cells.obs["type"] != ""]
    studies = sorted(of_type["study"].unique())
    n_of = of_type.groupby(["study", "type"], observed=True).size().unstack(fill_value=0)
    enough = n_of >= LEAST
    rng = np.random.default_rng(seed)
    for _ in range(1000):
        order = rng.permutation(studies)
        one, other = set(order[: len(order) // 2]), set(order[len(order) // 2 :])
        if all(enough.loc[sorted(half)].any().all() for half in (one, other)):
            return one, other
    message = "no split of the studies has every phenotype in both halves"
    raise RuntimeError(message)


def found(
    cells: ad.AnnData,
    model: Model,
    index: ReferenceIndex | dict[str, ReferenceIndex],
    *,
    rivals: str,
    seed: int,
) -> dict[str, pd.DataFrame]:
    """Return the table of each phenotype, of all genes."""
    from scgp.biomarkers import biomarkers

    table = biomarkers(
        cells, groupby="type", across="study", model=model, index=index, rivals=rivals,
        min_cells=LEAST, exact_cells=0, all_genes=True, seed=seed, progress=False,
    )  # fmt: skip
    return {str(name): part for name, part in table.groupby("group")}


def one_seed(
    train: list[Source],
    new: list[Source],
    model: Model,
    known: dict[str, frozenset[str]],
    seed: int,
) -> list[dict[str, Any]]:
    """Choose on each half, and score on the other."""
    cells = joined(train, seed=seed)
    fresh = typed(joined(new, seed=seed))
    parts = halves(cells, seed=seed)
    half = [cells[cells.obs["study"].isin(part).to_numpy()].copy() for part in parts]
    indexes = [evaluation_index(part, model) for part in half]
    rows: list[dict[str, Any]] = []
    for rivals in ("phenotypes", "labels"):
        # the index of the other half: it has seen none of the cells, nor their studies
        of_half = [
            found(typed(part), model, index, rivals=rivals, seed=seed)
            for part, index in zip(half, indexes[::-1], strict=True)
        ]
        for a, b in ((0, 1), (1, 0)):
            # and the new studies ask the index that had no part in the choice
            later = found(fresh, model, indexes[a], rivals=rivals, seed=seed)
            about = {"seed": seed, "half": a, "rivals": rivals}
            for name, table in of_half[a].items():
                scores = [*known_share(table, known[name], seed=seed)]
                scores += replicated(table, of_half[b][name])
                if name in later:
                    scores += replicated(table, later[name], prefix="new ")
                rows += [{**about, "type": name, **score} for score in scores]
    return rows


def circular(
    train: list[Source], known: dict[str, frozenset[str]], seed: int
) -> list[dict[str, Any]]:
    """Ask the default index, which was made with the databases and of these very cells."""
    from scgp.annotate import model_index
    from scgp.model.checkpoint import Model

    model = Model.default()
    tables = found(
        typed(joined(train, seed=seed)), model, model_index(model), rivals="phenotypes", seed=seed
    )
    return [
        {"seed": seed, "half": 0, "rivals": "circular", "type": name, **score}
        for name, table in tables.items()
        for score in known_share(table, known[name], seed=seed)
    ]


def left_out(
    train: list[Source], known: dict[str, frozenset[str]], seed: int
) -> list[dict[str, Any]]:
    """Ask about each study an index of all others, made without marker databases."""
    from scgp.leave_one_out import leave_one_out
    from scgp.model.checkpoint import Model

    model, cells = unmarked(Model.default()), typed(joined(train, seed=seed))
    indexes = leave_one_out(cells, label_key="label", unit_key="study", model=model, progress=False)
    without = {study: undescribed(index) for study, index in indexes.items()}
    tables = found(cells, model, without, rivals="phenotypes", seed=seed)
    return [
        {"seed": seed, "half": 0, "rivals": "left out", "type": name, **score}
        for name, table in tables.items()
        for score in known_share(table, known[name], seed=seed)
    ]


def main(argv: list[str] | None = None) -> None:
    """Choose, score, write the table and its numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and eval/")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--left-out", action="store_true", help="an index for each study instead")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    arguments = parser.parse_args(argv)
    import torch

    from benchmarks import corpus
    from benchmarks.biomarkers_report import report
    from benchmarks.run import say
    from benchmarks.zeroshot_baselines import marker_sets
    from scgp.model.checkpoint import Model
    from scgp.phenotypes.ontology import Ontology

    torch.set_num_threads(arguments.threads)
    vocabulary, ontology = corpus.read_vocabulary(arguments.data), Ontology("CL")
    markers = marker_sets(arguments.data / "resources" / "genesets", ontology)
    known = {
        name: markers_below(term, markers, ontology.descendants(term))
        for name, term in TYPES.items()
    }
    train = corpus.read_folder(arguments.data / "train", vocabulary)
    new = corpus.read_folder(arguments.data / "eval", vocabulary)
    new = [source for source in new if source.name in NEW]
    rows: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        began = time.monotonic()
        if arguments.left_out:
            rows += left_out(train, known, seed)
        else:
            rows += one_seed(train, new, unmarked(Model.default()), known, seed)
            rows += circular(train, known, seed)
        say(f"seed {seed}: {time.monotonic() - began:.0f} s")
    words = sys.argv[1:] if argv is None else argv
    text = report(
        pd.DataFrame(rows), {name: len(genes) for name, genes in known.items()},
        shlex.join(["python", "benchmarks/biomarkers.py", *words]),
    )  # fmt: skip
    name = "biomarkers_left_out" if arguments.left_out else "biomarkers"
    (arguments.results / f"{name}.md").write_text(text, encoding="utf-8")
    by = ["rivals", "type", "list", "top", "seed"]
    both_ways = pd.DataFrame(rows).groupby(by).mean(numeric_only=True).drop(columns="half").round(4)
    tidy = [
        {name: value for name, value in row.items() if pd.notna(value)}
        for row in both_ways.reset_index().to_dict(orient="records")
    ]
    lines = ",\n".join(json.dumps(row) for row in tidy)
    (arguments.results / f"{name}.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
