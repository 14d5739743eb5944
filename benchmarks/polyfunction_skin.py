"""Endothelial cells of skin, whose file has no labels: who is one, and of which kind of vessel.

Owns that choice alone. Cells of three healthy donors, so that contexts have replicates.

Shapes: N cells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from scgp.model.checkpoint import Model

FILE = "gaydosik2019_skin"
ENDOTHELIAL, LYMPHATIC = "CL:0000115", "CL:0002138"
#: Genes of venular endothelium (ACKR1: Thiriot 2017, doi:10.1186/s12915-017-0381-7; selectins) and
#: of other blood vessels. VWF and the genes of the table are none of them.
VENULAR, OTHER = ("ACKR1", "SELE", "SELP"), ("SEMA3G", "HEY1", "GJA5", "RGCC")


def skin_endothelium(data: Path, model: Model) -> ad.AnnData:
    """Return the endothelial cells of blood vessels, by `scgp.annotate`, of healthy donors.

    ``obs["context"]`` is "venular" where the genes of `VENULAR` are expressed more than those of
    `OTHER` (means of log1p(CP10k)), so that contexts rest on no network; ``obs["cell_type"]`` is
    the same in words.
    """
    import scgp
    from scgp.phenotypes.ontology import Ontology

    skin = ad.read_h5ad(data / "unlabelled" / f"{FILE}.h5ad")
    skin = skin[skin.obs["donor"].astype(str).str.startswith("HC").to_numpy()].copy()
    skin.X = skin.X.astype(np.float32)
    scgp.annotate(skin, model=model, progress=False)
    ontology = Ontology("CL")
    vessels = {ENDOTHELIAL, *ontology.descendants(ENDOTHELIAL)}
    vessels -= {LYMPHATIC, *ontology.descendants(LYMPHATIC)}
    term_N = skin.obs["scgp_cell_type_ontology_term_id"].astype(str)
    cells = skin[term_N.isin(vessels).to_numpy()].copy()
    venular_N = _mean_level(cells, VENULAR) > _mean_level(cells, OTHER)
    cells.obs["context"] = np.where(venular_N, "venular", "other vessels")
    cells.obs["cell_type"] = np.where(
        venular_N, "endothelial cell, venular", "endothelial cell, other vessels"
    )
    return cells


def _mean_level(cells: ad.AnnData, genes: tuple[str, ...]) -> NDArray[np.float64]:
    """Return each cell's mean log1p(CP10k) of some genes (N)."""
    total_N1 = np.asarray(cells.X.sum(axis=1), float).reshape(-1, 1)
    count = cells[:, list(genes)].X.toarray().astype(float)
    level_N: NDArray[np.float64] = np.log1p(1e4 * count / total_N1).mean(axis=1)
    return level_N
