"""The network: what it is called on disk, and what may and may not change a cell's vectors.

Shape suffixes: B cells, L gene tokens, X slots and tokens, D width, N expressed genes.
"""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from scgp.model.config import ModelConfig
from scgp.model.network import SLOTS, CellInput, CellTransformer

N_GENES = 30
CONFIG = ModelConfig(
    n_genes=N_GENES, n_tokens=6, width=16, n_layers=2, n_heads=4, pool_width=12, embed_dim=10,
    text_dim=8, token_slots=True, context_layers=0,
)  # fmt: skip
BLOCK_KEYS = [
    f"{layer}.{part}"
    for layer in ("norm_attention", "norm_forward", "query", "key_value", "out", "up", "down")
    for part in ("weight", "bias")
]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = CellTransformer(CONFIG).eval()
    # A fresh network gives its tokens no say (to_slots is 0), which would hide every fault.
    torch.nn.init.normal_(network.to_slots, std=0.5)
    return network


def make_cells(n_cells=5, seed=0, n_tokens=6):
    """Cells of 1 to 6 tokens, padded, and a pool of the same genes and some more."""
    rng = np.random.default_rng(seed)
    gene_BL = np.full((n_cells, n_tokens), N_GENES)
    value_BL = np.zeros((n_cells, n_tokens), np.float32)
    pools = []
    for b in range(n_cells):
        genes = rng.permutation(N_GENES)[: 9 + b]
        values = rng.uniform(0.5, 5, len(genes)).astype(np.float32)
        n = min(1 + b, n_tokens)
        gene_BL[b, :n], value_BL[b, :n] = genes[:n], values[:n]
        order = genes.argsort()
        pools.append((genes[order], values[order]))
    offset_B = np.cumsum([0, *(len(g) for g, _ in pools)])
    pool_gene_N, pool_value_N = (np.concatenate(part) for part in zip(*pools, strict=True))
    arrays = (gene_BL, value_BL, pool_gene_N, pool_value_N, offset_B)
    return CellInput(*map(torch.from_numpy, arrays))


def take(cells, rows):
    """Return some cells, in the order given."""
    spans = [range(int(cells.offset_B[b]), int(cells.offset_B[b + 1])) for b in rows]
    pool = torch.tensor([n for span in spans for n in span])
    offset_B = torch.tensor(np.cumsum([0, *map(len, spans)]))
    return CellInput(
        cells.gene_BL[rows], cells.value_BL[rows], cells.pool_gene_N[pool],
        cells.pool_value_N[pool], offset_B,
    )  # fmt: skip


def slots(network, cells, **options):
    with torch.inference_mode():
        out = network(cells, **options)
    return torch.stack([out.cell_BE, out.type_BE, out.tissue_BE, out.disease_BE], dim=1)


def assert_same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=2e-6)


def test_names_of_the_weights_are_pinned():
    # A weight that is renamed makes every saved model unreadable.
    assert list(CellTransformer(dataclasses.replace(CONFIG, n_layers=1)).state_dict()) == [
        "hidden_value", "slot", "to_slots", "sharpness", "gene_weight_G", "text_mean",
        "gene.weight",
        "pool.0.weight", "pool.0.bias", "pool.1.weight", "pool.1.bias",
        "pool.3.weight", "pool.3.bias",
        "pool_to_slots.weight", "pool_to_slots.bias", "pool_to_width.weight", "pool_to_width.bias",
        "identity.0.weight", "identity.0.bias", "identity.1.weight", "identity.1.bias",
        "value.0.weight", "value.0.bias", "value.2.weight", "value.2.bias",
        *(f"blocks.0.{key}" for key in BLOCK_KEYS),
        "norm.weight", "norm.bias",
        "expression.0.weight", "expression.0.bias", "expression.2.weight", "expression.2.bias",
        "text.weight",
    ]  # fmt: skip
    assert SLOTS == ("cell", "type", "tissue", "disease")


def test_slots_are_unit_vectors(network):
    vector_BSE = slots(network, make_cells())
    assert vector_BSE.shape == (5, 4, 10)
    assert_same(vector_BSE.norm(dim=-1), torch.ones(5, 4))


def test_padding_is_not_seen(network):
    cells = make_cells()
    B, L = cells.gene_BL.shape
    gene_BL, value_BL = torch.full((B, L + 5), N_GENES), torch.full((B, L + 5), 77.0)
    gene_BL[:, :L] = cells.gene_BL
    value_BL[:, :L] = torch.where(cells.gene_BL < N_GENES, cells.value_BL, 77.0)
    wider = dataclasses.replace(cells, gene_BL=gene_BL, value_BL=value_BL)
    assert_same(slots(network, wider), slots(network, cells))
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.gene.weight[N_GENES] = 5.0  # as if the padding were another gene
    assert_same(slots(other, wider), slots(network, cells))


def test_tokens_are_seen(network):
    cells = make_cells()
    changed = dataclasses.replace(cells, value_BL=cells.value_BL.clone())
    changed.value_BL[:, 0] += 1
    assert (slots(network, cells) - slots(network, changed)).abs().amax(dim=(1, 2)).min() > 1e-3
    assert (slots(network, cells) - slots(network, cells, use_tokens=False)).abs().max() > 1e-2


def test_the_attention_mask_is_that_of_padding_only(network):
    cells, seen = make_cells(), []
    hook = network.blocks[0].register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    hidden_BL = torch.zeros(cells.gene_BL.shape, dtype=torch.bool)
    try:
        slots(network, cells)
        hidden_BL[:, :2] = True
        slots(network, cells, hidden_BL=hidden_BL)
    finally:
        hook.remove()
    assert torch.equal(seen[0], seen[1])
    expected_BX = torch.cat([torch.ones(5, 4, dtype=torch.bool), cells.gene_BL < N_GENES], dim=1)
    assert torch.equal(seen[0][:, 0, 0], expected_BX)


def test_hidden_values_are_hidden_and_the_others_are_not(network):
    cells = make_cells()
    hidden_BL = torch.zeros(cells.gene_BL.shape, dtype=torch.bool)
    hidden_BL[:, 0] = True
    changed = dataclasses.replace(cells, value_BL=cells.value_BL + 3.0 * hidden_BL)
    with torch.inference_mode():
        a = network(cells, return_genes=True, hidden_BL=hidden_BL)
        b = network(changed, return_genes=True, hidden_BL=hidden_BL)
        c = network(changed, return_genes=True)
    assert torch.equal(a.cell_BE, b.cell_BE)
    assert torch.equal(a.gene_BLD, b.gene_BLD)
    assert (a.gene_BLD - c.gene_BLD).abs().max() > 1e-3


def test_a_cell_does_not_depend_on_its_company_or_its_place(network):
    cells = make_cells()
    together = slots(network, cells)
    order = [3, 0, 4, 2, 1]
    assert_same(slots(network, take(cells, order)), together[order])
    for b in range(5):
        assert_same(slots(network, take(cells, [b]))[0], together[b])


def test_the_order_of_tokens_says_nothing(network):
    cells = make_cells()
    back = dataclasses.replace(
        cells, gene_BL=cells.gene_BL.flip(1), value_BL=cells.value_BL.flip(1)
    )
    assert_same(slots(network, back), slots(network, cells))


def test_a_pool_entry_of_value_0_is_as_if_not_there(network):
    cells = take(make_cells(), [2])
    there = dataclasses.replace(cells, pool_value_N=cells.pool_value_N.clone())
    there.pool_value_N[4] = 0
    gone = CellInput(
        cells.gene_BL, cells.value_BL, torch.cat([cells.pool_gene_N[:4], cells.pool_gene_N[5:]]),
        torch.cat([cells.pool_value_N[:4], cells.pool_value_N[5:]]), cells.offset_B - 0,
    )  # fmt: skip
    gone.offset_B[1] -= 1
    assert_same(slots(network, there), slots(network, gone))


def test_an_empty_cell_is_finite(network):
    cells = CellInput(
        torch.full((1, 1), N_GENES), torch.zeros(1, 1), torch.zeros(0, dtype=torch.long),
        torch.zeros(0), torch.zeros(2, dtype=torch.long),
    )  # fmt: skip
    assert torch.isfinite(slots(network, cells)).all()


def test_a_block_of_some_queries_gives_the_first_rows_of_the_whole_block(network):
    torch.manual_seed(1)
    x_BXD = torch.randn(3, 9, 16)
    seen_B11X = torch.rand(3, 1, 1, 9) < 0.7
    seen_B11X[..., :4] = True
    with torch.inference_mode():
        for n in (1, 4, 9):
            some = network.blocks[1](x_BXD, seen_B11X, n)
            assert some.shape == (3, n, 16)
            assert_same(some, network.blocks[1](x_BXD, seen_B11X)[:, :n])


def test_reading_the_gene_tokens_does_not_change_the_slots(network):
    cells = make_cells()
    with torch.inference_mode():
        out = network(cells, return_genes=True)
    assert out.gene_BLD.shape == (5, 6, 16)
    assert_same(out.type_BE, slots(network, cells)[:, 1])
    with torch.inference_mode():
        assert network(cells).gene_BLD is None
        assert network.predict_expression(out.gene_BLD).shape == (5, 6)


def test_attention_is_that_of_the_textbook(network):
    torch.manual_seed(2)
    block, x_XD = network.blocks[0], torch.randn(1, 7, 16)
    seen_X = torch.tensor([True] * 5 + [False] * 2)
    with torch.inference_mode():
        got = block(x_XD, seen_X[None, None, None])[0]
        normed = block.norm_attention(x_XD[0])
        query, (key, value) = block.query(normed), block.key_value(normed).chunk(2, dim=-1)
        heads = []
        for h in range(4):
            part = slice(4 * h, 4 * h + 4)
            score = query[:, part] @ key[seen_X][:, part].T / 4**0.5
            heads.append(score.softmax(dim=-1) @ value[seen_X][:, part])
        after = x_XD[0] + block.out(torch.cat(heads, dim=1))
        expected = after + block.down(torch.nn.functional.gelu(block.up(block.norm_forward(after))))
    assert_same(got, expected)


def test_without_layers_the_pooled_view_answers_alone():
    torch.manual_seed(0)
    network = CellTransformer(dataclasses.replace(CONFIG, n_layers=0)).eval()
    cells = make_cells()
    assert_same(slots(network, cells), slots(network, cells, use_tokens=False))


def test_vectors_of_the_pooled_view_leave_the_genes_in_context_as_they_are(network):
    pooled = CellTransformer(dataclasses.replace(CONFIG, token_slots=False)).eval()
    pooled.load_state_dict(network.state_dict())
    cells = make_cells()
    assert_same(slots(pooled, cells), slots(network, cells, use_tokens=False))
    assert_same(slots(pooled, cells, use_tokens=True), slots(network, cells))
    with torch.inference_mode():
        a, b = (each(cells, return_genes=True) for each in (pooled, network))
        assert pooled(cells).gene_BLD is None
    assert torch.equal(a.gene_BLD, b.gene_BLD)
    assert torch.equal(a.type_BE, slots(pooled, cells)[:, 1])


def test_what_is_frozen_is_what_the_pooled_view_is_made_of():
    network = CellTransformer(dataclasses.replace(CONFIG, token_slots=False)).train()
    torch.nn.init.normal_(network.to_slots, std=0.5)
    cells = make_cells()
    text_TE = network.project_text(torch.nn.functional.normalize(torch.randn(3, 8), dim=-1))

    def touched(**options):
        network.zero_grad(set_to_none=True)
        out = network(cells, **options)
        every = [out.cell_BE, out.type_BE, out.tissue_BE, out.disease_BE]
        logits = [
            network.text_logits(x, text_TE.detach(), context=i > 1) for i, x in enumerate(every)
        ]
        text = network.project_text(torch.ones(1, 8))
        loss = torch.cat(logits).square().sum() + text[0, 0]
        loss.backward()
        return {n for n, p in network.named_parameters() if p.grad is not None}

    pooled = touched(use_tokens=False)
    network.freeze_pooled(frozen=True)
    assert {n for n, p in network.named_parameters() if not p.requires_grad} == pooled
    network.freeze_pooled(frozen=False)
    assert all(p.requires_grad for p in network.parameters())


def test_texts_are_centred_and_of_unit_length(network):
    torch.manual_seed(3)
    text_T = torch.nn.functional.normalize(torch.randn(4, 8), dim=-1)
    with torch.inference_mode():
        projected_TE = network.project_text(text_T)
        assert_same(projected_TE.norm(dim=-1), torch.ones(4))
        assert_same(network.project_text(7 * text_T), projected_TE)  # the mean text is 0 here
        logit_BT = network.text_logits(projected_TE, projected_TE)
        assert_same(torch.diagonal(logit_BT), torch.full((4,), 1 / 0.07))


def test_logits_cannot_become_sharper_than_30():
    network = CellTransformer(CONFIG)
    with torch.no_grad():
        network.sharpness.copy_(torch.tensor([9.0, -50.0]))
        one = torch.ones(1, 1)
        assert network.text_logits(one, one).item() == 30
        assert network.text_logits(one, one, context=True).item() < 1e-20


def test_padding_gets_no_gradient_and_every_weight_a_finite_one():
    torch.manual_seed(0)
    network = CellTransformer(CONFIG).train()
    torch.nn.init.normal_(network.to_slots, std=0.5)
    hidden_BL = torch.zeros(5, 6, dtype=torch.bool)
    hidden_BL[:, 0] = True
    out = network(make_cells(), return_genes=True, hidden_BL=hidden_BL)
    text_TE = network.project_text(torch.randn(4, 8))
    loss = network.predict_expression(out.gene_BLD).sum()
    for slot, context in ((out.cell_BE, False), (out.type_BE, False), (out.tissue_BE, True)):
        loss = loss + network.text_logits(slot, text_TE, context=context).logsumexp(1).sum()
    (loss + out.disease_BE[:, 0].sum()).backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert torch.isfinite(weight.grad).all(), name
    assert not network.gene.weight.grad[N_GENES].any()
    assert not network.gene.weight[N_GENES].any()
