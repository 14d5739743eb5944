"""confusion(): the order of its rows and columns."""

import anndata as ad
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("Agg")

import matplotlib.pyplot as plt

from scgp import pl


@pytest.fixture(autouse=True)
def _no_figure_left():
    yield
    plt.close("all")


def test_what_is_drawn_together_comes_last():
    """After "unknown", and after names that follow it in the alphabet; shares go along."""
    given = ["zeta"] * 6 + ["unknown"] * 5 + ["alpha"] * 4 + ["rare 1"] * 2 + ["rare 2"]
    known = ["Z"] * 6 + ["z"] * 5 + ["p"] * 4 + ["x"] * 2 + ["y"]
    adata = ad.AnnData(obs=pd.DataFrame(index=[f"c{i}" for i in range(18)]))
    adata.obs["scgp_cell_type"], adata.obs["own"] = pd.Categorical(given), pd.Categorical(known)
    ax = pl.confusion(adata, label_key="own", max_labels=3)
    columns = [t.get_text() for t in ax.get_xticklabels()]
    rows = [t.get_text() for t in ax.get_yticklabels()]
    assert columns == ["zeta", "alpha", "unknown", "other (2 labels)"]
    assert rows == ["Z (6)", "p (4)", "z (5)", "other (2 labels) (3)"]
    shares = np.asarray(ax.images[0].get_array())
    np.testing.assert_array_equal(shares, np.eye(4))


def test_a_label_that_reads_as_the_rest_is_a_label():
    adata = ad.AnnData(obs=pd.DataFrame(index=["c0", "c1", "c2"]))
    adata.obs["scgp_cell_type"] = adata.obs["own"] = pd.Categorical(["other (x)", "b", "p"])
    columns = [t.get_text() for t in pl.confusion(adata, label_key="own").get_xticklabels()]
    assert columns == ["b", "other (x)", "p"]


def test_clusters_are_in_the_order_of_their_categories():
    """Not 0, 1, 10, 2; cells of no cluster come after them, and text has the alphabet."""
    adata = ad.AnnData(obs=pd.DataFrame(index=[f"c{i}" for i in range(5)]))
    adata.obs["scgp_cell_type"] = pd.Categorical(["a", "b", "a", "b", "a"])
    leiden = ["10", "2", "0", "1", None]
    adata.obs["leiden"] = pd.Categorical(leiden, categories=["0", "1", "2", "10"])
    rows = [t.get_text() for t in pl.confusion(adata, label_key="leiden").get_yticklabels()]
    assert rows == ["0 (1)", "1 (1)", "2 (1)", "10 (1)", "no label (1)"]
    adata.obs["text"] = ["10", "2", "0", "1", "1"]
    rows = [t.get_text() for t in pl.confusion(adata, label_key="text").get_yticklabels()]
    assert rows == ["0 (1)", "1 (2)", "10 (1)", "2 (1)"]
