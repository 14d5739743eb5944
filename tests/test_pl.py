"""Plots: what is drawn, what is left alone, and what they say when a slot is missing."""

import anndata as ad
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.text import Text

from scgp import pl
from scgp.errors import ArgumentError, MissingColumnError
from scgp.pictures import legend

LABELS = ["CD4-positive, alpha-beta T cell", "B cell", "T/NK cell (über)", "unknown"]


@pytest.fixture(autouse=True)
def _no_figure_left():
    yield
    plt.close("all")


@pytest.fixture
def cells() -> ad.AnnData:
    rng = np.random.default_rng(0)
    names = np.array(LABELS, dtype=object)[np.repeat([0, 1, 2, 3], [20, 12, 6, 2])]
    adata = ad.AnnData(obs=pd.DataFrame(index=[f"c{i}" for i in range(40)]))
    adata.obs["scgp_cell_type"] = pd.Categorical(names)
    adata.obs["scgp_confidence"] = np.linspace(0.2, 1, 40, dtype=np.float32)
    adata.obs["own"] = pd.Categorical(np.where(names == "B cell", "b", "t"))
    adata.obsm["X_umap"] = rng.normal(size=(40, 2))
    return adata


def _confusion(adata, **options):
    return pl.confusion(adata, label_key="own", **options)


PLOTS = [pl.embedding, pl.confidence, _confusion]


@pytest.mark.parametrize("plot", PLOTS)
def test_draws_on_the_axes_given_and_returns_them(cells, plot):
    figure, ax = plt.subplots()
    assert plot(cells, ax=ax) is ax
    assert plt.get_fignums() == [figure.number]


@pytest.mark.parametrize("name", ["$CD4^+_{a$ 1", "$x_1$"])
def test_dollars_in_names_are_no_formulas(cells, name):
    cells.obs["scgp_cell_type"] = cells.obs["scgp_cell_type"].cat.rename_categories(
        {"B cell": name}
    )
    cells.obs[name] = cells.obs["own"].cat.rename_categories({"b": name})
    cells.obsm[f"X_{name}"] = cells.obsm["X_umap"]
    for ax in (
        pl.embedding(cells, basis=name, color=name),
        pl.confidence(cells),
        pl.confusion(cells, label_key=name),
    ):
        ax.figure.draw_without_rendering()
        shown = [text.get_text() for text in ax.findobj(Text)]
        assert any(name.replace("$", r"\$") in " ".join(text.split()) for text in shown)


@pytest.mark.parametrize("plot", PLOTS)
def test_makes_one_figure_and_neither_shows_nor_saves(cells, plot, monkeypatch, tmp_path):
    def refuse(*_, **__):
        pytest.fail("a plot must not show or save")

    monkeypatch.setattr(plt, "show", refuse)
    monkeypatch.setattr(mpl.figure.Figure, "savefig", refuse)
    monkeypatch.chdir(tmp_path)
    assert isinstance(plot(cells), Axes)
    assert len(plt.get_fignums()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("plot", PLOTS)
def test_leaves_the_cells_as_they_were(cells, plot):
    before = cells.copy()
    plot(cells)
    pd.testing.assert_frame_equal(cells.obs, before.obs)
    np.testing.assert_array_equal(cells.obsm["X_umap"], before.obsm["X_umap"])
    assert list(cells.uns) == []


def test_every_label_is_named_with_its_number_of_cells(cells):
    ax = pl.embedding(cells)
    told = [" ".join(text.get_text().split()) for text in ax.get_legend().get_texts()]
    assert told == [
        "1 CD4-positive, alpha-beta T cell (20)",
        "2 B cell (12)",
        "3 T/NK cell (über) (6)",
        "– unknown (2)",
    ]
    assert [text.get_text() for text in ax.texts] == ["1", "2", "3"]


def test_a_number_stands_above_its_cells_and_points_at_one_of_them(cells):
    number = pl.embedding(cells).texts[2]
    own = cells.obsm["X_umap"][(cells.obs["scgp_cell_type"] == LABELS[2]).to_numpy()]
    assert tuple(number.xy) in set(map(tuple, own))
    assert number.xyann[1] > number.xy[1]


def test_unknown_cells_are_grey_and_lie_below_the_others(cells):
    colours = pl.embedding(cells).collections[0].get_facecolors()
    grey = mpl.colors.to_rgba("#C8C8C8")
    assert [tuple(c) == grey for c in colours] == [True] * 2 + [False] * 38


def test_each_point_has_the_colour_of_its_label(cells):
    ax = pl.embedding(cells)
    drawn = ax.collections[0]
    handle = {t.get_text().split()[1]: h for t, h in zip(
        ax.get_legend().get_texts(), ax.get_legend().legend_handles, strict=True)}  # fmt: skip
    wanted = tuple(handle["B"].get_facecolor()[0])
    place = drawn.get_offsets()[[tuple(c) == wanted for c in drawn.get_facecolors()]]
    own = cells.obsm["X_umap"][(cells.obs["scgp_cell_type"] == "B cell").to_numpy()]
    np.testing.assert_allclose(np.sort(place, axis=0), np.sort(own, axis=0))


def test_labels_beyond_the_limit_are_drawn_together(cells):
    cells.obs["many"] = pd.Categorical([f"type {i % 35:02d}" for i in range(40)])
    texts = [t.get_text() for t in pl.embedding(cells, color="many").get_legend().get_texts()]
    assert len(texts) == 31
    assert texts[-1].endswith("other (5 labels) (5)")


def test_thirty_labels_have_numbers_that_do_not_cover_each_other():
    place = legend.spread(np.random.default_rng(1).uniform(0.4, 0.6, (30, 2)))
    apart = np.linalg.norm(place[:, None] - place[None], axis=2)[np.triu_indices(30, 1)]
    assert apart.min() > 0.045


def test_numbers_get_a_colour_bar(cells):
    ax = pl.embedding(cells, color="scgp_confidence")
    assert ax.get_legend() is None
    assert [a.get_ylabel() for a in ax.figure.axes[1:]] == ["scgp_confidence"]


def test_missing_labels_are_said_to_be_missing(cells):
    cells.obs["scgp_cell_type"] = cells.obs["scgp_cell_type"].cat.remove_categories("unknown")
    texts = [t.get_text() for t in pl.embedding(cells).get_legend().get_texts()]
    assert texts[-1].endswith("no label (2)")


def test_confidence_puts_the_surest_group_on_top(cells):
    ticks = [t.get_text() for t in pl.confidence(cells).get_yticklabels()]
    assert ticks[0].startswith("CD4-positive")
    assert ticks[-1] == "unknown (2)"


def test_confidence_draws_the_median_of_each_group(cells):
    ax = pl.confidence(cells, groupby="own")
    medians = sorted(line.get_xdata()[0] for line in ax.lines if line.get_linewidth() == 2)
    own = cells.obs.groupby("own", observed=True)["scgp_confidence"].median()
    np.testing.assert_allclose(medians, sorted(own))


def test_confusion_holds_shares_of_the_known_label(cells):
    ax = pl.confusion(cells, label_key="own")
    shares = np.asarray(ax.images[0].get_array())
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    columns = [t.get_text().split("\n")[0] for t in ax.get_xticklabels()]
    assert columns == ["B cell", "CD4-positive, alpha-beta T cell", "T/NK cell (über)", "unknown"]
    np.testing.assert_allclose(shares, [[1, 0, 0, 0], [0, 20 / 28, 6 / 28, 2 / 28]])
    assert sorted(t.get_text() for t in ax.texts) == ["100", "21", "7", "71"]


def test_prefix_is_followed(cells):
    cells.obs["mine_cell_type"] = cells.obs["scgp_cell_type"]
    del cells.obs["scgp_cell_type"]
    assert pl.embedding(cells, key_added="mine").get_title() == "mine_cell_type"


def test_missing_column_names_the_columns_there_are(cells):
    del cells.obs["scgp_cell_type"]
    with pytest.raises(MissingColumnError, match=r"scgp_confidence, own; run scgp\.annotate"):
        pl.embedding(cells)


def test_missing_coordinates_say_how_to_make_them(cells):
    with pytest.raises(MissingColumnError, match=r"'X_tsne'; it has: X_umap; .*sc\.tl\.umap"):
        pl.embedding(cells, basis="tsne")


def test_zero_cells(cells):
    assert isinstance(pl.embedding(cells[:0]), Axes)
    assert isinstance(pl.confidence(cells[:0]), Axes)
    with pytest.raises(ArgumentError, match="0 cells"):
        pl.confusion(cells[:0], label_key="own")


def test_one_cell(cells):
    for plot in PLOTS:
        assert isinstance(plot(cells[:1]), Axes)


def test_max_labels_must_be_positive(cells):
    with pytest.raises(ArgumentError, match="at least 1, found 0"):
        pl.embedding(cells, max_labels=0)
