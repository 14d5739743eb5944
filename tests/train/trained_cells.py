"""A few synthetic cells with their genes and texts, a short run on them, and its weights."""

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from scgp import train as train_function
from scgp.cells.vocabulary import GeneVocabulary
from scgp.model.config import ModelConfig, TrainConfig
from scgp.phenotypes.terms import Phenotypes

N_GENES = 300
TYPES = ("CL:0000084", "CL:0000236", "CL:0000576", "CL:0000624")
CONFIG = ModelConfig(
    n_genes=N_GENES, n_tokens=8, width=16, n_layers=1, pool_width=16, embed_dim=16, text_dim=8,
    context_layers=0,
)  # fmt: skip
SHORT = TrainConfig(pool_steps=3, steps=3, batch_size=16, masked_cells=4, learning_rate=1e-2)


def make_genes():
    ids = [f"ENSG{i:011d}" for i in range(N_GENES)]
    table = pd.DataFrame({"ensembl_id": ids, "symbol": [f"SYN{i}" for i in range(N_GENES)]})
    return GeneVocabulary(table.assign(previous="", aliases="", names_10x=""))


def make_texts(types=TYPES):
    vector_TW = np.random.default_rng(0).normal(size=(len(types), 8))
    vector_TW /= np.linalg.norm(vector_TW, axis=1, keepdims=True)
    return Phenotypes(types, vector_TW.astype(np.float16), "synthetic")


def make_cells(labels=TYPES, studies=("a", "b", "c"), n_each=8, seed=0):
    """Synthetic counts: 20 genes mark each label; two donors in each study."""
    rng = np.random.default_rng(seed)
    rate = np.full((len(labels), N_GENES), 0.3)
    for i in range(len(labels)):
        rate[i, 20 * i : 20 * (i + 1)] = 4.0
    rows = [(i, study, k) for study in studies for i in range(len(labels)) for k in range(n_each)]
    counts = rng.poisson(rate[[i for i, _, _ in rows]])
    obs = pd.DataFrame(
        {
            "cell_type_ontology_term_id": [labels[i] for i, _, _ in rows],
            "study": [study for _, study, _ in rows],
            "donor": [f"{study}{k % 2}" for _, study, k in rows],
            "synthetic": True,
        },
        index=[f"cell{n}" for n in range(len(rows))],
    )
    var = pd.DataFrame(index=[f"SYN{g}" for g in range(N_GENES)])
    return ad.AnnData(sp.csr_matrix(counts, dtype=np.float32), obs=obs, var=var)


def train(data, out, **changed):
    options = {
        "genes": make_genes(), "phenotypes": make_texts(), "config": CONFIG, "settings": SHORT,
        "calibrate_on_studies": False, "progress": False, "device": "cpu",
    }  # fmt: skip
    return train_function(data, out=out, **{**options, **changed})


def weights(model):
    return model.network.state_dict()


def assert_equal_weights(a, b):
    for name, tensor in weights(a).items():
        assert torch.equal(tensor, weights(b)[name]), name
    assert a.fingerprint == b.fingerprint


NONE = {"genes": None, "phenotypes": None, "config": None}
