"""Which cells a step sees: balance, seeds, shares, and what masked expression hides.

Shape suffixes: N cells of the corpus, B cells, L tokens, G genes.
"""

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from scgp.cells import sampling
from scgp.cells.corpus import Corpus
from scgp.cells.sampling import HIDDEN_SHARE, Sampler, balance, hide, some_cells
from scgp.cells.tokens import TokenBatch, Tokenizer
from scgp.errors import LabelError

N_GENES = 80


def make_corpus(n_cells=60, seed=0, n_drawn=20):
    rng = np.random.default_rng(seed)
    text = np.full(n_cells, "", dtype=object)
    drawn_N = np.arange(n_cells) >= n_cells - n_drawn
    return Corpus(
        count_NG=sp.csr_matrix(rng.poisson(0.7, (n_cells, N_GENES)).astype(np.uint16)),
        label_N=text,
        tissue_N=text,
        disease_N=text,
        study_N=np.where(drawn_N, 3, rng.integers(0, 3, n_cells)),
        donor_N=np.where(drawn_N, 9, rng.integers(0, 6, n_cells)),
        drawn_N=drawn_N,
        source_N=np.where(drawn_N, -1, 0),
        studies=("a", "b", "c", "profile"),
        measured_SG=rng.random((2, N_GENES)) < 0.8,
    )


def make_sampler(corpus=None, class_N=None, **options):
    corpus = corpus or make_corpus()
    class_N = np.arange(corpus.n_cells) % 4 - 1 if class_N is None else class_N
    tokenizer = Tokenizer(N_GENES, 16, np.ones(N_GENES, np.float32))
    options = {"batch_size": 20, "drawn_share": 0.3, "seed": 5, **options}
    return Sampler(corpus, class_N, tokenizer, **options)


def arrays(tokens):
    return [getattr(tokens, field.name) for field in dataclasses.fields(tokens)]


def test_balance_by_hand():
    # Class 0: 16 cells (study 0: 9 cells of donors of 4, 4 and 1; study 1: 7 of one donor).
    # Class 1: 4 cells. Two cells have no class.
    class_N = np.repeat([0, 1, -1], [16, 4, 2])
    study_N = np.repeat([0, 1, 0, 0], [9, 7, 4, 2])
    donor_N = np.repeat([0, 1, 2, 3, 4, 4], [4, 4, 1, 7, 4, 2])
    weight_N = balance(class_N, study_N, donor_N)
    assert weight_N.sum() == pytest.approx(1)
    assert not weight_N[-2:].any()
    of_class = np.array([weight_N[class_N == c].sum() for c in (0, 1)])
    np.testing.assert_allclose(of_class, np.array([4, 2]) / 6)
    in_0 = weight_N[:16] / of_class[0]
    np.testing.assert_allclose(
        [in_0[:9].sum(), in_0[9:].sum()], np.sqrt([9, 7]) / np.sqrt([9, 7]).sum()
    )
    donors = [in_0[:4].sum(), in_0[4:8].sum(), in_0[8]] / in_0[:9].sum()
    np.testing.assert_allclose(donors, np.array([2, 2, 1]) / 5)
    np.testing.assert_allclose(weight_N[:4], weight_N[0])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31))
def test_classes_weigh_the_root_of_their_size_and_studies_within(seed):
    rng = np.random.default_rng(seed)
    class_N = rng.integers(-1, 4, 50)
    class_N[0] = 0
    study_N, donor_N = rng.integers(0, 3, 50), rng.integers(0, 5, 50)
    weight_N = balance(class_N, study_N, donor_N)
    roots = {c: np.sqrt(np.sum(class_N == c)) for c in set(class_N) - {-1}}
    for c, root in roots.items():
        of_class = weight_N[class_N == c].sum()
        assert of_class == pytest.approx(root / sum(roots.values()))
        studies = study_N[class_N == c]
        of_study = [weight_N[(class_N == c) & (study_N == s)].sum() for s in np.unique(studies)]
        expected = np.sqrt(np.unique(studies, return_counts=True)[1])
        np.testing.assert_allclose(of_study / of_class, expected / expected.sum())
    assert not weight_N[class_N < 0].any()


def test_without_labels_there_is_nothing_to_balance():
    nothing = np.zeros(3, int)
    with pytest.raises(LabelError, match="label_key"):
        balance(nothing - 1, nothing, nothing)


@pytest.mark.parametrize("augment", [True, False])
def test_seed_and_step_decide_the_batch(augment):
    first, second = make_sampler(augment=augment), make_sampler(augment=augment)
    second.batch(3)  # what was asked before does not matter
    for step in (0, 7):
        a, b = first.batch(step), second.batch(step)
        np.testing.assert_array_equal(a.row_B, b.row_B)
        for x, y in zip(arrays(a.tokens), arrays(b.tokens), strict=True):
            np.testing.assert_array_equal(x, y)
        a, b = first.masked_batch(step, 6), second.masked_batch(step, 6)
        np.testing.assert_array_equal(a.hidden_BL, b.hidden_BL)
        np.testing.assert_array_equal(a.tokens.gene_BL, b.tokens.gene_BL)
    assert (first.batch(0).row_B != first.batch(1).row_B).any()
    assert (first.batch(0).row_B != make_sampler(seed=6).batch(0).row_B).any()


@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize("rows", [slice(0, 7), slice(7, 14), slice(14, 20), slice(20, 20)])
def test_some_cells_of_a_batch_are_as_in_the_whole_batch(augment, rows):
    sampler = make_sampler(augment=augment)
    whole, part = sampler.batch(3), sampler.batch(3, rows)
    for name in ("row_B", "class_B", "study_B"):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name))
    others = np.ones(20, bool)
    others[rows] = False
    assert not part.tokens.total_B[others].any()
    cut, ours = some_cells(whole.tokens, rows), some_cells(part.tokens, rows)
    width = ours.gene_BL.shape[1]  # that of the longest of these cells
    assert (cut.gene_BL[:, width:] == N_GENES).all()
    np.testing.assert_array_equal(cut.gene_BL[:, :width], ours.gene_BL)
    np.testing.assert_array_equal(cut.value_BL[:, :width], ours.value_BL)
    for name in ("pool_gene_N", "pool_value_N", "offset_B", "total_B"):
        np.testing.assert_array_equal(getattr(cut, name), getattr(ours, name))
    counts = whole.tokens.values(N_GENES)[rows]
    assert (cut.values(N_GENES) != counts).nnz == 0


def test_the_share_of_drawn_cells_is_kept_in_every_batch():
    corpus = make_corpus()
    sampler = make_sampler(corpus)
    for step in range(10):
        sample = sampler.batch(step)
        assert corpus.drawn_N[sample.row_B].sum() == 6  # 0.3 of 20
        np.testing.assert_array_equal(sample.class_B, sampler.class_N[sample.row_B])
        np.testing.assert_array_equal(sample.study_B, corpus.study_N[sample.row_B])
        assert (sample.class_B >= 0).all()
        assert sample.tokens.n_cells == 20
    without = make_sampler(make_corpus(n_drawn=0))
    assert without.batch(0).tokens.n_cells == 20


def test_cells_are_drawn_as_often_as_balance_says():
    corpus = make_corpus(n_drawn=0)
    sampler = make_sampler(corpus, batch_size=200, augment=False)
    seen = np.bincount(np.concatenate([sampler.batch(i).row_B for i in range(40)]), minlength=60)
    expected = 8000 * balance(sampler.class_N, corpus.study_N, corpus.donor_N)
    assert (np.abs(seen - expected) < 5 * np.sqrt(expected) + 1e-9).all()


def test_masked_cells_may_be_unlabelled_but_are_never_drawn_ones():
    corpus = make_corpus()
    corpus = dataclasses.replace(
        corpus, count_NG=sp.csr_matrix(np.eye(60, N_GENES, dtype=np.uint16))
    )
    class_N = np.where(np.arange(60) == 0, 0, -1)
    class_N[-1] = 0
    sampler = make_sampler(corpus, class_N, augment=False)
    tokens = sampler.masked_batch(0, 300).tokens
    rows = set(tokens.pool_gene_N.tolist())  # cell i expresses gene i
    assert rows == set(range(40))


@pytest.mark.parametrize("augment", [True, False])
def test_seed_and_step_decide_the_genes_that_are_predicted(augment):
    first, second = make_sampler(augment=augment), make_sampler(augment=augment)
    second.context_batch(3, 6, 8)
    a, b = first.context_batch(7, 6, 8), second.context_batch(7, 6, 8)
    for name in ("gene_BQ", "own_BQ", "count_BQ", "weight_BQ"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for x, y in zip(arrays(a.tokens), arrays(b.tokens), strict=True):
        np.testing.assert_array_equal(x, y)
    assert a.gene_BQ.shape == (6, 8)
    assert (a.gene_BQ != first.context_batch(8, 6, 8).gene_BQ).any()
    other = make_sampler(augment=augment, seed=6).context_batch(7, 6, 8)
    assert (a.gene_BQ != other.gene_BQ).any()


def test_genes_are_predicted_in_labelled_cells_and_some_others_but_never_in_drawn_ones():
    corpus = make_corpus()
    corpus = dataclasses.replace(
        corpus, count_NG=sp.csr_matrix(np.eye(60, N_GENES, dtype=np.uint16))
    )
    class_N = np.where(np.arange(60) < 5, 0, -1)
    class_N[-5:] = 0
    tokens = make_sampler(corpus, class_N, augment=False).context_batch(0, 2000, 4).tokens
    row_B = tokens.pool_gene_N  # cell i expresses gene i
    assert set(row_B.tolist()) == set(range(40))
    labelled = sampling.ANY_SHARE * 5 / 40 + 1 - sampling.ANY_SHARE
    assert (row_B < 5).mean() == pytest.approx(labelled, abs=0.04)


def test_genes_that_the_source_of_a_cell_does_not_measure_are_not_known():
    corpus = make_corpus(n_drawn=0)
    source_N = np.arange(60) % 2
    corpus = dataclasses.replace(corpus, source_N=source_N)
    # which source a cell is of, is told by a gene that no other cell has
    counts = corpus.count_NG.toarray()
    counts[:, :2] = np.eye(2)[source_N]
    corpus = dataclasses.replace(corpus, count_NG=sp.csr_matrix(counts.astype(np.uint16)))
    sample = make_sampler(corpus, augment=False).context_batch(0, 40, 30)
    source_B = sample.tokens.values(N_GENES)[:, 1].toarray().ravel() > 0
    expected_BG = corpus.measured_SG[source_B.astype(int)]
    np.testing.assert_array_equal(
        sample.weight_BQ > 0, np.take_along_axis(expected_BG, sample.gene_BQ, axis=1)
    )
    assert 0.5 < (sample.weight_BQ > 0).mean() < 0.95


def test_a_part_of_a_corpus_that_lacks_a_study_is_sampled_without_a_warning():
    corpus = make_corpus()
    part = corpus.part(np.flatnonzero(corpus.study_N != 1))
    assert make_sampler(part).masked_batch(0, 5).tokens.n_cells == 5


def test_without_augmentation_tokens_are_those_of_the_counts():
    sampler = make_sampler(augment=False)
    sample = sampler.batch(0)
    counts = sampler.corpus.count_NG[sample.row_B].astype(np.float32)
    expected = sampler.tokenizer.tokenize(counts, np.arange(N_GENES))
    for x, y in zip(arrays(sample.tokens), arrays(expected), strict=True):
        np.testing.assert_array_equal(x, y)


def test_augmentation_thins_counts_and_drops_genes(monkeypatch):
    sampler = make_sampler()
    whole = sampler.corpus.count_NG.sum(axis=1).A1
    share, n_genes = [], []
    for step in range(60):
        sample = sampler.batch(step)
        assert (sample.tokens.total_B <= whole[sample.row_B]).all()
        share.append(sample.tokens.total_B / whole[sample.row_B])
        n_genes.append(len(np.unique(sample.tokens.pool_gene_N)))
    assert np.mean(share) < 0.7
    assert min(n_genes) < 0.4 * N_GENES
    assert max(n_genes) > 0.9 * N_GENES
    monkeypatch.setattr(sampling, "GENE_DROPOUT", (0.0,))
    monkeypatch.setattr(sampling, "PLATFORM_RATE", 1.0)
    measured_SG = sampler.corpus.measured_SG
    for step in range(10):  # a panel of fewer than LEAST_GENES is taken whole
        genes = np.unique(sampler.batch(step).tokens.pool_gene_N)
        assert measured_SG[:, genes].all(axis=1).any()


def make_tokens(n_cells=400, seed=0, n_tokens=24, n_genes=600):
    """Cells that express few of many genes, so that a swap nearly always finds an unexpressed."""
    counts = sp.random(
        n_cells, n_genes, 0.05, "csr", np.float32, np.random.default_rng(seed),
        data_rvs=lambda n: np.random.default_rng(seed).integers(1, 9, n).astype(np.float32),
    )  # fmt: skip
    tokenizer = Tokenizer(n_genes, n_tokens, np.ones(n_genes, np.float32))
    return tokenizer.tokenize(counts, np.arange(n_genes)), n_genes


def expressed(tokens, b):
    span = slice(tokens.offset_B[b], tokens.offset_B[b + 1])
    return dict(
        zip(tokens.pool_gene_N[span].tolist(), tokens.pool_value_N[span].tolist(), strict=True)
    )


def test_hidden_tokens_are_half_expressed_genes_and_half_not():
    tokens, n_genes = make_tokens()
    masked = hide(tokens, n_genes, np.random.default_rng(1))
    real_BL = tokens.gene_BL < n_genes
    assert not (masked.hidden_BL & ~real_BL).any()
    assert masked.hidden_BL.sum() / real_BL.sum() == pytest.approx(HIDDEN_SHARE, abs=0.02)
    assert (masked.target_BL[masked.hidden_BL] > 0).mean() == pytest.approx(0.5, abs=0.03)


def test_targets_are_what_the_cell_expresses():
    tokens, n_genes = make_tokens(n_cells=40)
    masked = hide(tokens, n_genes, np.random.default_rng(1))
    for b in range(40):
        values = expressed(tokens, b)
        for place in np.flatnonzero(masked.hidden_BL[b]):
            gene = int(masked.tokens.gene_BL[b, place])
            assert masked.target_BL[b, place] == values.get(gene, 0.0)
            assert gene < n_genes


def test_a_hidden_gene_is_in_neither_values_nor_pool_and_the_rest_keeps_its_shares():
    tokens, n_genes = make_tokens(n_cells=40)
    masked = hide(tokens, n_genes, np.random.default_rng(1))
    assert not masked.tokens.value_BL[masked.hidden_BL].any()
    seen_BL = ~masked.hidden_BL
    np.testing.assert_array_equal(masked.tokens.gene_BL[seen_BL], tokens.gene_BL[seen_BL])
    np.testing.assert_array_equal(masked.tokens.pool_gene_N, tokens.pool_gene_N)
    for b in range(40):
        before, after = expressed(tokens, b), expressed(masked.tokens, b)
        gone = set(masked.tokens.gene_BL[b, masked.hidden_BL[b]].tolist())
        assert {g for g, v in after.items() if v == 0} == gone & set(before)
        kept = [g for g in before if g not in gone]
        ratio = np.expm1([after[g] for g in kept]) / np.expm1([before[g] for g in kept])
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)
        hidden = sum(np.expm1(before[g]) for g in gone & set(before))
        assert ratio[0] == pytest.approx(1 / (1 - hidden / 1e4), rel=1e-5)
        for gene, value in zip(
            masked.tokens.gene_BL[b, seen_BL[b]], masked.tokens.value_BL[b, seen_BL[b]], strict=True
        ):
            assert value == after.get(int(gene), 0)  # tokens and pool agree to the bit


def cp10k_sums(tokens):
    cell_N = np.repeat(np.arange(tokens.n_cells), np.diff(tokens.offset_B))
    return np.bincount(cell_N, np.expm1(tokens.pool_value_N.astype(np.float64)))


def test_the_sum_of_what_is_hidden_cannot_be_read_off_what_is_seen():
    tokens, n_genes = make_tokens()
    masked = hide(tokens, n_genes, np.random.default_rng(1))
    seen_N = masked.tokens.pool_value_N > 0
    assert 0.1 < 1 - seen_N.mean() < 0.3  # expressed genes were hidden
    np.testing.assert_allclose(cp10k_sums(tokens), 1e4, rtol=1e-5)
    np.testing.assert_allclose(cp10k_sums(masked.tokens), 1e4, rtol=1e-5)


def test_the_counts_of_hidden_genes_change_no_input():
    """Ten times the counts of each hidden gene: new totals, but nothing that is seen changes."""
    tokens, n_genes = make_tokens(n_cells=40)
    masked = hide(tokens, n_genes, np.random.default_rng(1))
    stays_BL = masked.hidden_BL & (masked.target_BL > 0)
    cell_N = np.repeat(np.arange(40), np.diff(tokens.offset_B))
    hidden = {(int(b), int(tokens.gene_BL[b, i])) for b, i in np.argwhere(stays_BL)}
    is_hidden_N = np.array(
        [pair in hidden for pair in zip(cell_N, tokens.pool_gene_N.tolist(), strict=True)]
    )
    cp10k_N = np.expm1(tokens.pool_value_N) * np.where(is_hidden_N, 10, 1)
    total_B = np.bincount(cell_N, cp10k_N) / 1e4
    cp10k_BL = np.expm1(tokens.value_BL) * np.where(stays_BL, 10, 1) / total_B[:, None]
    changed = dataclasses.replace(
        tokens,
        value_BL=np.log1p(cp10k_BL).astype(np.float32),
        pool_value_N=np.log1p(cp10k_N / total_B[cell_N]).astype(np.float32),
    )
    moved_N = np.abs(changed.pool_value_N - tokens.pool_value_N) > 0.01
    assert moved_N.mean() > 0.9
    again = hide(changed, n_genes, np.random.default_rng(1))
    for name in ("gene_BL", "pool_gene_N", "offset_B"):
        np.testing.assert_array_equal(getattr(again.tokens, name), getattr(masked.tokens, name))
    for name in ("value_BL", "pool_value_N"):
        seen = getattr(again.tokens, name)
        np.testing.assert_allclose(seen, getattr(masked.tokens, name), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(again.target_BL[stays_BL], changed.value_BL[stays_BL])


def test_a_cell_that_is_hidden_whole_and_one_that_is_seen_whole(monkeypatch):
    tokens, n_genes = make_tokens(n_cells=3, n_tokens=200)
    monkeypatch.setattr(sampling, "HIDDEN_SHARE", 1.1)
    monkeypatch.setattr(sampling, "DRAWS", 0)  # every hidden token is an expressed gene
    masked = hide(tokens, n_genes, np.random.default_rng(1))
    assert not masked.tokens.pool_value_N.any()
    assert not masked.tokens.value_BL.any()
    np.testing.assert_array_equal(masked.target_BL, tokens.value_BL)
    monkeypatch.setattr(sampling, "HIDDEN_SHARE", 0.0)
    masked = hide(tokens, n_genes, np.random.default_rng(1))
    for x, y in zip(arrays(masked.tokens), arrays(tokens), strict=True):
        np.testing.assert_array_equal(x, y)
        assert x.dtype == y.dtype


@pytest.mark.parametrize("n_tokens", [16, 64])
def test_about_half_of_the_hidden_tokens_are_unexpressed_among_real_counts(all_blood, n_tokens):
    """Blood cells share many genes: what one of them expresses, another often does, too."""
    n_genes = all_blood.n_vars
    tokenizer = Tokenizer(n_genes, n_tokens, np.ones(n_genes, np.float32))
    tokens = tokenizer.tokenize(all_blood.X, np.arange(n_genes))
    masked = hide(tokens, n_genes, np.random.default_rng(0))
    target_H = masked.target_BL[masked.hidden_BL]
    assert 0.4 < (target_H == 0).mean() < 0.6
    again = hide(tokens, n_genes, np.random.default_rng(0))
    np.testing.assert_array_equal(again.tokens.gene_BL, masked.tokens.gene_BL)


def test_a_cell_alone_has_no_unexpressed_gene_to_take():
    tokens, n_genes = make_tokens(n_cells=1)
    masked = hide(tokens, n_genes, np.random.default_rng(1))
    assert masked.hidden_BL.any()
    np.testing.assert_array_equal(masked.tokens.gene_BL, tokens.gene_BL)


def test_hiding_does_not_touch_its_argument():
    tokens, n_genes = make_tokens(n_cells=5)
    before = [x.copy() for x in arrays(tokens)]
    hide(tokens, n_genes, np.random.default_rng(1))
    for x, y in zip(arrays(tokens), before, strict=True):
        np.testing.assert_array_equal(x, y)


def test_empty_cells_have_nothing_to_hide():
    tokens = TokenBatch(
        gene_BL=np.full((2, 1), 7), value_BL=np.zeros((2, 1), np.float32),
        pool_gene_N=np.zeros(0, np.int64), pool_value_N=np.zeros(0, np.float32),
        offset_B=np.zeros(3, np.int64), total_B=np.zeros(2, np.float32),
    )  # fmt: skip
    assert not hide(tokens, 7, np.random.default_rng(0)).hidden_BL.any()
