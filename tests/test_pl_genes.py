"""Plots of genes: every point, colour, line, band and name is that of the data."""

import itertools

import anndata as ad
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.collections import FillBetweenPolyCollection, LineCollection
from matplotlib.text import Text

from scgp.errors import ArgumentError, GeneError, MissingColumnError
from scgp.pictures.named_points import principal_plane
from scgp.pictures.palette import colour
from scgp.pictures.panels_genes import gene_contexts, polyfunctionality

CONTEXTS = ["vein; large", "sinusoid", "artery"]


@pytest.fixture(autouse=True)
def _no_figure_left(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: pytest.fail("a plot must not show"))
    monkeypatch.setattr(
        mpl.figure.Figure, "savefig", lambda *_: pytest.fail("a plot must not save")
    )
    yield
    plt.close("all")


@pytest.fixture
def in_cells() -> ad.AnnData:
    """VWF in 30 cells of three contexts, and LYZ in 10 of them; as of embed_genes."""
    rng = np.random.default_rng(0)
    position = np.concatenate([np.arange(30), np.arange(10)])
    obs = pd.DataFrame(
        {
            "gene": pd.Categorical(["VWF"] * 30 + ["LYZ"] * 10),
            "ensembl_id": ["ENSG00000110799"] * 30 + ["ENSG00000090382"] * 10,
            "cell": [f"c{i}" for i in position],
            "position": position,
            "value": np.linspace(1, 3, 40),
        },
        index=[f"{i}" for i in range(40)],
    )
    obs["context"] = pd.Categorical(
        np.array(CONTEXTS)[np.searchsorted([15, 25], position, "right")]
    )
    centre_KD = rng.normal(scale=5, size=(3, 8))
    code_M = obs["context"].map({name: k for k, name in enumerate(CONTEXTS)}).to_numpy(int)
    return ad.AnnData((centre_KD[code_M] + rng.normal(size=(40, 8))).astype(np.float32), obs=obs)


@pytest.fixture
def roles() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "gene": "VWF", "role": [1, 2], "contexts": ["vein; large; artery", "sinusoid"],
            "nearest_genes": ["A1, A2, A3, A4", "B1, B2"], "gene_sets": ["", "clotting; other"],
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """400 genes whose effects fall with the level; g7 stands out, g8 does not."""
    rng = np.random.default_rng(1)
    level = rng.uniform(1, 4, 400)
    table = pd.DataFrame({"gene": [f"g{i}" for i in range(400)], "value": level})
    table["effect_matched"] = 0.5 - 0.1 * level
    table["effect"] = table["effect_matched"] + rng.normal(scale=0.05, size=400)
    table["rank_matched"] = 0.5
    table.loc[7, ["effect", "rank_matched"]] = 0.8, 0.01
    table["excess"] = table["effect"] - table["effect_matched"]
    return table.sort_values("excess", ascending=False, ignore_index=True)


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


# gene_contexts


def test_points_of_a_context_have_its_colour_and_its_place(in_cells):
    ax = gene_contexts(in_cells, "VWF", color="context")
    xy_M2, share_2 = principal_plane(in_cells.X[:30])
    place, face = _drawn(ax)
    assert len(place) == 30
    for rank, rows in enumerate([slice(0, 15), slice(15, 25), slice(25, 30)]):
        own = place[np.isclose(face[:, :3], colour(rank)).all(axis=1)]
        np.testing.assert_allclose(np.sort(own, axis=0), np.sort(xy_M2[rows], axis=0))
    assert _legend(ax) == ["1 vein; large (15)", "2 sinusoid (10)", "3 artery (5)"]
    assert [t.get_text() for t in ax.texts] == ["1", "2", "3"]
    assert tuple(ax.texts[2].xy) in set(map(tuple, xy_M2[25:]))
    assert ax.get_xlabel() == f"component 1 ({share_2[0]:.0%} of variance)"
    assert ax.get_title() == "VWF in its contexts: context"
    assert _smallest_font(ax) >= 7


def test_of_a_table_by_group_cells_are_counted(in_cells):
    by_group = in_cells[[0, 15, 25]].copy()
    by_group.obs = pd.DataFrame(
        {"gene": "VWF", "group": CONTEXTS, "n_cells": [15, 1000, 5]}, index=["x", "y", "z"]
    )
    ax = gene_contexts(by_group, color="group")
    assert sorted(_legend(ax)) == ["1 artery (5)", "2 sinusoid (1,000)", "3 vein; large (15)"]
    assert ax.get_title() == "VWF in its contexts: means of cells"


def test_contexts_by_column_by_cell_and_by_row_are_one_picture(in_cells):
    of_cell = in_cells.obs.drop_duplicates("cell").set_index("cell")["context"]
    shuffled = of_cell.sample(frac=1, random_state=0)
    ways = ["context", shuffled, in_cells.obs["context"].to_numpy(), in_cells.obs["context"]]
    pictures = [_drawn(gene_contexts(in_cells, "VWF", color=way)) for way in ways]
    for place, face in pictures[1:]:
        np.testing.assert_array_equal(place, pictures[0][0])
        np.testing.assert_array_equal(face, pictures[0][1])


def test_a_gene_by_its_ensembl_id_and_the_only_gene_unnamed(in_cells):
    in_cells.obs["own"] = ["x"] * 30 + ["y"] * 10
    ax = gene_contexts(in_cells, "ENSG00000090382", color="own")
    xy_M2 = principal_plane(in_cells.X[30:])[0]
    np.testing.assert_allclose(np.sort(_drawn(ax)[0], axis=0), np.sort(xy_M2, axis=0))
    assert _legend(ax) == ["1 y (10)"]
    assert gene_contexts(in_cells[30:], color="context").get_title().startswith("LYZ")


def test_roles_are_headings_with_markers_of_their_own(in_cells, roles):
    ax = gene_contexts(in_cells, "VWF", color="context", roles=roles)
    assert _legend(ax) == [
        "role 1: near A1, A2, A3", "1 vein; large (15)", "2 artery (5)",
        "role 2: clotting", "3 sinusoid (10)",
    ]  # fmt: skip
    bold = [t.get_fontweight() == "bold" for t in ax.get_legend().get_texts()]
    assert bold == [True, False, False, True, False]
    xy_M2 = principal_plane(in_cells.X[:30])[0]
    first, second = (np.asarray(c.get_offsets()) for c in ax.collections if len(c.get_offsets()))
    np.testing.assert_allclose(np.sort(second, axis=0), np.sort(xy_M2[15:25], axis=0))
    assert len(first) == 20
    paths = [c.get_paths()[0].vertices.shape for c in ax.collections if len(c.get_offsets())]
    assert paths[0] != paths[1]


def test_a_context_without_a_role_is_said_to_have_none(in_cells, roles):
    assert _legend(gene_contexts(in_cells, "VWF", color="context", roles=roles[1:])) == [
        "role 2: clotting", "1 sinusoid (10)", "no role", "2 vein; large (15)", "3 artery (5)",
    ]  # fmt: skip


def test_numbers_get_a_colour_bar(in_cells):
    ax = gene_contexts(in_cells, "VWF", color="value")
    values = next(c for c in ax.collections if len(c.get_offsets())).get_array()
    np.testing.assert_array_equal(values, in_cells.obs["value"][:30])
    assert [a.get_ylabel() for a in ax.figure.axes[1:]] == ["value"]


def test_contexts_that_cannot_be_drawn(in_cells, roles):
    def draw(cells=in_cells, gene="VWF", color="context", **options):
        gene_contexts(cells, gene, color=color, **options)

    with pytest.raises(ArgumentError, match=r"a DataFrame; expected the AnnData that scgp\.embed"):
        draw(in_cells.obs)
    with pytest.raises(MissingColumnError, match="no column 'gene'"):
        draw(ad.AnnData(np.ones((2, 2), np.float32)))
    with pytest.raises(MissingColumnError, match=r"no column 'tissue'.*'context'; or pass"):
        draw(color="tissue")
    with pytest.raises(GeneError, match="'CD4' has no row; in_cells has VWF, LYZ"):
        draw(gene="CD4")
    with pytest.raises(GeneError, match="several genes"):
        draw(gene=None)
    with pytest.raises(ArgumentError, match="3 values for 40 rows"):
        draw(color=["a", "b", "c"])
    with pytest.raises(ArgumentError, match=r"2 cells, but 36 of 40 rows are.*by position"):
        draw(color=pd.Series(["a", "b"], index=["c0", "c1"]))
    with pytest.raises(ArgumentError, match="roles are of LYZ; expected those of VWF"):
        draw(roles=roles.assign(gene="LYZ"))
    with pytest.raises(ArgumentError, match="context 'lung', which is none of those"):
        draw(roles=roles.assign(contexts="lung"))
    with pytest.raises(ArgumentError, match="context 'vein', which is none of those in color"):
        draw(color="value", roles=roles)
    with pytest.raises(MissingColumnError, match="roles has no column 'contexts'"):
        draw(roles=roles.drop(columns="contexts"))


def test_roles_of_numbered_clusters_and_from_a_file(in_cells, roles, tmp_path):
    number_of = {"vein; large": 0, "artery": 1, "sinusoid": 2}
    in_cells.obs["cluster"] = in_cells.obs["context"].astype(object).map(number_of).astype(int)
    numbered = roles.assign(contexts=["0; 1", "2"])
    numbered.to_csv(tmp_path / "roles.csv", index=False)
    for given in (numbered, pd.read_csv(tmp_path / "roles.csv", dtype={"contexts": str})):
        told = _legend(gene_contexts(in_cells, "VWF", color="cluster", roles=given))
        assert told[0] == "role 1: near A1, A2, A3"
        assert told[3] == "role 2: clotting"
        assert told[1] == "1 0 (15)"


def test_names_are_no_formulas(in_cells, roles):
    """Dollars stand as they are, be they two that would fail or two that would hide."""
    for name in ("$CD4^+_{a$ 1", "$x_1$ cells"):
        named = in_cells.copy()
        context = in_cells.obs["context"].astype(str).str.replace("sinusoid", name)
        named.obs["a $b_{$"] = context.to_numpy()
        renamed = roles.replace({"contexts": {"sinusoid": name}})
        ax = gene_contexts(named, "VWF", color="a $b_{$", roles=renamed)
        ax.figure.draw_without_rendering()
        texts = [ax.title, *ax.get_legend().get_texts()]
        assert any(name.replace("$", r"\$") in text.get_text() for text in texts)


# polyfunctionality


def test_every_gene_is_a_dot_and_the_named_have_a_line_to_their_matched_genes(table):
    ax = polyfunctionality(table, genes=["g8", "g7"])
    np.testing.assert_array_equal(_series(ax, "gene (400)"), table[["value", "effect"]])
    own = table.set_index("gene")
    for gene, words, filled in (("g7", "named; ≤ 5 %", True), ("g8", "named; > 5 %", False)):
        np.testing.assert_allclose(_series(ax, words), own.loc[[gene], ["value", "effect"]])
        (series,) = [c for c in ax.collections if str(c.get_label()).startswith(words)]
        assert np.allclose(series.get_facecolors()[0, :3], 1) != filled
    (lines,) = [c for c in ax.collections if isinstance(c, LineCollection)]
    for gene, line in zip(["g8", "g7"], lines.get_segments(), strict=True):
        level, matched, effect = own.loc[gene, ["value", "effect_matched", "effect"]]
        np.testing.assert_allclose(line, [[level, matched], [level, effect]])
    for text, gene in zip(ax.texts, ["g8", "g7"], strict=True):
        assert text.get_text() == gene
        np.testing.assert_allclose(text.xy, own.loc[gene, ["value", "effect"]].to_numpy(float))


def test_the_band_holds_nine_tenths_of_the_genes_at_their_level(table):
    ax = polyfunctionality(table, n=0)
    (band,) = [c for c in ax.collections if isinstance(c, FillBetweenPolyCollection)]
    edge = band.get_paths()[0].vertices
    x = np.unique(edge[:, 0])
    np.testing.assert_allclose(x[[0, -1]], [table["value"].min(), table["value"].max()])
    low, high = (np.array([f(edge[edge[:, 0] == at, 1]) for at in x]) for f in (min, max))
    inside = np.interp(table["value"], x, low) <= table["effect"]
    inside &= np.interp(table["value"], x, high) >= table["effect"]
    assert 0.85 < inside.mean() < 0.95
    # normal with standard deviation .05 about .5 - .1 level
    middle = slice(20, -20)
    np.testing.assert_allclose((high - low)[middle].mean(), 2 * 1.645 * 0.05, rtol=0.15)
    np.testing.assert_allclose(((high + low) / 2)[middle], 0.5 - 0.1 * x[middle], atol=0.06)
    (line,) = [line for line in ax.lines if line.get_label() == "matched genes, running median"]
    np.testing.assert_allclose(line.get_ydata(), 0.5 - 0.1 * line.get_xdata(), atol=0.03)


def test_the_largest_excess_is_named_and_few_genes_have_no_band(table):
    ax = polyfunctionality(table.sample(frac=1, random_state=0), n=4)
    assert [t.get_text() for t in ax.texts] == table["gene"][:4].tolist()
    assert ax.texts[0].get_text() == "g7"
    few = polyfunctionality(table[:10], n=2)
    assert not [c for c in few.collections if isinstance(c, FillBetweenPolyCollection)]
    assert len(few.get_legend().get_texts()) in {3, 4}


def test_names_are_apart_and_legible_at_print_size(table):
    figure, ax = plt.subplots(figsize=(6, 5), layout="constrained")
    names = table["gene"][:25].tolist()
    assert polyfunctionality(table, genes=names, ax=ax) is ax
    assert plt.get_fignums() == [figure.number]
    _check_apart(ax, names)
    assert _smallest_font(ax) >= 7
    legend = ax.get_legend().get_window_extent()
    assert legend.x0 >= 0
    assert legend.x1 <= figure.bbox.x1


def test_tables_that_cannot_be_drawn(table):
    with pytest.raises(GeneError, match=r"1 of 2 genes .* 400 of the table: 'G77x' \(near"):
        polyfunctionality(table.assign(gene=table["gene"].str.upper()), genes=["G7", "G77x"])
    with pytest.raises(MissingColumnError, match="no column 'effect_matched'"):
        polyfunctionality(table.drop(columns="effect_matched"))
    with pytest.raises(ArgumentError, match="no row"):
        polyfunctionality(table[:0])
    with pytest.raises(ArgumentError, match="a dict; expected what"):
        polyfunctionality({})
    with pytest.raises(ArgumentError, match="n is -1"):
        polyfunctionality(table, n=-1)
