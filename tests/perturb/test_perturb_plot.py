"""The plot of a perturbation."""

import dataclasses

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("Agg")

import matplotlib.pyplot as plt

from scgp.errors import ArgumentError
from scgp.pictures.panels_perturbation import perturbation


def test_the_plot_shows_rises_and_falls_beyond_their_null(found):
    ax = perturbation(found, group="second", n=7)
    own = found.expression[found.expression["group"] == "second"]
    own = own.sort_values("z", ascending=False)
    own = pd.concat([own.head(4), own.tail(3)])
    assert [t.get_text() for t in ax.get_yticklabels()] == own["gene"].tolist()
    dots = ax.collections[-1]
    np.testing.assert_allclose(dots.get_offsets()[:, 0], own["shift"])
    low = [bar.get_x() for bar in ax.patches]
    np.testing.assert_allclose(low, own["null_low"])
    high = [bar.get_x() + bar.get_width() for bar in ax.patches]
    np.testing.assert_allclose(high, own["null_high"])
    inside = own["shift"].between(own["null_low"], own["null_high"]).to_numpy()
    white = (dots.get_facecolors()[:, :3] == 1).all(axis=1)
    np.testing.assert_array_equal(white, inside)
    assert "CD79A × 0 in second" in ax.get_title(loc="left")
    bottom, top = ax.get_ylim()
    assert bottom > top, "the largest z is on top"
    ax.figure.draw_without_rendering()
    for text in [*ax.get_yticklabels(), ax.xaxis.label, ax._left_title]:
        box, frame = text.get_window_extent(), ax.figure.bbox
        assert frame.x0 <= box.x0 <= box.x1 <= frame.x1, text
        assert frame.y0 <= box.y0 <= box.y1 <= frame.y1, text
    plt.close("all")


def test_plots_that_cannot_be_drawn_and_axes_that_are_given(found):
    figure, ax = plt.subplots()
    assert perturbation(found, ax=ax) is ax
    with pytest.raises(ArgumentError, match="'x' is no group"):
        perturbation(found, group="x")
    with pytest.raises(ArgumentError, match="n is 0"):
        perturbation(found, n=0)
    with pytest.raises(ArgumentError, match="no gene was read"):
        perturbation(dataclasses.replace(found, expression=found.expression.iloc[:0]))
    plt.close(figure)
