"""polyfunctionality(): the table, on real cells and on synthetic ones with a planted effect."""

import dataclasses

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scgp
from scgp.errors import ArgumentError, CheckpointError, GeneError, MissingColumnError, ScgpWarning
from scgp.in_context import gene_rows
from scgp.model.checkpoint import Model
from scgp.model.network import CellTransformer

pytestmark = pytest.mark.filterwarnings("ignore:few genes in common")  # synthetic: few

GENES = ["CD74", "LYZ", "NKG7"]
COLUMNS = [
    "gene", "ensembl_id", "n_cells", "n_contexts", "n_donors", "value", "effect", "p", "q",
    "effect_matched", "excess", "rank_matched", "replication", "effect_adjusted",
    "effect_embedding", "effect_static", "effect_value", "effect_coexpression", "effect_untrained",
    "context",
]  # fmt: skip


@pytest.fixture(scope="module")
def cells(all_blood):
    """240 blood cells, dealt to three donors."""
    adata = all_blood[:240].copy()
    adata.obs["donor"] = np.resize(["x", "y", "z"], 240)
    return adata


@pytest.fixture(scope="module")
def test(context_model):
    def verb(adata, genes=GENES, **options):
        options = {
            "groupby": "bulk_labels", "n_permutations": 99, "controls": False, "progress": False,
            "model": context_model,
        } | options  # fmt: skip
        return scgp.polyfunctionality(adata, genes, **options)

    return verb


@pytest.fixture(scope="module")
def table(cells, test):
    return test(cells, donor_key="donor", controls=True)


def assert_same(a, b, **options):
    pd.testing.assert_frame_equal(a, b, check_exact=False, rtol=1e-4, atol=1e-5, **options)


def test_the_columns_and_what_they_hold(cells, table, model):
    assert list(table) == COLUMNS
    assert set(table["gene"]) == set(GENES)
    assert table["excess"].is_monotonic_decreasing
    np.testing.assert_allclose(table["excess"], table["effect"] - table["effect_matched"])
    label_N = cells.obs["bulk_labels"].astype(str).to_numpy()
    known_V = model.genes.match(cells.var_names).token_of_column >= 0
    total_N = np.asarray(cells.X[:, known_V].sum(axis=1)).ravel()
    for row in table.itertuples():
        count_N = cells[:, row.gene].X.toarray().ravel()
        here = pd.Series(label_N[count_N > 0]).value_counts()
        large = here[here >= 10]
        used = (count_N > 0) & np.isin(label_N, large.index)
        assert (row.n_contexts, row.n_cells, row.n_donors) == (len(large), used.sum(), 3)
        value = np.log1p(1e4 * count_N / total_N)[used].mean()
        assert row.value == pytest.approx(value, rel=1e-5)
        assert row.context in large.index if len(large) > 2 else row.context == ""
        (token,) = model.genes.match([row.gene]).token_of_column
        assert row.ensembl_id == model.genes.ensembl[token]
        assert row.p * 100 == pytest.approx(round(row.p * 100))
        assert row.p <= row.q <= 1
        assert -1 <= row.replication <= 1
        assert 0 < row.rank_matched <= 1
    assert (table["effect_static"] == 0).all()
    numbers = table.select_dtypes("number")
    assert np.isfinite(numbers.to_numpy()).all()
    assert (table[["effect_embedding", "effect_value"]] < 1).all(axis=None)


def test_without_controls_and_donors(cells, test, table):
    plain = test(cells)
    assert plain["effect_untrained"].isna().all()
    assert plain["replication"].isna().all()
    assert (plain["n_donors"] == 1).all()
    assert plain["p"].notna().all()
    without = test(cells, donor_key="donor")
    assert_same(without.drop(columns="effect_untrained"), table.drop(columns="effect_untrained"))


def test_the_same_seed_gives_the_same_table(cells, test, table):
    pd.testing.assert_frame_equal(test(cells, donor_key="donor", controls=True), table)
    other = test(cells, donor_key="donor", controls=True, seed=1).set_index("gene").loc[GENES]
    first = table.set_index("gene").loc[GENES]
    assert (other["effect_matched"] != first["effect_matched"]).any()
    assert (other["effect_untrained"] != first["effect_untrained"]).all()
    assert_same(other[["n_cells", "value"]], first[["n_cells", "value"]])


def test_a_gene_does_not_depend_on_the_others_asked_for(cells, test, table, monkeypatch):
    """The matched genes are of all that can be tested; q alone is of the table."""
    rest = table.drop(columns=["q", "effect_untrained"]).set_index("gene")
    monkeypatch.setattr(gene_rows, "MOST_PAIRS", 10_000)  # read in many parts
    every = test(cells, None, donor_key="donor").set_index("gene")
    assert len(every) > 300
    assert_same(every.loc[rest.index, rest.columns], rest)
    alone = test(cells, "LYZ", donor_key="donor").set_index("gene")
    assert_same(alone[rest.columns], rest.loc[["LYZ"]])
    assert (alone["q"] == alone["p"]).all()


def test_the_order_of_cells_and_what_they_lie_in_say_nothing(cells, test):
    expected = test(cells, n_permutations=1)
    rows = np.random.default_rng(0).permutation(240)
    moved = cells[rows][:, np.arange(cells.n_vars)[::-1]].copy()
    moved.X = moved.X.toarray()
    found = test(moved, n_permutations=1)
    columns = [c for c in COLUMNS if c not in {"p", "q"}]
    # directions are fitted to some cells; which, depends on their order where there are many
    assert_same(found[columns], expected[columns])


def test_the_cells_are_left_as_they_are(cells, test, state):
    before = state(cells)
    test(cells, "CD74", donor_key="donor")
    assert state(cells) == before


def test_cells_without_a_context_or_donor_are_left_out(cells, test):
    mixed = cells.copy()
    mixed.obs["bulk_labels"] = mixed.obs["bulk_labels"].cat.remove_categories(["Dendritic"])
    mixed.obs.loc[mixed.obs_names[:3], "donor"] = None
    gone = mixed.obs[["bulk_labels", "donor"]].isna().any(axis=1)
    with pytest.warns(ScgpWarning, match=rf"{gone.sum()} of 240 cells have no value .*'donor'"):
        found = test(mixed, "CD74", donor_key="donor")
    label = mixed.obs["bulk_labels"][(~gone) & (mixed[:, "CD74"].X.toarray().ravel() > 0)]
    assert found["n_cells"].item() == sum(n for n in label.value_counts() if n >= 10)
    assert found["context"].item() in set(label) - {"Dendritic"}


def test_contexts_and_donors_that_cannot_be_told_apart(cells, test):
    adata = cells.copy()
    adata.obs["donor"] = "of " + adata.obs["bulk_labels"].astype(str)
    with pytest.warns(ScgpWarning, match="confounded"):
        found = test(adata, donor_key="donor")
    assert found[["p", "q", "replication"]].isna().all(axis=None)
    assert found["n_donors"].tolist() == found["n_contexts"].tolist()
    hidden = ["p", "q", "n_donors"]
    assert_same(found.drop(columns=hidden), test(cells).drop(columns=hidden))


@pytest.fixture(scope="module")
def lone(cells):
    """Two of three donors have cells of one context; the third has those of all."""
    adata = cells.copy()
    label = adata.obs["bulk_labels"].astype(str)
    adata.obs["donor"] = np.where(label.isin(["Dendritic", "CD19+ B"]), "of " + label, "rest")
    mixed = np.flatnonzero(label.isin(["Dendritic", "CD19+ B"]))[::2]
    adata.obs.iloc[mixed, adata.obs.columns.get_loc("donor")] = "rest"
    return adata


def test_donors_of_one_context_are_said_to_be_left_out(lone, test):
    size = lone.obs["bulk_labels"].value_counts()
    large = lone.obs["bulk_labels"].isin(size.index[size >= 10])
    n_out = (large & (lone.obs["donor"] != "rest")).sum()
    words = rf"2 of 3 donors .* left out \({n_out} of {large.sum()} cells\); .* of 1 donor\b"
    with pytest.warns(ScgpWarning, match=words):
        found = test(lone, "CD74", donor_key="donor")
    assert (found["n_donors"] == 1).all()


def test_contexts_that_are_large_with_lone_donors_only_are_left_out(cells, test):
    """Of the B cells three have a donor with other contexts; the gene has as many as it can."""
    adata = cells.copy()
    is_b = (adata.obs["bulk_labels"] == "CD19+ B").to_numpy()
    adata.obs["donor"] = np.where(is_b & (np.cumsum(is_b) > 3), "lone", "rest")
    size = adata.obs["bulk_labels"].value_counts()
    large = adata.obs["bulk_labels"].isin(size.index[size >= 10])
    words = (
        rf"1 of 2 donors .* one context only .*, and so are contexts with fewer than 10 cells "
        rf"\(min_cells\) without them: 'CD19\+ B' \({is_b.sum()} of {large.sum()} cells\)"
    )
    with pytest.warns(ScgpWarning, match=words):
        found = test(adata, "CD74", donor_key="donor").iloc[0]
    label = adata.obs["bulk_labels"][~is_b & (adata[:, "CD74"].X.toarray().ravel() > 0)]
    left = label.value_counts()
    left = left[left >= 10]
    assert (found["n_contexts"], found["n_cells"]) == (len(left), left.sum())


def test_two_cells_of_a_context_are_not_enough_whatever_lone_donors_have(cells, test):
    """One donor has all T cells and two B cells, another the other B cells: nothing to compare."""
    label = cells.obs["bulk_labels"].astype(str).to_numpy()
    adata = cells[np.isin(label, ["CD19+ B", "CD8+ Cytotoxic T"])].copy()
    is_b = (adata.obs["bulk_labels"] == "CD19+ B").to_numpy()
    adata.obs["donor"] = np.where(is_b & (np.cumsum(is_b) > 2), "y", "x")
    with pytest.warns(ScgpWarning, match=r"confounded: .*, no two values have 10 cells"):
        found = test(adata, "CD74", donor_key="donor")
    assert found[["p", "q"]].isna().all(axis=None)


@pytest.mark.parametrize("name", ["donor", "Patient_ID"])
def test_donors_of_one_context_that_nobody_named_are_hinted_at(lone, cells, test, name):
    named = lone.copy()
    named.obs = named.obs.rename(columns={"donor": name})
    with pytest.warns(ScgpWarning, match=rf"obs\['{name}'\]: 2 of 3 .*; donor_key='{name}'"):
        found = test(named, "CD74")
    named.obs = named.obs.rename(columns={name: "someone"})
    pd.testing.assert_frame_equal(test(named, "CD74"), found)
    test(cells, "CD74")  # whose donors have all contexts: no warning


def test_donors_that_lack_contexts_do_not_contradict_each_other(all_blood, model, test):
    """Real cells dealt to donors of two types each: there is nothing that donors disagree on."""
    dealt = {
        "CD14+ Monocyte": {"w": 40, "z": 40},
        "CD19+ B": {"w": 40, "y": 40},
        "Dendritic": {"x": 110, "z": 110},
        "CD4+/CD25 T Reg": {"x": 30, "y": 30},
    }
    donor_N = np.full(700, None, object)
    for label, n_of in dealt.items():
        row_M = np.flatnonzero(all_blood.obs["bulk_labels"] == label)[: sum(n_of.values())]
        donor_N[row_M] = np.repeat(list(n_of), list(n_of.values()))
    adata = all_blood.copy()
    adata.obs["dealt"] = donor_N
    adata = adata[adata.obs["dealt"].notna()].copy()
    found = test(adata, ["HLA-DRA", "KLF6", "FTL"], donor_key="dealt", model=model)
    assert (found["replication"] > 0.9).all()


def test_two_columns_of_donors_that_nobody_named_are_none(lone, test):
    twice, unnamed = lone.copy(), lone.copy()
    twice.obs = pd.concat([lone.obs, lone.obs[["donor"]]], axis=1)
    unnamed.obs = unnamed.obs.rename(columns={"donor": "someone"})
    pd.testing.assert_frame_equal(test(twice, "CD74"), test(unnamed, "CD74"))


def test_one_context_is_refused(cells, test):
    one = cells.copy()
    one.obs["group"] = "all"
    with pytest.raises(ArgumentError, match=r"fewer than two contexts .* 'all' 240"):
        test(one, groupby="group")
    one.obs["group"] = [f"cell {i}" for i in range(240)]
    with pytest.raises(ArgumentError, match=r"fewer than two contexts .*10 cells \(min_cells\)"):
        test(one, groupby="group")
    one.obs["group"] = np.arange(240) / 240
    with pytest.raises(ArgumentError, match=r"holds numbers .*pd\.cut"):
        test(one, groupby="group")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"min_cells": 1}, ArgumentError, "min_cells is 1"),
        ({"n_permutations": 0}, ArgumentError, "n_permutations is 0"),
        ({"groupby": "celltype"}, MissingColumnError, "'celltype'.*'bulk_labels'"),
        ({"donor_key": "who"}, MissingColumnError, "'who'"),
        ({"genes": ["lyzz"]}, GeneError, "near: .*LYZ"),
        ({"genes": ["ACTB"]}, GeneError, "not measured"),
        ({"genes": ["TNFRSF4"]}, GeneError, r"1 of 1 genes have fewer than two contexts.*TNFRSF4"),
    ],
)
def test_what_is_refused(cells, test, options, error, words):
    with pytest.raises(error, match=words):
        test(cells, **options)


def test_genes_with_too_few_cells_are_said(cells, test):
    with pytest.warns(ScgpWarning, match="1 of 2 genes have fewer than two contexts.*TNFRSF4"):
        assert test(cells, ["TNFRSF4", "LYZ"])["gene"].tolist() == ["LYZ"]


def test_genes_that_no_donor_has_in_two_contexts_are_said(cells, test):
    """LYZ has ten cells in dendritic cells and monocytes alone."""
    words = r"1 of 1 genes are left out: .* one context only, no two contexts have 10 .*: LYZ"
    adata = cells.copy()
    label = adata.obs["bulk_labels"].astype(str)
    adata.obs["donor"] = np.where(
        label == "Dendritic", "p", np.where(label == "CD14+ Monocyte", "q", adata.obs["donor"])
    )
    with (
        pytest.warns(ScgpWarning, match=r"2 of 5 donors .* one context only"),
        pytest.warns(ScgpWarning, match=words.replace("1 of 1", "1 of 2")),
    ):
        found = test(adata, ["LYZ", "CD74"], donor_key="donor")
    assert found["gene"].tolist() == ["CD74"]
    with (
        pytest.warns(ScgpWarning, match=r"2 of 5 donors .* one context only"),
        pytest.raises(GeneError, match=words),
    ):
        test(adata, ["LYZ"], donor_key="donor")


@pytest.mark.parametrize("n_genes", [1, 2, 3])
def test_where_there_are_no_genes_to_match(cells, test, n_genes):
    few = cells.copy()
    count = few.X.toarray()
    count[:, ~few.var_names.isin(GENES[:n_genes])] = 0
    few.X = sp.csr_matrix(count)
    if n_genes < 3:
        with pytest.raises(GeneError, match=f"{n_genes} genes of these data .* 3 are needed"):
            test(few, None)
    else:
        assert np.isfinite(test(few, None)[["effect", "excess", "p"]]).all(axis=None)


def test_a_model_without_a_context(cells, test, context_model):
    config = dataclasses.replace(context_model.config, context_layers=0)
    older = Model(config, CellTransformer(config), context_model.genes, context_model.phenotypes)
    with pytest.raises(CheckpointError, match=r"before scgp 0\.8\.0"):
        test(cells, model=older)


# ---- synthetic counts with a planted effect ----


@pytest.fixture(scope="module")
def planted(all_blood):
    """Synthetic counts: where LYZ is expressed, other genes are in context a than in context b.

    All other genes are expressed at random; labels and donors are dealt at random.
    """
    rng = np.random.default_rng(0)
    names = all_blood.var_names[:220].union(["LYZ"])
    context = rng.integers(0, 2, 300)
    count = rng.poisson(0.4, (300, len(names)))
    own = names.get_loc("LYZ")
    count[:, own] = rng.random(300) < 0.3
    partners = np.delete(np.arange(len(names)), own)
    for k, genes in enumerate((partners[:40], partners[40:80])):
        rows = np.flatnonzero((context == k) & (count[:, own] > 0))
        count[np.ix_(rows, genes)] += rng.poisson(6, (len(rows), 40))
    obs = pd.DataFrame(
        {
            "context": np.array(["a", "b"])[context],
            "donor": rng.choice(["x", "y"], 300),
            "dealt": rng.choice(["a", "b"], 300),
            "synthetic": True,
        },
        index=[f"synthetic {i}" for i in range(300)],
    )
    return ad.AnnData(sp.csr_matrix(count, dtype=np.float32), obs, pd.DataFrame(index=names))


def test_a_planted_effect_is_found(planted, test):
    found = test(planted, ["LYZ"], groupby="context", donor_key="donor").iloc[0]
    assert found["p"] == 0.01
    assert found["effect"] > 0.2
    assert found["effect_embedding"] > 0.4
    assert found["effect_adjusted"] > 0.2
    assert found["replication"] > 0.7
    assert abs(found["effect_value"]) < 0.1


def test_an_effect_of_one_donor_of_several_is_said_to_be_none_of_donors(planted, test):
    """The contexts are swapped in the fifth of the cells that are of donor y: donors disagree."""
    adata = planted.copy()
    is_y = np.arange(300) < 60
    adata.obs["donor"] = np.where(is_y, "y", "x")
    adata.obs["context"] = np.where((adata.obs["context"] == "a") ^ is_y, "a", "b")
    with pytest.warns(ScgpWarning, match=r"1 of 1 genes have q <= \.05 but .* LYZ.*donors"):
        found = test(adata, ["LYZ"], groupby="context", donor_key="donor", min_cells=5).iloc[0]
    assert found["q"] <= 0.05
    assert found["replication"] < 0


def test_two_contexts_have_none_that_is_farthest(planted, test):
    assert test(planted, ["LYZ"], groupby="context")["context"].item() == ""


def test_the_farthest_context_is_not_the_one_that_few_cells_have(planted, test):
    """Of three contexts two are alike and have few cells; the third is the farthest."""
    is_a = (planted.obs["context"] == "a").to_numpy()
    is_few = is_a & (np.cumsum(is_a) % 3 > 0)
    adata = planted[~is_a | is_few].copy()
    like = is_few & (np.cumsum(is_a) % 3 == 1)
    label = np.where(like, "like a", planted.obs["context"].to_numpy(str))[~is_a | is_few]
    adata.obs["context"] = label
    assert (label == "b").sum() > 1.2 * (label != "b").sum()
    assert test(adata, ["LYZ"], groupby="context", min_cells=5)["context"].item() == "b"


def test_where_nothing_was_planted_nothing_is_found(planted, test):
    dealt = test(planted, None, groupby="dealt", donor_key="donor")
    assert len(dealt) > 150
    assert dealt["p"].mean() == pytest.approx(0.5, abs=0.15)
    assert (dealt["p"] <= 0.05).mean() < 0.12
    assert dealt["q"].min() > 0.05
    assert dealt["effect"].mean() == pytest.approx(0, abs=0.01)
    assert abs(dealt.set_index("gene").loc["LYZ", "effect"]) < 0.1


# ---- the matched genes ----
