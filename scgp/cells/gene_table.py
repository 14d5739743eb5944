"""The gene table of a model, ``genes.tsv``: its columns, its text, and what makes it valid.

Owns the file format. A gene is a line; a name stands in one line only, so that finding a name never
needs a rule. Who gets a name is decided in :mod:`scgp.cells.nomenclature`.
"""

import pandas as pd

COLUMNS = ("ensembl_id", "symbol", "previous", "aliases", "names_10x")
SEPARATOR = "|"

# What a field must not hold.
_MARKS = {name: "\t\r\n|" if name in COLUMNS[:2] else "\t\r\n" for name in COLUMNS}


def table_bytes(table: pd.DataFrame) -> bytes:
    """Write the table as tab-separated UTF-8 text with a header; the same table, the same bytes."""
    rows = [COLUMNS, *table.itertuples(index=False)]
    return "".join("\t".join(row) + "\n" for row in rows).encode("utf-8")


def parse_table(content: bytes) -> pd.DataFrame:
    """Read what :func:`table_bytes` wrote.

    Raises
    ------
    ValueError
        With what is wrong with the text; :func:`table_fault` says what is wrong with the table.
    """
    text = content.decode("utf-8")  # UnicodeDecodeError is a ValueError
    header, *rows = (line.split("\t") for line in text.removesuffix("\n").split("\n"))
    if header != list(COLUMNS):
        message = f"its first line is {header}, expected {list(COLUMNS)}"
        raise ValueError(message)
    short = next((i for i, row in enumerate(rows, 2) if len(row) != len(COLUMNS)), None)
    if short is not None or not text.endswith("\n"):
        line = short or len(rows) + 1
        message = f"line {line} is not whole ({len(COLUMNS)} fields and a line end expected)"
        raise ValueError(message)
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=str)


def table_fault(table: pd.DataFrame) -> str:
    """Say what keeps the table from being valid, "" if nothing does."""
    if list(table.columns) != list(COLUMNS):
        return f"its columns are {list(table.columns)}, expected {list(COLUMNS)}"
    genes = table["ensembl_id"].tolist()
    if not all(genes) or not all(table["symbol"]):
        return "a gene has no Ensembl id or no symbol"
    if genes != sorted(set(genes)):
        return "its Ensembl ids are not sorted, or one stands there twice"
    owner = {gene: row for row, gene in enumerate(genes)}
    for column in COLUMNS:
        text = "".join(table[column])
        found = next((mark for mark in _MARKS[column] if mark in text), None)
        if found:
            return f"a field of {column} holds {found!r}, which separates fields, lines or names"
    for column in COLUMNS[1:]:
        for row, names in enumerate(table[column]):
            for name in names.split(SEPARATOR) if names else ():
                if owner.setdefault(name, row) != row:
                    return f"the name {name!r} belongs to {genes[owner[name]]} and to {genes[row]}"
    return ""
