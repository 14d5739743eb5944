"""A column of ``obs`` as groups of cells: one rule for what is a group and what is missing.

Owns the reading and its refusals. Must not know what the groups are for.

Shape suffixes: N cells.
"""

from collections.abc import Iterable
from difflib import get_close_matches

import anndata as ad
import numpy as np
import pandas as pd

from scgp.cells.columns import in_memory
from scgp.errors import ArgumentError, MissingColumnError, warn_user

# Of fewer cells, each may be a group of its own.
_FEW_CELLS = 20


def no_column(key: str, columns: Iterable[object]) -> str:
    """Say that ``obs`` has no such column; name those with a name near it, and all."""
    names, key = [str(name) for name in columns], str(key)
    folded = {name.casefold(): name for name in names}
    near = [folded[name] for name in get_close_matches(key.casefold(), folded)]
    meant = f", did you mean {' or '.join(map(repr, near))}?" if near else ""
    there = ", ".join(map(repr, names)) or "none"
    return f"obs has no column {key!r}{meant}; its columns: {there}"


def one_column(adata: ad.AnnData, key: str) -> pd.Series:
    """Return a column of ``obs`` by its name, in memory.

    Raises
    ------
    MissingColumnError, ArgumentError
        There is no such column, or several; or what is given is no name.
    """
    if not isinstance(key, str):
        msg = f"{key!r} has the type {type(key).__name__}; expected the name of one column of obs"
        raise ArgumentError(msg)
    if key not in adata.obs:
        raise MissingColumnError(no_column(key, adata.obs.columns))
    given = in_memory(adata.obs, key)
    if isinstance(given, pd.DataFrame):
        msg = f"obs has {given.shape[1]} columns of the name {key!r}; rename or drop all but one"
        raise ArgumentError(msg)
    return given


def column_text(adata: ad.AnnData, key: str) -> pd.Series:
    """Return a column as text; None where there is no value, or a blank one.

    Raises
    ------
    MissingColumnError
        There is no such column.
    """
    given = one_column(adata, key)
    text = given.astype(object).where(given.notna(), None).map(str, na_action="ignore")
    return text.where(text.str.strip().fillna("") != "", None)


def check_groups(adata: ad.AnnData, groupby: str) -> None:
    """Refuse a column of numbers that hardly two cells share, such as a score or total counts.

    Numbers of clusters and doses are groups.

    Raises
    ------
    MissingColumnError, ArgumentError
        There is no such column, or it holds such numbers.
    """
    given = one_column(adata, groupby)
    if not pd.api.types.is_numeric_dtype(given.dtype) or pd.api.types.is_bool_dtype(given.dtype):
        return
    value_N = given.dropna()
    if len(value_N) >= _FEW_CELLS and 2 * value_N.nunique() > len(value_N):
        msg = (
            f"obs[{groupby!r}] holds numbers such as {value_N.iloc[0]:.4g}, {value_N.nunique()} "
            f"different ones in {len(value_N)} cells; expected groups of cells (pd.cut makes some)"
        )
        raise ArgumentError(msg)


def group_codes(adata: ad.AnnData, groupby: str) -> tuple[np.ndarray, list[str]]:
    """Return the group of each cell (-1: none), and the names of the groups, sorted.

    Raises
    ------
    MissingColumnError, ArgumentError
        There is no such column, no cell has a value in it, or numbers that are no groups.
    """
    check_groups(adata, groupby)
    code_N, names = pd.factorize(column_text(adata, groupby).to_numpy(dtype=object), sort=True)
    if not len(names):
        msg = f"obs[{groupby!r}] has no value in any cell; expected a group for some"
        raise ArgumentError(msg)
    return code_N.astype(np.int64), [str(name) for name in names]


def say_left_out(group_N: np.ndarray, groupby: str) -> None:
    """Say how many cells have no group."""
    n_out = int((group_N < 0).sum())
    if n_out:
        told = f"{n_out} of {len(group_N)} cells have no value in obs[{groupby!r}]"
        warn_user(f"{told} and are left out")
