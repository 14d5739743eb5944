"""annotate() on real cells: what is written, and for which kinds of input."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scgp
from scgp.demo import BULK_LABEL_TO_CL
from scgp.errors import ArgumentError, ScgpWarning
from scgp.model.checkpoint import DEFAULT_DIRECTORY
from scgp.phenotypes.ontology import Ontology

LABEL, TERM = "scgp_cell_type", "scgp_cell_type_ontology_term_id"
CONFIDENCE, STATUS = "scgp_confidence", "scgp_status"
NOVELTY = "scgp_novelty"


# ---- what is written ----


def test_the_documented_slots_and_nothing_else(blood, annotate, blood_index, model, state):
    before = state(blood)
    assert annotate(blood) is None
    obs = blood.obs
    assert isinstance(obs[LABEL].dtype, pd.CategoricalDtype)
    assert isinstance(obs[TERM].dtype, pd.CategoricalDtype)
    assert obs[CONFIDENCE].dtype == np.float32
    assert obs[CONFIDENCE].between(0, 1).all()
    assert list(obs[STATUS].cat.categories) == ["labelled", "ancestor", "unknown", "empty"]
    assert blood.obsm["X_scgp"].dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(blood.obsm["X_scgp"], axis=1), 1, atol=1e-5)
    assert blood.uns["scgp"]["model"] == model.fingerprint
    assert blood.uns["scgp"]["counts"] == "X"
    assert blood.uns["scgp"]["n_genes"] == 765
    assert blood.uns["scgp"]["n_genes_matched"] > 700
    for name in (LABEL, TERM, CONFIDENCE, STATUS, NOVELTY):
        del blood.obs[name]
    del blood.obsm["X_scgp"], blood.uns["scgp"]
    assert state(blood) == before


def test_statuses_labels_and_ids_agree(annotated):
    obs = annotated.obs
    labelled = obs[STATUS].isin(["labelled", "ancestor"])
    assert labelled.any()
    assert obs.loc[labelled, TERM].str.startswith("CL:").all()
    assert (obs.loc[~labelled, LABEL] == "unknown").all()
    assert (obs.loc[~labelled, CONFIDENCE] == 0).all()


def test_blood_cells_are_found_among_blood_cells(annotated):
    for term in ("CL:0000236", "CL:0001054"):  # B cells and monocytes stand apart
        mine = annotated.obs["cell_type"] == term
        assert (annotated.obs.loc[mine, TERM] == term).mean() > 0.6


def test_the_default_reference(blood):
    """No reference, no index: those of the checkpoint."""
    scgp.annotate(blood, progress=False)
    b_cells = blood.obs["cell_type"] == "CL:0000236"
    assert blood.obs.loc[b_cells, LABEL].astype(str).str.contains("B cell").mean() > 0.6
    assert blood.obs[STATUS].isin(["labelled", "ancestor"]).mean() > 0.5


def test_copy_leaves_the_original_alone(blood, annotate, annotated, state, same_answers):
    before = state(blood)
    copied = annotate(blood, copy=True)
    assert state(blood) == before
    assert LABEL in copied.obs
    same_answers(copied, annotated)


def test_key_added_prefixes_every_slot(blood, annotate):
    annotate(blood, key_added="mine")
    written = {name for name in blood.obs if name.startswith(("mine", "scgp"))}
    names = (LABEL, TERM, CONFIDENCE, STATUS, NOVELTY)
    assert written == {f"mine_{name[5:]}" for name in names}
    assert {"X_mine"} < set(blood.obsm)
    assert "X_scgp" not in blood.obsm
    assert "mine" in blood.uns


def test_annotating_twice_replaces(blood, annotate, annotated, same_answers):
    blood.obs[LABEL], blood.obsm["X_scgp"] = "old", np.zeros((120, 2))
    annotate(blood)
    annotate(blood)
    same_answers(blood, annotated)
    assert sorted(blood.obs) == sorted(annotated.obs)


def test_a_checkpoint_read_from_its_directory(blood, annotate, annotated, same_answers):
    annotate(blood, model=DEFAULT_DIRECTORY)
    same_answers(blood, annotated)


# ---- where the counts are, and what the genes are called ----


@pytest.mark.parametrize("place", ["layer", "raw"])
def test_counts_elsewhere(blood, annotate, annotated, place, same_answers):
    elsewhere = blood.copy()
    if place == "layer":
        elsewhere.layers["counts"] = elsewhere.X.copy()
    else:
        elsewhere.raw = blood
    elsewhere.X = np.log1p(elsewhere.X)
    annotate(elsewhere, **({"layer": "counts"} if place == "layer" else {"use_raw": True}))
    assert elsewhere.uns["scgp"]["counts"] == ("layers['counts']" if place == "layer" else "raw.X")
    same_answers(elsewhere, annotated)


def test_the_cellxgene_layout_works_as_it_comes(
    blood, annotate, annotated, ensembl_ids, same_answers
):
    """Ensembl ids in var_names, symbols in feature_name, counts in .raw, normalised X."""
    cellxgene = blood.copy()
    cellxgene.var["feature_name"] = pd.Categorical(cellxgene.var_names)
    cellxgene.var_names = ensembl_ids(blood.var_names)
    cellxgene = cellxgene[:, [name.startswith("ENSG") for name in cellxgene.var_names]].copy()
    cellxgene.raw = cellxgene
    cellxgene.X = np.log1p(cellxgene.X)
    cellxgene.uns["schema_version"] = "5.2.0"
    annotate(cellxgene)
    assert cellxgene.uns["scgp"]["counts"] == "raw.X"
    same_answers(cellxgene, annotated)


def test_ensembl_ids_with_versions(blood, annotate, annotated, ensembl_ids, same_answers):
    versioned = blood.copy()
    ids = ensembl_ids(blood.var_names)
    versioned.var_names = [f"{name}.{i % 20 + 1}" for i, name in enumerate(ids)]
    annotate(versioned)
    same_answers(versioned, annotated)


def test_repeated_genes_are_summed_and_said(blood, annotate, annotated, ensembl_ids, same_answers):
    """Every count is split over two columns of one gene: its symbol and its Ensembl id."""
    half = sp.csr_matrix(blood.X)
    half.data = np.floor(half.data / 2)
    split = ad.AnnData(sp.hstack([half, blood.X - half], format="csr"), obs=blood.obs.copy())
    split.var_names = [*blood.var_names, *ensembl_ids(blood.var_names)]
    with pytest.warns(ScgpWarning, match="summed") as caught:
        annotate(split)
    assert len(caught) == 1
    same_answers(split, annotated)


def test_one_name_twice(blood, annotate, same_answers):
    """What anndata warns of when a file is read: summed too."""
    twice = ad.AnnData(sp.hstack([blood.X, blood.X[:, :1]], format="csr"), obs=blood.obs.copy())
    once = blood.copy()
    once.X = sp.csr_matrix(blood.X)
    once.X[:, 0] = once.X[:, 0] * 2
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Variable names are not unique")
        twice.var_names = [*blood.var_names, blood.var_names[0]]
    with pytest.warns(ScgpWarning, match="2 names stand for 1 genes"):
        annotate(twice)
    annotate(once)
    same_answers(once, twice)


def test_few_genes_in_common_are_said(blood, annotate):
    few = blood[:, :30].copy()
    few.var_names = [*few.var_names[:25], *(f"peak_{i}" for i in range(5))]
    with pytest.warns(ScgpWarning, match="few genes in common") as caught:
        annotate(few)
    message = str(caught[0].message)
    assert "'peak_0', 'peak_1', 'peak_2'" in message
    assert message.count("(ENSG") == 3
    assert LABEL in few.obs


# ---- odd cells ----


def _emptied(adata, rows):
    keep_N = np.ones(adata.n_obs)
    keep_N[rows] = 0
    adata.X = sp.csr_matrix(sp.diags(keep_N) @ adata.X).astype(np.float32)
    return adata


def test_empty_cells_have_no_label(blood, annotate, annotated, same_answers):
    _emptied(blood, [2, 7])
    with pytest.warns(ScgpWarning, match="2 of 120 cells") as caught:
        annotate(blood)
    assert len(caught) == 1
    empty = blood.obs.iloc[[2, 7]]
    assert empty[LABEL].isna().all()
    assert (empty[TERM] == "").all()
    assert (empty[CONFIDENCE] == 0).all()
    assert (empty[STATUS] == "empty").all()
    assert empty[NOVELTY].isna().all()
    assert not blood.obsm["X_scgp"][[2, 7]].any()
    others = np.setdiff1d(np.arange(120), [2, 7])
    same_answers(blood[others].copy(), annotated[others].copy())


def test_min_confidence_moves_the_bound_of_a_label(blood, annotate, annotated):
    forced = annotate(blood, min_confidence=0, copy=True).obs
    assert (forced[STATUS] == "labelled").all()
    before = annotated.obs
    same = (before[STATUS] == "labelled").to_numpy()
    assert (forced[LABEL].astype(str)[same] == before[LABEL].astype(str)[same]).all()
    bound = float(before[CONFIDENCE].median())
    strict = annotate(blood, min_confidence=bound, copy=True)
    given = strict.obs[STATUS].isin(["labelled", "ancestor"])
    labelled = strict.obs[STATUS] == "labelled"
    assert 0 < labelled.sum() < (before[STATUS] == "labelled").sum()
    assert (strict.obs[CONFIDENCE][given] >= bound - 1e-5).all()
    assert strict.uns["scgp"]["min_confidence"] == bound
    as_numpy = annotate(blood, min_confidence=np.float32(0), copy=True)
    assert as_numpy.uns["scgp"]["min_confidence"] == 0.0
    asked = annotate(blood, min_confidence=0, labels=["B cell", "monocyte"], copy=True)
    assert set(asked.obs[LABEL]) == {"B cell", "monocyte"}  # a choice, for every cell


@pytest.mark.parametrize("value", [-0.1, 1.5, True, "high", float("nan")])
def test_a_min_confidence_that_is_none(blood, annotate, state, value):
    before = state(blood)
    with pytest.raises(ArgumentError, match=r"min_confidence is .*probability between 0 and 1"):
        annotate(blood, min_confidence=value)
    assert state(blood) == before


def test_novelty_is_the_distance_to_the_nearest_reference_cell(blood, annotate, blood_index):
    annotate(blood)
    nearest = (blood.obsm["X_scgp"] @ blood_index.vectors_ND.T).max(axis=1)
    assert blood.obs[NOVELTY].dtype == np.float32
    np.testing.assert_allclose(blood.obs[NOVELTY], 1 - nearest, rtol=0, atol=1e-6)
    restricted = annotate(blood, labels=["B cell", "monocyte"], copy=True)
    np.testing.assert_array_equal(restricted.obs[NOVELTY], blood.obs[NOVELTY])


def test_types_that_the_reference_lacks_are_more_novel(model, all_blood):
    """Real cells of one donor; the reference has no B cells. (Monocytes and NK cells tell less.)"""
    lacking = all_blood.obs["bulk_labels"].astype(str).str.contains("CD19").to_numpy()
    all_blood.obs["type"] = all_blood.obs["bulk_labels"].astype(str).map(BULK_LABEL_TO_CL)
    odd = np.arange(all_blood.n_obs) % 2 == 1
    reference, asked = all_blood[odd & ~lacking].copy(), all_blood[~odd].copy()
    scgp.annotate(asked, reference=reference, label_key="type", model=model, progress=False)
    novelty, novel = asked.obs[NOVELTY].to_numpy(), lacking[~odd]
    above = (novelty[novel][:, None] > novelty[~novel]).mean()
    assert above > 0.9


def test_cells_whose_counts_are_all_in_unknown_genes_are_empty(blood, annotate):
    blood.var_names = ["not_a_gene", *blood.var_names[1:]]
    blood.X = (
        sp.csr_matrix(([5.0], ([0], [0])), shape=blood.shape, dtype=np.float32)
        + _emptied(blood, [0]).X
    )
    with pytest.warns(ScgpWarning, match="1 of 120 cells"):
        annotate(blood)
    assert blood.obs[STATUS].iloc[0] == "empty"


def test_nothing_but_empty_cells(blood, annotate, tmp_path):
    _emptied(blood, np.arange(120))
    with pytest.warns(ScgpWarning, match="120 of 120 cells"):
        annotate(blood)
    assert blood.obs[LABEL].isna().all()
    blood.write_h5ad(tmp_path / "empty.h5ad")
    assert ad.read_h5ad(tmp_path / "empty.h5ad").obs[LABEL].isna().all()


def test_one_cell(blood, annotate, annotated, same_answers):
    one = blood[5].copy()
    annotate(one)
    same_answers(one, annotated[5].copy())


@pytest.mark.parametrize("container", [sp.csr_matrix, sp.csc_matrix, np.asarray])
def test_zero_cells(blood, annotate, container, tmp_path):
    none = ad.AnnData(
        container(np.zeros((0, blood.n_vars), np.float32)), obs=blood.obs.iloc[:0].copy(),
        var=blood.var.copy(),
    )  # fmt: skip
    annotate(none)
    assert none.obs[LABEL].shape == (0,)
    assert none.obs[CONFIDENCE].dtype == np.float32
    assert none.obsm["X_scgp"].shape == (0, 128)
    none.write_h5ad(tmp_path / "none.h5ad")
    assert LABEL in ad.read_h5ad(tmp_path / "none.h5ad").obs


# ---- real files ----


@pytest.mark.parametrize("name", ["pbmc_3tech_savercat", "baron2016_cider"])
def test_real_files_as_they_come(shared_data, name):
    """uint16 counts of studies that were never trained on, names of cells that repeat."""
    adata = _some_cells(shared_data / "eval" / f"{name}.h5ad", 200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScgpWarning)  # not what is tested here
        scgp.annotate(adata, progress=False)
    ontology = Ontology("CL")
    pairs = zip(adata.obs["cell_type_ontology_term_id"], adata.obs[TERM], strict=True)
    on_one_line = [
        bool(given) and (true in ontology.ancestors(given) or given in ontology.ancestors(true))
        for true, given in pairs
    ]
    assert np.mean(on_one_line) > 0.5


def _some_cells(path, n_cells):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Observation names are not unique")
        adata = ad.read_h5ad(path)
        return adata[np.linspace(0, adata.n_obs - 1, n_cells).astype(int)].copy()
