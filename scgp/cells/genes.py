"""The genes of a count matrix held against the genes of a model.

Owns the refusals and warnings when the two do not fit, and the choice of the genes that a model
trained on given matrices should know. The lookup itself is
:meth:`scgp.cells.vocabulary.GeneVocabulary.match`.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import numpy as np
import pandas as pd

from scgp.cells.counts import CountMatrix
from scgp.cells.nomenclature import protein_coding_genes
from scgp.cells.species import MOUSE_SYMBOL, OTHER_SPECIES_ID
from scgp.cells.vocabulary import GeneMatch, GeneVocabulary
from scgp.errors import GeneError, warn_user

__all__ = [
    "FEW_GENES",
    "FEW_SHARE",
    "GeneMatch",
    "GeneVocabulary",
    "match_genes",
    "protein_coding_genes",
    "training_genes",
]

# Below either, the answer rests on little, and is less sure than it says: said in a warning. Of
# the 300 most variable genes of two files labels held for .63 and .65, at a mean confidence of .73
# (docs/how-annotation-works.md).
FEW_GENES = 500
FEW_SHARE = 0.2
# Of so many names, a share below this is chance: aliases such as "p53" that look like other names.
# Of fewer names, one that is known may be all that was asked for, and so many genes are no chance.
_MANY_NAMES = 200
_NO_CHANCE = 200
_CHANCE_SHARE = 0.01

# The column of ``var`` in which scanpy marks variable genes.
VARIABLE = "highly_variable"
# What pipelines put around a name: "B2M_ENSG00000166710", "GRCh38_B2M", "hg19___B2M".
_ENSEMBL_INSIDE = re.compile(r"ENSG\d{11}")
_PREFIX = re.compile(r"[A-Za-z0-9.]+?[_-]+")

BLOCK_ROWS = 2048

_HUMAN_ORTHOLOGUES = (
    "scgp's checkpoint is human; map the genes to their human orthologues first "
    "(Ensembl BioMart has the table)"
)


def match_genes(
    counts: CountMatrix, vocabulary: GeneVocabulary, *, minimum: int = FEW_GENES
) -> GeneMatch:
    """Find the genes of a matrix in a vocabulary; say so where they do not fit.

    Parameters
    ----------
    counts
        The matrix; only its column names and ``var`` are read.
    vocabulary
        The genes of the model.
    minimum
        Warn when fewer different genes are found, and fewer than the vocabulary has.

    Returns
    -------
    The match. Columns of one gene keep the same token; their counts are summed by the tokenizer.

    Raises
    ------
    GeneError
        If there are no columns, no gene in common, or next to none: names of another species, in
        lower case, or 200 and more of which fewer than 1 % are known.

    Warns
    -----
    ScgpWarning
        If fewer than ``minimum`` genes or less than a fifth of the names are found, if all genes
        are marked as variable ones, and, once, if several names are one gene.
    """
    names = [str(name) for name in counts.var_names]
    if not names:
        message = f"{counts.where} has no genes (0 columns); expected a matrix of cells by genes"
        raise GeneError(message)
    match = vocabulary.match(counts.var_names, counts.var)
    few = match.n_matched < FEW_SHARE * len(names)
    if few and (why := _why_few(names, match, vocabulary, list(map(str, counts.var.columns)))):
        raise GeneError(_nothing_in_common(names, match, vocabulary, why))
    if match.n_genes < min(minimum, vocabulary.n_genes) or few:
        message = (
            f"few genes in common: {match.n_matched} of {len(names)} names ({match.n_genes} "
            f"genes) are among the model's {vocabulary.n_genes}; labels will be less sure than "
            f"they say{_unknown(match, vocabulary)}"
        )
        warn_user(message)
    if _all_variable(counts.var):
        warn_user(
            f"var[{VARIABLE!r}] is True for all {len(names)} genes: if they are a subset of those "
            "measured, pass the table before it. Genes that are left out are taken for not "
            "measured, and a quarter to a half of the labels are others without them"
        )
    if match.duplicated:
        message = (
            f"{len(match.duplicated)} names stand for {_n_repeated(match)} genes, so their counts "
            f"are summed: {_together(names, match)}"
        )
        warn_user(message)
    return match


def _all_variable(var: pd.DataFrame) -> bool:
    """Whether scanpy's mark of variable genes stands at every gene."""
    return VARIABLE in var and all(mark is True for mark in var[VARIABLE].tolist())


def _unknown(match: GeneMatch, vocabulary: GeneVocabulary) -> str:
    """Return the end of a sentence: names that are not known, beside some that would be."""
    if not len(match.unmatched):
        return ". All names are known: if genes were left out, pass all that were measured"
    return f". Unknown names: {_three(match.unmatched)}; the model's: {_ours(vocabulary)}"


def _n_repeated(match: GeneMatch) -> int:
    repeated = match.token_of_column[match.token_of_column >= 0]
    return int((np.bincount(repeated) > 1).sum())


def _together(names: Sequence[str], match: GeneMatch) -> str:
    """Return the names of three genes that have several: ``'VWF' + 'F8VWF', ...``."""
    of_token: dict[int, list[str]] = {}
    for name, token in zip(names, match.token_of_column.tolist(), strict=True):
        if token >= 0:
            of_token.setdefault(token, []).append(repr(name))
    several = [" + ".join(same) for same in of_token.values() if len(same) > 1]
    return ", ".join(several[:3]) + (", ..." if len(several) > 3 else "")


def training_genes(
    count_matrices: Iterable[CountMatrix],
    vocabulary: GeneVocabulary,
    *,
    min_sources: int = 2,
    min_cells: int = 3,
    always: Collection[str] = frozenset(),
    measured: Iterable[GeneMatch] = (),
) -> frozenset[str]:
    """Choose the genes that a model trained on these matrices should know.

    A gene counts as seen in a matrix when at least ``min_cells`` cells have it. It is chosen when
    it is seen in ``min_sources`` sources, or in one source if it is in ``always``.

    Parameters
    ----------
    count_matrices
        The training matrices, each a source.
    vocabulary
        All genes there are, as :meth:`GeneVocabulary.from_tables` makes them without ``keep``.
    min_sources
        Sources that must have a gene.
    min_cells
        Cells of a source that must have a gene.
    always
        Ensembl ids for which one source is enough, for example :func:`protein_coding_genes`.
    measured
        Matches of sources that hold no counts (mean profiles); each gene in one counts as seen.

    Returns
    -------
    Ensembl ids, to be passed as ``keep``.
    """
    sources: Counter[int] = Counter()
    for counts in count_matrices:
        sources.update(_seen(counts, vocabulary, min_cells))
    for match in measured:
        sources.update(set(match.token_of_column.tolist()) - {-1})
    return frozenset(
        str(vocabulary.ensembl[token])
        for token, n_sources in sources.items()
        if n_sources >= min_sources or vocabulary.ensembl[token] in always
    )


def _seen(counts: CountMatrix, vocabulary: GeneVocabulary, min_cells: int) -> set[int]:
    token_V = vocabulary.match(counts.var_names, counts.var).token_of_column
    cells_V = np.zeros(len(token_V), dtype=np.int64)
    for start in range(0, counts.n_cells, BLOCK_ROWS):
        block = counts.rows(start, start + BLOCK_ROWS)
        cells_V += np.bincount(block.indices, minlength=len(token_V))
    return set(token_V[(token_V >= 0) & (cells_V >= min_cells)].tolist())


def _other_species(names: Sequence[str]) -> str:
    """Return "mouse", "another species" or ""."""
    ids = [name for name in names if OTHER_SPECIES_ID.fullmatch(name)]
    if 2 * len(ids) > len(names):
        mouse = sum(name.startswith("ENSMUSG") for name in ids)
        return "mouse" if 2 * mouse > len(ids) else "another species"
    of_mice = sum(MOUSE_SYMBOL.fullmatch(name) is not None for name in names)
    return "mouse" if 2 * of_mice > len(names) else ""


def _why_few(
    names: Sequence[str], match: GeneMatch, vocabulary: GeneVocabulary, columns: Sequence[str]
) -> str:
    """Return why next to no name is known, and what to do; "" where what is known can be used."""
    species = _other_species(names)
    if species:
        return f"These look like {species} genes; {_HUMAN_ORTHOLOGUES}"
    n_upper = vocabulary.match([name.upper() for name in names]).n_matched
    if 2 * n_upper >= len(names):
        return (
            f"In upper case {n_upper} of them are human genes, and case tells one species from "
            "another: if the cells are human, adata.var_names = adata.var_names.str.upper()"
        )
    chance = len(names) >= _MANY_NAMES and match.n_matched < _CHANCE_SHARE * len(names)
    if match.n_matched and not (chance and match.n_genes < _NO_CHANCE):
        return ""
    there = ", ".join(map(repr, columns)) or "none"
    put = (
        "Put Ensembl ids or HGNC symbols in var_names, or in var['ensembl_id'] or "
        f"var['feature_name'] (the columns of var: {there})"
    )
    if 2 * sum(name.isdigit() for name in names) > len(names):
        return f"Numbers name no gene, be they positions or ids of NCBI. {put}"
    return _inside(names, vocabulary) or put


def _inside(names: Sequence[str], vocabulary: GeneVocabulary) -> str:
    """Return how to get at names that stand inside the given ones, for a third of them; else ""."""
    ids = [found[0] if (found := _ENSEMBL_INSIDE.search(name)) else "" for name in names]
    if 3 * vocabulary.match(ids).n_matched >= len(names):
        take = "adata.var['ensembl_id'] = adata.var_names.str.extract(r'(ENSG\\d+)', expand=False)"
        return f"They hold Ensembl ids: {take}"
    prefixes = Counter(found[0] for name in names if (found := _PREFIX.match(name)))
    for prefix, _ in prefixes.most_common(2):
        n_known = vocabulary.match(
            [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        ).n_matched
        if 3 * n_known >= len(names):
            take = f"adata.var_names = adata.var_names.str.removeprefix({prefix!r})"
            return f"Without {prefix!r} {n_known} of them are human genes: {take}"
    return ""


def _nothing_in_common(
    names: Sequence[str], match: GeneMatch, vocabulary: GeneVocabulary, why: str
) -> str:
    few = f"only {match.n_matched} of {len(names)} names"
    found = "no gene" if match.n_matched == 0 else few
    return (
        f"{found} in common: the data has {_three(match.unmatched)} ({len(names)} names), "
        f"the model has {_ours(vocabulary)} ({vocabulary.n_genes} genes). {why}"
    )


def _three(names: Sequence[str]) -> str:
    return ", ".join(repr(str(name)) for name in names[:3])


def _ours(vocabulary: GeneVocabulary) -> str:
    pairs = zip(vocabulary.symbol[:3], vocabulary.ensembl[:3], strict=True)
    return ", ".join(f"{symbol!r} ({gene})" for symbol, gene in pairs)
