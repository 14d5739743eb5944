"""The cells that a user names: by name, by position or by mask, to positions.

Owns the refusals. Knows nothing of what becomes of the cells.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgp.errors import ArgumentError

if TYPE_CHECKING:
    import anndata as ad

#: Most cells of one call: the work is that of 64 and more cells for each.
MOST = 200
_HOW = "pass a name of obs_names, a position, a list of either, or a boolean mask"


def chosen_cells(
    adata: ad.AnnData, cells: str | int | Iterable[str] | Iterable[int] | Iterable[bool]
) -> np.ndarray:
    """Return the positions of the cells named, in the order in which they were named.

    Raises
    ------
    ArgumentError
        None is named, one is not there, not unique or named twice, or there are more than `MOST`.

    Examples
    --------
    >>> import anndata as ad
    >>> adata = ad.AnnData(obs=pd.DataFrame(index=["a", "b", "c"]))
    >>> chosen_cells(adata, ["c", "a"]).tolist(), chosen_cells(adata, [False, True, True]).tolist()
    ([2, 0], [1, 2])
    """
    names = adata.obs_names
    cells = cells.item() if isinstance(cells, np.ndarray) and cells.ndim == 0 else cells
    alone = isinstance(cells, str | int | np.integer | np.bool_) or not isinstance(cells, Iterable)
    given: list[Any] = [cells] if alone else [*cells]  # type: ignore[misc]
    if not given:
        msg = f"cells is empty; {_HOW}"
        raise ArgumentError(msg)
    if all(isinstance(cell, str) for cell in given):
        row_B = _by_name(names, given)
    elif all(isinstance(cell, bool | np.bool_) for cell in given) and not alone:
        row_B = _by_mask(names, cells, np.array(given, bool))
    elif all(isinstance(c, int | np.integer) and not isinstance(c, bool) for c in given):
        row_B = _by_position(names, np.array(given, np.int64))
    else:
        odd = next(cell for cell in given if not isinstance(cell, str))
        msg = f"cells holds {odd!r} ({type(odd).__name__}); {_HOW}"
        raise ArgumentError(msg)
    if len(row_B) > MOST:
        msg = f"{len(row_B)} cells, expected at most {MOST}: each is worked on gene by gene"
        raise ArgumentError(msg)
    twice = names[row_B][names[row_B].duplicated()]
    if len(twice):
        msg = f"two of the cells are called {str(twice[0])!r}; name each once, by another name"
        raise ArgumentError(msg)
    return row_B


def _by_name(names: pd.Index, given: list[str]) -> np.ndarray:
    if odd := [cell for cell in given if cell not in names]:
        there = ", ".join(map(repr, map(str, names[:3])))
        msg = f"{odd[0]!r} is no name of obs_names ({len(names)} names: {there} ...)"
        raise ArgumentError(msg)
    for cell in given:
        n_called = int((names == cell).sum())
        if n_called > 1:
            msg = (
                f"{n_called} cells are called {cell!r}; pass their positions, or make the names "
                "unique with adata.obs_names_make_unique()"
            )
            raise ArgumentError(msg)
    return names.get_indexer(pd.Index(given, dtype=object)).astype(np.int64)


def _by_mask(names: pd.Index, cells: object, mask_B: np.ndarray) -> np.ndarray:
    if len(mask_B) != len(names):
        msg = f"the mask has {len(mask_B)} values, and there are {len(names)} cells"
        raise ArgumentError(msg)
    if isinstance(cells, pd.Series) and not cells.index.equals(names):
        msg = "the mask is a Series whose index is not obs_names; pass mask.to_numpy()"
        raise ArgumentError(msg)
    if not mask_B.any():
        msg = "the mask chooses no cell"
        raise ArgumentError(msg)
    return np.flatnonzero(mask_B)


def _by_position(names: pd.Index, row_B: np.ndarray) -> np.ndarray:
    if row_B.min() < 0 or row_B.max() >= len(names):
        odd = row_B[(row_B < 0) | (row_B >= len(names))][0]
        msg = f"there is no cell at position {odd}; positions are 0 to {len(names) - 1}"
        raise ArgumentError(msg)
    return row_B
