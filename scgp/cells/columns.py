"""One column of a table of cells, in memory wherever the table is.

Owns what a table of ``anndata.experimental.read_lazy`` needs. Must not know what a column means.
"""

from typing import Any

import pandas as pd


def in_memory(table: Any, key: str) -> Any:
    """Return a column of ``obs`` (a data frame where several have the name)."""
    if hasattr(table, "to_memory"):  # of anndata.experimental.read_lazy
        table = table[[key]].to_memory()
        assert isinstance(table, pd.DataFrame)
    return table[key]
