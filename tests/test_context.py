"""embed_genes(): genes in the context of cells and groups, on real cells."""

import dataclasses

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scgp
from scgp.errors import (
    ArgumentError,
    CheckpointError,
    CountsError,
    DeviceError,
    GeneError,
    MissingColumnError,
    ScgpWarning,
)
from scgp.model.checkpoint import Model
from scgp.model.network import CellTransformer

GENES = ["LYZ", "CD74", "NKG7"]
NUMBERS = ["value", "predicted", "spread"]


@pytest.fixture
def embed_genes(context_model):
    """Embed with the small model."""

    def verb(adata, genes=GENES, **options):
        options = {"model": context_model, "progress": False} | options
        return scgp.embed_genes(adata, genes, **options)

    return verb


@pytest.fixture(scope="module")
def in_cells(all_blood, context_model):
    return scgp.embed_genes(all_blood[:120].copy(), GENES, model=context_model, progress=False)


@pytest.fixture(scope="module")
def in_groups(all_blood, context_model):
    cells = all_blood[:120].copy()
    return scgp.embed_genes(
        cells, GENES, groupby="bulk_labels", model=context_model, progress=False
    )


def same(found, expected, atol=1e-5):
    assert found.obs_names.tolist() == expected.obs_names.tolist()
    np.testing.assert_allclose(found.X, expected.X, rtol=0, atol=atol)
    for name in expected.obs:
        if name in NUMBERS:
            np.testing.assert_allclose(found.obs[name], expected.obs[name], atol=atol)
        elif name != "cell":
            assert found.obs[name].tolist() == expected.obs[name].tolist(), name


def test_one_row_for_each_cell_and_gene_it_expresses(blood, in_cells, model):
    assert in_cells.X.dtype == np.float32
    assert in_cells.var_names.tolist() == [f"context_{i}" for i in range(16)]
    counts = blood[:, GENES].X.toarray()
    expected = np.argwhere(counts > 0)  # cells in order; genes in the order asked for
    obs = in_cells.obs
    np.testing.assert_array_equal(obs["position"], expected[:, 0])
    assert obs["position"].dtype == np.int64
    assert obs["cell"].tolist() == blood.obs_names[expected[:, 0]].tolist()
    assert obs["gene"].tolist() == np.array(GENES)[expected[:, 1]].tolist()
    token_Q = model.genes.match(GENES).token_of_column
    assert obs["ensembl_id"].tolist() == model.genes.ensembl[token_Q][expected[:, 1]].tolist()
    assert list(obs) == ["gene", "ensembl_id", "cell", "position", "value", "predicted"]
    known_V = model.genes.match(blood.var_names).token_of_column >= 0
    total_N = np.asarray(blood.X[:, known_V].sum(axis=1)).ravel()
    value = np.log1p(1e4 * counts / total_N[:, None])[tuple(expected.T)]
    np.testing.assert_allclose(obs["value"], value, rtol=1e-5)
    assert obs["value"].dtype == obs["predicted"].dtype == np.float32
    assert in_cells.obs_names.is_unique
    assert in_cells.obs_names[0] == f"{obs['gene'].iloc[0]} in {expected[0, 0]}"


def test_genes_read_where_they_are_absent(blood, embed_genes, in_cells):
    whole = embed_genes(blood, expressed=False)
    assert whole.n_obs == 120 * len(GENES)
    absent = whole.obs["value"] == 0
    assert 0 < absent.sum() < whole.n_obs
    same(whole[~absent].copy(), in_cells)
    assert np.isfinite(whole.X).all()


def test_groups_are_means_over_their_cells(blood, in_cells, in_groups):
    label_N = blood.obs["bulk_labels"].astype(str).to_numpy()
    label_M = label_N[in_cells.obs["position"]]
    obs = in_groups.obs
    assert list(obs) == [
        "gene", "ensembl_id", "group", "n_cells", "n_group", "value", "predicted", "spread",
    ]  # fmt: skip
    pairs = list(zip(obs["gene"], obs["group"], strict=True))
    there = set(zip(in_cells.obs["gene"], label_M, strict=True))
    # genes in the order asked for, groups by name
    assert pairs == [(g, k) for g in GENES for k in sorted(set(label_N)) if (g, k) in there]
    for row, (gene, group) in enumerate(pairs):
        mine = (in_cells.obs["gene"] == gene).to_numpy() & (label_M == group)
        context = in_cells.X[mine].astype(np.float64)
        np.testing.assert_allclose(in_groups.X[row], context.mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(in_groups.layers["std"][row], context.std(axis=0), atol=1e-3)
        apart = ((context - context.mean(axis=0)) ** 2).sum(axis=1).mean()
        assert obs["spread"].iloc[row] == pytest.approx(np.sqrt(apart), abs=2e-3)
        assert obs["n_cells"].iloc[row] == mine.sum()
        assert obs["n_group"].iloc[row] == (label_N == group).sum()
        for name in ("value", "predicted"):
            assert obs[name].iloc[row] == pytest.approx(in_cells.obs[name][mine].mean(), abs=1e-5)
    assert in_groups.X.dtype == in_groups.layers["std"].dtype == np.float32
    assert (obs["n_cells"] == 1).any()
    np.testing.assert_allclose(in_groups.layers["std"][obs["n_cells"] == 1], 0, atol=1e-3)


def test_cells_without_a_group_are_left_out(blood, embed_genes, in_groups):
    blood.obs["bulk_labels"] = blood.obs["bulk_labels"].cat.remove_categories(["Dendritic"])
    with pytest.warns(ScgpWarning, match="of 120 cells have no value in obs"):
        found = embed_genes(blood, groupby="bulk_labels")
    same(found, in_groups[in_groups.obs["group"] != "Dendritic"].copy())
    blood.obs["numbers"] = [1.5, np.nan] * 60
    with pytest.warns(ScgpWarning, match="60 of 120 cells have no value in obs"):
        assert set(embed_genes(blood, groupby="numbers").obs["group"]) == {"1.5"}
    blood.obs["mixed"] = pd.Series([1, "1", "b", None] * 30, dtype=object, index=blood.obs_names)
    with pytest.warns(ScgpWarning, match="30 of 120 cells"):
        found = embed_genes(blood, "CD74", groupby="mixed").obs  # a group is what it is called
    assert found[["group", "n_group"]].to_numpy().tolist() == [["1", 60], ["b", 30]]


def _of_file(adata, path):
    adata.write_h5ad(path)
    return ad.read_h5ad(path, backed="r")


@pytest.mark.parametrize("container", ["dense", "csc", "backed", "genes", "uint16", "view"])
@pytest.mark.parametrize("groupby", [None, "bulk_labels"])
def test_the_same_cells_give_the_same_answer(
    blood, embed_genes, in_cells, in_groups, container, groupby, tmp_path
):
    if container == "genes":
        blood = blood[:, np.random.default_rng(0).permutation(blood.n_vars)].copy()
    elif container == "backed":
        blood = _of_file(blood, tmp_path / "cells.h5ad")
    elif container == "view":
        blood = blood[np.arange(120)]
    else:
        make = {"dense": sp.csr_matrix.toarray, "csc": sp.csc_matrix,
                "uint16": lambda x: x.astype(np.uint16)}  # fmt: skip
        blood.X = make[container](blood.X)
    same(embed_genes(blood, groupby=groupby), in_cells if groupby is None else in_groups)
    if container == "backed":
        blood.file.close()


def test_a_cell_does_not_depend_on_its_company(all_blood, embed_genes, in_cells):
    rows = np.array([300, 7, 45, 7, 510])
    some = ad.AnnData(all_blood.X[rows], var=all_blood.var)
    found = embed_genes(some)
    for place in (1, 2, 3):
        mine = found[found.obs["position"] == place]
        expected = in_cells[in_cells.obs["position"] == rows[place]]
        np.testing.assert_allclose(mine.X, expected.X, atol=1e-5)


def test_a_gene_does_not_depend_on_the_others_asked_for(blood, embed_genes, in_cells):
    alone = embed_genes(blood, "CD74")
    same(alone, in_cells[in_cells.obs["gene"] == "CD74"].copy())
    back = embed_genes(blood, GENES[::-1])
    order = np.argsort(back.obs_names)
    np.testing.assert_allclose(back.X[order], in_cells.X[np.argsort(in_cells.obs_names)], atol=1e-5)


def test_the_genes_own_count_is_hardly_seen(blood, embed_genes, in_cells):
    """Save by what is left of ten thousand for the others."""
    column = blood.var_names.get_loc("NKG7")
    more = blood.X.tolil()
    expressed = blood.X[:, column].nonzero()[0]
    more[expressed, column] = 4 * more[expressed, column].toarray()
    blood.X = more.tocsr()
    found = embed_genes(blood, "NKG7")
    expected = in_cells[in_cells.obs["gene"] == "NKG7"]
    assert (found.obs["value"].to_numpy() > expected.obs["value"].to_numpy() + 0.5).all()
    moved = np.linalg.norm(found.X - expected.X, axis=1)
    spread = np.linalg.norm(expected.X - expected.X.mean(axis=0), axis=1)
    assert np.median(moved) < 0.05 * np.median(spread)
    others = embed_genes(blood, "CD74")  # while the other genes see it
    before = in_cells[in_cells.obs["gene"] == "CD74"]
    seen = np.isin(others.obs["position"], expressed)
    assert np.linalg.norm((others.X - before.X)[seen], axis=1).mean() > 2 * np.median(moved)


def test_counts_in_a_layer_or_raw(blood, embed_genes, in_cells):
    blood.layers["counts"] = blood.X.copy()
    blood.raw = blood.copy()
    blood.X = blood.X.log1p()
    same(embed_genes(blood, layer="counts"), in_cells)
    same(embed_genes(blood, use_raw=True), in_cells)
    with pytest.raises(CountsError):
        embed_genes(blood)


def test_only_the_answer_is_new(blood, embed_genes, state):
    before = state(blood)
    embed_genes(blood, groupby="bulk_labels")
    embed_genes(blood, expressed=False)
    assert state(blood) == before


def test_the_answer_survives_a_file(in_cells, in_groups, tmp_path):
    for adata in (in_cells, in_groups):
        adata.copy().write_h5ad(tmp_path / "out.h5ad")
        same(ad.read_h5ad(tmp_path / "out.h5ad"), adata, atol=0)


def test_twice_is_the_same_bit_by_bit(blood, embed_genes, in_cells):
    again = embed_genes(blood)
    np.testing.assert_array_equal(again.X, in_cells.X)
    pd.testing.assert_frame_equal(again.obs, in_cells.obs)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"genes": ["CD74", "lyzz"]}, GeneError, r"'lyzz' \(near: .*LYZ"),
        ({"genes": []}, GeneError, "no gene is named"),
        ({"genes": "ACTB"}, GeneError, "not measured in these data: 'ACTB'"),
        ({"groupby": "celltype"}, MissingColumnError, "'celltype'.*'bulk_labels'"),
        ({"groupby": "nothing"}, ArgumentError, "no value in any cell"),
        ({"layer": "counts"}, ArgumentError, "no layer 'counts'"),
        ({"model": "no/such/model"}, CheckpointError, "no/such/model"),
        ({"device": "nonsense"}, DeviceError, "nonsense"),
    ],
)
def test_what_is_refused(blood, embed_genes, options, error, words):
    blood.obs["nothing"] = None
    with pytest.raises(error, match=words):
        embed_genes(blood, **options)


def test_no_cells(blood, embed_genes):
    with pytest.raises(ArgumentError, match=r"no cells \(0 rows\)"):
        embed_genes(blood[:0].copy(), expressed=False)


def test_what_is_no_anndata(embed_genes):
    with pytest.raises(ArgumentError, match="expected an AnnData, found list"):
        embed_genes([1])


def test_genes_that_no_cell_expresses(blood, embed_genes):
    silent = blood.X.toarray()
    silent[:, blood.var_names.get_indexer(["LYZ", "NKG7"])] = 0
    blood.X = sp.csr_matrix(silent)
    for groupby in (None, "bulk_labels"):
        with pytest.warns(ScgpWarning, match="2 of 3 genes are expressed in no cell: LYZ, NKG7"):
            found = embed_genes(blood, groupby=groupby)
        assert set(found.obs["gene"]) == {"CD74"}
        with pytest.raises(GeneError, match=r"none of the genes .*LYZ; expressed=False"):
            embed_genes(blood, "LYZ", groupby=groupby)
    assert embed_genes(blood, "LYZ", expressed=False).n_obs == 120


def test_a_model_without_a_context(blood, context_model, embed_genes):
    config = dataclasses.replace(context_model.config, context_layers=0)
    older = Model(config, CellTransformer(config), context_model.genes, context_model.phenotypes)
    with pytest.raises(CheckpointError, match=r"before scgp 0\.8\.0"):
        embed_genes(blood, model=older)


def test_empty_cells_have_no_row(blood, embed_genes, in_cells):
    blood.X = sp.csr_matrix(sp.diags([0.0, *[1.0] * 119]) @ blood.X).astype(np.float32)
    for groupby in (None, "bulk_labels"):
        with pytest.warns(ScgpWarning, match="1 of 120 cells have no count .*, and no row"):
            found = embed_genes(blood, groupby=groupby, expressed=False)
    assert found.obs.groupby("gene", observed=True)["n_cells"].sum().tolist() == [119] * len(GENES)
    with pytest.warns(ScgpWarning, match="no row"):
        found = embed_genes(blood, expressed=False)
    assert found.n_obs == 119 * len(GENES)
    same(embed_genes(blood), in_cells[in_cells.obs["position"] > 0].copy())


def test_cells_without_counts_cannot_be_read_either_way(blood, embed_genes):
    blood.X = sp.csr_matrix(blood.shape, dtype=np.float32)
    for groupby in (None, "bulk_labels"):
        with pytest.raises(CountsError, match=r"none of 120 cells has a count .*: nothing can be"):
            embed_genes(blood, groupby=groupby, expressed=False)


def test_progress_is_shown_unless_switched_off(blood, context_model, capsys):
    scgp.embed_genes(blood, "LYZ", model=context_model, progress=False)
    assert capsys.readouterr().err == ""
    scgp.embed_genes(blood, "LYZ", model=context_model)
    assert "120/120" in capsys.readouterr().err
