"""Everything that is said of partners with one seed, by method and context.

Owns which methods there are and what was read for them; keeps readings on disk. Knows no scores.

Shapes: N cells, G genes asked for, V genes of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.partners_baselines import (
    LinearReading,
    OfTraining,
    Pooled,
    halves,
    of_training,
    on_genes,
    pooled,
    training_type,
)
from benchmarks.partners_cells import (
    Context,
    asked_contexts,
    context_of,
    correlation,
    measured,
    predicted,
    smoothed,
    unit_columns,
)
from benchmarks.partners_train import untrained
from scgp.model.directory import load_npz

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    import anndata as ad
    from numpy.typing import NDArray

    from benchmarks.partners_cells import Matrix
    from scgp.model.checkpoint import Model

SCGP, UNTRAINED, SHIPPED = "scgp", "untrained network", "a network that saw these studies"
LINEAR = "linear reading of training cells"
PEARSON, SMOOTHED = "co-expression, Pearson", "co-expression, smoothed"
TRAINING = "co-expression, same type, training studies"
SAME, POOLED, WITHIN = (
    "scgp, same type, training cells", "scgp, pooled over types", "scgp, pooled within types",
)  # fmt: skip
METHODS = (
    SCGP, SHIPPED, UNTRAINED, LINEAR, PEARSON, "co-expression, Spearman",
    "co-expression, count residuals", SMOOTHED, TRAINING, SAME, POOLED, WITHIN,
)  # fmt: skip
#: No method: how well the halves of the cells agree, in the study that is held against.
HALVES = "(halves of the cells there)"
#: Those of which another seed is another network, and those that do not read the cells asked.
NETWORKS, STATIC = (SCGP, UNTRAINED), (TRAINING, SAME, POOLED, WITHIN)

Key = tuple[str, str]


@dataclass(frozen=True, eq=False)
class Said:
    """What all methods say.

    ``value`` has by method and context what is correlated, cells x genes of the context (predicted
    or measured); ``same``, ``training`` and ``pooled`` what does not depend on the cells asked.
    """

    contexts: dict[Key, Context]
    value: dict[str, dict[Key, Matrix]]
    same: dict[str, tuple[Context, Matrix]]
    training: dict[str, OfTraining]
    pooled: Pooled

    def corr(self, method: str, key: Key, gene_G: NDArray[np.int64]) -> Matrix | None:
        """Return the co-variation of some genes; None where a method says nothing."""
        if method == TRAINING:
            return self.training[key[1]].correlation(gene_G)
        if method in {POOLED, WITHIN}:
            return self.pooled.correlation(gene_G, within=method == WITHIN)
        if method == SAME and key[1] in self.same:
            context, value_NG = self.same[key[1]]
        elif method in self.value:
            context, value_NG = self.contexts[key], self.value[method][key]
        else:
            return None
        value_NG = on_genes(context, value_NG, gene_G)
        return correlation(_unit(method, value_NG, context.design_NC))

    def halves(self, method: str, key: Key, gene_G: NDArray[np.int64]) -> list[Matrix]:
        """Return the same from the even and from the odd cells alone."""
        context = self.contexts[key]
        value_NG = on_genes(context, self.value[method][key], gene_G)
        return [
            correlation(_unit(method, value_NG[rows], context.design_NC[rows]))
            for rows in halves(context)
        ]


def _unit(method: str, value_NG: Matrix, design_NC: NDArray[np.float64]) -> Matrix:
    unit_NG = unit_columns(value_NG, design_NC)
    return smoothed(unit_NG) if method == SMOOTHED else unit_NG


def kept(path: Path, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return arrays from a file, made first where it is not there."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **make())
    return load_npz(path)


@dataclass(frozen=True, eq=False)
class Training:
    """What is the same for every seed: training cells, terms below a term, linear reading."""

    data: Path
    files: Sequence[ad.AnnData]
    below: Callable[[str], Iterable[str]]
    linear: LinearReading
    work: Path


def read_all(of: Training, model: Model, *, seed: int, shipped: Model | None) -> Said:
    """Draw the cells of a seed, read them with its networks, and measure them."""
    contexts = asked_contexts(of.data, model, of.below, seed=seed)
    value = _read(contexts, of.work, model, seed, shipped)
    value[LINEAR] = {key: of.linear.read(c) for key, c in contexts.items()}
    for key, context in contexts.items():
        for method, value_NG in measured(context).items():
            value.setdefault(method, {})[key] = value_NG
    genes = {
        kind: np.unique(np.concatenate([c.gene_G for k, c in contexts.items() if k[1] == kind]))
        for kind in {key[1] for key in contexts}
    }
    wanted_G = np.unique(np.concatenate(list(genes.values())))
    pool = kept(
        of.work / f"pooled_{seed}.npz",
        lambda: vars(pooled(of.files, model, wanted_G=wanted_G, seed=seed)),
    )
    training = {k: of_training(of.files, k, of.below, model, wanted_G=g) for k, g in genes.items()}
    return Said(contexts, value, _same(of, model, genes, seed), training, Pooled(**pool))


def _read(
    contexts: dict[Key, Context], work: Path, model: Model, seed: int, shipped: Model | None
) -> dict[str, dict[Key, Matrix]]:
    """Read all contexts with the trained network, one of random weights, and the one shipped."""
    networks = {SCGP: (model, None), UNTRAINED: (model, untrained(model, seed))}
    if shipped is not None:
        networks[SHIPPED] = (shipped, None)
    value = {}
    for method, (reader, network) in networks.items():
        found = kept(
            work / f"{method.replace(' ', '_')}_{seed}.npz",
            lambda r=reader, n=network: {
                "|".join(key): predicted(r, c, n) for key, c in contexts.items()
            },
        )
        value[method] = {key: found["|".join(key)] for key in contexts}
    return value


def _same(
    of: Training, model: Model, genes: dict[str, NDArray[np.int64]], seed: int
) -> dict[str, tuple[Context, Matrix]]:
    """Read training cells of the same types, with the same network."""
    contexts = {}
    for kind, gene_G in genes.items():
        cells = training_type(of.files, kind, of.below, seed=seed)
        if cells is not None:
            contexts[kind] = context_of(cells, model, gene_G=gene_G)
    found = kept(
        of.work / f"same_{seed}.npz", lambda: {k: predicted(model, c) for k, c in contexts.items()}
    )
    return {kind: (context, found[kind]) for kind, context in contexts.items()}
