"""Fixtures of the tests of perturb(): an untrained network, and one question asked of it."""

import pytest
import torch

import scgp
from scgp.model.checkpoint import Model
from scgp.model.config import ModelConfig
from scgp.model.network import CellTransformer
from scgp.perturb import perturb

GENE = "CD79A"


@pytest.fixture(scope="session")
def tiny(model):
    """A small untrained network with a context, for the genes of the checkpoint."""
    torch.manual_seed(0)
    config = ModelConfig(
        n_genes=model.config.n_genes, n_tokens=32, width=16, n_layers=0, n_heads=2, pool_width=16,
        embed_dim=16, context_layers=1,
    )  # fmt: skip
    network = CellTransformer(config)
    with torch.no_grad():  # as after training, or hardly anything would shift
        network.context.rate.weight.normal_(std=0.5)
    return Model(config, network, model.genes, model.phenotypes)


@pytest.fixture(scope="session")
def tiny_index(tiny, all_blood):
    atlas = all_blood[120:].copy()
    return scgp.build_index(atlas, label_key="cell_type", model=tiny, progress=False)


@pytest.fixture
def ask(tiny, tiny_index):
    def verb(adata, what, **options):
        given = {"model": tiny, "index": tiny_index, "n_null": 3, "progress": False}
        return perturb(adata, what, **{**given, **options})

    return verb


@pytest.fixture(scope="session")
def found(tiny, tiny_index, all_blood):
    adata = all_blood[:120].copy()
    adata.obs["half"] = ["first"] * 60 + ["second"] * 60
    return perturb(
        adata, {GENE: 0.0}, groupby="half", model=tiny, index=tiny_index, n_null=4, max_cells=200,
        progress=False,
    )  # fmt: skip
