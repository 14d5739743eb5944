"""Genes in their context: what a gene's embedding may and may not depend on.

Shape suffixes: B cells, L gene tokens, Q queries, D width, N expressed genes, G genes.
"""

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.stats import nbinom

from scgp.cells.queries import values_of
from scgp.cells.tokens import Tokenizer
from scgp.model.config import ModelConfig
from scgp.model.context import LARGEST_LOG, LEAST_LOG, GeneQueries, count_loss
from scgp.model.network import CellTransformer
from scgp.training.objective import as_input

N_GENES = 30
CONFIG = ModelConfig(
    n_genes=N_GENES, n_tokens=6, width=16, n_heads=4, pool_width=12, embed_dim=10, text_dim=8,
    context_components=5,
)  # fmt: skip


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = CellTransformer(CONFIG).eval()
    # A fresh network says little of a gene, which would hide faults.
    torch.nn.init.normal_(network.context.always)
    torch.nn.init.normal_(network.context.rate.weight)
    torch.nn.init.normal_(network.context.mean_G)
    torch.nn.init.normal_(network.gene.weight[:N_GENES].detach())
    torch.nn.init.normal_(network.context.component_rate.weight[:N_GENES].detach(), std=0.1)
    return network


def make_counts(n_cells=5, seed=0):
    """Half of the genes are expressed, some of them by more than a tenth of the counts."""
    rng = np.random.default_rng(seed)
    return rng.poisson(rng.gamma(0.5, 6, (n_cells, N_GENES))).astype(np.float32)


def tokenized(counts, n_tokens=6):
    tokenizer = Tokenizer(N_GENES, n_tokens, np.ones(N_GENES, np.float32))
    return tokenizer.tokenize(sp.csr_matrix(counts), np.arange(N_GENES))


def queries(tokens, gene_BQ):
    own_BQ = values_of(tokens, np.asarray(gene_BQ), N_GENES)
    return GeneQueries(torch.from_numpy(np.asarray(gene_BQ)), torch.from_numpy(own_BQ))


def read(network, tokens, gene_BQ, **options):
    """Return embeddings, and the predicted log CP10k as one more column."""
    with torch.inference_mode():
        found = network.in_context(as_input(tokens), queries(tokens, gene_BQ), **options)
    return torch.cat([found.embedding_BQD, found.log_rate_BQ[..., None]], dim=-1)


def every_gene(tokens):
    return np.tile(np.arange(N_GENES), (tokens.n_cells, 1))


def assert_same(a, b, atol=2e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def without(tokens, gene, shift_N):
    """Return the cell's tokens without a gene; what is left in the pool is moved by a shift."""
    kept_L, kept_N = tokens.gene_BL[0] != gene, tokens.pool_gene_N != gene
    return dataclasses.replace(
        tokens,
        gene_BL=tokens.gene_BL[:, kept_L],
        value_BL=tokens.value_BL[:, kept_L],
        pool_gene_N=tokens.pool_gene_N[kept_N],
        pool_value_N=(tokens.pool_value_N + shift_N)[kept_N].astype(np.float32),
        offset_B=np.array([0, kept_N.sum()]),
    )


def rise(tokens, gene):
    """How much the others' values rise without a gene, to first order, as documented."""
    share = np.expm1(tokens.pool_value_N[tokens.pool_gene_N == gene].astype(float)).sum() / 1e4
    cp10k_N = np.expm1(tokens.pool_value_N.astype(float))
    return -np.log1p(-share) * cp10k_N / (1 + cp10k_N)


def test_names_of_the_weights_are_pinned(network):
    # A weight that is renamed makes every saved model unreadable.
    block = [
        f"{layer}.{part}"
        for layer in (
            "norm_query", "norm_token", "norm_forward", "query", "key_value", "out", "up", "down",
        )
        for part in ("weight", "bias")
    ]  # fmt: skip
    assert list(network.state_dict()) == [
        "sharpness", "gene_weight_G", "text_mean", "gene.weight",
        "pool.0.weight", "pool.0.bias", "pool.1.weight", "pool.1.bias",
        "pool.3.weight", "pool.3.bias", "pool_to_slots.weight", "pool_to_slots.bias",
        *(f"context.{key}" for key in (
            "always", "mean_G", "log_size", "pool.weight", "from_pool.weight", "from_pool.bias",
            "identity.0.weight", "identity.0.bias", "identity.1.weight", "identity.1.bias",
            "value.0.weight", "value.0.bias", "value.2.weight", "value.2.bias",
            *(f"blocks.{i}.{key}" for i in (0, 1) for key in block),
            "norm.weight", "norm.bias", "rate.weight", "component.weight", "component_rate.weight",
        )),
        "text.weight",
    ]  # fmt: skip


def test_a_gene_is_read_as_if_its_counts_were_not_there(network):
    for counts in make_counts():
        tokens = tokenized(counts[None])
        for gene in np.flatnonzero(counts):
            left = without(tokens, gene, rise(tokens, gene))
            assert_same(read(network, tokens, [[gene]]), read(network, left, [[gene]]))


def test_a_gene_that_is_not_there_is_read_in_the_whole_cell(network):
    """Nothing is taken out: its part of the pooled view is 0 and the values are as they are."""
    counts = make_counts(1)
    tokens, gene = tokenized(counts), int(np.flatnonzero(counts[0] == 0)[0])
    left = without(tokens, gene, rise(tokens, gene))
    np.testing.assert_array_equal(left.pool_value_N, tokens.pool_value_N)
    assert_same(read(network, tokens, [[gene]]), read(network, left, [[gene]]))


def test_the_rise_of_the_others_is_that_of_cp10k_without_the_gene(network):
    """To first order: the pooled view is near that of the cell counted again without the gene."""
    for counts in make_counts(12, seed=3):
        whole = tokenized(counts[None])
        gene = int(np.abs(counts / counts.sum() - 0.1).argmin())
        assert 0.04 < counts[gene] / counts.sum() < 0.3
        again = counts.copy()
        again[gene] = 0
        away = np.full((1, 1), N_GENES)  # no tokens: the pooled view alone
        alone = {"gene_BL": away, "value_BL": np.zeros((1, 1), np.float32)}
        expected = read(network, dataclasses.replace(tokenized(again[None]), **alone), [[gene]])
        found = read(network, dataclasses.replace(whole, **alone), [[gene]])
        stays = read(network, dataclasses.replace(without(whole, gene, 0.0), **alone), [[gene]])
        assert_same(found, expected, atol=5e-5)
        assert (stays - expected).abs().max() > 2e-4


def test_the_genes_own_token_is_closed_and_the_others_are_open(network):
    tokens = tokenized(make_counts())
    gene_BQ = tokens.gene_BL[:, :1]
    own = dataclasses.replace(tokens, value_BL=tokens.value_BL.copy())
    own.value_BL[:, 0] += 3
    assert_same(read(network, own, gene_BQ), read(network, tokens, gene_BQ), atol=0)
    other = dataclasses.replace(tokens, value_BL=tokens.value_BL.copy())
    other.value_BL[:, 1] += 3
    moved_B = (read(network, other, gene_BQ) - read(network, tokens, gene_BQ)).abs().amax((1, 2))
    assert moved_B.min() > 1e-3


def test_genes_that_no_token_was_left_for_are_read(network):
    """The pooled view has them: the budget loses no gene."""
    tokens = tokenized(make_counts(), n_tokens=2)
    changed = dataclasses.replace(tokens, pool_value_N=tokens.pool_value_N.copy())
    last_B = tokens.offset_B[1:] - 1
    assert not (tokens.pool_gene_N[last_B][:, None] == tokens.gene_BL).any(axis=1).all()
    changed.pool_value_N[last_B] += 1
    gene_BQ = tokens.gene_BL[:, :1]
    assert (read(network, changed, gene_BQ) - read(network, tokens, gene_BQ)).abs().max() > 1e-3


def test_what_is_asked_of_a_gene_does_not_depend_on_other_queries(network):
    tokens = tokenized(make_counts())
    together = read(network, tokens, every_gene(tokens))
    for gene in range(0, N_GENES, 7):
        alone = read(network, tokens, np.full((5, 1), gene))
        assert_same(alone[:, 0], together[:, gene])
    order = np.random.default_rng(0).permutation(N_GENES)
    assert_same(read(network, tokens, every_gene(tokens)[:, order]), together[:, order])


def test_padding_of_queries_and_of_tokens_changes_nothing(network):
    tokens = tokenized(make_counts())
    expected = read(network, tokens, every_gene(tokens))
    gene_BQ = np.concatenate([np.full((5, 3), N_GENES), every_gene(tokens)], axis=1)
    padded = read(network, tokens, gene_BQ)
    assert torch.isfinite(padded).all()
    assert_same(padded[:, 3:], expected)
    B, L = tokens.gene_BL.shape
    gene_BL, value_BL = np.full((B, L + 4), N_GENES), np.full((B, L + 4), 77, np.float32)
    gene_BL[:, :L], value_BL[:, :L] = tokens.gene_BL, tokens.value_BL
    wider = dataclasses.replace(tokens, gene_BL=gene_BL, value_BL=value_BL)
    assert_same(read(network, wider, every_gene(tokens)), expected)


def test_the_order_of_tokens_says_nothing(network):
    tokens = tokenized(make_counts())
    back = dataclasses.replace(
        tokens, gene_BL=tokens.gene_BL[:, ::-1].copy(), value_BL=tokens.value_BL[:, ::-1].copy()
    )
    gene_BQ = every_gene(tokens)
    assert_same(read(network, back, gene_BQ), read(network, tokens, gene_BQ))


def test_a_cell_does_not_depend_on_its_company(network):
    counts = make_counts()
    together = tokenized(counts)
    expected = read(network, together, every_gene(together))
    for b in range(5):
        alone = tokenized(counts[[b]])
        assert_same(read(network, alone, every_gene(alone))[0], expected[b])


def test_rows_that_were_prepared_are_those_that_would_be_made(network):
    tokens = tokenized(make_counts())
    gene_BQ = every_gene(tokens)[:, 4:9]
    expected = read(network, tokens, gene_BQ)
    with torch.inference_mode():
        table_GP = network.gene.weight
        some = torch.from_numpy(np.unique([*tokens.gene_BL.ravel(), *range(4, 9), N_GENES]))
        for rows in (network.context.rows(table_GP), network.context.rows(table_GP, some)):
            assert_same(read(network, tokens, gene_BQ, rows=rows), expected)


def test_cells_with_nothing_else_and_with_nothing_at_all(network):
    counts = np.zeros((2, N_GENES), np.float32)
    counts[0, 4] = 100
    tokens = tokenized(counts)
    out = read(network, tokens, [[4, 5], [4, 5]])
    assert torch.isfinite(out).all()
    assert_same(out[0, 0], out[1, 0], atol=5e-3)  # taken out whole: it is the empty cell
    assert (out[0, 1] - out[1, 1]).abs().max() > 1e-3


def test_vectors_of_cells_have_no_part_of_it(network):
    cells = as_input(tokenized(make_counts()))
    other = CellTransformer(dataclasses.replace(CONFIG, context_layers=0)).eval()
    pooled = {k: v for k, v in network.state_dict().items() if not k.startswith("context.")}
    other.load_state_dict({**other.state_dict(), **pooled})
    assert other.context is None
    with torch.inference_mode():
        assert torch.equal(other(cells).type_BE, network(cells).type_BE)
        assert torch.equal(other(cells).cell_BE, network(cells, use_tokens=True).cell_BE)


def test_the_gene_table_is_not_trained_and_every_weight_of_the_context_is():
    torch.manual_seed(0)
    network = CellTransformer(CONFIG).train()
    tokens = tokenized(make_counts())
    gene_BQ = np.concatenate([every_gene(tokens), np.full((5, 1), N_GENES)], axis=1)
    asked = queries(tokens, gene_BQ)
    torch.nn.init.normal_(network.context.component_rate.weight[:N_GENES].detach(), std=0.1)
    rate_BQ = network.in_context(as_input(tokens), asked).log_rate_BQ
    known_BQ = asked.gene_BQ < N_GENES
    loss = count_loss(
        rate_BQ, torch.ones(rate_BQ.shape), torch.full((5,), 50.0), known_BQ,
        network.context.log_size,
    )  # fmt: skip
    loss.backward()
    for name, weight in network.named_parameters():
        if name.startswith("context."):
            assert torch.isfinite(weight.grad).all(), name
            assert weight.grad.any(), name
        else:
            assert weight.grad is None, name
    assert not network.context.rate.weight.grad[N_GENES].any()
    network.freeze_pooled(frozen=True)
    open_ = {name for name, weight in network.named_parameters() if weight.requires_grad}
    assert open_ == {name for name, _ in network.named_parameters() if name.startswith("context.")}


def test_the_rate_is_products_with_the_genes_own_rows_and_bounded(network):
    """Of the embedding, and of the cell's components without the gene; neither alone."""
    counts = make_counts(1)
    tokens, context = tokenized(counts), network.context
    gene_Q = [int(np.flatnonzero(counts[0])[0]), int(np.flatnonzero(counts[0] == 0)[0])]
    found = read(network, tokens, [gene_Q])
    axis_GC = context.component.weight.detach().numpy()
    for q, gene in enumerate(gene_Q):
        left = without(tokens, gene, rise(tokens, gene))
        value_G = np.zeros(N_GENES + 1)
        value_G[left.pool_gene_N] = left.pool_value_N
        linear_C = 10 * value_G @ axis_GC / np.sqrt(value_G @ value_G + 1)
        with torch.inference_mode():
            by_embedding = (found[0, q, :-1] @ context.rate.weight[gene]).item()
            by_components = linear_C @ context.component_rate.weight[gene].numpy()
        assert abs(by_components) > 1e-2
        expected = by_embedding + by_components + context.mean_G[gene].item()
        assert found[0, q, -1].item() == pytest.approx(expected, abs=1e-4)
    with torch.no_grad():
        for mean, bound in ((1e4, LARGEST_LOG), (-1e4, LEAST_LOG)):
            far = CellTransformer(CONFIG).eval()
            far.context.mean_G.fill_(mean)
            assert (read(far, tokens, [gene_Q])[..., -1] == bound).all()


def test_the_linear_view_has_no_part_in_the_embedding(network):
    tokens = tokenized(make_counts())
    expected = read(network, tokens, every_gene(tokens))
    torch.manual_seed(0)
    other = CellTransformer(CONFIG).eval()
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        other.context.component.weight.mul_(2)
    found = read(other, tokens, every_gene(tokens))
    assert torch.equal(found[..., :-1], expected[..., :-1])
    assert (found[..., -1] - expected[..., -1]).abs().max() > 0.01


def test_what_is_said_of_expression_can_be_trained_alone(network):
    said = {f"context.{name}" for name in network.context.SAID}
    assert said < {name for name, _ in network.named_parameters()}
    network.freeze_embeddings(frozen=True)
    still = {name for name, weight in network.named_parameters() if weight.requires_grad}
    network.freeze_embeddings(frozen=False)
    assert {name for name in still if name.startswith("context.")} == said
    assert all(weight.requires_grad for weight in network.parameters())


def test_a_network_of_before_0_19_has_no_components():
    torch.manual_seed(0)
    older = CellTransformer(dataclasses.replace(CONFIG, context_components=0)).eval()
    assert not [name for name in older.state_dict() if "component" in name]
    tokens = tokenized(make_counts())
    assert torch.isfinite(read(older, tokens, every_gene(tokens))).all()


def test_the_loss_is_scipys_negative_binomial():
    rng = np.random.default_rng(0)
    log_rate_BQ = rng.uniform(-6, 6, (4, 7)).astype(np.float32)
    count_BQ = rng.poisson(3, (4, 7)).astype(np.float32) * (rng.random((4, 7)) < 0.7)
    total_B = rng.uniform(500, 20_000, 4).astype(np.float32)
    weight_BQ = rng.uniform(0, 2, (4, 7)).astype(np.float32) * (rng.random((4, 7)) < 0.6)
    for log_size in (-2.0, 0.0, 1.5):
        mean_BQ = np.exp(log_rate_BQ.astype(float)) * total_B[:, None] / 1e4
        size = np.exp(log_size)
        each_BQ = -nbinom.logpmf(count_BQ, size, size / (size + mean_BQ))
        expected = np.average(each_BQ, weights=weight_BQ)
        arrays = map(torch.from_numpy, (log_rate_BQ, count_BQ.astype(np.float32), total_B))
        found = count_loss(*arrays, torch.from_numpy(weight_BQ), torch.tensor(log_size))
        assert found.item() == pytest.approx(expected, rel=1e-4)


def test_the_loss_of_nothing_known_is_0():
    nothing = torch.zeros(2, 3)
    loss = count_loss(nothing, nothing, torch.zeros(2), nothing.bool(), torch.tensor(0.0))
    assert loss.item() == 0
