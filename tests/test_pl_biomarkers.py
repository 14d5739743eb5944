"""panels_biomarkers.biomarkers(): every dot, line and name is that of the table."""

import itertools

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.collections import LineCollection

from scgp.biomarkers import biomarkers
from scgp.errors import ArgumentError, MissingColumnError
from scgp.pictures.panels_biomarkers import biomarkers as draw

B_CELL, DENDRITIC = "CL:0000236", "CL:0000451"
WORDS = {"both": "found by both", "removal": "by removal only", "wilcoxon": "by Wilcoxon only"}


@pytest.fixture(autouse=True)
def _no_figure_left():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def given(all_blood):
    adata = all_blood.copy()
    adata.obs["part"] = ["abc"[i % 3] for i in range(adata.n_obs)]
    return adata, {
        "groupby": "cell_type", "across": "part", "groups": [B_CELL, DENDRITIC],
        "exact_cells": 0, "max_cells": 30, "progress": False,
    }  # fmt: skip


@pytest.fixture(scope="module")
def table(given):
    return biomarkers(given[0], all_genes=True, **given[1])


@pytest.fixture(scope="module")
def units(given):
    return biomarkers(given[0], by_unit=True, **given[1])


def _dots(ax):
    """Coordinates of the dots of each kind, by its words in the legend."""
    return {
        c.get_label(): np.asarray(c.get_offsets())
        for c in ax.collections
        if not isinstance(c, LineCollection)
    }


def test_dots_and_lines_are_those_of_the_table(table):
    ax = draw(table, group=B_CELL)
    own = table[table["group"] == B_CELL]
    dots = _dots(ax)
    for kind, words in {**WORDS, "neither": "by neither"}.items():
        part = own[own["found_by"] == kind]
        expected = part[["wilcoxon_rank", "effect"]].to_numpy(float)
        np.testing.assert_allclose(dots[words], expected, err_msg=kind)
    lines = [c for c in ax.collections if isinstance(c, LineCollection)]
    ends = np.concatenate([line.get_segments() for line in lines])
    found = own[own["found_by"] != "neither"].sort_values(["wilcoxon_rank"])
    ends = ends[np.argsort(ends[:, 0, 0])]
    np.testing.assert_allclose(ends[:, 0, 1], found["smallest_effect"])
    np.testing.assert_allclose(ends[:, 1, 1], found["effect"])
    left, right = ax.get_xlim()
    assert left > own["wilcoxon_rank"].max() > 1 > right  # the first rank is to the right
    assert ax.get_xscale() == "log"
    assert ax.get_title(loc="left") == f"{B_CELL} (asked: B cell)"


def test_genes_without_a_test_stand_apart(table):
    own = table[table["group"] == B_CELL].copy()
    last = own["wilcoxon_rank"].max()
    own.iloc[:3, own.columns.get_loc("wilcoxon_rank")] = np.nan
    ax = draw(own)
    x = np.concatenate([dots[:, 0] for dots in _dots(ax).values()])
    assert np.isfinite(x).all()
    assert (x > last).sum() == 3
    assert "no\ntest" in {text.get_text() for text in ax.texts}
    assert ax.get_xlim()[0] > x.max()
    none = draw(own.assign(wilcoxon_rank=np.nan, found_by="removal"))
    assert len(np.concatenate(list(_dots(none).values()))) == len(own)


def test_a_unit_without_a_test_is_named_so(units):
    own = units[units["group"] == B_CELL].copy()
    own.loc[own["unit"] == "b", "wilcoxon_rank"] = np.nan
    told = [text.get_text() for text in draw(own, n_genes=5).get_legend().get_texts()]
    assert [text.endswith("cells, no Wilcoxon test)") for text in told] == [False, True, False]


def test_names_stand_by_their_dots_and_apart(table):
    """No name over another, none outside, and each nearest to where its gene is."""
    for group, size in itertools.product((B_CELL, DENDRITIC), ((7, 5.5), (4, 3.2))):
        ax = draw(table, group=group, ax=plt.subplots(figsize=size, layout="constrained")[1])
        own = table[table["group"] == group].set_index("gene")
        assert len(ax.texts) >= (12 if size[0] > 5 else 4)
        frame = ax.get_window_extent()
        boxes = [text.get_window_extent() for text in ax.texts]
        for one, other in itertools.combinations(boxes, 2):
            assert not one.overlaps(other)
        for text, box in zip(ax.texts, boxes, strict=True):
            row = own.loc[text.get_text()]
            assert text.xy == (row["wilcoxon_rank"], row["effect"])
            at = ax.transData.transform(text.xy)
            middle = ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)
            assert np.hypot(*(at - middle)) < 0.5 * box.width + 60
            assert frame.x0 <= box.x0
            assert box.x1 <= frame.x1
        assert {"MS4A1", "CD79B"} <= {t.get_text() for t in ax.texts} or group != B_CELL


def test_another_table_is_another_picture(table):
    changed = table.assign(effect=-table["effect"])
    one, other = (_dots(draw(t, group=B_CELL))["found by both"] for t in (table, changed))
    np.testing.assert_allclose(one[:, 1], -other[:, 1])


def test_a_row_a_gene_and_a_dot_a_unit(units):
    ax = draw(units, group=DENDRITIC, n_genes=6)
    own = units[units["group"] == DENDRITIC]
    mean = own.groupby("gene")["effect"].mean().sort_values(ascending=False)
    genes = [t.get_text() for t in ax.get_yticklabels()]
    assert genes == mean.index[:6].tolist()
    assert ax.yaxis_inverted()
    for unit, collection in zip("abc", ax.collections, strict=True):
        part = own[own["unit"] == unit].set_index("gene").loc[genes]
        xy_G2 = np.asarray(collection.get_offsets())
        np.testing.assert_allclose(xy_G2[:, 0], part["effect"])
        np.testing.assert_allclose(np.round(xy_G2[:, 1]), np.arange(6))
        filled = ~np.isclose(collection.get_facecolors()[:, :3], 1).all(axis=1)
        np.testing.assert_array_equal(filled, part["wilcoxon_rank"] <= 6)
        assert collection.get_label() == f"{unit} ({part['n_cells'].iloc[0]} cells)"
    assert len({tuple(c.get_edgecolors()[0]) for c in ax.collections}) == 3


def test_draws_on_the_axes_given_and_changes_nothing(table, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: pytest.fail("a plot must not show"))
    before = table.copy()
    figure, ax = plt.subplots()
    assert draw(table, group=B_CELL, ax=ax) is ax
    assert plt.get_fignums() == [figure.number]
    pd.testing.assert_frame_equal(table, before)


def test_what_cannot_be_drawn(table, units):
    with pytest.raises(ArgumentError, match=r"several phenotypes.*'CL:0000236', 'CL:0000451'"):
        draw(table)
    with pytest.raises(ArgumentError, match="'plasma' is not there"):
        draw(table, group="plasma")
    with pytest.raises(ArgumentError, match="n_genes is 0"):
        draw(table, group=B_CELL, n_genes=0)
    with pytest.raises(MissingColumnError, match="no column 'effect'"):
        draw(table.drop(columns="effect"))
    with pytest.raises(MissingColumnError, match="no column 'n_cells'"):
        draw(units.drop(columns="n_cells"))
    with pytest.raises(ArgumentError, match="one of none"):
        draw(table.iloc[:0])
    assert draw(table[table["group"] == B_CELL]).get_title(loc="left").startswith(B_CELL)
