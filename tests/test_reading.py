"""Reading genes in cells: the loop that the verbs share, against one gene of one cell at a time."""

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from scgp.errors import CheckpointError
from scgp.in_context import reading
from scgp.in_context.reading import (
    CellsToRead,
    Read,
    always,
    check_context,
    dealt,
    expressed_of,
    part,
    read_genes,
)
from scgp.model.checkpoint import Model
from scgp.model.context import GeneQueries
from scgp.model.network import CellTransformer
from scgp.training.objective import as_input

NAMES = ["CD74", "LYZ", "NKG7", "CD79A", "HLA-DRA", "FOS"]


@pytest.fixture(scope="module")
def counts(all_blood):
    return sp.csr_matrix(all_blood.X[:70])


@pytest.fixture(scope="module")
def token_V(all_blood, model):
    return model.genes.match(all_blood.var_names).token_of_column


@pytest.fixture(scope="module")
def genes(model):
    return model.genes.match(NAMES).token_of_column.astype(np.int64)


def joined(reads):
    """All that was read, sorted by cell and gene."""
    reads = list(reads)
    names = [field.name for field in dataclasses.fields(Read)]
    whole = {n: np.concatenate([getattr(read, n) for read in reads]) for n in names}
    order = np.lexsort([whole["gene_M"], whole["cell_M"]])
    return Read(**{n: values[order] for n, values in whole.items()})


def assert_same_reads(a, b, atol=1e-5):
    np.testing.assert_array_equal(a.cell_M, b.cell_M)
    np.testing.assert_array_equal(a.gene_M, b.gene_M)
    np.testing.assert_array_equal(a.own_M, b.own_M)
    np.testing.assert_allclose(a.context_MD, b.context_MD, rtol=0, atol=atol)
    np.testing.assert_allclose(a.log_rate_M, b.log_rate_M, rtol=0, atol=atol)


@pytest.fixture
def read(context_model, counts, token_V, genes):
    def verb(blocks=None, choose=None, **options):
        blocks = [counts] if blocks is None else blocks
        choose = choose or expressed_of(genes, context_model.config.n_genes)
        return read_genes(context_model, blocks, token_V, choose, **options)

    return verb


def by_hand(model, counts, token_V, cell, gene):
    """One gene of one cell through the network."""
    tokens = model.tokenizer.tokenize(counts[[cell]], token_V)
    values = dict(zip(tokens.pool_gene_N.tolist(), tokens.pool_value_N.tolist(), strict=True))
    own = values.get(int(gene), 0.0)
    queries = GeneQueries(torch.tensor([[int(gene)]]), torch.tensor([[own]]))
    with torch.inference_mode():
        found = model.network.in_context(as_input(tokens), queries)
    return own, found.embedding_BQD[0, 0].numpy(), found.log_rate_BQ.item()


def test_every_pair_is_what_the_network_says_of_it_alone(
    context_model, counts, token_V, genes, read
):
    found = joined(read())
    column = {int(t): v for v, t in enumerate(token_V)}
    expected = np.argwhere(counts[:, [column[int(g)] for g in np.sort(genes)]].toarray() > 0)
    np.testing.assert_array_equal(found.cell_M, expected[:, 0])
    np.testing.assert_array_equal(found.gene_M, np.sort(genes)[expected[:, 1]])
    assert {x.dtype for x in (found.own_M, found.context_MD, found.log_rate_M)} == {
        np.dtype(np.float32)
    }
    for m in range(0, len(found.cell_M), 11):
        own, context, rate = by_hand(
            context_model, counts, token_V, found.cell_M[m], found.gene_M[m]
        )
        assert found.own_M[m] == np.float32(own) > 0
        np.testing.assert_allclose(found.context_MD[m], context, atol=1e-5)
        assert found.log_rate_M[m] == pytest.approx(rate, abs=1e-5)


def test_genes_that_are_not_expressed_are_read_where_that_is_asked(
    context_model, counts, token_V, genes, read
):
    found = joined(read(choose=always(genes)))
    assert len(found.cell_M) == 70 * len(genes)
    absent = np.flatnonzero(found.own_M == 0)
    assert len(absent) > 50
    for m in absent[::40]:
        own, context, rate = by_hand(
            context_model, counts, token_V, found.cell_M[m], found.gene_M[m]
        )
        assert own == 0
        np.testing.assert_allclose(found.context_MD[m], context, atol=1e-5)
        assert found.log_rate_M[m] == pytest.approx(rate, abs=1e-5)
    here = found.own_M > 0
    subset = Read(*(getattr(found, f.name)[here] for f in dataclasses.fields(Read)))
    assert_same_reads(subset, joined(read()))


def test_the_cut_into_blocks_and_chunks_changes_nothing(read, counts, monkeypatch):
    expected = joined(read())
    assert_same_reads(joined(read([counts[:1], counts[1:40], counts[40:]])), expected)
    monkeypatch.setattr(reading, "BLOCK_CELLS", 16)
    for chunk in (1, 7, 64):
        monkeypatch.setattr(reading, "CHUNK_QUERIES", chunk)
        parts = list(read())
        assert_same_reads(joined(parts), expected)
        # a chunk is as large as allowed, or has one cell
        assert all(len(p.cell_M) <= chunk or len(set(p.cell_M)) == 1 for p in parts)


def test_no_query_is_lost_to_the_budget_of_tokens(context_model, counts, token_V):
    """Every expressed gene, most of which have no token."""
    model = context_model
    every = np.arange(model.config.n_genes)
    choose = expressed_of(every, model.config.n_genes)
    found = joined(read_genes(model, [counts[:3]], token_V, choose))
    tokens = model.tokenizer.tokenize(counts[:3], token_V)
    assert np.diff(tokens.offset_B).min() > 2 * tokens.gene_BL.shape[1]
    np.testing.assert_array_equal(found.gene_M, tokens.pool_gene_N)
    np.testing.assert_array_equal(found.own_M, tokens.pool_value_N)


def test_empty_cells_are_not_read_and_keep_their_place(read, counts):
    empty = sp.csr_matrix((3, counts.shape[1]), dtype=np.float32)
    expected = joined(read())
    found = joined(read([empty, sp.vstack([counts, empty], format="csr"), empty]))
    assert_same_reads(dataclasses.replace(found, cell_M=found.cell_M - 3), expected)
    everywhere = joined(read([empty, counts], choose=always(np.array([5]))))
    assert everywhere.cell_M.tolist() == list(range(3, 73))
    assert list(read([empty])) == []
    assert list(read([])) == []


def test_padding_of_a_choice_may_lie_anywhere(read, genes, context_model):
    n_genes = context_model.config.n_genes

    def choose(tokens, _):
        gene_BQ = np.full((tokens.n_cells, 9), n_genes)
        gene_BQ[:, 3:] = genes
        gene_BQ[::2, 5] = n_genes
        return gene_BQ

    found, every = joined(read(choose=choose)), joined(read(choose=always(genes)))
    kept = (every.cell_M % 2 == 1) | (every.gene_M != genes[2])
    assert_same_reads(
        found, Read(*(getattr(every, f.name)[kept] for f in dataclasses.fields(Read)))
    )


def test_part_gives_some_cells_in_the_order_given(context_model, counts, token_V):
    tokens = context_model.tokenizer.tokenize(
        sp.vstack([counts[:5], counts[:1] * 0, counts[5:9]], format="csr"), token_V
    )
    rows = np.array([7, 5, 0, 7])
    some = part(tokens, rows)
    np.testing.assert_array_equal(
        some.values(context_model.config.n_genes).toarray(),
        tokens.values(context_model.config.n_genes).toarray()[rows],
    )
    for name in ("gene_BL", "value_BL", "total_B"):
        np.testing.assert_array_equal(getattr(some, name), getattr(tokens, name)[rows])
    none = part(tokens, np.zeros(0, np.int64))
    assert none.n_cells == 0
    assert none.offset_B.tolist() == [0]


def test_pairs_are_dealt_into_rows():
    rows = dealt(np.array([0, 0, 2]), np.array([4, 1, 3]), 4, 9)
    assert rows.tolist() == [[4, 1], [9, 9], [3, 9], [9, 9]]
    nothing = np.zeros(0, np.int64)
    assert dealt(nothing, nothing, 2, 9).tolist() == [[9], [9]]


def test_every_cell_is_told_of_once(read, counts, monkeypatch):
    monkeypatch.setattr(reading, "BLOCK_CELLS", 30)
    done = []
    list(read([counts, counts[:5]], advance=done.append))
    assert done == [30, 30, 10, 5]


@pytest.mark.parametrize("fails", [False, True])
def test_the_network_is_lent_to_the_device_and_goes_back(read, context_model, monkeypatch, fails):
    devices, to = [], context_model.network.to

    def move(device):
        devices.append(str(device))
        return to(device)

    monkeypatch.setattr(context_model.network, "to", move)
    reads = read(device="cpu:0")
    next(reads)
    assert devices == ["cpu:0"]
    if fails:
        with pytest.raises(KeyboardInterrupt):
            reads.throw(KeyboardInterrupt)
    else:
        list(reads)
    assert devices == ["cpu:0", "cpu"]


def test_another_network_in_place_of_the_models(read, context_model):
    torch.manual_seed(5)
    other = CellTransformer(context_model.config).eval()
    found, own = joined(read(network=other)), joined(read())
    np.testing.assert_array_equal(found.cell_M, own.cell_M)
    assert np.abs(found.context_MD - own.context_MD).max() > 0.1


def test_cells_can_be_read_again_and_tell_only_where_asked(
    context_model, counts, token_V, genes, read
):
    done = []
    cells = CellsToRead(context_model, lambda: [counts], token_V, 70, "cpu", done.append)
    choose = expressed_of(genes, context_model.config.n_genes)
    assert_same_reads(joined(cells.read(choose)), joined(read()))
    assert not done
    assert_same_reads(joined(cells.read(choose, tell=True)), joined(read()))
    assert done == [70]


def test_a_model_without_a_context_is_refused_with_a_way_out(context_model):
    check_context(context_model)
    config = dataclasses.replace(context_model.config, context_layers=0)
    older = Model(config, CellTransformer(config), context_model.genes, context_model.phenotypes)
    with pytest.raises(CheckpointError, match=r"before scgp 0\.8\.0.*context_layers=2"):
        check_context(older)
