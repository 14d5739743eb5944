"""Coordinates of cells that stand in an AnnData already.

Shape suffixes: N cells, 2 coordinates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from scgp.errors import ArgumentError, MissingColumnError

if TYPE_CHECKING:
    import anndata as ad
    from numpy.typing import NDArray


def stored_coordinates(adata: ad.AnnData, basis: str, advice: str) -> NDArray[np.float64]:
    """Return the first two columns of ``obsm[basis]``, or of ``obsm["X_" + basis]``.

    Raises
    ------
    MissingColumnError
        There is neither; `advice` says what to do.
    ArgumentError
        It has fewer than two columns, or NaN or infinite values.
    """
    key = basis if basis in adata.obsm else f"X_{basis}"
    if key not in adata.obsm:
        there = ", ".join(map(str, adata.obsm)) or "none"
        message = f"obsm has no {key!r}; it has: {there}; {advice}"
        raise MissingColumnError(message)
    stored = adata.obsm[key]
    xy_N2 = np.asarray(stored.toarray() if sp.issparse(stored) else stored, dtype=float)
    if xy_N2.ndim != 2 or xy_N2.shape[1] < 2:
        message = f"obsm[{key!r}] has shape {xy_N2.shape}; a plot needs two columns"
        raise ArgumentError(message)
    odd_N = ~np.isfinite(xy_N2[:, :2]).all(axis=1)
    if odd_N.any():
        message = (
            f"obsm[{key!r}] holds NaN or infinite values in {int(odd_N.sum())} of {len(odd_N)} "
            "cells; leave these cells out, as in adata[np.isfinite(...).all(axis=1)]"
        )
        raise ArgumentError(message)
    return xy_N2[:, :2]
