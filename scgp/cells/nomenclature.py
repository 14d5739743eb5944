"""What a gene has been called: every name is given to exactly one human gene, or to none.

Owns the reading of the HGNC table and of the table of 10x reference genomes, and the rule by which
a name that several genes claim is settled. Knows nothing of data files or of matching.

A name belongs to the gene that claims it alone at the first of these levels:

1. approved symbol (HGNC). A name that is approved for some gene is never another gene's old name.
2. previous symbol (HGNC), where only one gene claims it.
3. name in a 10x reference genome, newest reference first: the annotation that counts were made with
   says better than an alias which gene was meant (where both speak, they differ on 9 % of names).
4. alias (HGNC), where only one gene claims it.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping

import pandas as pd

from scgp.cells.gene_table import COLUMNS, SEPARATOR
from scgp.errors import GeneError

# Newest first. A 10x name with two genes in one reference is settled by the next reference.
REFERENCES_10X = ("10x_GRCh38-2020-A", "10x_GRCh38-3.0.0", "10x_GRCh38-1.2.0?")

Claims = dict[str, set[str]]


def resolve_names(
    hgnc: str | os.PathLike[str], tenx: str | os.PathLike[str], *, keep: Iterable[str] | None = None
) -> pd.DataFrame:
    """Read both tables and give every name to one gene.

    Names are settled among all genes first and genes are dropped by ``keep`` afterwards, so that
    a name of a dropped gene can never fall to a gene that was kept.

    Parameters
    ----------
    hgnc
        HGNC complete set, tab-separated (``.gz`` is read as it is): columns ``symbol``,
        ``prev_symbol``, ``alias_symbol``, ``ensembl_gene_id``; names separated by ``|``.
    tenx
        Pairs ``ensembl``, ``symbol`` and the references ``ref`` (``|``) that have the pair.
    keep
        Ensembl ids to keep; ``None`` keeps all.

    Returns
    -------
    Table as :mod:`scgp.cells.gene_table` describes it, sorted by Ensembl id, names sorted.
    ``names_10x`` also holds the row's retired Ensembl ids; a gene that HGNC does not have carries
    its 10x name as ``symbol`` and once more in ``names_10x``, or its id as symbol.
    """
    approved = _read(hgnc, ("symbol", "prev_symbol", "alias_symbol", "ensembl_gene_id"))
    reference = _read(tenx, ("ensembl", "symbol", "ref"))
    id_of_symbol = _approved_ids(approved, reference)
    previous = _unique(_claims(approved, "prev_symbol", id_of_symbol), taken=id_of_symbol)
    settled = {**previous, **id_of_symbol}
    retired = _retired_ids(reference, settled, set(id_of_symbol.values()))
    names_10x = _names_10x(reference, settled, retired)
    aliases = _unique(
        _claims(approved, "alias_symbol", id_of_symbol), taken={**settled, **names_10x}
    )
    symbol_of = {gene: symbol for symbol, gene in reversed(id_of_symbol.items()) if gene}
    previous.update(_second_symbols(id_of_symbol, symbol_of))
    genes = set(symbol_of) | set(reference["ensembl"]) - set(retired)
    if keep is not None:
        genes &= {retired.get(gene, gene) for gene in keep}
    own_10x = {gene: name for name, gene in names_10x.items() if gene not in symbol_of}
    return _table(
        {gene: symbol_of.get(gene) or own_10x.get(gene, gene) for gene in sorted(genes)},
        [_by_gene(names) for names in (previous, aliases, {**names_10x, **retired})],
    )


def protein_coding_genes(hgnc: str | os.PathLike[str]) -> frozenset[str]:
    """Read the Ensembl ids of the protein-coding genes (HGNC ``locus_group``)."""
    table = _read(hgnc, ("ensembl_gene_id", "locus_group"))
    coding = table.loc[table["locus_group"] == "protein-coding gene", "ensembl_gene_id"]
    return frozenset(coding) - {""}


def _read(path: str | os.PathLike[str], columns: tuple[str, ...]) -> pd.DataFrame:
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    missing = [column for column in columns if column not in table]
    if missing:
        message = f"{path} has no column {missing}; it has {list(table.columns)}"
        raise GeneError(message)
    return table[list(columns)]


def _approved_ids(approved: pd.DataFrame, reference: pd.DataFrame) -> dict[str, str]:
    """Approved symbol -> Ensembl id, "" where neither HGNC nor any 10x reference has one."""
    known = set(approved["ensembl_gene_id"])
    free = reference[~reference["ensembl"].isin(known)]
    in_10x = _newest(free)
    return {
        symbol: gene or in_10x.get(symbol, "")
        for symbol, gene in zip(approved["symbol"], approved["ensembl_gene_id"], strict=True)
    }


def _claims(approved: pd.DataFrame, column: str, id_of_symbol: Mapping[str, str]) -> Claims:
    claims: Claims = defaultdict(set)
    for symbol, names in zip(approved["symbol"], approved[column], strict=True):
        for name in names.split(SEPARATOR):
            if name:
                claims[name].add(id_of_symbol[symbol])
    return claims


def _unique(claims: Claims, *, taken: Mapping[str, str]) -> dict[str, str]:
    return {
        name: next(iter(genes))
        for name, genes in claims.items()
        if len(genes) == 1 and "" not in genes and name not in taken
    }


def _newest(reference: pd.DataFrame) -> dict[str, str]:
    """10x name -> Ensembl id, by the newest reference in which the name has one gene only."""
    chosen: dict[str, str] = {}
    for release in REFERENCES_10X:
        rows = reference[[release in refs.split(SEPARATOR) for refs in reference["ref"]]]
        unique = rows[~rows["symbol"].duplicated(keep=False)]
        for name, gene in zip(unique["symbol"], unique["ensembl"], strict=True):
            chosen.setdefault(name, gene)
    return chosen


def _retired_ids(
    reference: pd.DataFrame, settled: Mapping[str, str], current: set[str]
) -> dict[str, str]:
    """Ensembl ids that HGNC no longer has -> the gene whose (old) symbol they carried."""
    carried: Claims = defaultdict(set)
    for gene, name in zip(reference["ensembl"], reference["symbol"], strict=True):
        if gene not in current:
            carried[gene].add(settled.get(name, ""))
    return {
        gene: next(iter(genes))
        for gene, genes in carried.items()
        if len(genes) == 1 and "" not in genes
    }


def _names_10x(
    reference: pd.DataFrame, settled: Mapping[str, str], retired: Mapping[str, str]
) -> dict[str, str]:
    newest = _newest(reference)
    return {name: retired.get(gene, gene) for name, gene in newest.items() if name not in settled}


def _second_symbols(
    id_of_symbol: Mapping[str, str], symbol_of: Mapping[str, str]
) -> dict[str, str]:
    """Symbols of HGNC entries that share an Ensembl id with an earlier entry."""
    return {
        symbol: gene for symbol, gene in id_of_symbol.items() if gene and symbol_of[gene] != symbol
    }


def _table(symbol_of: Mapping[str, str], old_names: list[dict[str, list[str]]]) -> pd.DataFrame:
    rows = [
        (gene, symbol, *(SEPARATOR.join(sorted(names.get(gene, ()))) for names in old_names))
        for gene, symbol in symbol_of.items()
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=str)


def _by_gene(names: Mapping[str, str]) -> dict[str, list[str]]:
    gathered: dict[str, list[str]] = defaultdict(list)
    for name, gene in names.items():
        gathered[gene].append(name)
    return gathered
