"""Naming cell types that the model was never shown, by their text alone.

    python benchmarks/zeroshot.py --data ../shared/data [--seeds 0] [--folds 6] [--threads 1]
    python benchmarks/zeroshot.py --data ../shared/data --shuffled-training

Terms of the Cell Ontology are held out of all training, with everything below them, in real and
drawn cells and in the index (`zeroshot_folds`). Their cells are then named by the cosine between
the type slot and the terms' projected texts. Each fold is kept under ``<out>/models``, and is not
trained twice; scores (`zeroshot_scores`) and tables (`zeroshot_report`) are made anew each time.

Shapes: N cells asked (the same in every fold), T terms of the corpus, E width of the joint space.
"""  # fmt: skip

from __future__ import annotations

import argparse
import functools
import json
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from benchmarks.zeroshot_cells import Corpus
    from benchmarks.zeroshot_folds import TermFold
    from benchmarks.zeroshot_measure import Material
    from scgp.cells.tokens import TokenBatch
    from scgp.embed import CellVectors
    from scgp.model.checkpoint import Model
    from scgp.phenotypes.terms import Phenotypes
    from scgp.reference.gene_head import GeneHead

HERE = Path(__file__).resolve().parent


def read_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n", 1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train/, resources/")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--folds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--shuffled-training",
        action="store_true",
        help="also train with the texts of terms permuted: the control of the whole idea",
    )
    parser.add_argument(
        "--tokens",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="vectors of pooled view and transformer; else of the pooled view, as shipped",
    )
    parser.add_argument("--out", type=Path, default=HERE / "results" / "zeroshot")
    parser.add_argument("--results", type=Path, help="tables (default: the folder above --out)")
    return parser.parse_args(argv)


def with_permuted(phenotypes: Phenotypes, terms: Sequence[str], *, seed: int) -> Phenotypes:
    """Return the texts with those of some terms dealt anew; no term keeps its own."""
    known = [term for term in terms if term in phenotypes]
    order = np.random.default_rng(seed).permutation(len(known))
    row_of = {term: row for row, term in enumerate(phenotypes.ids)}
    rows = np.array([row_of[known[i]] for i in order])
    vector_TW = phenotypes.vector_TW.copy()
    vector_TW[np.roll(rows, 1)] = phenotypes.vector_TW[rows]  # one cycle: no fixed point
    return replace(phenotypes, vector_TW=vector_TW, encoder=f"{phenotypes.encoder}, permuted")


def train_fold(
    corpus: Corpus, fold: TermFold, directory: Path, *, seed: int, shuffled: bool, tokens: bool
) -> Model:
    """Train without the terms of a fold, and make sure of it."""
    from benchmarks.corpus import thin
    from benchmarks.zeroshot_cells import MOST, without
    from scgp.annotate import model_index
    from scgp.model.checkpoint import Model
    from scgp.model.config import ModelConfig, TrainConfig
    from scgp.train import train

    real = [thin(s, most=MOST, seed=seed) for s in without(corpus.train, fold.closure)]
    drawn = [thin(s, most=MOST, seed=seed) for s in without(corpus.drawn, fold.closure)]
    genes, texts = Model.default().genes, Model.default().phenotypes
    settings = TrainConfig(seed=seed, steps=300)
    config = ModelConfig(
        n_genes=genes.n_genes, text_dim=texts.width, n_tokens=64, n_layers=2, context_layers=0,
        token_slots=True,
    )  # fmt: skip
    if not tokens:
        settings, config = replace(settings, steps=0), replace(config, n_layers=0)
    model = train(
        [s.adata for s in real],
        drawn=[s.adata for s in drawn],
        out=directory,
        label_key="label",
        phenotypes=with_permuted(texts, corpus.all_terms, seed=seed) if shuffled else texts,
        config=config,
        settings=settings,
        calibrate_on_studies=False,
        overwrite=True,
        progress=False,
    )
    leaked = fold.closure & set(model_index(model).label_ids)
    if leaked:
        message = f"{directory}: held-out terms are in the index: {sorted(leaked)}"
        raise RuntimeError(message)
    return model


def ask(
    model: Model, corpus: Corpus, fold: TermFold, *, with_annotate: bool
) -> dict[str, NDArray[np.generic]]:
    """Embed the asked cells, and annotate them among the labels that a user would name.

    Returns
    -------
    ``type_NE``, ``text_TE`` (of ``corpus.all_terms``), ``described_NT`` and ``unmarked_NT`` (scores
    of the describing head, with and without marker genes, no penalty on seen terms), ``nearest_N``
    (cosine to the nearest cell of the index); ``annotate_held_out`` and ``annotate_all``: a term
    for each cell, "" for unknown.
    """
    from scgp.annotate import annotate, model_index
    from scgp.embed import embed_adata

    index = model_index(model)
    parts: dict[str, list[NDArray[np.generic]]] = {"type_NE": [], "nearest_N": []}
    heads = describing_heads(model, corpus.all_terms)

    def watch(_: int, tokens: TokenBatch, __: CellVectors, measured_G: NDArray[np.bool_]) -> None:
        values = tokens.values(model.config.n_genes)
        for name, head in heads.items():
            parts.setdefault(name, []).append(head.scores(values, measured_G).astype(np.float16))

    questions = {"annotate_held_out": list(fold.asked), "annotate_all": corpus.real_terms}
    for source in corpus.asked.sources:
        vectors, _ = embed_adata(
            source.adata, model, layer=None, use_raw=None, batch_size=1024, device=None,
            progress=False, watch=watch,
        )  # fmt: skip
        parts["type_NE"].append(vectors.type_BE)
        parts["nearest_N"].append((vectors.cell_BE @ index.vectors_ND.T).max(axis=1))
        for name, labels in questions.items() if with_annotate else ():
            answered = annotate(source.adata, labels=labels, model=model, progress=False, copy=True)
            term = answered.obs["scgp_cell_type_ontology_term_id"].astype(str)
            parts.setdefault(name, []).append(term.to_numpy().astype("U16"))
    found = {name: np.concatenate(values) for name, values in parts.items()}
    return {**found, "text_TE": model.project_terms(corpus.all_terms)}


def describing_heads(model: Model, terms: Sequence[str]) -> dict[str, GeneHead]:
    """Return the heads that compare cells with descriptions, without the penalty on seen terms."""
    from scgp.describe import describe
    from scgp.model.checkpoint import Model
    from scgp.own import model_index

    unmarked = Model(model.config, model.network, model.genes, model.phenotypes)
    heads = {}
    for name, described in {"described_NT": model, "unmarked_NT": unmarked}.items():
        head = describe(terms, model.phenotypes.vectors(terms), described, model_index(model))
        if head is None:
            message = f"the index of {model.directory} has no gene head"
            raise RuntimeError(message)
        heads[name] = head
    return heads


def run_fold(
    corpus: Corpus, fold: TermFold, folder: Path, *, seed: int, shuffled: bool, tokens: bool
) -> dict[str, NDArray[np.generic]]:
    """Return what the model of a fold says; trained and asked if it is not there yet.

    Raises
    ------
    ValueError
        It is there, and was made with other folds.
    """
    import scgp
    from benchmarks.zeroshot_cells import MOST
    from scgp.model.checkpoint import Model
    from scgp.model.directory import load_npz, save_npz

    name = f"{fold.name}-seed{seed}" + ("-shuffled" if shuffled else "")
    name += "" if tokens else "-pooled"
    said, facts = folder / f"{name}.npz", folder / f"{name}.json"
    wanted = {
        "closure": sorted(fold.closure),
        "most": MOST,
        "cells": len(corpus.asked.obs),
        "version": scgp.__version__,
    }
    if facts.is_file():
        found = json.loads(facts.read_text(encoding="utf-8"))
        if {key: found.get(key) for key in wanted} != wanted:
            message = (
                f"{facts} was made with other terms or cells, or by another version; remove "
                f"{folder}, or set --out"
            )
            raise ValueError(message)
        if said.is_file():
            return load_npz(said)
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    if facts.is_file():
        model = Model.load(folder / name)
    else:
        model = train_fold(corpus, fold, folder / name, seed=seed, shuffled=shuffled, tokens=tokens)
        took = {**wanted, "train_seconds": round(time.perf_counter() - start)}
        facts.write_text(json.dumps(took, indent=1), encoding="utf-8")
    answers = ask(model, corpus, fold, with_annotate=not shuffled)
    save_npz(said, answers)
    sys.stderr.write(f"{name}: {time.perf_counter() - start:.0f} s\n")
    return answers


def baseline_scores(
    corpus: Corpus, data: Path, folder: Path, *, seed: int
) -> dict[str, NDArray[np.generic]]:
    """Return the scores of what needs no training (N x T); worked out once a seed."""
    from benchmarks import zeroshot_baselines as baselines
    from scgp.model.checkpoint import Model
    from scgp.model.directory import load_npz, save_npz
    from scgp.phenotypes.ontology import Ontology
    from scgp.phenotypes.text import TextEncoder

    path, gene_path = folder / f"baselines-seed{seed}.npz", folder / "gene_texts.npz"
    if path.is_file():
        return load_npz(path)
    tables = data / "resources"
    sources = [source.cells for source in corpus.asked.sources]
    if not gene_path.is_file():
        symbols = sources[0].gene_G.tolist()
        table = tables / "genes" / "refseq_gene_summary_human.tsv.gz"
        found = baselines.summary_vectors(table, symbols, TextEncoder.minilm())
        save_npz(gene_path, {"vector_GW": found})
    vector_GW = load_npz(gene_path)["vector_GW"]
    text_TW = Model.default().phenotypes.vectors(corpus.all_terms)
    markers = baselines.marker_sets(tables / "genesets", Ontology("CL"))
    rows: dict[str, list[NDArray[np.generic]]] = {}
    for cells in sources:
        scores = baselines.of_file(cells, corpus.all_terms, markers, vector_GW, text_TW)
        for name, score_NT in scores.items():
            rows.setdefault(name, []).append(score_NT.astype(np.float32))
    joined = {name: np.concatenate(parts) for name, parts in rows.items()}
    save_npz(path, joined)
    return joined


def material_of(
    corpus: Corpus, folds: Sequence[TermFold], arguments: argparse.Namespace, *, seed: int
) -> Material:
    """Run what is missing of a seed."""
    from benchmarks.zeroshot_measure import Material

    folder = arguments.out / "models"
    run = functools.partial(run_fold, folder=folder, seed=seed, tokens=arguments.tokens)
    permuted = folds if arguments.shuffled_training else ()
    return Material(
        true_N=corpus.asked.obs["label"].to_numpy(str),
        file_N=corpus.asked.obs["file"].to_numpy(str),
        never_trains_N=corpus.asked.never_trains_N,
        real_terms=corpus.real_terms,
        all_terms=corpus.all_terms,
        folds=folds,
        says=[run(corpus, fold, shuffled=False) for fold in folds],
        control=[run(corpus, fold, shuffled=True) for fold in permuted],
        baselines=baseline_scores(corpus, arguments.data, folder, seed=seed),
    )


def main(argv: list[str] | None = None) -> None:
    """Run the folds that are missing, score all, write the tables."""
    arguments = read_arguments(argv)
    import torch
    from threadpoolctl import threadpool_limits

    from benchmarks.zeroshot_cells import folds_of, read_corpus
    from benchmarks.zeroshot_measure import measure
    from benchmarks.zeroshot_report import write_report

    torch.set_num_threads(arguments.threads)
    found = {}
    with threadpool_limits(limits=arguments.threads):
        for seed in arguments.seeds:
            corpus = read_corpus(arguments.data, seed=seed)
            folds, why_not = folds_of(arguments.data, arguments.folds)
            found[seed] = measure(material_of(corpus, folds, arguments, seed=seed))
    words = sys.argv[1:] if argv is None else argv
    command = shlex.join(["python", "benchmarks/zeroshot.py", *words])
    results = arguments.results or arguments.out.parent
    facts = {
        "tokens": arguments.tokens,
        "command": command,
        "kept_by": corpus.kept_by,
        "why_not": why_not,
    }
    sys.stdout.write(write_report(results, found, folds, facts))


if __name__ == "__main__":
    main()
