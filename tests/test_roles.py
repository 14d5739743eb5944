"""gene_roles(): the table, and what is told of each role."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scgp
from scgp.errors import ArgumentError, CheckpointError, GeneError, MissingColumnError
from scgp.in_context.role_groups import Noise
from scgp.model.checkpoint import Model
from scgp.model.network import CellTransformer
from scgp.roles import _Interactions, _moving_together

COLUMNS = [
    "gene", "role", "contexts", "n_cells", "detected", "shift", "nearest_genes", "gene_sets",
    "gene_set_q", "terms",
]  # fmt: skip


@pytest.fixture(scope="module")
def cells(all_blood):
    """240 blood cells."""
    return all_blood[:240].copy()


@pytest.fixture(scope="module")
def roles_of(context_model):
    def verb(adata, gene="CD74", **options):
        options = {"groupby": "bulk_labels", "model": context_model, "most_cells": 15} | options
        options = {"progress": False} | options
        return scgp.gene_roles(adata, gene, **options)

    return verb


@pytest.fixture(scope="module")
def sets(cells):
    """Ten sets of measured genes, dealt."""
    names = np.random.default_rng(0).permutation(cells.var_names)
    return {f"set {i}": names[40 * i : 40 * i + 60].tolist() for i in range(10)}


@pytest.fixture(scope="module")
def table(cells, roles_of, sets):
    return roles_of(cells, n_roles=3, gene_sets=sets)


def test_the_columns_and_what_they_hold(cells, table, model, sets):
    assert list(table) == COLUMNS
    assert table["role"].tolist() == [1, 2, 3]
    assert (table["gene"] == "CD74").all()
    assert table["shift"].is_monotonic_decreasing
    label_N = cells.obs["bulk_labels"].astype(str).to_numpy()
    here = pd.Series(label_N[cells[:, "CD74"].X.toarray().ravel() > 0]).value_counts()
    large = here[here >= 10]
    told = [context.split("; ") for context in table["contexts"]]
    assert sorted(k for role in told for k in role) == sorted(
        large.index
    )  # every context has one role
    assert table["n_cells"].tolist() == [sum(min(15, large[k]) for k in role) for role in told]
    of_context = pd.Series(label_N).value_counts()
    expected = [here[role].sum() / of_context[role].sum() for role in told]
    assert table["detected"].tolist() == pytest.approx(expected)
    assert any(x < 1 for x in expected)
    symbols = set(model.genes.symbol)
    for row in table.itertuples():
        near = row.nearest_genes.split(", ")
        assert len(near) == len(set(near)) == 10
        assert set(near) <= symbols - {"CD74"}
        assert len(row.terms.split("; ")) == 3
        found = [name for name in row.gene_sets.split("; ") if name]
        assert set(found) <= set(sets)
        assert np.isnan(row.gene_set_q) if not found else row.gene_set_q < 0.1


def test_the_same_seed_gives_the_same_table(cells, roles_of, table, sets, state):
    before = state(cells)
    pd.testing.assert_frame_equal(roles_of(cells, n_roles=3, gene_sets=sets), table)
    assert state(cells) == before
    other = roles_of(cells, n_roles=3, gene_sets=sets, seed=1)
    assert (other["shift"] != table["shift"]).any()


def test_without_sets_none_are_told(cells, roles_of, table):
    plain = roles_of(cells, n_roles=3)
    assert (plain["gene_sets"] == "").all()
    assert plain["gene_set_q"].isna().all()
    rest = ["contexts", "n_cells", "shift", "nearest_genes", "terms"]
    pd.testing.assert_frame_equal(plain[rest], table[rest])


def test_a_set_of_the_nearest_genes_stands_out(cells, roles_of, table):
    near = table["nearest_genes"][0].split(", ")
    found = roles_of(cells, n_roles=3, gene_sets={"near; by": near, "none": ["LYZ"]})
    assert found["gene_sets"][0] == "near, by"  # "; " stands between sets alone
    assert found["gene_set_q"][0] < 0.01


@pytest.fixture(scope="module")
def most_detected(all_blood):
    """The genes of the blood cells, the most detected first."""
    return all_blood.var_names[np.argsort(-(all_blood.X > 0).sum(axis=0).A1, kind="stable")]


@pytest.mark.filterwarnings("ignore:few genes in common")
def test_a_small_panel_has_sets_and_no_gene_is_its_own_neighbour(all_blood, most_detected, model):
    """A panel of 80 genes: the nearest are a tenth of them, and not all."""
    names = most_detected[:80]
    options = {"groupby": "bulk_labels", "model": model, "progress": False, "most_cells": 20}
    panel = all_blood[:, names].copy()
    near = scgp.gene_roles(panel, names[0], n_roles=1, **options)["nearest_genes"].item()
    sets = {"near": near.split(", ")[:7], "others": names[40:70].tolist()}
    found = scgp.gene_roles(panel, names[0], n_roles=1, gene_sets=sets, **options)
    assert found["gene_sets"].item() == "near"
    few = all_blood[:, names[:6]].copy()
    sets = {"all": names[:6].tolist()}
    found = scgp.gene_roles(few, names[0], n_roles=1, gene_sets=sets, **options)
    assert set(found["nearest_genes"].item().split(", ")) == set(names[1:6])
    assert found["gene_sets"].item() == ""


def test_what_contexts_are_called_says_nothing(cells, roles_of, table):
    """In another order of their names, the same cells are read."""
    other = cells.copy()
    names = other.obs["bulk_labels"].cat.categories
    turned = dict(zip(names, [f"{99 - i} {name}" for i, name in enumerate(names)], strict=True))
    other.obs["turned"] = other.obs["bulk_labels"].cat.rename_categories(turned).astype(str)
    found = roles_of(other, n_roles=3, groupby="turned")
    told = [sorted(name[3:] for name in row.split("; ")) for row in found["contexts"]]
    assert told == [sorted(row.split("; ")) for row in table["contexts"]]
    np.testing.assert_allclose(found["shift"], table["shift"], rtol=1e-3)
    assert found["nearest_genes"].tolist() == table["nearest_genes"].tolist()


@pytest.mark.parametrize("n_roles", [None, 1, 2, 6])
def test_how_many_roles(cells, roles_of, n_roles):
    found = roles_of(cells, n_roles=n_roles)
    n_contexts = sum(len(k.split("; ")) for k in found["contexts"])
    assert n_contexts == 6
    if n_roles is None:
        assert 1 <= len(found) <= 5
    else:
        assert len(found) == n_roles


def test_one_role_has_no_shift(cells, roles_of):
    """The contexts' interactions sum to about 0: their mean would be of how many cells each has."""
    assert roles_of(cells, n_roles=1)["shift"].isna().all()
    assert roles_of(cells, n_roles=2)["shift"].notna().all()


def test_progress_is_shown_unless_switched_off(cells, roles_of, capsys):
    n_cells = roles_of(cells, n_roles=1)["n_cells"].item()
    assert capsys.readouterr().err == ""
    roles_of(cells, n_roles=1, progress=True)
    assert f"{n_cells}/{n_cells}" in capsys.readouterr().err


def test_more_roles_than_contexts_and_more_than_one_gene(cells, roles_of):
    with pytest.raises(ArgumentError, match="n_roles is 7, but CD74 has 6 contexts"):
        roles_of(cells, n_roles=7)
    with pytest.raises(ArgumentError, match="expected the name of one gene"):
        roles_of(cells, ["CD74", "LYZ"])


def test_other_containers_give_the_same(cells, roles_of):
    expected = roles_of(cells, n_roles=2)
    other = cells.copy()
    other.X = sp.csc_matrix(other.X)
    found = roles_of(other, n_roles=2)
    assert found["contexts"].tolist() == expected["contexts"].tolist()
    np.testing.assert_allclose(found["shift"], expected["shift"], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"min_cells": 1}, ArgumentError, "min_cells is 1"),
        ({"most_cells": 5}, ArgumentError, "most_cells is 5; expected a whole number of at least"),
        ({"min_cells": "10"}, ArgumentError, "min_cells is '10'"),
        ({"min_cells": 9.5}, ArgumentError, r"min_cells is 9\.5"),
        ({"groupby": "percent_mito"}, ArgumentError, "holds numbers such as .*pd\\.cut"),
        ({"n_roles": 0}, ArgumentError, "n_roles is 0"),
        ({"groupby": "celltype"}, MissingColumnError, "'celltype'"),
        ({"gene": "lyzz"}, GeneError, "near: .*LYZ"),
        ({"gene": "ACTB"}, GeneError, "not measured"),
        ({"gene": "TNFRSF4"}, ArgumentError, r"10 cells \(min_cells\) of 0 contexts"),
        ({"gene_sets": "no/such.gmt"}, GeneError, "there is no file"),
        ({"gene_sets": {"a": ["?"]}}, GeneError, "none of 1 gene sets"),
    ],
)
def test_what_is_refused(cells, roles_of, options, error, words):
    with pytest.raises(error, match=words):
        roles_of(cells, **options)


def test_a_model_without_a_context(cells, roles_of, context_model):
    config = dataclasses.replace(context_model.config, context_layers=0)
    older = Model(config, CellTransformer(config), context_model.genes, context_model.phenotypes)
    with pytest.raises(CheckpointError, match=r"before scgp 0\.8\.0"):
        roles_of(cells, model=older)


def test_roles_of_real_blood_cells(all_blood, model):
    """B cells, myeloid cells and T cells, whose interactions differ by 50 times their noise."""
    found = scgp.gene_roles(all_blood, "KLF6", groupby="bulk_labels", model=model, progress=False)
    told = {frozenset(row.split("; ")) for row in found["contexts"]}
    t_cells = {"CD4+/CD25 T Reg", "CD8+ Cytotoxic T", "CD8+/CD45RA+ Naive Cytotoxic"}
    assert told == {frozenset(x) for x in ({"CD19+ B"}, {"CD14+ Monocyte", "Dendritic"}, t_cells)}


def test_real_blood_cells_dealt_to_contexts_are_of_one_role(all_blood, model):
    adata = all_blood.copy()
    adata.obs["dealt"] = np.random.default_rng(0).permutation(np.resize(list("abcdefgh"), 700))
    given = {"groupby": "dealt", "most_cells": 30, "model": model, "progress": False}
    assert [len(scgp.gene_roles(adata, gene, **given)) for gene in ("CD74", "KLF6")] == [1, 1]


def test_genes_move_together_within_contexts_or_not_at_all():
    rng = np.random.default_rng(3)
    code_C = np.repeat([0, 1, 2], 20)
    rate_CT = rng.normal(size=(60, 4))
    rate_CT[:, 1] = 2 * rate_CT[:, 0] + 100 * code_C  # moves with the gene, in each context
    rate_CT[:, 2] += 50 * code_C  # follows the context alone
    rate_CT[:, 3] = -rate_CT[:, 0]
    rate_CT[:, 0] += 50 * code_C
    noise = Noise(np.zeros(3), 1.0)
    found = _Interactions(np.array([4, 6, 7, 9]), rate_CT, np.zeros((3, 2)), noise)
    cosine_T = _moving_together(found, 4, code_C, np.array([0, 1]))
    assert cosine_T[0] == -np.inf
    assert cosine_T[1] == pytest.approx(1, abs=1e-6)
    assert abs(cosine_T[2]) < 0.4
    assert cosine_T[3] == pytest.approx(-1, abs=1e-6)
    before = rate_CT.copy()
    _moving_together(found, 4, code_C, np.array([2]))
    np.testing.assert_array_equal(rate_CT, before)
