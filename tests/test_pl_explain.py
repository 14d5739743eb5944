"""pl.explain(): what is drawn of an explained answer, on real blood cells."""

import dataclasses
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import scipy.sparse as sp

mpl.use("Agg")

import matplotlib.pyplot as plt

import scgp
from scgp import pl
from scgp.errors import ArgumentError, ScgpWarning


@pytest.fixture(autouse=True)
def _no_figure_left():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def why(all_blood):
    """A monocyte and a regulatory T cell, whose label is long."""
    return scgp.explain(all_blood, [0, 3])


def _words(text):
    return " ".join(text.replace("\n", " ").split())


def _of(table, why, at=0):
    return table[table["cell"] == why.answer["cell"][at]]


def test_draws_on_the_axes_given_and_returns_them(why):
    figure, axes = plt.subplots(1, 3)
    drawn = pl.explain(why, axes=axes)
    assert [a is b for a, b in zip(drawn, axes, strict=True)] == [True] * 3
    assert plt.get_fignums() == [figure.number]
    assert pl.explain(why, axes=list(axes)).shape == (3,)


def test_makes_one_figure_and_neither_shows_nor_saves(why, monkeypatch, tmp_path):
    def refuse(*_, **__):
        pytest.fail("a plot must not show or save")

    monkeypatch.setattr(plt, "show", refuse)
    monkeypatch.setattr(mpl.figure.Figure, "savefig", refuse)
    monkeypatch.chdir(tmp_path)
    before = [getattr(why, f.name).copy() for f in dataclasses.fields(why)]
    axes = pl.explain(why)
    assert len(plt.get_fignums()) == 1
    assert list(Path(tmp_path).iterdir()) == []
    assert all(
        old.equals(getattr(why, field.name)) if hasattr(old, "equals") else True
        for old, field in zip(before, dataclasses.fields(why), strict=True)
    )
    title = axes[0].figure.get_suptitle()
    confidence = why.answer["confidence"][0]  # the checkpoint's, and so another with each
    expected = f"non-classical monocyte (labelled, confidence {confidence:.2f})"
    assert title == f"AAAGCCTGGCTAAC-1: {expected}"


def test_the_title_tells_why_a_cell_is_unknown(why):
    answer = why.answer.assign(
        label="unknown", status="unknown", confidence=np.float32(0), doubt="unlike"
    )
    title = pl.explain(dataclasses.replace(why, answer=answer))[0].figure.get_suptitle()
    leaf, confidence = answer[["leaf", "leaf_confidence"]].iloc[0]
    best = f"best label: {leaf}, confidence {confidence:.2f}: the cell is unlike the reference"
    assert title == f"AAAGCCTGGCTAAC-1: unknown\n{best}"


def test_each_gene_has_its_bar(why):
    ax = pl.explain(why)[0]
    genes = _of(why.genes, why)
    bars = sorted(ax.patches, key=lambda bar: bar.get_y())
    np.testing.assert_allclose([bar.get_width() for bar in bars], genes["difference"])
    ticks = [tick.get_text() for tick in ax.get_yticklabels()]
    assert ticks == [f"{g} ({n:.0f})" for g, n in genes[["gene", "count"]].to_numpy()]
    colours = {bar.get_facecolor() for bar in bars if bar.get_width() > 0}
    against = {bar.get_facecolor() for bar in bars if bar.get_width() < 0}
    assert len(colours) == len(against) == 1
    assert colours != against
    low, high = ax.get_ylim()
    assert low > high, "the strongest gene is on top"


def test_dots_are_the_probabilities_and_rings_the_first(why):
    ax = pl.explain(why)[1]
    dots, rings = ax.collections[:2]
    table = _of(why.streams, why).pivot_table(index="label", columns="stream", values="probability")
    labels = [_words(tick.get_text()) for tick in ax.get_yticklabels()]
    columns = ["neighbour", "text", "head", "gene", "described", "pairwise", "fused"]
    assert len(labels) <= 10
    assert table.loc[labels, "fused"].is_monotonic_decreasing
    area = dots.get_sizes().max() / np.nanmax(table.loc[labels].to_numpy())
    for (x, y), size in zip(dots.get_offsets(), dots.get_sizes(), strict=True):
        assert size / area == pytest.approx(table.at[labels[int(y)], columns[int(x)]])
    for x, y in rings.get_offsets():
        assert labels[int(y)] == table[columns[int(x)]].idxmax()
    bold = [t.get_fontweight() == "bold" for t in ax.get_yticklabels()]
    assert [label for label, is_bold in zip(labels, bold, strict=True) if is_bold] == [
        "non-classical monocyte"
    ]
    weight = _of(why.streams, why).groupby("stream")["weight"].first()
    under = [_words(tick.get_text()) for tick in ax.get_xticklabels()]
    assert under[3] == f"gene head {weight['gene']:.0%}"


def test_the_nearest_cells_are_drawn_with_their_cosines(why):
    near = _of(why.neighbours, why)
    ax = pl.explain(why)[2]
    dots = ax.collections[-1]
    np.testing.assert_allclose(dots.get_offsets()[:, 0], near["cosine"])
    ticks = [_words(tick.get_text()) for tick in ax.get_yticklabels()]
    expected = [f"{label} {study}" for label, study in near[["label", "study"]].to_numpy()]
    assert ticks == expected
    assert [text.get_text() for text in ax.texts] == [f"{c:.3f}" for c in near["cosine"]]


def test_cells_drawn_from_a_profile_are_open(why):
    neighbours = why.neighbours.assign(drawn=True)
    ax = pl.explain(dataclasses.replace(why, neighbours=neighbours))[2]
    np.testing.assert_array_equal(ax.collections[-1].get_facecolors()[0], [1, 1, 1, 1])
    assert ax.get_yticklabels()[0].get_text().endswith("profile")


@pytest.mark.parametrize("at", [0, 1])
def test_no_text_lies_on_another_or_outside(why, at):
    axes = pl.explain(why, why.answer["cell"][at])
    figure = axes[0].figure
    figure.draw_without_rendering()
    frame = figure.bbox
    boxes = []
    for ax in axes:
        low, high = ax.get_xlim()  # ticks outside are not drawn
        ticks = zip(ax.get_xticks(), ax.get_xticklabels(), strict=True)
        texts = [*ax.get_yticklabels(), *(t for x, t in ticks if low <= x <= high)]
        texts += [ax.xaxis.label, ax.title, ax._left_title, *ax.texts]
        boxes += [(t.get_text(), t.get_window_extent()) for t in texts if t.get_text()]
    boxes.append((figure.get_suptitle(), figure._suptitle.get_window_extent()))
    for text, box in boxes:
        assert frame.x0 <= box.x0 <= box.x1 <= frame.x1, text
        assert frame.y0 <= box.y0 <= box.y1 <= frame.y1, text
    for i, (text, box) in enumerate(boxes):
        for other, its in boxes[i + 1 :]:
            apart = (
                box.x1 <= its.x0 + 1 or its.x1 <= box.x0 + 1
                or box.y1 <= its.y0 + 1 or its.y1 <= box.y0 + 1
            )  # fmt: skip
            assert apart, (text, other)


def test_silent_streams_are_said_to_be_silent(blood, blood_index):
    mute = dataclasses.replace(
        blood_index, gene_head=None, text_TD=np.zeros_like(blood_index.text_TD)
    )
    why = scgp.explain(blood, 0, index=mute, n_genes=0)
    axes = pl.explain(why)
    under = [_words(tick.get_text()) for tick in axes[1].get_xticklabels()]
    assert under[1] == "text silent"
    assert under[3] == "gene head silent"
    assert "no gene was removed" in axes[0].texts[0].get_text()


def test_cells_that_cannot_be_drawn(why, blood):
    with pytest.raises(ArgumentError, match="'x' is none of the cells explained: 'AAAGCCTGG"):
        pl.explain(why, "x")
    with pytest.raises(ArgumentError, match="axes are 2; expected three"):
        pl.explain(why, axes=plt.subplots(1, 2)[1])
    blood.X = sp.csr_matrix(sp.diags([0.0, *[1.0] * 119]) @ blood.X).astype(np.float32)
    with pytest.warns(ScgpWarning):
        some = scgp.explain(blood, [0, 1], n_genes=0)
    with pytest.raises(ArgumentError, match="is empty"):
        pl.explain(some, blood.obs_names[0])
    assert blood.obs_names[1] in pl.explain(some)[0].figure.get_suptitle()
    alone = dataclasses.replace(some, answer=some.answer.iloc[:1])
    with pytest.raises(ArgumentError, match="every cell is empty"):
        pl.explain(alone)


def test_a_number_stands_on_or_below_its_dot_and_on_no_other(why):
    """Also where columns are narrow, and beside a large dot with its ring."""
    high = why.streams["stream"].isin(["text", "gene", "fused"])
    streams = why.streams.assign(probability=np.where(high, 0.68, 0.13))
    figure, axes = plt.subplots(1, 3, figsize=(12, 6), layout="constrained")
    ax = pl.explain(dataclasses.replace(why, streams=streams), axes=axes)[1]
    figure.draw_without_rendering()
    dots, rings = ax.collections[:2]
    centre = ax.transData.transform(np.concatenate([dots.get_offsets(), rings.get_offsets()]))
    sizes = [*dots.get_sizes(), *np.repeat(rings.get_sizes(), len(rings.get_offsets()))]
    radius = np.sqrt(np.array(sizes) / np.pi) * figure.dpi / 72
    assert {text.get_text() for text in ax.texts} == {"0.68", "0.13"}
    for text in ax.texts:
        box = text.get_window_extent()
        own = ax.transData.transform(text.xy)
        assert box.x0 < own[0] < box.x1
        away = np.hypot(*(centre - np.clip(centre, box.min, box.max)).T)
        others = np.hypot(*(centre - own).T) > 1
        assert (away > radius)[others].all(), text.get_text()
