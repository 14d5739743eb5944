"""The layout by principal components, and numbers that hide nothing."""

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")

import matplotlib.pyplot as plt

from scgp.pictures.named_points import draw_groups, principal_plane


@pytest.fixture(autouse=True)
def _no_figure_left():
    yield
    plt.close("all")


def test_the_layout_is_that_of_the_singular_vectors_and_always_the_same():
    rows_ND = np.random.default_rng(0).normal(size=(40, 8)) * np.arange(1, 9)
    xy_N2, share_2 = principal_plane(rows_ND)
    centred_ND = rows_ND - rows_ND.mean(axis=0)
    _, length, right = np.linalg.svd(centred_ND, full_matrices=False)
    np.testing.assert_allclose(np.abs(xy_N2), np.abs(centred_ND @ right[:2].T))
    np.testing.assert_allclose(share_2, (length**2 / (length**2).sum())[:2])
    np.testing.assert_array_equal(principal_plane(rows_ND.copy())[0], xy_N2)
    assert principal_plane(rows_ND[:1])[0].tolist() == [[0, 0]]


def test_the_largest_loading_is_positive():
    for seed in range(10):
        rows_ND = np.random.default_rng(seed).normal(size=(30, 5)) * [1, 9, 2, 5, 1]
        xy_N2, _ = principal_plane(rows_ND)
        # with the dimension that loads most, a component goes along
        for component, most in enumerate((1, 3)):
            assert np.corrcoef(xy_N2[:, component], rows_ND[:, most])[0, 1] > 0.5


def test_a_number_does_not_hide_what_should_be_free():
    """The place where the number would stand, a twentieth of the plot above its point."""
    xy_N2 = np.array([[0.0, 0.0], [1.0, 1.0], [0.5, 0.5]])
    labels = np.array(["a", "b", "c"], dtype=object)
    places = []
    for free_P2 in (None, np.array([[0.5, 0.55]])):
        ax = plt.subplots()[1]
        draw_groups(ax, xy_N2, labels, size=10, max_labels=5, free_P2=free_P2)
        places.append(np.array(ax.texts[2].xyann))
        assert [text.get_text() for text in ax.texts] == ["1", "2", "3"]
    np.testing.assert_allclose(places[0], [0.5, 0.55], atol=0.01)
    assert np.linalg.norm(places[1] - [0.5, 0.55]) > 0.02
