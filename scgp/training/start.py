"""What a training run starts from: a model, and what is read off the cells before the first step.

Knows neither the loop nor AnnData. Shape suffixes: N cells, G genes, C components.
"""

import dataclasses

import numpy as np
import torch

from scgp.cells.corpus import Corpus
from scgp.cells.vocabulary import GeneVocabulary
from scgp.errors import ArgumentError
from scgp.model.checkpoint import Model
from scgp.model.config import ModelConfig
from scgp.model.network import CellTransformer
from scgp.phenotypes.terms import Phenotypes
from scgp.training.objective import TermTable
from scgp.training.within_types import components_within_types

#: A gene's tokens compete by value / (mean value + this): rare genes in shallow cells stay apart.
_PRIOR_VALUE = 0.3
#: CP10k added to the mean of a gene before its logarithm is taken.
_LEAST_MEAN = 1e-3


def start_model(
    base: Model | None,
    genes: GeneVocabulary | None,
    phenotypes: Phenotypes | None,
    config: ModelConfig | None,
    seed: int,
) -> Model:
    """Return the model that training starts from: `base`, or an untrained one."""
    if base is not None:
        if genes is not None or phenotypes is not None:
            msg = "base= brings its own genes and phenotypes; pass either it or them"
            raise ArgumentError(msg)
        network = _continued(base, config, seed)
        return Model(
            network.config, network, base.genes, base.phenotypes, markers=base.markers,
            details={**base.details, "base": base.fingerprint},
        )  # fmt: skip
    default = Model.default()  # before the seed: reading it makes a network, which draws numbers
    genes = genes or default.genes
    phenotypes = phenotypes or default.phenotypes
    config = config or ModelConfig(n_genes=genes.n_genes, text_dim=phenotypes.width)
    torch.manual_seed(seed)
    markers = default.markers if genes.fingerprint == default.genes.fingerprint else None
    return Model(config, CellTransformer(config), genes, phenotypes, markers=markers)


def _continued(start: Model, config: ModelConfig | None, seed: int) -> CellTransformer:
    """Return a copy of a network, or with another config its pooled view and new other parts.

    A reader of genes that is only given a linear view is kept.
    """
    if config is None or same_shape(config, start.config):
        network = CellTransformer(start.config)
        network.load_state_dict(start.network.state_dict())
        return network
    torch.manual_seed(seed)
    network = CellTransformer(config)
    state, own = start.network.state_dict(), network.state_dict()
    kept = {
        name: tensor
        for name, tensor in state.items()
        if name.split(".")[0] in (*CellTransformer.POOLED, "gene_weight_G", "text_mean")
        or adds_view(start.config, config)
    }
    odd = [name for name, tensor in kept.items() if own[name].shape != tensor.shape]
    if odd or not (start.config.pooled_alone and config.pooled_alone):
        msg = (
            "config= may add another transformer to a base whose vectors of cells are the pooled "
            f"view's; these differ otherwise: {odd or ['token_slots']}"
        )
        raise ArgumentError(msg)
    network.load_state_dict({**own, **kept})
    return network


def same_shape(one: ModelConfig, other: ModelConfig) -> bool:
    """Tell whether two configs are of one network: without a reader it has no linear view."""
    if one.context_layers == 0:
        one = dataclasses.replace(one, context_components=other.context_components)
    return one == other


def adds_view(start: ModelConfig, config: ModelConfig) -> bool:
    """Tell whether a config gives the reader of genes of another one a linear view, and no more."""
    same = dataclasses.replace(start, context_components=config.context_components) == config
    return same and start.context_layers > 0 == start.context_components < config.context_components


def set_statistics(network: CellTransformer, corpus: Corpus, types: TermTable) -> None:
    """Set what the network takes from the corpus: weights of genes, the mean text."""
    sum_G = np.zeros(network.config.n_genes)
    for _, block in corpus.blocks():
        total_B = np.maximum(np.asarray(block.sum(axis=1, dtype=np.float64)).ravel(), 1.0)
        scale = np.repeat(1e4 / total_B, np.diff(block.indptr))
        block.data = np.log1p(block.data * scale.astype(np.float32))
        sum_G += np.asarray(block.sum(axis=0)).ravel()
    mean_G = sum_G / corpus.n_cells
    network.gene_weight_G.copy_(torch.from_numpy(1 / (mean_G + _PRIOR_VALUE)).half().float())
    text_TW = types.text_TW[types.text_TW.any(dim=1)]
    if len(text_TW):
        network.text_mean.copy_(text_TW.mean(0).half().float())


def set_means(network: CellTransformer, corpus: Corpus) -> None:
    """Start the predicted expression of every gene at its mean over the cells that measure it."""
    if network.context is None:
        return
    real = np.flatnonzero(~corpus.drawn_N)
    sum_G, n_G = np.zeros(network.config.n_genes), np.zeros(network.config.n_genes)
    for source, measured_G in enumerate(corpus.measured_SG):
        rows = real[corpus.source_N[real] == source]
        for _, block in corpus.blocks(rows):
            counts = block.astype(np.float64)
            total_B = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1.0)
            sum_G += np.asarray(counts.T @ (1e4 / total_B)).ravel()
        n_G += len(rows) * measured_G
    mean_G = sum_G / np.maximum(n_G, 1)
    with torch.no_grad():
        start = torch.from_numpy(np.log(mean_G + _LEAST_MEAN)).half().float()
        network.context.mean_G[: len(mean_G)] = start


def set_components(network: CellTransformer, corpus: Corpus, types: TermTable, seed: int) -> None:
    """Start the linear view of a reader of genes at what cells of one type differ in."""
    context = network.context
    if context is None or context.component is None:
        return
    n_components = context.component.embedding_dim
    axis_GC = components_within_types(corpus, types.cell_N, n_components, seed=seed)
    context.start_components(torch.from_numpy(axis_GC))
