"""Networks that never saw the studies that are asked: who trains on what, and the control.

Owns the split, chosen before any result was seen, and the training. Knows nothing of measures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import torch

from benchmarks.folds import group_of
from scgp.model.checkpoint import Model
from scgp.model.config import TrainConfig
from scgp.model.network import CellTransformer

if TYPE_CHECKING:
    from pathlib import Path

#: Groups of studies (`benchmarks.folds`) whose cells no network is trained on.
HELD_OUT = ("Zheng 2017", "10x PBMC3k and PBMC6k", "GeACT")
#: Blood whose donor and sample are not recorded: it might be of a study that is held out.
UNKNOWN_ORIGIN = "pbmc_pisces"
#: Steps of the pooled view (the default of `scgp.train`) and of the transformer (the default is
#: 3,000; three in five of the labelled cells are left to train on).
POOL_STEPS, STEPS = 800, 2000


def training_cells(folder: Path) -> list[ad.AnnData]:
    """Read the cells of a folder that are of no group that is held out, file by file."""
    found = []
    for path in sorted(folder.glob("*.h5ad")):
        cells = ad.read_h5ad(path)
        group = [group_of(path.stem, str(study)) for study in cells.obs["study"]]
        keep = [name not in HELD_OUT for name in group]
        if any(keep) and path.stem != UNKNOWN_ORIGIN:
            found.append(cells[keep].copy())
    return found


def trained(data: Path, out: Path, *, seed: int, steps: int = STEPS) -> Model:
    """Return the network of a seed, trained from nothing on `training_cells` if it is not there.

    Genes and texts are those of the default checkpoint; neither is learnt from counts.
    """
    import scgp
    from scgp.cells.draw import read_drawn

    if out.is_dir():
        return Model.load(out)
    return scgp.train(
        training_cells(data / "train"),
        out=out,
        tissue_key="tissue_ontology_term_id",
        disease_key="disease_ontology_term_id",
        unlabelled=training_cells(data / "unlabelled"),
        drawn=read_drawn(data / "pseudobulk", seed=seed),
        settings=TrainConfig(pool_steps=POOL_STEPS, steps=steps, seed=seed),
        calibrate_on_studies=False,
        progress=False,
    )


def untrained(model: Model, seed: int) -> CellTransformer:
    """Return a network of the same shape with random weights, and the same weights of genes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = CellTransformer(model.config).eval()
    network.gene_weight_G.copy_(model.network.gene_weight_G)
    return network
