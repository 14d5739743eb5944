"""use_rep=: a representation of the user's own, from obsm to a saved index and to answers.

The representation is a PCA of real cells; no model of scgp has any part in it.
"""

import dataclasses
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp

import scgp
from scgp.errors import (
    ArgumentError,
    FingerprintError,
    LabelError,
    MissingColumnError,
    ScgpWarning,
)
from scgp.model.directory import load_npz
from scgp.phenotypes.ontology import Ontology
from scgp.reference.answer import streams_of
from scgp.representation import DEFAULT, centre_of, fit_fusion, query_vectors, unit_vectors

LABEL, TERM = "scgp_cell_type", "scgp_cell_type_ontology_term_id"
CONFIDENCE, STATUS = "scgp_confidence", "scgp_status"
WRITTEN = [LABEL, TERM, CONFIDENCE, STATUS, "scgp_novelty"]


@pytest.fixture(scope="session")
def represented(all_blood) -> ad.AnnData:
    """700 cells with 20 principal components, far from the origin, and no counts."""
    logged = all_blood.copy()
    sc.pp.normalize_total(logged, target_sum=1e4)
    sc.pp.log1p(logged)
    sc.pp.pca(logged, n_comps=20)
    adata = ad.AnnData(obs=all_blood.obs[["cell_type"]].copy())
    adata.obsm["X_mine"] = (logged.obsm["X_pca"] + 3).astype(np.float32)
    adata.obs["donor"] = [f"donor {i % 3}" for i in range(adata.n_obs)]
    return adata


@pytest.fixture
def atlas(represented) -> ad.AnnData:
    return represented[120:].copy()


@pytest.fixture
def query(represented) -> ad.AnnData:
    return represented[:120].copy()


@pytest.fixture(scope="session")
def index(represented) -> scgp.ReferenceIndex:
    """An index whose confidence is calibrated on three held-out groups of cells."""
    atlas = represented[120:].copy()
    return scgp.build_index(atlas, label_key="cell_type", use_rep="X_mine", study_key="donor")


@pytest.fixture(scope="session")
def plain(represented) -> scgp.ReferenceIndex:
    """The same, not calibrated."""
    atlas = represented[120:].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScgpWarning)
        return scgp.build_index(atlas, label_key="cell_type", use_rep="X_mine")


def _annotated(query, index, **options):
    return scgp.annotate(query, index=index, use_rep="X_mine", copy=True, **options)


def _right(adata):
    true, given = adata.obs["cell_type"], adata.obs[TERM].astype(str)
    return np.mean([t in Ontology("CL").ancestors(g) if g else False
                    for t, g in zip(true, given, strict=True)])  # fmt: skip


# ---- the answer ----


def test_real_cells_are_labelled_by_a_pca(query, index, plain):
    """Labels of the same cells by the same donor: that it works, and no more."""
    assert _right(_annotated(query, index)) > 0.7
    with pytest.warns(ScgpWarning, match="not calibrated"):
        assert _right(_annotated(query, plain)) > 0.7


def test_what_is_written(query, index, state):
    before = state(query)
    done = _annotated(query, index)
    assert state(query) == before
    assert list(done.obs.columns) == ["cell_type", "donor", *WRITTEN]
    assert list(done.obsm) == ["X_mine"]
    assert list(done.uns) == ["scgp"]
    assert done.uns["scgp"] == {"use_rep": "X_mine", "index": repr(index), "calibrated": True}
    assert "X_mine" in repr(index)
    assert done.obs[CONFIDENCE].dtype == np.float32
    query.obsm["X_scgp"] = np.ones((120, 2))
    done = _annotated(query, index, key_added="scgp")
    np.testing.assert_array_equal(done.obsm["X_scgp"], 1)  # an earlier one is let alone


def test_an_atlas_is_its_index(query, atlas, plain):
    with pytest.warns(ScgpWarning, match="not calibrated") as caught:
        direct = scgp.annotate(
            query, reference=atlas, label_key="cell_type", use_rep="X_mine", copy=True
        )
    assert len(caught) == 1
    with pytest.warns(ScgpWarning, match="study_key="):
        again = _annotated(query, plain)
    pd.testing.assert_frame_equal(direct.obs, again.obs)


def test_building_changes_nothing_and_says_that_confidence_is_not_calibrated(atlas, state):
    before = state(atlas)
    with pytest.warns(ScgpWarning, match=r"not calibrated.*study_key=.*two studies") as caught:
        built = scgp.build_index(atlas, label_key="cell_type", use_rep="X_mine")
    assert len(caught) == 1
    assert state(atlas) == before
    assert built.calibration == DEFAULT
    assert built.use_rep == "X_mine"
    assert built.gene_head is None
    assert not built.text_TD.any()


def test_where_the_origin_lies_and_how_long_rows_are_do_not_matter(atlas, query, index):
    """The centre is the reference's, for reference and query alike."""
    done = _annotated(query, index)
    for adata in (atlas, query):
        adata.obsm["X_mine"] = 50 * (adata.obsm["X_mine"].astype(np.float64) + np.arange(20))
    moved = scgp.build_index(atlas, label_key="cell_type", use_rep="X_mine", study_key="donor")
    again = _annotated(query, moved)
    assert again.obs[LABEL].tolist() == done.obs[LABEL].tolist()
    np.testing.assert_allclose(again.obs[CONFIDENCE], done.obs[CONFIDENCE], atol=1e-3)


@pytest.mark.parametrize("container", ["frame", "csr", "float64", "int"])
def test_the_container_does_not_matter(query, index, container):
    matrix = np.round(query.obsm["X_mine"] * 8)
    query.obsm["X_mine"] = matrix
    expected = _annotated(query, index)
    query.obsm["X_mine"] = {
        "frame": lambda x: pd.DataFrame(x, index=query.obs_names),
        "csr": sp.csr_matrix,
        "float64": lambda x: x.astype(np.float64),
        "int": lambda x: x.astype(int),
    }[container](matrix)
    pd.testing.assert_frame_equal(_annotated(query, index).obs, expected.obs)


def test_company_does_not_matter(query, index):
    alone = pd.concat([_annotated(query[i : i + 40].copy(), index).obs for i in (0, 40, 80)])
    together = _annotated(query, index).obs
    assert alone[LABEL].astype(str).tolist() == together[LABEL].astype(str).tolist()
    np.testing.assert_allclose(alone[CONFIDENCE], together[CONFIDENCE], rtol=0, atol=1e-5)


def test_zero_rows_are_empty(query, index):
    query.obsm["X_mine"][[3, 7]] = 0
    with pytest.warns(ScgpWarning, match=r"2 of 120 cells are zero in obsm\['X_mine'\]"):
        done = _annotated(query, index)
    empty = done.obs.iloc[[3, 7]]
    assert empty[STATUS].tolist() == ["empty", "empty"]
    assert empty[LABEL].isna().all()
    assert (empty[CONFIDENCE] == 0).all()
    assert (done.obs[STATUS] == "empty").sum() == 2


def test_zero_rows_and_unlabelled_cells_of_an_atlas_are_left_out(atlas):
    atlas.obsm["X_mine"][:5] = 0
    atlas.obs["label"] = atlas.obs["cell_type"].where(np.arange(580) < 570)
    with pytest.warns(ScgpWarning, match="10 of 580 cells have no label"):
        built = scgp.build_index(atlas, label_key="label", use_rep="X_mine", study_key="donor")
    assert built.n_cells == 565
    expected = atlas.obsm["X_mine"][5:570].mean(axis=0)
    np.testing.assert_allclose(built.centre_D, expected, rtol=1e-5)


# ---- confidence ----


def test_there_are_two_streams_and_no_silent_ones(query, index):
    """A silent stream would count when the shares of the others are taken, as in no fit."""
    vectors = query_vectors(query.obsm["X_mine"], index)
    streams, _ = streams_of(index, vectors.cell_BE, vectors.type_BE, None, index.calibration)
    assert list(streams) == ["neighbour", "head"]
    assert all(np.isfinite(stream).all() for stream in streams.values())


def test_confidence_is_fitted_to_held_out_studies(index):
    fitted = index.calibration
    assert fitted.set_cells > 100
    assert fitted.weight_neighbour + fitted.weight_head > 0
    assert fitted.weight_text == fitted.weight_gene == fitted.weight_described == 0
    assert fitted.novelty_threshold > -1
    assert fitted.novelty_text == -1
    assert index.studies == ["donor 0", "donor 1", "donor 2"]


def test_a_cells_own_study_has_no_part_in_its_held_out_evidence(index):
    """Where vectors tell the study alone, the truth is not found in the other studies."""
    rng = np.random.default_rng(0)
    code_N, study_N = rng.integers(0, 4, 400), np.repeat([0, 1], 200)
    centres = np.eye(8)[code_N + 4 * study_N]  # a label looks otherwise in each study
    vectors = unit_vectors(centres + 0.01 * rng.normal(size=(400, 8)), np.zeros(8)).cell_BE
    fitted = fit_fusion(vectors, code_N, study_N, ["CL:0000236", "CL:0000084", "CL:0000576", ""])
    told = fitted.confidence(np.array([0.99]), np.array([0.5]))
    assert told < 0.6


def test_cells_of_unknown_study_take_no_part(represented):
    adata = represented
    vectors = unit_vectors(adata.obsm["X_mine"], centre_of(adata.obsm["X_mine"])).cell_BE
    code_N, ids = pd.factorize(adata.obs["cell_type"], sort=True)
    study_N = np.arange(700) % 3
    full = fit_fusion(vectors[:500], code_N[:500], study_N[:500], list(ids))
    rest = np.where(np.arange(700) < 500, study_N, -1)
    assert fit_fusion(vectors, code_N, rest, list(ids)) == full


@pytest.mark.parametrize("studies", [["one"] * 580, ["a"] * 290 + [None] * 290])
def test_one_study_calibrates_nothing(atlas, studies):
    atlas.obs["study"] = studies
    with pytest.warns(ScgpWarning, match="not calibrated"):
        built = scgp.build_index(atlas, label_key="cell_type", use_rep="X_mine", study_key="study")
    assert built.calibration == DEFAULT


def test_few_cells_calibrate_nothing(atlas):
    with pytest.warns(ScgpWarning, match="100 cells or more"):
        built = scgp.build_index(
            atlas[:90].copy(), label_key="cell_type", use_rep="X_mine", study_key="donor"
        )
    assert built.calibration == DEFAULT


def test_sets_are_written_where_they_are_calibrated(query, index, plain):
    done = _annotated(query, index, coverage=0.8)
    assert (done.obs["scgp_set_size"] >= 1).all()
    assert done.uns["scgp"]["coverage"] == 0.8
    with (
        pytest.warns(ScgpWarning, match="not calibrated"),
        pytest.raises(ArgumentError, match=r"no calibration for label sets.*study_key="),
    ):
        _annotated(query, plain, coverage=0.8)


# ---- labels ----


def test_only_the_labels_asked_for(query, index):
    done = _annotated(query, index, labels=["T cell", "B cell", "monocyte", "dendritic cell"])
    allowed = {"T cell", "B cell", "monocyte", "dendritic cell", "unknown"}
    assert set(done.obs[LABEL]) <= allowed
    b_cell = done.obs["cell_type"] == "CL:0000236"
    assert (done.obs.loc[b_cell, LABEL] == "B cell").mean() > 0.7
    t_cell = done.obs["cell_type"].isin(Ontology("CL").descendants("CL:0000084"))
    assert (done.obs.loc[t_cell, LABEL] == "T cell").mean() > 0.7
    assert done.uns["scgp"]["labels_in_reference"] == [True] * 4


def test_a_name_as_authors_write_it_is_told(query, index):
    with pytest.warns(ScgpWarning, match="B cells"):
        done = _annotated(query, index, labels=["B cells", "monocyte"])
    assert "B cell" in set(done.obs[LABEL])


@pytest.mark.parametrize("label", ["hepatocyte", "cells that swim", "CL:9999999", "unknown"])
def test_labels_without_reference_cells_are_refused(query, index, label, state):
    before = state(query)
    words = "sure enough" if label == "unknown" else f"no cells of '{label}'.*texts"
    with pytest.raises(ArgumentError, match=words):
        scgp.annotate(query, index=index, use_rep="X_mine", labels=[label, "B cell"])
    assert state(query) == before


def test_own_labels_are_answered_and_asked_for(query, atlas):
    atlas.obs["own"] = atlas.obs["cell_type"].where(atlas.obs["cell_type"] != "CL:0000236", "my B")
    with pytest.warns(ScgpWarning, match="'my B'"):
        built = scgp.build_index(atlas, label_key="own", use_rep="X_mine", study_key="donor")
    assert "my B" in set(_annotated(query, built).obs[LABEL])
    done = _annotated(query, built, labels=["my B", "monocyte"])
    assert "my B" in set(done.obs[LABEL])


# ---- saved ----


def test_an_index_comes_back_from_its_directory(query, index, tmp_path):
    index.save(tmp_path / "mine.scgp")
    expected = _annotated(query, index).obs
    for given in (tmp_path / "mine.scgp", scgp.ReferenceIndex.load(tmp_path / "mine.scgp")):
        pd.testing.assert_frame_equal(_annotated(query, given).obs, expected)
    loaded = scgp.ReferenceIndex.load(tmp_path / "mine.scgp", model_fingerprint="obsm:X_mine")
    np.testing.assert_array_equal(loaded.centre_D, index.centre_D)
    assert loaded.use_rep == "X_mine"
    assert loaded.calibration == index.calibration
    assert "centre_D" in load_npz(tmp_path / "mine.scgp" / "labels.npz")


def test_an_index_of_a_model_has_no_centre(blood_index, tmp_path):
    blood_index.save(tmp_path / "a.scgp")
    assert "centre_D" not in load_npz(tmp_path / "a.scgp" / "labels.npz")
    assert scgp.ReferenceIndex.load(tmp_path / "a.scgp").centre_D is None
    assert blood_index.use_rep is None
    assert "obsm" not in repr(blood_index)


@pytest.mark.parametrize("centre", [np.zeros(3, np.float32), np.full(20, np.nan, np.float32)])
def test_a_centre_that_does_not_fit_is_refused(index, tmp_path, centre):
    dataclasses.replace(index, centre_D=centre).save(tmp_path / "odd")
    with pytest.raises(scgp.errors.CheckpointError, match="centre_D"):
        scgp.ReferenceIndex.load(tmp_path / "odd")


# ---- what is refused ----


@pytest.mark.parametrize("saved", [False, True])
def test_vectors_of_different_makers_are_not_compared(
    query, index, blood, blood_index, tmp_path, saved
):
    if saved:
        index.save(tmp_path / "mine")
        blood_index.save(tmp_path / "blood")
        index, blood_index = tmp_path / "mine", tmp_path / "blood"
    with pytest.raises(FingerprintError, match=r"Pass use_rep='X_mine' to scgp\.annotate"):
        scgp.annotate(blood, index=index, progress=False)
    with pytest.raises(FingerprintError, match="Pass use_rep='X_mine'"):
        scgp.annotate(query, index=index, progress=False)  # it has no counts, too
    with pytest.raises(FingerprintError, match="no other verb can use it"):
        scgp.explain(blood, 0, index=index)
    query.obsm["X_other"] = query.obsm["X_mine"]
    with pytest.raises(FingerprintError, match="Pass use_rep='X_mine'"):
        scgp.annotate(query, index=index, use_rep="X_other")
    with pytest.raises(FingerprintError, match=r"by the model .* not from obsm\['X_mine'\]"):
        scgp.annotate(query, index=blood_index, use_rep="X_mine")


def test_the_default_reference_has_no_such_vectors(query):
    with pytest.raises(ArgumentError, match=r"use_rep='X_mine' needs a reference.*index="):
        scgp.annotate(query, use_rep="X_mine")


@pytest.mark.parametrize(
    "options", [{"model": "m"}, {"layer": "counts"}, {"use_raw": True}, {"device": "cpu"}]
)
def test_arguments_of_a_model_are_refused(query, atlas, index, options):
    (name,) = options
    with pytest.raises(ArgumentError, match=f"{name}= cannot go with use_rep="):
        scgp.annotate(query, index=index, use_rep="X_mine", **options)
    with pytest.raises(ArgumentError, match=f"{name}= cannot go with use_rep="):
        scgp.build_index(atlas, label_key="cell_type", use_rep="X_mine", **options)


def test_another_width(query, index):
    query.obsm["X_mine"] = query.obsm["X_mine"][:, :7]
    with pytest.raises(ArgumentError, match="7 dimensions, and that of the reference 20"):
        scgp.annotate(query, index=index, use_rep="X_mine")


def _broken(adata, fault):
    matrix = adata.obsm["X_mine"].astype(np.float64)
    if fault in {"nan", "inf", "huge"}:
        matrix[4, 2] = {"nan": np.nan, "inf": -np.inf, "huge": 1e300}[fault]
    adata.obsm["X_mine"] = {
        "three dimensions": lambda x: x[:, :, None],
        "no columns": lambda x: x[:, :0],
        "complex": lambda x: x.astype(complex),
        "text": lambda x: pd.DataFrame(x.astype(str), index=adata.obs_names),
    }.get(fault, lambda x: x)(matrix)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("nan", "NaN, infinite or too large values in 1 of"),
        ("inf", "NaN, infinite or too large"),
        ("huge", "NaN, infinite or too large"),
        ("three dimensions", r"20, 1\).*expected real numbers, cells x dimensions"),
        ("no columns", r", 0\).*expected real numbers"),
        ("complex", "complex128; expected real numbers"),
        ("text", "object; expected real numbers"),
    ],
)
def test_what_is_no_matrix_of_finite_numbers(query, atlas, index, state, fault, words):
    _broken(query, fault)
    before = None if fault == "three dimensions" else state(query)
    with pytest.raises(ArgumentError, match=words):
        scgp.annotate(query, index=index, use_rep="X_mine")
    assert before is None or state(query) == before
    _broken(atlas, fault)
    with pytest.raises(ArgumentError, match=words):
        scgp.build_index(atlas, label_key="cell_type", use_rep="X_mine")


@pytest.mark.parametrize("key", ["X_yours", "", 3])
def test_a_key_that_is_not_there(query, atlas, index, key):
    words = f"use_rep is {key!r}, and obsm has no such key; its keys: 'X_mine'"
    with pytest.raises(ArgumentError, match=words):
        scgp.annotate(query, index=index, use_rep=key)
    with pytest.raises(ArgumentError, match=words):
        scgp.build_index(atlas, label_key="cell_type", use_rep=key)
    del atlas.obsm["X_mine"]
    with pytest.raises(ArgumentError, match=r"the reference: .*its keys: none"):
        scgp.annotate(query, reference=atlas, label_key="cell_type", use_rep="X_mine")


def test_an_atlas_without_labels_or_vectors(atlas):
    with pytest.raises(MissingColumnError, match="'nope'"):
        scgp.build_index(atlas, label_key="nope", use_rep="X_mine")
    with pytest.raises(MissingColumnError, match="'nope'"):
        scgp.build_index(atlas, label_key="cell_type", use_rep="X_mine", study_key="nope")
    atlas.obsm["X_mine"][:] = [*range(20)]  # all the same: nothing to compare
    with pytest.raises(LabelError, match="tells it from the others"):
        scgp.build_index(atlas, label_key="cell_type", use_rep="X_mine")
    atlas.obsm["X_mine"][:] = 0
    with pytest.raises(LabelError, match="no cell has both"):
        scgp.build_index(atlas, label_key="cell_type", use_rep="X_mine")


def test_one_label(query, atlas):
    atlas.obs["label"] = "B cell"
    built = scgp.build_index(atlas, label_key="label", use_rep="X_mine", study_key="donor")
    assert set(_annotated(query, built).obs[LABEL].astype(str)) <= {"B cell", "unknown"}


def test_no_cells_to_annotate(query, index):
    assert len(_annotated(query[:0].copy(), index).obs[LABEL]) == 0


# ---- the command line ----


def test_from_the_command_line(query, atlas, index, tmp_path):
    from scgp.__main__ import main

    query.obsm["X_umap"] = query.obsm["X_mine"][:, :2]
    for name, adata in (("atlas", atlas), ("query", query)):
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    made, out = tmp_path / "mine.scgp", tmp_path / "out.h5ad"
    key = ["--use-rep", "X_mine"]
    assert main(["index", str(tmp_path / "atlas.h5ad"), str(made), "--label-key", "cell_type",
                 "--study-key", "donor", *key]) == 0  # fmt: skip
    assert main(["annotate", str(tmp_path / "query.h5ad"), str(out), "--index", str(made),
                 "--plot", str(tmp_path / "umap.png"), *key]) == 0  # fmt: skip
    done = ad.read_h5ad(out)
    expected = _annotated(query, index).obs
    assert done.obs[LABEL].tolist() == expected[LABEL].tolist()
    assert sorted(done.obsm) == ["X_mine", "X_umap"]


def test_an_index_that_grew_is_still_calibrated(query, index, plain):
    """Without sets, whose masses were those of the old cells."""
    fewer = index.remove([0])
    with warnings.catch_warnings():
        warnings.simplefilter("error", ScgpWarning)
        done = _annotated(query, fewer)
    assert done.uns["scgp"]["calibrated"]
    with pytest.raises(ArgumentError, match="no calibration for label sets"):
        _annotated(query, fewer, coverage=0.8)
    with pytest.warns(ScgpWarning, match="not calibrated"):
        assert not _annotated(query, plain.remove([0])).uns["scgp"]["calibrated"]
