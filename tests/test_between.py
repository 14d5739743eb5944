"""The share of spread between contexts: by hand, against permutations, and under the null.

Shape suffixes: M cells, D dimensions, C covariates, Q sets of vectors, P permutations.
"""

import numpy as np
import pytest
from scipy import stats

from scgp.in_context.between import (
    Design,
    adjusted,
    apart,
    between,
    centred,
    comparable,
    context_means,
    effect,
    effects,
    permuted_between,
    replication,
)


def make_design(seed=0, n_contexts=3, sizes=(20, 13, 30)):
    """Strata of several sizes with unequal shares of contexts."""
    rng = np.random.default_rng(seed)
    code_M = np.concatenate([rng.choice(n_contexts, n, p=rng.dirichlet([2] * n_contexts))
                             for n in sizes])  # fmt: skip
    return Design(code_M, np.cumsum([0, *sizes]), n_contexts)


def make_vectors(design, seed=1, width=4):
    vector_MD = np.random.default_rng(seed).normal(size=(len(design.code_M), width))
    return centred(vector_MD, design).astype(np.float32)


def shuffled(design, rng):
    """Labels dealt anew within strata, in plain numpy."""
    code_M = design.code_M.copy()
    for a, b in zip(design.start_S[:-1], design.start_S[1:], strict=True):
        code_M[a:b] = rng.permutation(code_M[a:b])
    return code_M


@pytest.mark.parametrize(
    ("n_SK", "kept_SK"),
    [
        ([[30, 2], [0, 40]], [[0, 0], [0, 0]]),  # without the lone donor two cells are left of one
        ([[30, 10], [0, 40]], [[30, 10], [0, 0]]),
        ([[5, 5], [5, 5]], [[5, 5], [5, 5]]),  # of a context, not of a donor in it
        ([[1, 1, 0, 0], [0, 0, 40, 0], [0, 0, 0, 40]], [[0] * 4] * 3),
        # the third falls with the lone donor, the second donor with it, and then the second
        (
            [[20, 12, 0], [0, 4, 4], [0, 0, 20], [20, 5, 0]],
            [[20, 12, 0], [0, 0, 0], [0, 0, 0], [20, 5, 0]],
        ),
        ([[20, 8, 0], [0, 4, 4], [0, 0, 20]], [[0] * 3] * 3),
    ],
)
def test_cells_that_can_be_compared_within_donors(n_SK, kept_SK):
    """Synthetic counts of cells by donor and context; a context needs ten."""
    n_SK = np.array(n_SK)
    donor_M, group_M = np.repeat(np.argwhere(n_SK >= 0), n_SK.ravel(), axis=0).T
    order = np.random.default_rng(0).permutation(len(donor_M))
    kept = order[comparable(group_M[order], donor_M[order], 10)]
    found_SK = np.zeros_like(n_SK)
    np.add.at(found_SK, (donor_M[kept], group_M[kept]), 1)
    np.testing.assert_array_equal(found_SK, kept_SK)


def test_of_no_cells_none_can_be_compared():
    assert not len(comparable(np.zeros(0, np.int64), np.zeros(0, np.int64), 10))


def test_strata_are_centred_each_by_itself():
    design = Design(np.zeros(5, int), np.array([0, 2, 5]), 1)
    vector_MD = np.array([[1.0, 0], [3, 0], [0, 6], [0, 3], [3, 0]])
    expected = [[-1, 0], [1, 0], [-1, 3], [-1, 0], [2, -3]]
    np.testing.assert_allclose(centred(vector_MD, design), expected)


def test_means_of_contexts_and_nan_for_one_without_a_cell():
    mean_KD = context_means(np.array([[1.0], [5], [3], [2]]), np.array([2, 0, 2, 0]), 4)
    np.testing.assert_array_equal(mean_KD, [[3.5], [np.nan], [2.0], [np.nan]])


def test_contexts_apart_where_donors_have_unequal_shares_of_them():
    """Synthetic: B is 1 above A and C; donors, 90 A with 10 B and 90 B with 10 C, differ by 5."""
    code_M = np.repeat([0, 1, 1, 2], [90, 10, 90, 10])
    design = Design(code_M, np.array([0, 100, 200]), 3)
    vector_MD = np.array([0.0, 1, 0])[code_M][:, None] + np.repeat([5.0, 0], 100)[:, None]
    found_KD = apart(centred(vector_MD, design), design)
    np.testing.assert_allclose(found_KD[:, 0], [-1 / 3, 2 / 3, -1 / 3], atol=1e-9)
    # the means of what donors' means leave say that it is C
    mean_KD = context_means(centred(vector_MD, design), code_M, 3)
    np.testing.assert_allclose(mean_KD[2], -0.9)


def test_contexts_apart_are_the_coefficients_of_a_regression_on_donors_and_contexts():
    design = make_design()
    vector_MD = np.random.default_rng(5).normal(size=(len(design.code_M), 4))
    donor_M = np.repeat(np.arange(3), np.diff(design.start_S))
    plan = np.column_stack([np.eye(3)[donor_M], np.eye(3)[design.code_M]])
    of_context_KD = np.linalg.lstsq(plan, vector_MD, rcond=None)[0][3:]
    found_KD = apart(centred(vector_MD, design), design)
    np.testing.assert_allclose(found_KD, of_context_KD - of_context_KD.mean(axis=0), atol=1e-9)


def test_contexts_that_no_chain_of_donors_joins_are_not_compared():
    design = Design(np.repeat([0, 1, 2, 3], 5), np.array([0, 10, 20]), 4)
    vector_MD = centred(np.random.default_rng(0).normal(size=(20, 2)), design)
    assert np.isnan(apart(vector_MD, design)).all()


def test_the_effect_by_hand():
    """Four cells of one donor, two contexts: values 3, 1, -1, -3.

    Between is 2 * 2**2 + 2 * 2**2 = 16 of 20. Of the three ways to halve the cells, the others have
    0 (3 and -3) and 4 * 1 (3 and -1): 20/3 is expected. (16 - 20/3) / (20 - 20/3) is 0.7.
    """
    design = Design(np.array([0, 0, 1, 1]), np.array([0, 4]), 2)
    vector_MD = np.array([[3.0], [1], [-1], [-3]])
    assert between(vector_MD, design.code_M, 2) == pytest.approx(16)
    assert effect(vector_MD, design) == pytest.approx(0.7)
    apart = Design(np.array([0, 1, 1, 0]), np.array([0, 4]), 2)
    assert effect(vector_MD, apart) == pytest.approx((0 - 20 / 3) / (20 - 20 / 3))


def test_what_contexts_explain_whole_is_1():
    design = make_design()
    vector_KD = np.random.default_rng(0).normal(size=(3, 5))
    one = Design(design.code_M, np.array([0, len(design.code_M)]), 3)
    vector_MD = centred(vector_KD[design.code_M], one)
    assert effect(vector_MD, one) == pytest.approx(1)
    noise_MD = np.random.default_rng(1).normal(size=vector_MD.shape)
    falling = [effect(centred(vector_MD + s * noise_MD, one), one) for s in (0.2, 1, 5)]
    assert sorted(falling, reverse=True) == falling
    assert falling[0] > 0.9


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_expectation_is_the_mean_of_many_permutations(seed):
    design = make_design(seed)
    vector_MD = make_vectors(design, seed)
    found = between(vector_MD, design.code_M, 3)
    total = float((vector_MD.astype(float) ** 2).sum())
    null_P = permuted_between(vector_MD, design, 20_000, seed)
    expected = (found - null_P.mean()) / (total - null_P.mean())
    error = null_P.std() / np.sqrt(20_000) / (total - null_P.mean())
    assert effect(vector_MD, design) == pytest.approx(expected, abs=5 * error)
    rng = np.random.default_rng(seed)
    plain_P = [between(vector_MD, shuffled(design, rng), 3) for _ in range(1000)]
    assert stats.ks_2samp(null_P, plain_P).pvalue > 0.01  # of the same distribution


def test_strata_are_respected():
    """A shift of a donor is no shift of a context; labels never leave their donor."""
    code_M = np.array([0] * 9 + [1] + [0] + [1] * 9)
    design = Design(code_M, np.array([0, 10, 20]), 2)
    noise_MD = np.random.default_rng(0).normal(size=(20, 3))
    moved_MD = noise_MD + 10 * np.repeat([[0.0], [1.0]], 10, axis=0)
    ours = effect(centred(moved_MD, design), design)
    assert ours == pytest.approx(effect(centred(noise_MD, design), design), abs=1e-9)
    one = Design(code_M, np.array([0, 20]), 2)
    assert effect(centred(moved_MD, one), one) > 0.5 > abs(ours)
    # a stratum of one context gives the same sum in every deal
    alone = Design(np.array([0, 0, 0, 1, 1]), np.array([0, 3, 5]), 2)
    vector_MD = np.arange(10, dtype=np.float32).reshape(5, 2)
    np.testing.assert_allclose(
        permuted_between(vector_MD, alone, 50, 0), between(vector_MD, alone.code_M, 2), rtol=1e-6
    )


def test_p_is_uniform_under_the_null():
    p = []
    for seed in range(400):
        design = make_design(seed, sizes=(12, 9))
        vector_MD = make_vectors(design, 10_000 + seed)
        null_P = permuted_between(vector_MD, design, 199, seed)
        found = between(vector_MD, design.code_M, 3)
        p.append((1 + (null_P >= found * (1 - 1e-6)).sum()) / 200)
    assert stats.kstest(p, "uniform").pvalue > 0.05
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.03)


def test_effects_are_0_on_average_under_the_null():
    found = [
        effect(make_vectors(design, 500 + seed), design)
        for seed in range(300)
        for design in [make_design(seed)]
    ]
    assert np.mean(found) == pytest.approx(0, abs=4 * np.std(found) / np.sqrt(300))
    assert min(found) < 0 < max(found)


def test_labels_are_dealt_to_two_cells_both_ways_as_often():
    """Two strata of two cells: the contexts differ by all there is, or not at all (by hand)."""
    vector_MD = np.array([[1.0], [-1.0], [1.0], [-1.0]])
    design = Design(np.array([0, 1, 0, 1]), np.array([0, 2, 4]), 2)
    null_P = permuted_between(vector_MD, design, 2000, 0)
    assert set(null_P) == {0.0, 4.0}
    assert (null_P == 4).mean() == pytest.approx(0.5, abs=0.05)


def test_the_same_seed_deals_the_same():
    design = make_design()
    vector_MD = make_vectors(design)
    first = permuted_between(vector_MD, design, 20, [3, 7])
    np.testing.assert_array_equal(first, permuted_between(vector_MD, design, 20, [3, 7]))
    assert (first != permuted_between(vector_MD, design, 20, [3, 8])).all()
    np.testing.assert_array_equal(design.code_M, make_design().code_M)  # and leaves it as it was


def test_many_sets_at_once_are_each_by_itself():
    design = make_design()
    vector_MQD = np.stack([make_vectors(design, seed) for seed in range(6)], axis=1)
    expected = [effect(vector_MQD[:, q], design) for q in range(6)]
    np.testing.assert_allclose(effects(vector_MQD, design), expected, rtol=1e-6)


def test_a_regression_takes_a_linear_covariate_away():
    design = make_design()
    rng = np.random.default_rng(0)
    covariate_MC = rng.normal(size=(63, 2)) + design.code_M[:, None] + 100
    slope_CD = rng.normal(size=(2, 4))
    linear_MD = centred(covariate_MC @ slope_CD, design)
    assert effect(linear_MD, design) > 0.2
    assert np.abs(adjusted(linear_MD, covariate_MC, design)).max() < 1e-5
    assert effect(adjusted(linear_MD, covariate_MC, design), design) == 0
    noise_MD = rng.normal(size=(63, 4))
    left = adjusted(linear_MD + noise_MD, covariate_MC, design)
    assert left.dtype == np.float32
    np.testing.assert_allclose(left, adjusted(noise_MD, covariate_MC, design), atol=1e-5)
    np.testing.assert_allclose(centred(left, design), left, atol=1e-6)
    # a covariate that is the same in every cell, or twice there, takes nothing more
    twice_MC = np.column_stack([covariate_MC, covariate_MC, np.full(63, 7.0)])
    np.testing.assert_allclose(adjusted(noise_MD, twice_MC, design),
                               adjusted(noise_MD, covariate_MC, design), atol=1e-5)  # fmt: skip


def test_what_does_not_vary_has_no_effect():
    design = make_design()
    for vector_MD in (np.ones((63, 4)), np.zeros((63, 4)), np.full((63, 4), 1e8)):
        assert effect(centred(vector_MD, design), design) == 0
    single = Design(np.arange(3), np.array([0, 1, 2, 3]), 3)  # one cell a donor
    assert effect(centred(np.random.default_rng(0).normal(size=(3, 2)), single), single) == 0


def test_a_context_without_a_cell():
    design = make_design()
    more = Design(design.code_M, design.start_S, 5)
    vector_MD = make_vectors(design)
    assert effect(vector_MD, more) == pytest.approx(effect(vector_MD, design))
    assert between(vector_MD, design.code_M, 5) == pytest.approx(
        between(vector_MD, design.code_M, 3)
    )


# ---- halves of the strata, on synthetic vectors ----


def replicated(n_SK):
    """Strata that agree on every context, with so many cells in each."""
    n_SK = np.array(n_SK)
    rng = np.random.default_rng(0)
    code_M = np.concatenate([np.repeat(np.arange(n_SK.shape[1]), n) for n in n_SK])
    design = Design(code_M, np.cumsum([0, *n_SK.sum(axis=1)]), n_SK.shape[1])
    vector_MD = rng.normal(size=(n_SK.shape[1], 6))[code_M]
    return replication(centred(vector_MD, design), design, seed=0)


@pytest.mark.parametrize(
    "n_SK",
    [
        [[9, 9, 9], [9, 9, 9], [9, 9, 9], [9, 9, 9]],
        [[6, 6, 99, 6], [60, 6, 6, 6], [6, 60, 6, 99], [6, 6, 6, 99]],  # in unequal shares
        [[9, 9, 9, 0], [0, 9, 9, 9], [9, 0, 9, 9], [9, 9, 0, 9]],  # each lacks one
        [[9, 9, 0], [9, 0, 9], [0, 9, 9], [9, 9, 9]],
    ],
)
def test_strata_that_agree_replicate_whatever_contexts_they_lack(n_SK):
    assert replicated(n_SK) == pytest.approx(1, abs=1e-9)


def test_halves_without_two_contexts_that_both_can_tell_say_nothing():
    assert np.isnan(replicated([[9, 9, 0, 0], [9, 0, 9, 0], [0, 9, 0, 9]]))
    assert np.isnan(replicated([[9, 9, 0, 0], [0, 0, 9, 9]]))
    assert np.isnan(replicated([[9, 9, 9]]))


def test_of_complete_and_balanced_strata_it_is_the_cosine_of_means():
    """By hand: of two strata there is one way to halve them."""
    rng = np.random.default_rng(1)
    design = Design(np.tile(np.repeat(np.arange(3), 8), 2), np.array([0, 24, 48]), 3)
    vector_MD = centred(rng.normal(size=(48, 5)), design)
    means = [context_means(x, design.code_M[:24], 3) for x in np.split(vector_MD, 2)]
    expected = (means[0] * means[1]).sum() / np.prod([np.linalg.norm(x) for x in means])
    assert replication(vector_MD, design, seed=0) == pytest.approx(expected, rel=1e-9)
