"""Genes that a user names, and numbers for them: which genes of model and data they are.

Owns the refusals, with the nearest names. Must not know what is done with the genes.

Shape suffixes: Q genes named, K genes with a number.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real

import numpy as np

from scgp.cells.species import MOUSE_MHC, MOUSE_SYMBOL
from scgp.cells.vocabulary import GeneVocabulary
from scgp.errors import ArgumentError, GeneError

#: Near names that an error tells, and how near they must be (difflib's ratio).
N_NEAR, CUTOFF = 3, 0.6
#: The largest factor of a gene's counts; beyond, a cell is that gene and nothing else.
MOST_TIMES = 1e6


def named_genes(
    names: str | Sequence[str],
    vocabulary: GeneVocabulary,
    token_of_column: np.ndarray | None = None,
) -> np.ndarray:
    """Return the genes of the model that are named, in the order given (int64).

    Parameters
    ----------
    names
        HGNC symbols, aliases or Ensembl ids; one, or a list.
    vocabulary
        The genes of the model.
    token_of_column
        Genes that the data measure; None where there are no data.

    Raises
    ------
    GeneError
        No name, one that the model does not know (the nearest symbols are told), one gene twice,
        or a gene that the data do not measure.
    """
    if not isinstance(names, Iterable):
        msg = f"genes has the type {type(names).__name__}; expected HGNC symbols or Ensembl ids"
        raise ArgumentError(msg)
    listed = [names] if isinstance(names, str) else [str(name) for name in names]
    if not listed:
        msg = "no gene is named; expected HGNC symbols or Ensembl ids"
        raise GeneError(msg)
    token_Q = vocabulary.match(listed).token_of_column.astype(np.int64)
    unknown = [name for name, token in zip(listed, token_Q, strict=True) if token < 0]
    if unknown:
        told = "; ".join(told_unknown(name, vocabulary.symbol) for name in unknown[:5])
        msg = f"{len(unknown)} of {len(listed)} genes are not among the model's: {told}"
        raise GeneError(msg)
    first: dict[int, str] = {}
    for name, token in zip(listed, token_Q.tolist(), strict=True):
        if token in first:
            msg = f"{first[token]!r} and {name!r} are one gene; name it once"
            raise GeneError(msg)
        first[token] = name
    if token_of_column is not None:
        measured = set(token_of_column.tolist())
        missing = [name for token, name in first.items() if token not in measured]
        if missing:
            msg = (
                f"{len(missing)} of {len(listed)} genes are not measured in these data: "
                f"{', '.join(map(repr, missing[:5]))}"
            )
            raise GeneError(msg)
    return token_Q


def named_factors(
    given: Mapping[str, float], vocabulary: GeneVocabulary, token_of_column: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return genes and the factors of their counts.

    Raises
    ------
    ArgumentError, GeneError
        As in `named_genes`; or there is none, or a factor is no number from 0 to `MOST_TIMES`.
    """
    if not isinstance(given, Mapping) or not given:
        msg = (
            f"genes to perturb are {given!r}; expected a dict of gene to factor, such as "
            "{'STAT1': 0.0}"
        )
        raise ArgumentError(msg)
    for name, factor in given.items():
        real = isinstance(factor, Real) and not isinstance(factor, bool | np.bool_)
        if not real or not 0 <= factor <= MOST_TIMES:
            msg = (
                f"the factor of {name!r} is {factor!r}; expected 0 to {MOST_TIMES:g}: 0 deletes a "
                "gene, below 1 knocks it down, above 1 over-expresses it"
            )
            raise ArgumentError(msg)
    token_K = named_genes(list(given), vocabulary, token_of_column)
    return token_K, np.array([float(factor) for factor in given.values()])


def told_unknown(name: str, symbols: Iterable[str]) -> str:
    """Say of a name that no gene has which symbols are nearest, or that it is a mouse's.

    Examples
    --------
    >>> told_unknown("Vwf", ["VWF", "ALB"])
    "'Vwf' (written like a mouse gene; near: VWF)"
    >>> told_unknown("H2-Aa", ["HAAO"])
    "'H2-Aa' (a mouse gene; the names of the human MHC begin with HLA-)"
    """
    if MOUSE_MHC.fullmatch(name):
        return f"{name!r} (a mouse gene; the names of the human MHC begin with HLA-)"
    near = difflib.get_close_matches(name.strip().upper(), list(symbols), n=N_NEAR, cutoff=CUTOFF)
    told = f"near: {', '.join(near)}" if near else "no name is near"
    if MOUSE_SYMBOL.fullmatch(name):
        told = f"written like a mouse gene; {told}"
    return f"{name!r} ({told})"
