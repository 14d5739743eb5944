"""The Tokenizer against a plain Python account of what it promises."""

import numba
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from scgp.cells import kernels
from scgp.cells.tokens import TokenBatch, Tokenizer
from scgp.errors import ArgumentError

N_GENES = 150  # three words of the kernel's bitmap


def weights(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.2, 3.0, N_GENES).astype(np.float32)


def random_counts(n_cells: int, n_columns: int, seed: int) -> sp.csr_matrix:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.lognormal(-1.0, 1.5, (n_cells, n_columns)))
    counts[rng.random(counts.shape) < 0.02] += 500  # beyond the kernel's table
    return sp.csr_matrix(counts.astype(np.float32))


def plain_tokens(counts_V, token_V, weight_G, n_tokens):
    """Pool and tokens of one cell, by dictionaries and a sort."""
    total_of: dict[int, float] = {}
    for count, token in zip(counts_V, token_V, strict=True):
        if token >= 0 and count > 0:
            total_of[int(token)] = total_of.get(int(token), 0.0) + float(count)
    total = sum(total_of.values())
    value_of = {g: np.float32(np.log1p(c * (1e4 / total))) for g, c in sorted(total_of.items())}
    ranked = sorted(value_of, key=lambda g: (-(value_of[g] * weight_G[g]), g))
    return value_of, ranked[:n_tokens], total


def pool(batch: TokenBatch, b: int) -> dict[int, float]:
    entries = slice(batch.offset_B[b], batch.offset_B[b + 1])
    return dict(
        zip(batch.pool_gene_N[entries].tolist(), batch.pool_value_N[entries].tolist(), strict=True)
    )


def assert_same(one: TokenBatch, other: TokenBatch) -> None:
    for name in TokenBatch.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@pytest.mark.parametrize("weight_G", [weights(), np.ones(N_GENES, np.float32)], ids=["own", "ties"])
@pytest.mark.parametrize("n_tokens", [1, 8, 64, 400])
def test_tokens_are_those_of_a_plain_account(n_tokens, weight_G):
    counts = random_counts(12, 180, seed=1)
    token_V = np.random.default_rng(2).integers(-1, N_GENES, 180)  # unknown and repeated genes
    batch = Tokenizer(N_GENES, n_tokens, weight_G).tokenize(counts, token_V)
    longest = 0
    for b, counts_V in enumerate(counts.toarray()):
        values, ranked, total = plain_tokens(counts_V, token_V, weight_G, n_tokens)
        longest = max(longest, len(ranked))
        got = batch.gene_BL[b][batch.gene_BL[b] < N_GENES]
        assert got.tolist() == ranked
        np.testing.assert_allclose(
            batch.value_BL[b, : got.size], [values[g] for g in ranked], rtol=1e-6
        )
        assert not batch.value_BL[b, got.size :].any()
        assert list(pool(batch, b)) == list(values)
        np.testing.assert_allclose(list(pool(batch, b).values()), list(values.values()), rtol=1e-6)
        assert batch.total_B[b] == total
    assert batch.gene_BL.shape == (12, longest)


def test_a_weight_of_minus_nothing_is_nothing():
    counts, gene_V = random_counts(20, N_GENES, seed=3), np.arange(N_GENES)
    weight_G = np.where(gene_V % 3 == 0, 0, weights()).astype(np.float32)
    minus_G = np.where(gene_V % 6 == 0, np.float32(-0.0), weight_G)  # some of those of nothing
    plain, minus = (
        Tokenizer(N_GENES, N_GENES, w).tokenize(counts, gene_V) for w in (weight_G, minus_G)
    )
    np.testing.assert_array_equal(plain.gene_BL, minus.gene_BL)


def test_dtypes_are_those_of_the_contract():
    batch = Tokenizer(N_GENES, 8, weights()).tokenize(
        random_counts(3, N_GENES, seed=0), np.arange(N_GENES)
    )
    found = {name: getattr(batch, name).dtype.name for name in TokenBatch.__dataclass_fields__}
    assert found == {
        "gene_BL": "int64",
        "value_BL": "float32",
        "pool_gene_N": "int64",
        "pool_value_N": "float32",
        "offset_B": "int64",
        "total_B": "float32",
    }
    assert batch.gene_BL.flags.c_contiguous
    assert batch.n_cells == 3


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_order_of_columns_storage_and_company_change_nothing(seed):
    rng = np.random.default_rng(seed)
    tokenizer = Tokenizer(N_GENES, 16, weights())
    counts = random_counts(5, N_GENES, seed=seed)
    expected = tokenizer.tokenize(counts, np.arange(N_GENES))
    order_V = rng.permutation(N_GENES)
    assert_same(tokenizer.tokenize(counts[:, order_V], order_V), expected)
    # Halves of each count, shuffled within the row, with an explicit zero.
    coo = counts.tocoo()
    half = np.floor(coo.data / 2)
    row = np.concatenate([coo.row, coo.row, [0]])
    column = np.concatenate([coo.col, coo.col, [7]])
    shuffled = rng.permutation(row.size)
    shuffled = shuffled[np.argsort(row[shuffled], kind="stable")]
    data = np.concatenate([half, coo.data - half, [0]])[shuffled]
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=5))])
    messy = sp.csr_matrix((data, column[shuffled], indptr), shape=counts.shape)
    assert_same(tokenizer.tokenize(messy, np.arange(N_GENES)), expected)
    alone = tokenizer.tokenize(counts[3], np.arange(N_GENES))
    assert pool(alone, 0) == pool(expected, 3)
    width = alone.gene_BL.shape[1]
    assert alone.gene_BL[0].tolist() == expected.gene_BL[3, :width].tolist()


@pytest.mark.parametrize("dtype", ["uint16", "int64", "float64"])
def test_dtype_of_counts_changes_nothing(dtype):
    tokenizer = Tokenizer(N_GENES, 16, weights())
    counts = random_counts(4, N_GENES, seed=3)
    assert_same(
        tokenizer.tokenize(counts.astype(dtype), np.arange(N_GENES)),
        tokenizer.tokenize(counts, np.arange(N_GENES)),
    )


def test_empty_cells_have_no_tokens():
    counts = random_counts(3, N_GENES, seed=4).tolil()
    counts[1] = 0
    batch = Tokenizer(N_GENES, 8, weights()).tokenize(counts.tocsr(), np.arange(N_GENES))
    assert batch.total_B[1] == 0
    assert (batch.gene_BL[1] == N_GENES).all()
    assert pool(batch, 1) == {}
    others = Tokenizer(N_GENES, 8, weights()).tokenize(counts.tocsr()[[0, 2]], np.arange(N_GENES))
    assert [pool(batch, 0), pool(batch, 2)] == [pool(others, 0), pool(others, 1)]
    assert batch.offset_B.tolist() == sorted(batch.offset_B)


@pytest.mark.parametrize("n_cells", [0, 2])
def test_a_batch_without_counts_keeps_one_column_of_padding(n_cells):
    empty = sp.csr_matrix((n_cells, N_GENES), dtype=np.float32)
    batch = Tokenizer(N_GENES, 8, weights()).tokenize(empty, np.arange(N_GENES))
    assert batch.gene_BL.tolist() == [[N_GENES]] * n_cells
    assert batch.offset_B.tolist() == [0] * (n_cells + 1)


def test_the_users_matrix_is_not_changed():
    counts = random_counts(4, N_GENES, seed=5)[:, ::-1]
    before = [counts.indptr.copy(), counts.indices.copy(), counts.data.copy()]
    Tokenizer(N_GENES, 8, weights()).tokenize(counts, np.arange(N_GENES))
    for was, now in zip(before, [counts.indptr, counts.indices, counts.data], strict=True):
        np.testing.assert_array_equal(was, now)


def augmented(counts, *, keep, seed, gene_keep_G=None, n_tokens=16):
    keep_B = np.full(counts.shape[0], keep)
    gene_keep_G = np.ones(N_GENES, dtype=bool) if gene_keep_G is None else gene_keep_G
    return Tokenizer(N_GENES, n_tokens, weights()).augment(
        counts, keep_B=keep_B, gene_keep_G=gene_keep_G, seed=seed
    )


def test_keeping_all_is_tokenizing():
    counts = random_counts(6, N_GENES, seed=6)
    expected = Tokenizer(N_GENES, 16, weights()).tokenize(counts, np.arange(N_GENES))
    assert_same(augmented(counts, keep=1.0, seed=0), expected)


def test_keeping_nothing_is_an_empty_cell():
    assert not augmented(random_counts(6, N_GENES, seed=6), keep=0.0, seed=0).total_B.any()


def test_the_seed_decides_the_draw():
    counts = random_counts(6, N_GENES, seed=7)
    assert_same(augmented(counts, keep=0.5, seed=3), augmented(counts, keep=0.5, seed=3))
    other = augmented(counts, keep=0.5, seed=4)
    assert (augmented(counts, keep=0.5, seed=3).total_B != other.total_B).any()


def test_dropped_genes_leave_the_totals_and_the_draws_of_the_others():
    counts = random_counts(6, N_GENES, seed=8)
    gene_keep_G = np.random.default_rng(0).random(N_GENES) < 0.5
    batch = augmented(counts, keep=1.0, seed=0, gene_keep_G=gene_keep_G)
    np.testing.assert_array_equal(batch.total_B, counts.toarray()[:, gene_keep_G].sum(axis=1))
    assert gene_keep_G[batch.pool_gene_N].all()
    thinned = augmented(counts, keep=0.4, seed=0)
    dropped = augmented(counts, keep=0.4, seed=0, gene_keep_G=gene_keep_G)
    kept = [g for g in pool(thinned, 2) if gene_keep_G[g]]
    assert list(pool(dropped, 2)) == kept


@pytest.mark.parametrize("count", [1, 3, 63, 1000])
@pytest.mark.parametrize("keep", [0.2, 0.75])
def test_thinned_counts_are_binomial(count, keep):
    """Mean and variance of 20,000 draws, five standard errors wide, in cells and over genes."""
    n_cells = 20_000 // N_GENES
    counts = sp.csr_matrix(np.full((n_cells, N_GENES), count, dtype=np.float32))
    share = round(keep * kernels.KEEP_ALL)
    draws = np.array(
        [kernels.thin_count(count, share, np.uint64(k) << np.uint64(40)) for k in range(20_000)]
    )
    variance = count * keep * (1 - keep)
    assert abs(draws.mean() - count * keep) < 5 * np.sqrt(variance / draws.size)
    assert abs(draws.var() / variance - 1) < 5 * np.sqrt(3 / draws.size)
    total_B = augmented(counts, keep=keep, seed=1).total_B
    spread = np.sqrt(variance * N_GENES)
    assert abs(total_B.mean() - count * keep * N_GENES) < 5 * spread / np.sqrt(n_cells)
    assert abs(total_B.var() / spread**2 - 1) < 5 * np.sqrt(3 / n_cells)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4, np.ones(0)), "n_genes is 0"),
        ((3, 0, np.ones(3)), "n_tokens is 0"),
        ((3, 4, np.ones(2)), "expected one per gene"),
        ((3, 4, np.array([1.0, -1.0, 1.0])), "holds -1.0"),
        ((3, 4, np.array([1.0, np.nan, 1.0])), "holds nan"),
        ((3, 4, np.array([1.0, np.inf, 1.0])), "holds inf"),
    ],
)
def test_a_tokenizer_refuses_bad_arguments(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        Tokenizer(*arguments)


@pytest.mark.parametrize("token_V", [np.arange(2), np.array([0, 1, 3]), np.array([-2, 0, 1])])
def test_tokenize_refuses_columns_that_are_no_genes(token_V):
    with pytest.raises(ArgumentError, match="token_of_column"):
        Tokenizer(3, 2, np.ones(3)).tokenize(sp.csr_matrix(np.eye(3)), token_V)


@pytest.mark.parametrize(
    ("keep_B", "gene_keep_G", "message"),
    [
        (np.ones(2), np.ones(3, bool), "have shapes"),
        (np.ones(3), np.ones(2, bool), "have shapes"),
        (np.array([0.5, 1.5, 0.0]), np.ones(3, bool), "expected 0 to 1"),
        (np.array([0.5, np.nan, 0.0]), np.ones(3, bool), "expected 0 to 1"),
    ],
)
def test_augment_refuses_bad_arguments(keep_B, gene_keep_G, message):
    tokenizer = Tokenizer(3, 2, np.ones(3))
    with pytest.raises(ArgumentError, match=message):
        tokenizer.augment(sp.csr_matrix(np.eye(3)), keep_B=keep_B, gene_keep_G=gene_keep_G, seed=0)


def test_without_a_folder_to_cache_in_it_still_compiles(monkeypatch):
    compile_plain = numba.njit

    def njit(*, cache=False, nogil):
        if cache:
            message = "cannot cache function: no locator available"
            raise RuntimeError(message)
        return compile_plain(nogil=nogil)

    monkeypatch.setattr(numba, "njit", njit)
    assert kernels.compiled(lambda x: x + 1)(1) == 2
