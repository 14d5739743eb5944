"""The genes that a model knows, and which of them the columns of a matrix are.

Owns the gene table (``genes.tsv`` of a model directory) and the lookup of names in it. Knows
nothing of counts. Which gene a name means was settled when the table was made
(:mod:`scgp.cells.nomenclature`): a name stands in one row only.

Shapes: ``G`` genes of the vocabulary, ``V`` columns of the user's matrix.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from scgp.cells.gene_table import SEPARATOR, parse_table, table_bytes, table_fault
from scgp.cells.nomenclature import resolve_names
from scgp.errors import CheckpointError, GeneError

# Columns of ``var`` in which data sets keep ids and symbols (compared in lower case), in the order
# of trust. CELLxGENE: feature_name; scanpy's read_10x: gene_ids; Seurat exports: features.
ID_COLUMNS = (
    "ensembl_id", "ensembl_ids", "ensembl_gene_id", "ensembl", "gene_ids", "gene_id",
    "feature_id", "feature_ids", "gene_stable_id", "id",
)  # fmt: skip
SYMBOL_COLUMNS = (
    "feature_name", "gene_symbols", "gene_symbol", "symbol", "symbols", "gene_name", "gene_names",
    "hgnc_symbol", "gene_short_name", "gene", "genes", "features", "name",
)  # fmt: skip

# ENSG00000141510, ENSG00000141510.18, ENSG00000182378.15_PAR_Y (GENCODE's copy on Y).
_ENSEMBL = re.compile(r"(ENS[A-Z]*G\d{11})(?:\.\d+)?(?:_PAR_Y)?")
# What anndata ("-1"), scater and R's make.unique (".1", "--1") append to a repeated name.
_MADE_UNIQUE = re.compile(r"(.+?)(?:--?|\.)[1-9]")
_OPEN_READING_FRAME = re.compile(r"C(?:\d+|X|Y)orf\d+\w*(?:-\w+)*")

# RefSeq's names of the genes on the mitochondrial chromosome; alone, "COX2" and others are aliases
# of nuclear genes too.
_MITOCHONDRIAL = {
    **{name: f"MT-{name}" for name in ("ND1", "ND2", "ND3", "ND4", "ND4L", "ND5", "ND6")},
    **{name: f"MT-{name}" for name in ("ATP6", "ATP8", "RNR1", "RNR2")},
    **{f"COX{i}": f"MT-CO{i}" for i in (1, 2, 3)},
    "CYTB": "MT-CYB",
}

Lookup = Callable[[str], tuple[int, str] | None]


@dataclass(frozen=True)
class GeneMatch:
    """Which gene of the vocabulary each column of a matrix is.

    Parameters
    ----------
    token_of_column
        (V,) int32, index into the vocabulary; -1 where the name is unknown.
    routes
        Number of columns found by each route, in the order the routes are tried.
    duplicated
        The user's names that share a gene with another of the user's names, in column order.
    unmatched
        The user's names that no gene has, in column order.
    """

    token_of_column: np.ndarray
    routes: dict[str, int]
    duplicated: list[str]
    unmatched: list[str]

    @property
    def n_matched(self) -> int:
        """Number of columns that have a gene."""
        return len(self.token_of_column) - len(self.unmatched)

    @property
    def n_genes(self) -> int:
        """Number of different genes found; columns of one gene count once."""
        return len(np.unique(self.token_of_column[self.token_of_column >= 0]))


class GeneVocabulary:
    """The genes of a model, in the order of its tokens, with every name they go by.

    Parameters
    ----------
    table
        Columns ``ensembl_id``, ``symbol``, ``previous``, ``aliases``, ``names_10x``; the last three
        hold names separated by ``|``. Sorted by Ensembl id; a name stands in one row only.

    Attributes
    ----------
    ensembl, symbol
        (G,) arrays of str.
    fingerprint
        sha256 of the table as :meth:`write` writes it, hexadecimal.

    Raises
    ------
    GeneError
        If the table has other columns, repeats an id or a name, or is not sorted.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame(
    ...     [["ENSG00000110799", "VWF", "F8VWF", "", ""]],
    ...     columns=["ensembl_id", "symbol", "previous", "aliases", "names_10x"],
    ... )
    >>> GeneVocabulary(table).match(["ENSG00000110799.14", "F8VWF", "Vwf"]).token_of_column
    array([ 0,  0, -1], dtype=int32)
    """

    def __init__(self, table: pd.DataFrame) -> None:
        fault = table_fault(table)
        if fault:
            message = f"this gene table is not valid: {fault}"
            raise GeneError(message)
        self._table = table.astype(str).reset_index(drop=True)
        self.ensembl = self._table["ensembl_id"].to_numpy(dtype=object)
        self.symbol = self._table["symbol"].to_numpy(dtype=object)
        self._token_of_id = {gene: token for token, gene in enumerate(self.ensembl)}
        self._token_of_name = _names(self._table)
        self._token_of_upper = _upper_names(self._token_of_name)
        self.fingerprint = hashlib.sha256(table_bytes(self._table)).hexdigest()

    @classmethod
    def from_tables(
        cls,
        hgnc: str | os.PathLike[str],
        tenx: str | os.PathLike[str],
        *,
        keep: Iterable[str] | None = None,
    ) -> "GeneVocabulary":
        """Make the vocabulary from the HGNC table and the table of 10x reference genomes.

        Parameters
        ----------
        hgnc, tenx
            Tab-separated files, see :func:`scgp.cells.nomenclature.resolve_names`.
        keep
            Ensembl ids to keep, for example from :func:`scgp.cells.genes.training_genes`; ``None``
            keeps all.
        """
        return cls(resolve_names(hgnc, tenx, keep=keep))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "GeneVocabulary":
        """Read what :meth:`write` wrote.

        Raises
        ------
        CheckpointError
            If the file is not such a table.
        """
        content = Path(path).read_bytes()
        try:
            return cls(parse_table(content))
        except ValueError as error:
            message = (
                f"{path} cannot be read: {error}. It was altered or cut short; fetch or save "
                "the model again"
            )
            raise CheckpointError(message) from error

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the table: tab-separated UTF-8 text with a header, one line a gene."""
        Path(path).write_bytes(table_bytes(self._table))

    @property
    def n_genes(self) -> int:
        """Number of genes, ``G``."""
        return len(self.ensembl)

    def __repr__(self) -> str:
        return f"GeneVocabulary({self.n_genes} genes, {self.fingerprint[:12]})"

    def match(self, var_names: Iterable[str], var: pd.DataFrame | None = None) -> GeneMatch:
        """Find the gene of each column.

        A column gets the first gene that is found by

        1. its Ensembl id, with or without version, in ``var_names``, then in a column of ``var``
           (:data:`ID_COLUMNS`);
        2. its name in ``var_names``, then in a column of ``var`` (:data:`SYMBOL_COLUMNS`), as
           approved symbol, previous symbol, 10x reference name or alias. RefSeq's bare
           mitochondrial names (``ND1``, ``CYTB``) are read as such first, where most of the
           mitochondrial genes are there and the full name (``MT-ND1``) is not. Digits alone
           (``225``, the position of a column) are no name;
        3. its name in upper case, if it is one like ``C1orf112``. No other change of case: the
           mouse's ``Vwf`` is not ``VWF``;
        4. its name without the digit that makes a repeated name unique (``TBCE-1``), where the name
           without it is there too.

        Parameters
        ----------
        var_names
            (V,) names or Ensembl ids.
        var
            The table these names belong to, or ``None``.
        """
        names: list[object] = [str(name) for name in var_names]
        symbols = [names, *_columns(var, SYMBOL_COLUMNS)]
        steps: list[tuple[list[list[object]], Lookup]] = [
            ([names, *_columns(var, ID_COLUMNS)], self._by_id),
            (symbols, self._by_mitochondrial_name(names)),
            (symbols, self._by_name),
            (symbols, self._token_of_upper.get),
            ([names], self._by_first_of(set(names))),
        ]
        token_V = np.full(len(names), -1, dtype=np.int32)
        routes: Counter[str] = Counter()
        for sources, look_up in steps:
            for source in sources:
                for column in np.flatnonzero(token_V < 0).tolist():
                    name = source[column]
                    found = look_up(name) if isinstance(name, str) else None
                    if found is not None:
                        token_V[column] = found[0]
                        routes[found[1]] += 1
        return _gene_match(token_V, [str(name) for name in names], dict(routes))

    def _by_id(self, name: str) -> tuple[int, str] | None:
        parsed = _ENSEMBL.fullmatch(name)
        if parsed is None:
            return None
        gene = parsed.group(1)
        token = self._token_of_id.get(gene)
        if token is None and gene in self._token_of_name:  # a retired id
            token = self._token_of_name[gene][0]
        return None if token is None else (token, "ensembl_id")

    def _by_name(self, name: str) -> tuple[int, str] | None:
        return self._token_of_name.get(name)

    def _by_mitochondrial_name(self, names: Sequence[object]) -> Lookup:
        there = set(names)
        present = [short in there or full in there for short, full in _MITOCHONDRIAL.items()]
        if 2 * sum(present) < len(present):
            return lambda _: None
        full_name = {short: full for short, full in _MITOCHONDRIAL.items() if full not in there}

        def look_up(name: str) -> tuple[int, str] | None:
            found = self._by_name(full_name[name]) if name in full_name else None
            return None if found is None else (found[0], "mitochondrial")

        return look_up

    def _by_first_of(self, present: set[object]) -> Lookup:
        def look_up(name: str) -> tuple[int, str] | None:
            parsed = _MADE_UNIQUE.fullmatch(name)
            if parsed is None or parsed.group(1) not in present:
                return None
            found = self._by_id(parsed.group(1)) or self._by_name(parsed.group(1))
            return None if found is None else (found[0], "made_unique")

        return look_up


def _columns(var: pd.DataFrame | None, known: tuple[str, ...]) -> list[list[object]]:
    if var is None:
        return []
    place = {str(column).lower(): i for i, column in reversed(list(enumerate(var.columns)))}
    return [var.iloc[:, place[name]].astype(object).tolist() for name in known if name in place]


def _gene_match(token_V: np.ndarray, names: list[str], routes: dict[str, int]) -> GeneMatch:
    matched = token_V >= 0
    uses = Counter(token_V[matched].tolist())
    return GeneMatch(
        token_of_column=token_V,
        routes=routes,
        duplicated=[name for name, token in zip(names, token_V, strict=True) if uses[token] > 1],
        unmatched=[name for name, known in zip(names, matched, strict=True) if not known],
    )


def _names(table: pd.DataFrame) -> dict[str, tuple[int, str]]:
    """Name -> (token, route).

    Without the few aliases that are digits alone: such a name is a position, or an id of NCBI.
    """
    found: dict[str, tuple[int, str]] = {}
    routes = {"symbol": "symbol", "previous": "previous", "aliases": "alias", "names_10x": "10x"}
    for column, route in routes.items():
        for token, names in enumerate(table[column]):
            for name in names.split(SEPARATOR) if names else ():
                if not name.isdigit():
                    found[name] = (token, route)
    return found


def _upper_names(names: dict[str, tuple[int, str]]) -> dict[str, tuple[int, str]]:
    """Names such as C1orf112 in upper case, as some programs write them.

    Only these: any other name in another case may be another gene's.
    """
    return {
        name.upper(): (token, "upper_case")
        for name, (token, _) in names.items()
        if _OPEN_READING_FRAME.fullmatch(name)
    }
