"""Colours of labels: each its own, told apart by many eyes, and none like the greys of the rest."""

import anndata as ad
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("Agg")

import matplotlib.pyplot as plt

from scgp import pl
from scgp.pictures import palette

OKABE_ITO = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#222222"]


@pytest.fixture(autouse=True)
def _no_figure_left():
    yield
    plt.close("all")


def seen(colours):
    """Distances (OKLab) of each two of them, for the three ways of seeing."""
    rgb = np.array([mpl.colors.to_rgb(c) for c in colours])
    at = palette.perceived(rgb)
    apart = np.linalg.norm(at[:, :, None] - at[:, None], axis=-1)
    apart[:, np.arange(len(rgb)), np.arange(len(rgb))] = np.inf
    return apart


def colours(n):
    return [palette.colour(i) for i in range(n)]


def test_the_first_eight_are_those_of_okabe_and_ito():
    assert [mpl.colors.to_hex(c) for c in colours(8)] == OKABE_ITO


def test_perceived_distances_are_those_of_oklab():
    """White, black and red by Ottosson's own table."""
    white, black, red = palette.perceived(np.array([[1.0, 1, 1], [0, 0, 0], [1, 0, 0]]))[0]
    np.testing.assert_allclose(white, [1, 0, 0], atol=1e-4)
    np.testing.assert_allclose(black, [0, 0, 0], atol=1e-4)
    np.testing.assert_allclose(red, [0.628, 0.225, 0.126], atol=1e-3)


def test_thirty_colours_are_told_apart_by_normal_and_colour_blind_eyes():
    """.02 is about the least difference that can be seen; the 24 of before had .048, .033, .027."""
    normal, no_green, no_red = seen(colours(30))
    assert normal.min() > 0.08
    assert no_green.min() > 0.055
    assert no_red.min() > 0.055


def test_one_is_black_and_none_is_grey_or_white():
    greys = [palette.GREY, palette.MISSING_GREY, palette.OTHER_GREY, "white"]
    assert seen([*colours(30), *greys])[0, :30, 30:].min() > 0.08
    assert seen(greys).min() > 0.08
    lightness = palette.perceived(np.array(colours(30)))[0, :, 0]
    assert np.flatnonzero(lightness < 0.3).tolist() == [7]


def test_more_labels_than_one_can_count_have_colours_of_their_own():
    assert len(set(colours(500))) == 500
    assert colours(33)[:32] == colours(32)


@pytest.fixture
def cells() -> ad.AnnData:
    """Synthetic: 84 labels, with unknown cells among the most frequent, and missing labels."""
    rng = np.random.default_rng(0)
    share = np.geomspace(1, 0.02, 84)
    names = np.array([f"type {i:02d}" for i in range(84)], dtype=object)
    names[3], names[5] = "unknown", None
    adata = ad.AnnData(obs=pd.DataFrame(index=[f"c{i}" for i in range(4000)]))
    adata.obs["scgp_cell_type"] = pd.Categorical(names[rng.choice(84, 4000, p=share / share.sum())])
    adata.obsm["X_umap"] = rng.normal(size=(4000, 2))
    return adata


def legend_of(ax):
    legend = ax.get_legend()
    texts = [" ".join(text.get_text().split()) for text in legend.get_texts()]
    faces = [mpl.colors.to_hex(h.get_facecolor()[0]) for h in legend.legend_handles]
    return dict(zip(texts, faces, strict=True))


@pytest.mark.parametrize("max_labels", [30, 50, 84])
def test_no_two_entries_of_a_legend_have_one_colour(cells, max_labels):
    face_of = legend_of(pl.embedding(cells, max_labels=max_labels))
    assert len(face_of) == min(max_labels + 1, 84)
    assert len(set(face_of.values())) == len(face_of)


def test_unknown_missing_and_pooled_cells_have_different_greys(cells):
    ax = pl.embedding(cells)
    face_of = {text.split(" (")[0]: face for text, face in legend_of(ax).items()}
    greys = [face_of[f"– {name}"].upper() for name in ("unknown", "no label", "other")]
    assert greys == [palette.GREY, palette.MISSING_GREY, palette.OTHER_GREY]
    labels = cells.obs["scgp_cell_type"].astype(object)
    drawn = [mpl.colors.to_hex(c).upper() for c in ax.collections[0].get_facecolors()]
    assert drawn.count(palette.GREY) == (labels == "unknown").sum()
    assert drawn.count(palette.MISSING_GREY) == labels.isna().sum()
