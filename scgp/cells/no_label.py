"""Which values of a column of labels say that a cell has none.

Owns the words, and the sentence that tells a user of them. Must not know what labels mean
(`phenotypes`), nor what becomes of cells without one.

Shape suffixes: N cells.
"""

import pandas as pd

#: Words, folded and stripped, that stand for a missing label: how programs write what is missing,
#: and what authors write where they gave no label. None is a cell type. "other" may be one.
NO_LABEL = frozenset({
    "", "nan", "none", "na", "n/a", "<na>", "null", "not available",
    "unknown", "unassigned", "unannotated", "unlabelled", "unlabeled",
})  # fmt: skip


def label_text(column: pd.Series) -> pd.Series:
    """Return labels as text without blanks around it; None where one is missing or of `NO_LABEL`.

    NUL, with which HDF5 fills texts of one length up, is a blank, too.

    Examples
    --------
    >>> label_text(pd.Series(["B cell ", " Unknown", "NaN", None, "other"])).tolist()
    ['B cell', None, None, None, 'other']
    """
    values = column.astype(object)
    code_N, names = pd.factorize(values.where(values.notna(), None))  # names are few, cells many
    read = [str(name).replace("\0", " ").strip() for name in names]
    text = [None if says_none(name) else name for name in read]
    found_N = [None if code < 0 else text[code] for code in code_N.tolist()]
    return pd.Series(found_N, index=column.index, dtype=object)


def says_none(text: str) -> bool:
    """Whether a text says that there is no label."""
    return text.strip().casefold() in NO_LABEL


def told_words(column: pd.Series) -> str:
    """Return which words stand for no label in a column, and in how many cells; "" for none.

    Blank ones are not told: there is nothing to see.

    Examples
    --------
    >>> told_words(pd.Series(["B cell", "Unknown", "nan", "nan", None]))
    "2 say 'nan', 1 say 'Unknown'"
    """
    counts = column.astype(object).dropna().map(str).value_counts()
    words = [word for word in counts.index if word.strip() and says_none(word)]
    return ", ".join(f"{counts[word]} say {word!r}" for word in words)
