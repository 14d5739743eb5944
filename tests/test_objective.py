"""The tables of terms, and what one step minimises."""

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from scgp.cells.corpus import Corpus
from scgp.cells.sampling import Sampler
from scgp.cells.tokens import Tokenizer
from scgp.model.config import ModelConfig, TrainConfig
from scgp.model.losses import text_loss
from scgp.model.network import CellTransformer
from scgp.phenotypes.terms import Phenotypes
from scgp.training.objective import Objective, TermTable, as_input, term_tables

T_CELL, CD4, B_CELL, BLOOD = "CL:0000084", "CL:0000624", "CL:0000236", "UBERON:0000178"
N_GENES = 50


@pytest.fixture(scope="module")
def phenotypes():
    vector_TW = np.random.default_rng(0).normal(size=(4, 8))
    vector_TW /= np.linalg.norm(vector_TW, axis=1, keepdims=True)
    return Phenotypes((T_CELL, CD4, B_CELL, BLOOD), vector_TW.astype(np.float16), "synthetic")


def make_corpus(labels, tissues=None):
    n_cells = len(labels)
    rng = np.random.default_rng(0)
    nothing = np.full(n_cells, "", dtype=object)
    return Corpus(
        count_NG=sp.csr_matrix(rng.poisson(0.8, (n_cells, N_GENES)).astype(np.uint16)),
        label_N=np.array(labels, dtype=object),
        tissue_N=nothing if tissues is None else np.array(tissues, dtype=object),
        disease_N=nothing,
        study_N=np.arange(n_cells) % 2,
        donor_N=np.arange(n_cells) % 3,
        drawn_N=np.zeros(n_cells, bool),
        source_N=np.zeros(n_cells, int),
        studies=("a", "b"),
        measured_SG=np.ones((1, N_GENES), bool),
    )


def make_step(corpus, phenotypes, **settings):
    torch.manual_seed(0)
    config = ModelConfig(
        n_genes=N_GENES, n_tokens=8, width=16, n_layers=1, context_layers=0,
        pool_width=16, embed_dim=16, text_dim=8,
        dropout=0.0,
    )  # fmt: skip
    network = CellTransformer(config)
    torch.nn.init.normal_(network.to_slots, std=0.3)
    tables = term_tables(corpus, phenotypes)
    objective = Objective(network, tables, TrainConfig(**settings))
    tokenizer = Tokenizer(N_GENES, 8, np.ones(N_GENES, np.float32))
    sampler = Sampler(
        corpus, tables["type"].cell_N, tokenizer, batch_size=12, drawn_share=0.0, seed=0
    )
    return objective, sampler


def test_names_synonyms_and_ids_of_a_term_are_one_class(phenotypes):
    labels = ["T cell", T_CELL, "T-lymphocyte", "", "B cell", "my own type", "CL:0000624"]
    table = TermTable.make("CL", labels, phenotypes)
    assert table.names == tuple(sorted([T_CELL, CD4, B_CELL, "my own type"]))
    assert [table.names[c] if c >= 0 else "" for c in table.cell_N] == [
        T_CELL, T_CELL, T_CELL, "", B_CELL, "my own type", CD4,
    ]  # fmt: skip
    place = table.names.index
    ancestor_TT = table.ancestor_TT.numpy()
    assert ancestor_TT[place(T_CELL), place(CD4)]
    assert ancestor_TT.sum() == 5  # each itself, and the pair above
    assert table.text_TW.any(dim=1).tolist() == [n != "my own type" for n in table.names]
    assert table.part(np.array([4, 3])).cell_N.tolist() == [place(B_CELL), -1]


def test_without_labels_a_table_is_empty(phenotypes):
    table = TermTable.make("MONDO", ["", ""], phenotypes)
    assert table.names == ()
    assert table.cell_N.tolist() == [-1, -1]
    assert table.text_TW.shape == (0, 8)
    assert table.ancestor_TT.shape == (0, 0)


def test_the_loss_is_the_weighted_sum(phenotypes):
    corpus = make_corpus([T_CELL, CD4, B_CELL] * 6, tissues=["blood", ""] * 9)
    weights = {"weight_text": 2.0, "weight_cell": 0.5, "weight_context": 0.25, "weight_masked": 3.0}
    objective, sampler = make_step(corpus, phenotypes, **weights)
    losses = objective(sampler.batch(0), sampler.masked_batch(0, 5), use_tokens=True)
    assert list(losses) == ["type", "cell", "tissue", "disease", "masked", "loss"]
    expected = (
        2 * losses["type"] + 0.5 * losses["cell"]
        + 0.25 * (losses["tissue"] + losses["disease"]) + 3 * losses["masked"]
    )  # fmt: skip
    assert losses["loss"].item() == pytest.approx(expected.item(), rel=1e-6)
    assert losses["disease"].item() == 0  # no cell has one
    assert losses["masked"].item() > 0
    losses["loss"].backward()
    for name, weight in objective.network.named_parameters():
        assert weight.grad is not None, name
        assert torch.isfinite(weight.grad).all(), name


def test_context_and_masking_can_be_left_out(phenotypes):
    corpus = make_corpus([T_CELL, CD4, B_CELL] * 6)
    objective, sampler = make_step(corpus, phenotypes, weight_context=0.0)
    losses = objective(sampler.batch(0), None, use_tokens=False)
    assert list(losses) == ["type", "cell", "loss"]


def test_the_type_loss_is_that_of_slots_and_texts(phenotypes):
    corpus = make_corpus([T_CELL, CD4, B_CELL] * 6)
    objective, sampler = make_step(corpus, phenotypes)
    sample, table = sampler.batch(0), objective.tables["type"]
    out = objective.network(as_input(sample.tokens), use_tokens=True)
    text_TE = objective.network.project_text(table.text_TW)
    logit_BT = objective.network.text_logits(out.type_BE, text_TE)
    code_B = torch.from_numpy(sample.class_B)
    below = objective.settings.weight_below
    expected = text_loss(logit_BT, code_B, table.ancestor_TT, weight_below=below)
    found = objective(sample, None, use_tokens=True)["type"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_labels_without_a_text_are_no_text_and_no_negative(phenotypes):
    objective, sampler = make_step(make_corpus([T_CELL, "my own type", B_CELL] * 6), phenotypes)
    sample = sampler.batch(0)
    own = objective.tables["type"].names.index("my own type")
    assert (sample.class_B == own).any()
    found = objective(sample, None, use_tokens=True)
    # the same cells where those have no label at all
    objective.tables = term_tables(make_corpus([T_CELL, "", B_CELL] * 6), phenotypes)
    class_B = objective.tables["type"].cell_N[sample.row_B]
    expected = objective(dataclasses.replace(sample, class_B=class_B), None, use_tokens=True)
    assert found["type"].item() == pytest.approx(expected["type"].item(), rel=1e-6)
    # in the contrast of cells they are a class like any other
    assert found["cell"].item() != pytest.approx(expected["cell"].item(), rel=1e-3)


def test_what_is_hidden_does_not_reach_the_prediction(phenotypes):
    corpus = make_corpus([T_CELL, CD4, B_CELL] * 6)
    objective, sampler = make_step(corpus, phenotypes)
    objective.eval()
    sample, masked = sampler.batch(0), sampler.masked_batch(0, 5)
    shifted = dataclasses.replace(masked, target_BL=masked.target_BL + 2 * masked.hidden_BL)
    hidden_BL = torch.from_numpy(masked.hidden_BL)
    with torch.inference_mode():
        out = objective.network(as_input(masked.tokens), return_genes=True, hidden_BL=hidden_BL)
        predicted_BL = objective.network.predict_expression(out.gene_BLD)
        found = objective(sample, shifted, use_tokens=True)["masked"].item()
    error = predicted_BL.numpy() - shifted.target_BL
    assert found == pytest.approx(np.mean(error[masked.hidden_BL] ** 2), rel=1e-5)
