"""Label sets: the mass they need, what they hold, and the coverage they promise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from scgp.errors import ArgumentError
from scgp.reference.conformal import (
    LEVELS,
    NEVER,
    fit_set_mass,
    label_sets,
    mass_ahead,
    mass_for,
)


def drawn_cells(rng, n_cells, n_labels=6):
    """Synthetic probabilities that are true: each cell's label is drawn from its own row."""
    prob_BT = rng.dirichlet(np.full(n_labels, 0.5), size=n_cells)
    label_B = (prob_BT.cumsum(axis=1) > rng.uniform(size=(n_cells, 1))).argmax(axis=1)
    return prob_BT, np.eye(n_labels, dtype=bool)[label_B]


def test_mass_ahead_is_that_before_the_first_label_that_covers():
    prob_BT = np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.5, 0.3, 0.2]])
    covers_BT = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0]], bool)
    assert mass_ahead(prob_BT, covers_BT) == pytest.approx([0, 0.5, NEVER])


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95])
def test_sets_cover_new_cells_as_promised(coverage):
    rng = np.random.default_rng(0)
    prob_BT, covers_BT = drawn_cells(rng, 2000)
    wrong_BT = prob_BT**3 / (prob_BT**3).sum(axis=1, keepdims=True)  # far too sure of itself
    set_mass = fit_set_mass(mass_ahead(wrong_BT, covers_BT), np.ones(2000))
    prob_BT, covers_BT = drawn_cells(rng, 4000)
    wrong_BT = prob_BT**3 / (prob_BT**3).sum(axis=1, keepdims=True)
    sets_BT = label_sets(wrong_BT, mass_for(coverage, set_mass, 2000))
    covered = (sets_BT & covers_BT).any(axis=1).mean()
    assert covered > coverage - 0.02
    if coverage > (wrong_BT.argmax(axis=1) == covers_BT.argmax(axis=1)).mean():
        assert covered < coverage + 0.02  # below that, the likeliest label alone covers more


def test_heavy_studies_decide_the_quantile():
    ahead_B = np.array([0.1] * 50 + [0.9] * 50)
    light, heavy = np.full(100, 1.0), np.repeat([1.0, 9.0], 50)
    assert fit_set_mass(ahead_B, light)[39] == 0.1
    assert fit_set_mass(ahead_B, heavy)[39] == 0.9


def test_cells_that_weigh_nearly_nothing_do_not_support_a_promise():
    """A thousand cells of a large study beside five of others: hardly more than five."""
    ahead_B, weight_B = np.linspace(0.1, 0.9, 1005), np.repeat([1e-6, 1.0], [1000, 5])
    set_mass = fit_set_mass(ahead_B, weight_B)
    assert mass_for(0.8, set_mass, 1005) <= 0.9
    with pytest.raises(ArgumentError, match=r"does not support a coverage of 0\.9"):
        mass_for(0.9, set_mass, 1005)


def test_too_few_cells_promise_nothing_and_say_how_many_it_takes():
    set_mass = fit_set_mass(np.linspace(0.1, 0.9, 8), np.ones(8))
    assert mass_for(0.8, set_mass, 8) <= 0.9
    with pytest.raises(ArgumentError, match=r"8 held-out cells.*at least 9 independent cells"):
        mass_for(0.9, set_mass, 8)
    assert fit_set_mass(np.zeros(0), np.zeros(0)) == ()
    with pytest.raises(ArgumentError, match="no calibration for label sets"):
        mass_for(0.9, (), 0)


def test_cells_that_no_label_covers_bound_the_coverage():
    ahead_B = np.array([0.5] * 80 + [NEVER] * 20)
    set_mass = fit_set_mass(ahead_B, np.ones(100))
    assert mass_for(0.75, set_mass, 100) == 0.5
    with pytest.raises(ArgumentError, match=r"does not support a coverage of 0\.9"):
        mass_for(0.9, set_mass, 100)


@pytest.mark.parametrize("coverage", [0.0, 1.0, -0.5, 90, float("nan")])
def test_a_coverage_that_is_no_share_is_refused(coverage):
    with pytest.raises(ArgumentError, match="expected a share between 0 and 1"):
        mass_for(coverage, (0.5,) * LEVELS, 100)


def test_a_coverage_between_levels_takes_the_higher_one():
    set_mass = tuple(np.arange(1, LEVELS + 1) / 100)
    assert mass_for(0.9, set_mass, 1000) == 0.9
    assert mass_for(0.901, set_mass, 1000) == 0.91
    with pytest.raises(ArgumentError, match=r"fitted up to 0\.99; ask for less"):
        mass_for(0.995, set_mass, 1000)


@settings(max_examples=50, deadline=None)
@given(
    hnp.arrays(float, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=st.floats(0.01, 1)),
    st.floats(0.01, 1.0),
    st.floats(0.0, 0.5),
)
def test_sets_are_never_empty_and_grow_with_the_mass(weight_BT, mass, more):
    prob_BT = weight_BT / weight_BT.sum(axis=1, keepdims=True)
    small_BT, large_BT = label_sets(prob_BT, mass), label_sets(prob_BT, mass + more)
    assert small_BT.any(axis=1).all()
    assert not (small_BT & ~large_BT).any()
    held_B = np.where(small_BT, prob_BT, 0).sum(axis=1)
    assert (held_B >= min(mass, 1) - 1e-6).all()
    best = np.take_along_axis(small_BT, prob_BT.argmax(axis=1)[:, None], axis=1)
    assert best.all()
    assert label_sets(prob_BT, NEVER).all()
