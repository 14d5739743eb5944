"""Are cells of a type that was never shown told from the others: scgp beside its peers.

    python benchmarks/novelty.py --data ../shared/data [--seeds 0 1 2]

The folds over terms, and the networks, are those of ``zeroshot.py --no-tokens`` (which it needs):
no method has seen a cell of the terms of a fold, nor of a term below them. Asked are the cells of
these terms and cells of known terms that train in no fold. The peers are fitted to the cells that
the network was trained on. Files with many genes only, on the genes that all of them measure, so
that one fit of a peer serves all; scgp reads all genes of each file.
"""  # fmt: skip

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from benchmarks.corpus import Cells, Source
    from benchmarks.zeroshot_cells import Corpus
    from benchmarks.zeroshot_folds import TermFold
    from scgp.model.checkpoint import Model
    from scgp.reference.index import ReferenceIndex

    # Method -> how novel each cell is; any scale, the larger the more novel.
    Scores = dict[str, NDArray[np.floating[Any]]]

HERE = Path(__file__).resolve().parent
N_FOLDS = 6
#: Files that measure fewer genes are left out.
MIN_GENES = 15_000
#: Terms with fewer asked cells are left out.
MIN_CELLS = 10
#: The peers' settings: those that inner validation chose for most folds of studies.
LR_GENES = {"C": 0.01, "balanced": True}
LR_PCA = {"n_genes": 2000, "scaled": False, "C": 10.0, "balanced": True}
CELLTYPIST = {"alpha": 0.01}
N_NEIGHBOURS = 15
OURS = "scgp, novelty"
N_RESAMPLES = 2000


def auroc(novel_N: NDArray[np.floating[Any]], known_N: NDArray[np.floating[Any]]) -> float:
    """Return how often a novel cell scores above a known one; ties count half.

    Examples
    --------
    >>> auroc(np.array([0.9, 0.5]), np.array([0.5, 0.1]))
    0.875
    """
    from scipy.stats import rankdata

    rank_N = rankdata(np.concatenate([novel_N, known_N]))
    n_novel, n_known = len(novel_N), len(known_N)
    above = rank_N[:n_novel].sum() - n_novel * (n_novel + 1) / 2
    return float(above / (n_novel * n_known))


def wide_files(sources: list[Source]) -> tuple[list[Source], NDArray[np.bool_]]:
    """Return the files with many genes, and the genes that all of them measure."""
    wide = [s for s in sources if int(s.cells.measured_G.sum()) >= MIN_GENES]
    return wide, np.logical_and.reduce([s.cells.measured_G for s in wide])


def of_peers(train: Cells, query: Cells, *, seed: int) -> Scores:
    """Fit the peers and return how novel each cell is to them."""
    from benchmarks.baselines import LogisticOnGenes, LogisticOnPca
    from benchmarks.celltypist_method import CellTypist

    class Unvoted(CellTypist):
        def _one(self, *arguments: Any, vote: bool, **options: Any) -> Any:
            del vote  # a vote has no probability of its own
            return super()._one(*arguments, vote=False, **options)

    fitted = {
        "LR on genes, 1 - largest probability": (LogisticOnGenes(), LR_GENES),
        "LR on PCA, 1 - largest probability": (LogisticOnPca(), LR_PCA),
        "CellTypist, 1 - largest probability": (Unvoted(), CELLTYPIST),
    }
    found: Scores = {}
    for name, (method, setting) in fitted.items():
        rows = method.answers(train, query, [setting], seed=seed)[0]
        found[name] = -rows[method.name].confidence_N
    return found | neighbour_distances(train, query)


def neighbour_distances(train: Cells, query: Cells) -> Scores:
    """Return the mean distance to the nearest training cells on principal components."""
    from sklearn.neighbors import NearestNeighbors
    from sklearn.preprocessing import normalize

    from benchmarks.baselines import N_COMPONENTS
    from benchmarks.features import log_normalise, principal_components, variable_genes

    value_NG, value_QG = log_normalise(train.count_NG), log_normalise(query.count_NG)
    gene_H = variable_genes(value_NG, train.obs["batch"].to_numpy(dtype=object), n_top=2000)
    found: Scores = {}
    for scaled in (True, False):
        space = principal_components(value_NG, gene_H, n_components=N_COMPONENTS, scaled=scaled)
        both = space.transform(value_NG), space.transform(value_QG)
        if not scaled:  # lengths of unscaled components tell depth; angles were better throughout
            both = normalize(both[0]), normalize(both[1])
        nearest = NearestNeighbors(n_neighbors=N_NEIGHBOURS, algorithm="brute").fit(both[0])
        distance_QK, _ = nearest.kneighbors(both[1])
        kind = "scaled genes, Euclidean" if scaled else "unscaled genes, cosine"
        found[f"kNN distance on PCA, {kind}"] = distance_QK.mean(axis=1)
    return found


def described_index(model: Model) -> ReferenceIndex:
    """Return the model's index with described labels, as a calibrated model has."""
    from scgp.describe import with_descriptions
    from scgp.own import model_index
    from scgp.reference.index import ReferenceIndex

    index = model_index(model)
    if index.gene_head is None:
        message = f"the index of {model.directory} has no gene head"
        raise RuntimeError(message)
    head, likeness_TT = with_descriptions(index.gene_head, index.label_ids, model)
    return ReferenceIndex.build(
        index.vectors_ND,
        [index.labels[code] for code in index.code_N],
        label_ids=index.label_ids,
        drawn=index.drawn_N,
        text_TD=index.text_TD,
        model_fingerprint=index.model_fingerprint,
        gene_head=head,
        likeness_TT=likeness_TT,
    )


def of_scgp(model: Model, sources: list[Source]) -> Scores:
    """Return how novel each cell is to scgp, by what it says of itself.

    The novelty that `scgp.annotate` writes, and what else could tell: the largest cosine to the
    text of a label, and the spread of the pooled streams (with the default weights, for these
    models are not calibrated).
    """
    from benchmarks.held_out import embedded, streams
    from scgp.reference.evidence import pool

    index = described_index(model)
    parts: dict[str, list[NDArray[np.floating[Any]]]] = {}
    for source in sources:
        cells = embedded(model, index, source.adata)
        found, nearest_N = streams(index, cells)
        pooled_NT = pool(found, index.calibration)
        held_NT = np.maximum(pooled_NT, 1e-12)
        one = {
            OURS: 1 - nearest_N,
            "scgp, cosine to the nearest text": -(cells.type_NE @ index.text_TD.T).max(axis=1),
            "scgp, 1 - largest pooled probability": -pooled_NT.max(axis=1),
            "scgp, entropy of the pooled streams": -(pooled_NT * np.log(held_NT)).sum(axis=1),
        }
        for name, score_N in one.items():
            parts.setdefault(name, []).append(score_N)
    return {name: np.concatenate(scores) for name, scores in parts.items()}


def fold_scores(corpus: Corpus, fold: TermFold, folder: Path, *, seed: int) -> Scores:
    """Return the scores of all methods on the asked cells of the wide files; kept in a file."""
    from benchmarks.corpus import join, on_query_genes, thin
    from benchmarks.run import say
    from benchmarks.zeroshot_cells import MOST, without
    from scgp.model.checkpoint import Model
    from scgp.model.directory import load_npz, save_npz

    wide, measured_G = wide_files(corpus.asked.sources)
    start = time.perf_counter()
    path = folder / f"novelty-peers-{fold.name}-seed{seed}.npz"
    if not path.is_file():
        kept = [*without(corpus.train, fold.closure), *without(corpus.drawn, fold.closure)]
        train = join([thin(source, most=MOST, seed=seed) for source in kept])
        query = replace(join(wide), measured_G=measured_G)
        save_npz(path, of_peers(*on_query_genes(train, query), seed=seed))
    model = Model.load(folder / f"{fold.name}-seed{seed}-pooled")
    found = {**of_scgp(model, wide), **load_npz(path)}
    say(f"{fold.name} seed {seed}: {time.perf_counter() - start:.0f} s")
    return found


def by_term(
    scores: Mapping[str, NDArray[np.floating[Any]]],
    true_N: NDArray[np.str_],
    study_N: NDArray[np.str_],
    known_N: NDArray[np.bool_],
    asked: tuple[str, ...],
) -> dict[str, dict[str, tuple[float, float]]]:
    """Return method -> term -> AUROC against all known cells, and against those of its studies."""
    found: dict[str, dict[str, tuple[float, float]]] = {name: {} for name in scores}
    for term in asked:
        novel_N = true_N == term
        near_N = known_N & np.isin(study_N, np.unique(study_N[novel_N]))
        if min(novel_N.sum(), near_N.sum()) < MIN_CELLS:
            continue
        for name, score_N in scores.items():
            against = (auroc(score_N[novel_N], score_N[of]) for of in (known_N, near_N))
            found[name][term] = (next(against), next(against))
    return found


def lead(ours_T: NDArray[np.float64], theirs_T: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the mean difference over terms with its 95 % interval (bootstrap over terms)."""
    rng = np.random.default_rng(0)
    gap_T = ours_T - theirs_T
    drawn_R = gap_T[rng.integers(len(gap_T), size=(N_RESAMPLES, len(gap_T)))].mean(axis=1)
    low, high = np.percentile(drawn_R, (2.5, 97.5))
    return float(gap_T.mean()), float(low), float(high)


def table(found: list[dict[str, dict[str, tuple[float, float]]]]) -> list[str]:
    """Return the Markdown rows: means over terms and seeds, best first."""
    terms = sorted(set.intersection(*(set(f[OURS]) for f in found)))
    mean = {
        name: np.mean([[f[name][term] for term in terms] for f in found], axis=0)
        for name in found[0]
    }
    lines = [
        f"{len(terms)} terms, {len(found)} seed(s).",
        "",
        "| score | AUROC, all known cells | those of the same studies | scgp's lead, all | same |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name in sorted(mean, key=lambda name: -float(mean[name][:, 0].mean())):
        gaps = ["", ""]
        if name != OURS:
            pairs = [lead(mean[OURS][:, i], mean[name][:, i]) for i in (0, 1)]
            gaps = [f"{m:+.3f} [{low:+.3f}, {high:+.3f}]" for m, low, high in pairs]
        both = " | ".join(f"{x:.3f}".replace("0.", ".", 1) for x in mean[name].mean(axis=0))
        lines.append(f"| {name} | {both} | {' | '.join(gaps)} |")
    return lines


def main(argv: list[str] | None = None) -> None:
    """Score the folds, write ``novelty.md`` and ``novelty.json``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", type=Path, default=HERE / "results" / "zeroshot" / "models")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    arguments = parser.parse_args(argv)
    import torch
    from threadpoolctl import threadpool_limits

    from benchmarks.zeroshot_cells import folds_of, read_corpus

    torch.set_num_threads(arguments.threads)
    folds, _ = folds_of(arguments.data, N_FOLDS)
    seeds = []
    for seed in arguments.seeds:
        corpus = read_corpus(arguments.data, seed=seed)
        names = {source.name for source in wide_files(corpus.asked.sources)[0]}
        of_wide = np.isin(corpus.asked.obs["file"].to_numpy(str), sorted(names))
        obs, never_N = corpus.asked.obs[of_wide], corpus.asked.never_trains_N[of_wide]
        true_N, study_N = (obs[column].to_numpy(str) for column in ("label", "study"))
        whole: dict[str, dict[str, tuple[float, float]]] = {}
        for fold in folds:
            with threadpool_limits(limits=arguments.threads):
                scores = fold_scores(corpus, fold, arguments.models, seed=seed)
            known_N = never_N & ~np.isin(true_N, sorted(fold.closure))
            for name, of in by_term(scores, true_N, study_N, known_N, fold.asked).items():
                whole.setdefault(name, {}).update(of)
        seeds.append(whole)
    words = sys.argv[1:] if argv is None else argv
    command = shlex.join(["python", "benchmarks/novelty.py", *words])
    text = "\n".join([f"Made by `{command}`.", "", NOTES, "", *table(seeds), ""])
    (arguments.results / "novelty.md").write_text(text, encoding="utf-8")
    (arguments.results / "novelty.json").write_text(json.dumps(seeds, indent=1), encoding="utf-8")
    sys.stdout.write(text)


NOTES = """\
Each term with at least 10 asked cells in turn is novel: AUROC of its cells against cells of terms
that were trained on (which train in no fold; most are of donors that train), all of them and those
of the same studies. Means over terms; leads with the 95 % interval of a bootstrap over terms."""


if __name__ == "__main__":
    main()
