"""The cells of the zero-shot benchmark: what trains, and what is asked.

Owns which cells are thinned, kept for asking and taken away with the terms of a fold. Knows nothing
of models or scores.

Shapes: N cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from benchmarks.corpus import Source
    from benchmarks.zeroshot_folds import TermFold

#: Cells of a type and study that train, or are asked.
MOST = 150
_COLUMNS = ["label", "study", "donor", "group", "file"]


@dataclass(frozen=True)
class Asked:
    """Cells that any fold may ask about, and who they are.

    Parameters
    ----------
    sources
        Each file with its asked cells only.
    obs
        Their ``obs``, stacked (N).
    never_trains_N
        Whether a cell is kept for asking about seen terms: it trains in no fold.
    """

    sources: list[Source]
    obs: pd.DataFrame
    never_trains_N: NDArray[np.bool_]


@dataclass(frozen=True)
class Corpus:
    """What one seed trains on and asks about."""

    train: list[Source]
    drawn: list[Source]
    asked: Asked
    real_terms: list[str]
    all_terms: list[str]
    kept_by: dict[str, int]


def at_most(obs: pd.DataFrame, most: int, *, seed: int) -> NDArray[np.bool_]:
    """Choose at most ``most`` cells of each study and label at random.

    Examples
    --------
    >>> obs = pd.DataFrame({"study": ["x", "x", "x", "y"], "label": ["T", "T", "T", "T"]})
    >>> chosen = at_most(obs, 2, seed=0)
    >>> int(chosen[:3].sum()), bool(chosen[3])
    (2, True)
    """
    order_N = np.random.default_rng(seed).permutation(len(obs))
    rank_N = obs.iloc[order_N].groupby(["study", "label"], observed=True).cumcount().to_numpy()
    chosen_N = np.zeros(len(obs), bool)
    chosen_N[order_N[rank_N < most]] = True
    return chosen_N


def read_corpus(data: Path, *, seed: int) -> Corpus:
    """Read and draw the cells of a seed, and choose those that are asked."""
    from benchmarks import corpus
    from benchmarks.zeroshot_folds import describe_kept, kept_for_asking

    vocabulary = corpus.read_vocabulary(data)
    real = corpus.read_folder(data / "train", vocabulary)
    drawn = corpus.draw(data, vocabulary, seed=seed)
    obs = pd.concat([source.cells.obs[_COLUMNS] for source in real], ignore_index=True)
    kept_N = kept_for_asking(obs, seed=seed)
    asked_N = at_most(obs, MOST, seed=seed)
    asked_N[kept_N] |= at_most(obs[kept_N], MOST, seed=seed)
    ends = np.cumsum([len(source.cells.obs) for source in real])
    part = [np.arange(e - len(s.cells.obs), e) for e, s in zip(ends, real, strict=True)]
    asked = Asked(
        [s.take(asked_N[rows]) for s, rows in zip(real, part, strict=True)],
        obs[asked_N].reset_index(drop=True),
        kept_N[asked_N],
    )
    train = [s.take(~kept_N[rows]) for s, rows in zip(real, part, strict=True)]
    real_terms = sorted(set(obs["label"]))
    drawn_terms = {label for source in drawn for label in source.cells.label_N}
    all_terms = sorted({*real_terms, *drawn_terms})
    return Corpus(train, drawn, asked, real_terms, all_terms, describe_kept(obs, kept_N))


def folds_of(data: Path, n_folds: int) -> tuple[list[TermFold], dict[str, str]]:
    """Return the folds over terms, and why the other terms are in none; the same for all seeds."""
    import anndata as ad

    from benchmarks.corpus import LABEL_KEY
    from benchmarks.zeroshot_folds import eligible_terms, term_folds
    from scgp.phenotypes.ontology import Ontology

    ontology = Ontology("CL")
    labels = [
        ad.read_h5ad(path, backed="r").obs[LABEL_KEY].astype(str)
        for path in sorted((data / "train").glob("*.h5ad"))
    ]
    cells_of = pd.concat(labels).value_counts().drop("", errors="ignore").to_dict()
    terms, why_not = eligible_terms(cells_of, ontology.descendants)
    folds = term_folds(cells_of, terms, ontology.descendants, ontology.soft_score, n_folds=n_folds)
    return folds, why_not


def without(sources: Sequence[Source], closure: frozenset[str]) -> list[Source]:
    """Return the sources without cells of some terms; no empty source."""
    masks = [~np.isin(s.cells.label_N.astype(str), sorted(closure)) for s in sources]
    return [s.take(m) for s, m in zip(sources, masks, strict=True) if m.any()]
