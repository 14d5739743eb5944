"""Sets of genes: how they are read, and which stand out among some genes.

Must not know why the genes were chosen.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import false_discovery_control, hypergeom

from scgp.errors import GeneError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scgp.cells.vocabulary import GeneVocabulary

#: Sets with fewer or more genes among those compared are not scored, and the largest q told.
FEWEST, MOST_GENES, LARGEST_Q = 5, 500, 0.1


def read_gene_sets(
    source: Mapping[str, Sequence[str]] | str | Path, vocabulary: GeneVocabulary
) -> dict[str, np.ndarray]:
    """Return the genes of the model that are in each set (int64).

    Parameters
    ----------
    source
        Names and genes, or the path of a .gmt file: a line for each set, with name, description and
        genes between tabs; .gz too. An id in the name's place ("GO:...") is told with the
        description.

    Raises
    ------
    GeneError
        The file is not there, or a line has fewer than three fields; no set has a known gene.
    """
    named = source if isinstance(source, Mapping) else _read_gmt(Path(source))
    sets = {}
    for name, genes in named.items():
        token = vocabulary.match([str(gene) for gene in genes]).token_of_column
        sets[str(name)] = np.unique(token[token >= 0]).astype(np.int64)
    if not any(len(genes) for genes in sets.values()):
        msg = f"none of {len(sets)} gene sets has a gene of the model; expected HGNC symbols"
        raise GeneError(msg)
    return sets


def _read_gmt(path: Path) -> dict[str, list[str]]:
    if not path.is_file():
        msg = f"there is no file {str(path)!r}; expected a .gmt file of gene sets"
        raise GeneError(msg)
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    sets = {}
    for number, line in enumerate(text.splitlines(), 1):
        name, *rest = line.rstrip("\t").split("\t")
        if len(rest) < 2:
            msg = f"line {number} of {path.name} has {1 + len(rest)} fields; expected 3 or more"
            raise GeneError(msg)
        sets[f"{rest[0]} ({name})" if ":" in name and rest[0] else name] = rest[1:]
    return sets


def enriched(
    chosen: np.ndarray, background: np.ndarray, sets: Mapping[str, np.ndarray], *, n: int
) -> tuple[list[str], float]:
    """Return the names of the sets that stand out among the chosen genes, and the best q.

    The one-sided hypergeometric test against the background, with Benjamini and Hochberg's q over
    all sets that have `FEWEST` to `MOST_GENES` genes there.
    """
    inside = set(background.tolist())
    picked = set(chosen.tolist())
    names: list[str] = []
    p: list[float] = []
    for name, genes in sets.items():
        there = inside.intersection(genes.tolist())
        if FEWEST <= len(there) <= MOST_GENES:
            hits = len(picked & there)
            names.append(name)
            p.append(hypergeom.sf(hits - 1, len(inside), len(there), len(picked)))
    q = false_discovery_control(p) if p else np.zeros(0)
    order = sorted(range(len(names)), key=lambda i: (p[i], names[i]))[:n]
    told = [names[i] for i in order if q[i] < LARGEST_Q]
    return told, float(q[order[0]]) if told else float("nan")
