"""What each part of scgp is worth: networks trained without it, on left-out studies.

    python benchmarks/ablations.py --data ../shared/data [--variants full ...] [--seeds 0 1 2]

Each variant is trained in every fold of ``run.py --settings folds``, on the same cells, and asked
about at most 60 cells of each type of the studies held out. How the streams are fused is fitted, as
`scgp.train` does it, to the held-out cells of the *other* folds, for each variant anew. Runs
resume; see README.md.
"""  # fmt: skip

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.corpus import Split
    from benchmarks.held_out import Evidence
    from scgp.model.checkpoint import Model
    from scgp.reference.fitting import HeldOut
    from scgp.reference.index import ReferenceIndex

ALL = ("neighbour", "text", "head", "gene", "described", "pairwise")
NETWORK = ("neighbour", "text", "head")
#: Training cells of a type and study, as in the table of the benchmark.
MOST = 150
N_FOLDS = 5
#: Held-out cells of a type and study that weights are fitted to.
FITTED = 15
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Variant:
    """How a variant differs from the model as it is.

    ``settings`` and ``config`` change fields of `TrainConfig` and `ModelConfig`; ``silent`` streams
    mean nothing in this variant and are left out. With ``evidence_of`` nothing is trained: the
    streams are those of that variant.
    """

    what: str
    settings: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    silent: tuple[str, ...] = ()
    permuted_text: bool = False
    augment: bool = True
    pooled: bool = True
    evidence_of: str = ""


def _without(name: str) -> tuple[str, ...]:
    """Return all streams but one."""
    return tuple(stream for stream in ALL if stream != name)


#: With the transformer in the vectors of cells, as all models were before 0.7.0.
BOTH: dict[str, Any] = {
    "token_slots": True, "n_layers": 2, "context_layers": 0, "n_tokens": 64,
}  # fmt: skip
# Without the pooled view there is nothing to train before the transformer, whose steps cost ten
# times as much: as many steps with it as the whole schedule's time allows.
VARIANTS = {
    "full": Variant("as it is"),
    "no text": Variant(
        "no contrast with texts of types, tissues, diseases",
        {"weight_text": 0.0, "weight_context": 0.0},
        silent=("text",),
    ),
    "shuffled text": Variant("texts dealt to other terms, in one cycle", permuted_text=True),
    "no cell contrast": Variant("no contrast between cells across studies", {"weight_cell": 0.0}),
    "three times as long": Variant("2,400 steps", {"pool_steps": 2400}),
    "with the transformer": Variant(
        "300 further steps; transformer and pooled view make the vectors", {"steps": 300}, BOTH
    ),
    "with the transformer, no masked expression": Variant(
        "the same without masked expression", {"steps": 300, "weight_masked": 0.0}, BOTH
    ),
    "no pooled view": Variant(
        "the transformer alone, 500 steps", {"pool_steps": 0, "steps": 500}, BOTH, pooled=False
    ),
    "no augmentation": Variant("cells as they are: no thinning, no genes lost", augment=False),
    "no pretraining": Variant(
        "random weights; index and heads fitted to them",
        {"pool_steps": 1, "learning_rate": 1e-30},
        silent=("text",),
    ),
    "no network": Variant(
        "the streams that read the genes directly, alone", silent=NETWORK, evidence_of="full"
    ),
    "no pairwise stream": Variant(
        "no comparison with profiles", silent=("pairwise",), evidence_of="full"
    ),
    "no description": Variant("no stream `described`", silent=("described",), evidence_of="full"),
    **{
        f"{words} only": Variant(
            f"the stream `{name}` alone", silent=_without(name), evidence_of="full"
        )
        for words, name in (
            ("index", "neighbour"),
            ("text", "text"),
            ("linear head", "head"),
            ("gene head", "gene"),
            ("description", "described"),
        )
    },
}


def _without_pool(self: Any, cells: Any) -> Any:
    return self.slot.new_zeros(len(cells.offset_B) - 1, self.config.pool_width)


@contextlib.contextmanager
def altered(variant: Variant) -> Iterator[None]:
    """Take out what no setting takes out: augmentation, and the pooled view."""
    from scgp.cells.sampling import Sampler
    from scgp.model.network import CellTransformer

    with contextlib.ExitStack() as stack:
        if not variant.augment:

            def plain(*args: Any, **options: Any) -> Sampler:
                return Sampler(*args, **{**options, "augment": False})

            stack.enter_context(mock.patch("scgp.training.loop.Sampler", plain))
        if not variant.pooled:
            stack.enter_context(mock.patch.object(CellTransformer, "pooled", _without_pool))
        yield


def fit(variant: Variant, split: Split, seed: int, folder: Path) -> tuple[Model, ReferenceIndex]:
    """Train a variant on the training cells of a split; the trained model is kept in ``folder``."""
    from benchmarks.zeroshot import with_permuted
    from scgp.cells.corpus import read_corpus
    from scgp.model.checkpoint import Model
    from scgp.model.config import ModelConfig, TrainConfig
    from scgp.reference.fusion import Fusion
    from scgp.reference.pairwise import WEIGHT
    from scgp.train import train
    from scgp.training.calibrate import reference_of
    from scgp.training.objective import term_tables

    adatas = [source.adata for source in split.train]
    real = [adata for adata in adatas if not adata.obs["drawn"].all()]
    drawn = [adata for adata in adatas if adata.obs["drawn"].all()]
    default = Model.default()
    texts = default.phenotypes
    if variant.permuted_text:
        terms = sorted({x for source in split.train for x in source.cells.label_N})
        texts = with_permuted(texts, terms, seed=seed)
    shape = ModelConfig(n_genes=default.genes.n_genes, text_dim=texts.width)
    columns = {"label_key": "label", "study_key": "study", "donor_key": "donor"}
    model = train(
        real, drawn=drawn, out=folder, **columns, phenotypes=texts, genes=default.genes,
        config=replace(shape, **variant.config),
        settings=replace(TrainConfig(steps=0, seed=seed), **variant.settings),
        calibrate_on_studies=False, overwrite=True, progress=False,
    )  # fmt: skip
    corpus = read_corpus(real, model.genes, **columns, drawn=drawn)
    # calibrated indexes describe their labels, and train() makes one only where it calibrates
    types, start = term_tables(corpus, texts)["type"], Fusion(weight_pairwise=WEIGHT)
    return model, reference_of(model, corpus, types, seed=seed, fusion=start)


def measure(
    name: str, splits: list[Split], seed: int, out: Path, *, fold: str | None = None
) -> None:
    """Train and ask what is missing of a variant and seed."""
    from benchmarks.held_out import ask
    from benchmarks.run import say, thinned

    for split in splits:
        path = evidence_path(out, name, split.name, seed)
        if path.is_file() or fold not in (None, split.name):
            continue
        start, start_cpu = time.perf_counter(), time.process_time()
        with altered(VARIANTS[name]):
            part = thinned(split, MOST, seed=seed)
            model, index = fit(VARIANTS[name], part, seed, out / "models" / "trained")
            trained = time.perf_counter() - start
            ask(model, index, split).save(path)
        seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
        took = f"{trained:.0f} + {seconds - trained:.0f} s, CPU {cpu:.0f} s"
        say(f"{name} {split.name} seed {seed}: {took}")


def evidence_path(out: Path, name: str, fold: str, seed: int) -> Path:
    """Return where the evidence of a variant is kept."""
    return out / "models" / name.replace(" ", "-") / f"{fold}-seed{seed}.npz"


def held_out(evidence: Evidence, classes: list[str], studies: list[str]) -> HeldOut:
    """Return evidence as what weights are fitted to, over the classes of all folds."""
    from scgp.phenotypes.ontology import Ontology
    from scgp.reference.fitting import HeldOut

    column_T = np.searchsorted(classes, evidence.ids)
    n_cells = len(evidence.true_N)
    spread = {name: np.zeros((n_cells, len(classes)), np.float32) for name in evidence.streams}
    for name, stream in evidence.streams.items():
        spread[name][:, column_T] = stream
    class_N = np.searchsorted(classes, evidence.true_N)
    known_C = Ontology("CL").relation(classes)[:, column_T].any(axis=1)
    return HeldOut(
        spread,
        evidence.nearest_N,
        np.ones(n_cells),
        class_N,
        known_C[class_N],
        np.searchsorted(studies, evidence.study_N),
        np.zeros(n_cells, bool),
    )


def _few(cells: HeldOut) -> np.ndarray:
    """Return the cells that weights are fitted to: `FITTED` of each type and study."""
    from scgp.cells.sampling import at_most

    return at_most(FITTED, cells.class_B, cells.study_B, np.random.default_rng(0))


def _of_streams(cells: HeldOut, names: Sequence[str]) -> HeldOut:
    return replace(cells, streams={name: cells.streams[name] for name in names})


def scores_of(evidence: list[Evidence], silent: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the three scores of each study (S x 3), each fold fused as fits the others best.

    Keys: ``all`` streams, and the ``network``'s three without those that read genes directly.
    """
    from scgp.phenotypes.ontology import Ontology
    from scgp.reference.evidence import fuse
    from scgp.reference.fitting import HeldOut, Scorer, fit_answers
    from scgp.reference.fusion import Fusion
    from scgp.reference.pairwise import WEIGHT
    from scgp.training.calibrate import NEAR

    start = Fusion(weight_pairwise=WEIGHT)  # not heard where the stream is left out
    ontology = Ontology("CL")
    classes = sorted({x for e in evidence for x in (*e.ids, *e.true_N.tolist())})
    studies = sorted({x for e in evidence for x in e.study_N.tolist()})
    folds = [held_out(e, classes, studies) for e in evidence]
    fitted = [fold.take(_few(fold)) for fold in folds]
    scorer = Scorer(classes, ontology)
    found = {}
    for key, names in {"all": ALL, "network": NETWORK}.items():
        used = [n for n in names if n not in silent and n in folds[0].streams]
        if not used:
            continue
        part = [_of_streams(fold, used) for fold in folds]
        rows = []
        for i, asked in enumerate(part):
            others = [_of_streams(fold, used) for j, fold in enumerate(fitted) if j != i]
            fusion = fit_answers(
                HeldOut.join(others), label_ids=classes, ontology=ontology, start=start, near=NEAR
            )
            best_N = (fuse(asked.streams, fusion) @ scorer.worth(fusion.weight_near)).argmax(axis=1)
            for study in np.unique(asked.study_B):
                of = asked.study_B == study
                one = np.zeros(int(of.sum()), int)
                rows.append(scorer.mean_scores(best_N[of], asked.class_B[of], one))
        found[key] = np.array(rows)
    return found


def report(out: Path, seeds: list[int], folds: list[int], command: str) -> str:
    """Score every variant whose evidence is there for all folds, beside the full model."""
    from benchmarks.doubt import shown
    from benchmarks.held_out import Evidence

    content: dict[str, Any] = {"command": command, "folds": folds, "variants": {}}
    for name, variant in VARIANTS.items():
        by_seed = []
        for seed in seeds:
            silent = variant.silent
            if name != "full" and not variant.evidence_of:
                silent = (*silent, "pairwise")  # to be read beside "no pairwise stream"
            kept = variant.evidence_of or name
            paths = [evidence_path(out, kept, f"fold{f}of{N_FOLDS}", seed) for f in folds]
            if all(path.is_file() for path in paths):
                by_seed.append(scores_of([Evidence.load(p) for p in paths], silent))
        if by_seed:
            means = {key: [s[key].mean(axis=0).tolist() for s in by_seed] for key in by_seed[0]}
            n_studies = len(by_seed[0]["all"])
            content["variants"][name] = {"what": variant.what, **means}
    lines = [
        f"Made by `{command}`. Folds {', '.join(map(str, folds))}: {n_studies} studies held out.",
        "",
        NOTES,
        "",
        "| variant | | macro-F1 | exact | soft | macro-F1 | exact | soft | seeds |",
        "| --- | --- |" + " ---: |" * 7,
    ]
    for name, row in content["variants"].items():
        cells = [
            shown([s[i] for s in row[key]]) if key in row else "-"
            for key in ("all", "network")
            for i in range(3)
        ]
        lines.append(f"| {name} | {row['what']} | {' | '.join(cells)} | {len(row['all'])} |")
    text = "\n".join([*lines, ""])
    (out.parent / "ablations.md").write_text(text, encoding="utf-8")
    (out.parent / "ablations.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    return text


NOTES = """\
Best label, no decision; means over studies, at most 60 cells of a type and study. First three
columns: all streams that the variant has. Last three: the network's own (neighbours, text, linear
head), without those that read the genes directly and that hardly any variant changes. Networks that
were trained otherwise are heard without the pairwise stream, which chooses among the labels that
they and the description find likeliest: they are to be read beside the row "no pairwise stream"."""


def read_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n", 1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train/, resources/")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    every = list(range(1, N_FOLDS + 1))
    parser.add_argument("--folds", nargs="+", type=int, choices=every, default=every)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "ablations")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Train and ask what is missing, then write the table."""
    arguments = read_arguments(argv)
    import torch
    from threadpoolctl import threadpool_limits

    from benchmarks import corpus

    torch.set_num_threads(arguments.threads)
    vocabulary = corpus.read_vocabulary(arguments.data)
    train = corpus.read_folder(arguments.data / "train", vocabulary)
    for seed in arguments.seeds:
        drawn = corpus.draw(arguments.data, vocabulary, seed=seed)
        splits = list(corpus.fold_splits(train, drawn, n_folds=N_FOLDS))
        wanted = [s for i, s in enumerate(splits, 1) if i in arguments.folds]
        with threadpool_limits(limits=arguments.threads):
            for name in arguments.variants:
                if VARIANTS[name].evidence_of:
                    continue
                measure(name, wanted, seed, arguments.out)
    words = sys.argv[1:] if argv is None else argv
    command = shlex.join(["python", "benchmarks/ablations.py", *words])
    sys.stdout.write(report(arguments.out, arguments.seeds, arguments.folds, command))


if __name__ == "__main__":
    main()
