"""Wilcoxon's rank sum test of each phenotype against the other cells of its unit, by scanpy.

Owns the call of scanpy. Knows values and codes of cells; not where they come from.

Shape suffixes: B cells, P phenotypes, G genes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Sequence

    import scipy.sparse as sp


def rank_sums(
    value_BG: sp.csr_matrix, phenotype_B: np.ndarray, asked: Sequence[int], *, min_cells: int
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Return z scores and adjusted p values (G each) of some phenotypes against all other cells.

    ``scanpy.tl.rank_genes_groups(method="wilcoxon")`` with its defaults, on the genes of which a
    cell has a count.

    Parameters
    ----------
    value_BG
        log1p(CP10k).
    phenotype_B
        Code of each cell.
    asked
        Codes to test.
    min_cells
        Cells that there must be of a phenotype, and of all others; it is left out of the answer
        where there are fewer.

    Returns
    -------
    By code. A gene without a count has NaN.
    """
    n_of = {p: int((phenotype_B == p).sum()) for p in asked}
    tested = [p for p in asked if min_cells <= n_of[p] <= len(phenotype_B) - min_cells]
    counted = np.flatnonzero(np.diff(value_BG.tocsc().indptr))
    if not tested or not counted.size:
        return {}
    import scanpy as sc

    names = pd.Series([str(p) for p in phenotype_B]).astype("category")
    few = ad.AnnData(
        value_BG[:, counted],
        obs=pd.DataFrame({"phenotype": names.to_numpy()}, index=names.index.astype(str)),
        var=pd.DataFrame(index=counted.astype(str)),
    )
    few.obs["phenotype"] = few.obs["phenotype"].astype("category")
    few.uns["log1p"] = {"base": None}
    sc.tl.rank_genes_groups(
        few, "phenotype", groups=[str(p) for p in tested], method="wilcoxon", use_raw=False
    )
    found, shape = few.uns["rank_genes_groups"], value_BG.shape[1]
    answer = {}
    for p in tested:
        gene = found["names"][str(p)].astype(np.int64)
        score_G, q_G = np.full(shape, np.nan), np.full(shape, np.nan)
        score_G[gene], q_G[gene] = found["scores"][str(p)], found["pvals_adj"][str(p)]
        answer[p] = (score_G, q_G)
    return answer
