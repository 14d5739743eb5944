"""manifold(): cells, genes and texts stand where their vectors, counts and cosines put them."""

import itertools

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.collections import LineCollection
from matplotlib.text import Text

from scgp.embed import embed_adata
from scgp.errors import ArgumentError, GeneError, MissingColumnError, ScgpWarning
from scgp.pictures.named_points import principal_plane
from scgp.pictures.palette import colour
from scgp.pictures.panels_genes import manifold

TEXTS = ["B cell", "classical monocyte"]


@pytest.fixture(autouse=True)
def _no_figure_left(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: pytest.fail("a plot must not show"))
    monkeypatch.setattr(
        mpl.figure.Figure, "savefig", lambda *_: pytest.fail("a plot must not save")
    )
    yield
    plt.close("all")


def _legend(ax):
    return [" ".join(text.get_text().split()) for text in ax.get_legend().get_texts()]


def _drawn(ax):
    """Offsets and colours of all points drawn, empty series for the legend left out."""
    found = [
        c for c in ax.collections if len(c.get_offsets()) and not isinstance(c, LineCollection)
    ]
    return (
        np.concatenate([np.asarray(c.get_offsets()) for c in found]),
        np.concatenate(
            [np.broadcast_to(c.get_facecolors(), (len(c.get_offsets()), 4)) for c in found]
        ),
    )


def _series(ax, starts):
    (found,) = [c for c in ax.collections if str(c.get_label()).startswith(starts)]
    return np.asarray(found.get_offsets())


def _boxes(ax, names):
    ax.figure.draw_without_rendering()
    return [Text.get_window_extent(t) for t in ax.texts if t.get_text() in names]


def _check_apart(ax, names):
    boxes = _boxes(ax, names)
    assert len(boxes) == len(names)
    frame = ax.get_window_extent()
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    for box in boxes:
        assert frame.x0 <= box.x0 < box.x1 <= frame.x1
        assert frame.y0 <= box.y0 < box.y1 <= frame.y1


def _smallest_font(ax):
    texts = [*ax.texts, *ax.get_xticklabels(), *ax.get_yticklabels(), ax.title, ax.xaxis.label]
    return min(t.get_fontsize() for t in [*texts, *ax.get_legend().get_texts()])


@pytest.fixture(scope="module")
def type_vectors(all_blood, model):
    options = {"layer": None, "use_raw": None, "batch_size": 1024, "device": None}
    return embed_adata(all_blood, model, progress=False, **options)[0].type_BE


def test_a_gene_is_where_its_counts_are(all_blood, type_vectors, model):
    ax = manifold(all_blood, genes=["CD79A", "LYZ"], texts=TEXTS, progress=False)
    xy_N2 = principal_plane(type_vectors)[0]
    np.testing.assert_allclose(_series(ax, "cell (700)"), xy_N2)
    known = model.genes.match(all_blood.var_names).token_of_column >= 0
    counts = sp.csr_matrix(all_blood.X).toarray() * known
    share = counts / counts.sum(axis=1, keepdims=True)
    for gene, place in zip(["CD79A", "LYZ"], _series(ax, "gene"), strict=True):
        weight = share[:, all_blood.var_names.get_loc(gene)]
        middle = (weight[:, None] * xy_N2).sum(axis=0) / weight.sum()
        np.testing.assert_allclose(place, middle, atol=1e-5)


def test_a_text_is_among_the_cells_that_it_names(all_blood, type_vectors, model):
    ax = manifold(all_blood, texts=TEXTS, color="bulk_labels", progress=False)
    xy_N2 = principal_plane(type_vectors)[0]
    text_T2 = _series(ax, "text")
    cosine_NT = type_vectors @ model.project_terms(["CL:0000236", "CL:0000860"]).T
    weight_NT = np.exp(cosine_NT / 0.05)
    weight_NT /= weight_NT.sum(axis=0)
    np.testing.assert_allclose(text_T2, weight_NT.T @ xy_N2, atol=1e-4)
    labels = all_blood.obs["bulk_labels"].astype(str)
    middle = pd.DataFrame(xy_N2).groupby(labels.to_numpy()).mean()
    for name, place in zip(["CD19+ B", "CD14+ Monocyte"], text_T2, strict=True):
        assert np.linalg.norm(middle - place, axis=1).argmin() == middle.index.get_loc(name)
    told = [t.get_text() for t in ax.texts if t.get_fontweight() == "bold" and "(" in t.get_text()]
    mean_T = (weight_NT * cosine_NT).sum(axis=0)
    assert told == [f"{t} ({c:.2f})" for t, c in zip(TEXTS, mean_T, strict=True)]
    place, face = _drawn(ax)
    first = labels.value_counts().index[0]
    own = place[np.isclose(face[:, :3], colour(0)).all(axis=1)]
    np.testing.assert_allclose(np.sort(own, 0), np.sort(xy_N2[(labels == first).to_numpy()], 0))
    assert _legend(ax)[0] == f"1 {first} ({(labels == first).sum()})"


def test_own_coordinates_are_followed_and_cells_left_alone(blood, state):
    blood.obsm["X_umap"] = np.random.default_rng(0).normal(size=(120, 2)) + 7
    before = state(blood)
    ax = manifold(blood, genes="CD74", basis="umap", progress=False)
    np.testing.assert_array_equal(_series(ax, "cell (120)"), blood.obsm["X_umap"])
    assert (_series(ax, "gene") > 6).all()
    assert ax.get_xlabel() == "umap 1"
    assert state(blood) == before


def test_names_of_genes_and_texts_are_apart(all_blood):
    genes = ["CD79A", "MS4A1", "CD74", "LYZ", "CST3", "NKG7", "GNLY", "CD3D"]
    texts = [*TEXTS, "natural killer cell", "dendritic cell"]
    figure, ax = plt.subplots(figsize=(9, 5), layout="constrained")
    drawn = manifold(
        all_blood, genes=genes, texts=texts, color="bulk_labels", ax=ax, progress=False
    )
    assert drawn is ax
    assert plt.get_fignums() == [figure.number]
    names = [t.get_text() for t in ax.texts if not t.get_text().isdigit()]
    assert [name.split(" (")[0] for name in names] == [*genes, *texts]
    _check_apart(ax, names)
    assert _smallest_font(ax) >= 7


def test_an_empty_cell_has_no_place(blood):
    blood.X = sp.csr_matrix(blood.X).toarray()
    blood.X[:3] = 0
    with pytest.warns(ScgpWarning, match="3 of 120 cells .* no place in the map"):
        ax = manifold(blood, genes="CD74", progress=False)
    assert len(_series(ax, "cell (117)")) == 117


def test_maps_that_cannot_be_drawn(blood):
    def draw(cells=blood, **options):
        manifold(cells, progress=False, **({"texts": "B cell"} | options))

    with pytest.raises(ArgumentError, match="neither a gene nor a text"):
        draw(texts=())
    with pytest.raises(ArgumentError, match="expected an AnnData, found dict"):
        draw({})
    with pytest.raises(GeneError, match=r"'CD79AA' \(near: CD79A"):
        draw(genes=["CD79AA"])
    with pytest.raises(GeneError, match="not measured in these data: 'ACTB'"):
        draw(genes=["ACTB"])
    with pytest.raises(MissingColumnError, match="no column 'tissue'"):
        draw(color="tissue")
    with pytest.raises(MissingColumnError, match=r"no 'X_tsne'; it has: .*basis=None makes"):
        draw(basis="tsne")
    with pytest.raises(ArgumentError, match="1 of 1 cells have counts; a map needs two"):
        draw(blood[:1])
    silent = blood.copy()
    silent.X = sp.csr_matrix(silent.X).toarray()
    silent.X[:, silent.var_names.get_loc("CD74")] = 0
    with pytest.raises(GeneError, match=r"expressed in no cell.*: CD74"):
        draw(silent, genes="CD74")
