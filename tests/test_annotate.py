"""annotate() and build_index() on real cells: what is written, and every bad input."""

import os
import shutil
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

import scgp
from scgp.errors import (
    ArgumentError,
    CheckpointError,
    CountsError,
    DeviceError,
    FingerprintError,
    GeneError,
    LabelError,
    MissingColumnError,
    ScgpWarning,
)
from scgp.model.checkpoint import DEFAULT_DIRECTORY
from scgp.phenotypes.ontology import Ontology

LABEL, TERM = "scgp_cell_type", "scgp_cell_type_ontology_term_id"
CONFIDENCE, STATUS = "scgp_confidence", "scgp_status"


@pytest.fixture
def annotate(blood_index):
    """Annotate with the small index of blood cells."""

    def verb(adata, **options):
        options = {"index": blood_index, "progress": False, **options}
        return scgp.annotate(adata, **options)

    return verb


@pytest.fixture
def expected(annotated):
    """The cells as they come, annotated."""
    return annotated


def _log(matrix):
    return sp.csr_matrix(matrix).log1p()


def _answers(adata):
    frame = adata.obs[[LABEL, TERM, CONFIDENCE, STATUS]]
    return frame.astype({LABEL: object, TERM: object, STATUS: object})


def _same_answers(first, second):
    pd.testing.assert_frame_equal(
        _answers(first), _answers(second), check_exact=False, rtol=0, atol=1e-5
    )
    np.testing.assert_allclose(first.obsm["X_scgp"], second.obsm["X_scgp"], atol=1e-5)


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
    for name in (LABEL, TERM, CONFIDENCE, STATUS):
        del blood.obs[name]
    del blood.obsm["X_scgp"], blood.uns["scgp"]
    assert state(blood) == before


def test_statuses_labels_and_ids_agree(expected):
    obs = _answers(expected)
    labelled = obs[STATUS].isin(["labelled", "ancestor"])
    assert labelled.any()
    assert obs.loc[labelled, TERM].str.startswith("CL:").all()
    assert (obs.loc[~labelled, LABEL] == "unknown").all()
    assert (obs.loc[~labelled, CONFIDENCE] == 0).all()


def test_blood_cells_are_found_among_blood_cells(expected):
    for term in ("CL:0000236", "CL:0001054"):  # B cells and monocytes stand apart
        mine = expected.obs["cell_type"] == term
        assert (expected.obs.loc[mine, TERM] == term).mean() > 0.6


def test_the_default_reference(blood):
    """No reference, no index: those of the checkpoint."""
    scgp.annotate(blood, progress=False)
    b_cells = blood.obs["cell_type"] == "CL:0000236"
    assert blood.obs.loc[b_cells, LABEL].astype(str).str.contains("B cell").mean() > 0.6
    assert blood.obs[STATUS].isin(["labelled", "ancestor"]).mean() > 0.5


def test_copy_leaves_the_original_alone(blood, annotate, expected, state):
    before = state(blood)
    annotated = annotate(blood, copy=True)
    assert state(blood) == before
    assert LABEL in annotated.obs
    _same_answers(annotated, expected)


def test_key_added_prefixes_every_slot(blood, annotate):
    annotate(blood, key_added="mine")
    written = {name for name in blood.obs if name.startswith(("mine", "scgp"))}
    assert written == {f"mine_{n}" for n in (LABEL[5:], TERM[5:], CONFIDENCE[5:], STATUS[5:])}
    assert {"X_mine"} < set(blood.obsm)
    assert "X_scgp" not in blood.obsm
    assert "mine" in blood.uns


def test_annotating_twice_replaces(blood, annotate, expected):
    blood.obs[LABEL], blood.obsm["X_scgp"] = "old", np.zeros((120, 2))
    annotate(blood)
    annotate(blood)
    _same_answers(blood, expected)
    assert sorted(blood.obs) == sorted(expected.obs)


# ---- errors: the user's object stays as it was ----


def _with_x(adata, matrix, **layers):
    changed = adata.copy()
    changed.X = matrix
    for name, layer in layers.items():
        changed.layers[name] = layer
    return changed


def _log_with_layer(adata):
    return _with_x(adata, _log(adata.X), counts=adata.X.copy())


def _log_with_raw(adata):
    adata.raw = adata
    return _with_x(adata, _log(adata.X))


def _scaled(adata):
    dense = adata.X.toarray()
    return _with_x(adata, dense - dense.mean(axis=0, keepdims=True))


def _spoilt(value):
    def spoil(adata):
        dense = adata.X.toarray()
        dense[3, 5] = value
        return _with_x(adata, dense)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda a: _with_x(a, _log(a.X)), ["X does not hold raw counts", "log-normalised"]),
        (_log_with_layer, ["log-normalised", "layer='counts'"]),
        (_log_with_raw, ["log-normalised", "use_raw=True"]),
        (_scaled, ["scaled or centred"]),
        (_spoilt(-1), ["below zero"]),
        (_spoilt(np.nan), ["NaN"]),
        (_spoilt(np.inf), ["infinite"]),
    ],
    ids=["log", "log, layer", "log, raw", "scaled", "negative", "nan", "inf"],
)
def test_what_is_no_count_is_refused(blood, annotate, state, spoil, words):
    adata = spoil(blood)
    before = state(adata)
    with pytest.raises(CountsError) as caught:
        annotate(adata)
    assert all(word in str(caught.value) for word in words)
    assert state(adata) == before


def test_a_fault_that_shows_late_leaves_nothing(blood, annotate, state):
    """Row 300 of 1,440 is in none of the rows that are looked at first."""
    tiled = ad.concat([blood] * 12, index_unique="-")
    tiled.X = tiled.X.copy()
    tiled.X.data[tiled.X.indptr[300]] = 0.5
    before = state(tiled)
    with pytest.raises(CountsError, match=r"is 0\.5;"):
        annotate(tiled, batch_size=256)
    assert state(tiled) == before


def test_no_gene_in_common(blood, annotate, state):
    blood.var_names = [f"peak_{i}" for i in range(blood.n_vars)]
    before = state(blood)
    with pytest.raises(GeneError) as caught:
        annotate(blood)
    message = str(caught.value)
    assert "'peak_0', 'peak_1', 'peak_2'" in message
    assert message.count("(ENSG") == 3
    assert state(blood) == before


@pytest.mark.parametrize("kind", ["symbols", "ids"])
def test_mouse_genes_are_recognised(blood, annotate, state, kind):
    if kind == "symbols":
        blood.var_names = [name.capitalize() for name in blood.var_names]
        blood.var_names_make_unique()
    else:
        blood.var_names = [f"ENSMUSG{i:011d}" for i in range(blood.n_vars)]
    before = state(blood)
    with pytest.raises(GeneError, match="mouse"):
        annotate(blood)
    assert state(blood) == before


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"layer": "nope"}, ArgumentError, "'nope'"),
        ({"layer": "nope", "use_raw": True}, ArgumentError, "two matrices"),
        ({"use_raw": True}, ArgumentError, "raw is None"),
        ({"batch_size": 0}, ArgumentError, "batch_size"),
        ({"key_added": "a/b"}, ArgumentError, "key_added"),
        ({"key_added": ""}, ArgumentError, "key_added"),
        ({"device": "nonsense"}, DeviceError, "nonsense"),
        ({"device": "meta"}, DeviceError, "not supported"),
        ({"model": 3}, ArgumentError, "int"),
        ({"model": "no/such/model"}, CheckpointError, "no/such/model"),
        ({"index": "no/such/index"}, CheckpointError, "no/such/index"),
        ({"index": None, "label_key": "cell_type"}, ArgumentError, "go together"),
    ],
)
def test_wrong_arguments(blood, annotate, state, options, error, words):
    before = state(blood)
    with pytest.raises(error, match=words):
        annotate(blood, **options)
    assert state(blood) == before


def test_reference_and_index_exclude_each_other(blood, annotate):
    with pytest.raises(ArgumentError, match="not both"):
        annotate(blood, reference=blood, label_key="cell_type")


def test_a_reference_without_its_label_column(blood):
    with pytest.raises(ArgumentError, match="label_key"):
        scgp.annotate(blood, reference=blood, progress=False)


@pytest.mark.parametrize("given", [None, "cells.h5ad", np.zeros((3, 3))])
def test_what_is_no_anndata(annotate, given):
    with pytest.raises(ArgumentError, match=f"found {type(given).__name__}"):
        annotate(given)


def test_a_reference_that_is_no_anndata(blood):
    with pytest.raises(ArgumentError, match="found str"):
        scgp.annotate(blood, reference="atlas.h5ad", label_key="cell_type", progress=False)


def test_cuda_without_one(blood, annotate, state, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = state(blood)
    with pytest.raises(DeviceError, match=r"cuda.*device='cpu'"):
        annotate(blood, device="cuda")
    assert state(blood) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_inside_the_network_writes_nothing(
    blood, annotate, model, state, monkeypatch, error
):
    tiled = ad.concat([blood] * 4, index_unique="-")
    before, calls, pooled = state(tiled), [], model.network.pooled

    def interrupted(cells):
        calls.append(cells)
        if len(calls) == 2:
            raise error
        return pooled(cells)

    monkeypatch.setattr(model.network, "pooled", interrupted)
    with pytest.raises(error):
        annotate(tiled, batch_size=256)
    assert len(calls) == 2
    assert state(tiled) == before


def test_an_interrupt_in_the_answer_writes_nothing(blood, annotate, state, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("scgp.reference.answer.decide", interrupted)
    before = state(blood)
    with pytest.raises(KeyboardInterrupt):
        annotate(blood)
    assert state(blood) == before


def test_an_index_of_another_model(blood, annotate, blood_index, state, tmp_path):
    other = scgp.ReferenceIndex.build(
        np.eye(2, 128, dtype=np.float32), ["a", "b"], label_ids=["", ""],
        model_fingerprint="f" * 64,
    )  # fmt: skip
    other.save(tmp_path / "other.scgp")
    before = state(blood)
    for index in (other, tmp_path / "other.scgp"):
        with pytest.raises(FingerprintError) as caught:
            annotate(blood, index=index)
        assert "f" * 12 in str(caught.value)
        assert blood_index.model_fingerprint[:12] in str(caught.value)
    assert state(blood) == before


@pytest.mark.parametrize("fault", ["truncated", "edited", "missing", "pickle"])
def test_a_damaged_checkpoint(blood, annotate, state, tmp_path, fault):
    """The shipped checkpoint itself; a copy of hard links, so that only the damaged file is new."""
    folder = tmp_path / "model"
    shutil.copytree(DEFAULT_DIRECTORY, folder, copy_function=_link)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    weights.unlink()
    if fault == "truncated":
        weights.write_bytes(content[:-100])
    elif fault == "edited":
        content[-1] ^= 1
        weights.write_bytes(content)
    elif fault == "pickle":
        weights.write_bytes(content)
        (folder / "extra.pkl").write_bytes(b"cos\nsystem\n(S'touch planted'\ntR.")
    before = state(blood)
    with pytest.raises(CheckpointError):
        annotate(blood, model=folder)
    assert state(blood) == before


def _link(source, target):
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def test_a_checkpoint_read_from_its_directory(blood, annotate, expected):
    annotate(blood, model=DEFAULT_DIRECTORY)
    _same_answers(blood, expected)


# ---- where the counts are, and what the genes are called ----


@pytest.mark.parametrize("place", ["layer", "raw"])
def test_counts_elsewhere(blood, annotate, expected, place):
    elsewhere = _log_with_layer(blood) if place == "layer" else _log_with_raw(blood)
    annotate(elsewhere, **({"layer": "counts"} if place == "layer" else {"use_raw": True}))
    assert elsewhere.uns["scgp"]["counts"] == ("layers['counts']" if place == "layer" else "raw.X")
    _same_answers(elsewhere, expected)


def test_the_cellxgene_layout_works_as_it_comes(blood, annotate, expected, ensembl_ids):
    """Ensembl ids in var_names, symbols in feature_name, counts in .raw, normalised X."""
    cellxgene = blood.copy()
    cellxgene.var["feature_name"] = pd.Categorical(cellxgene.var_names)
    cellxgene.var_names = ensembl_ids(blood.var_names)
    cellxgene = cellxgene[:, [name.startswith("ENSG") for name in cellxgene.var_names]].copy()
    cellxgene.raw = cellxgene
    cellxgene.X = _log(cellxgene.X)
    cellxgene.uns["schema_version"] = "5.2.0"
    annotate(cellxgene)
    assert cellxgene.uns["scgp"]["counts"] == "raw.X"
    _same_answers(cellxgene, expected)


def test_ensembl_ids_with_versions(blood, annotate, expected, ensembl_ids):
    versioned = blood.copy()
    ids = ensembl_ids(blood.var_names)
    versioned.var_names = [f"{name}.{i % 20 + 1}" for i, name in enumerate(ids)]
    annotate(versioned)
    _same_answers(versioned, expected)


def test_repeated_genes_are_summed_and_said(blood, annotate, expected, ensembl_ids):
    """Every count is split over two columns of one gene: its symbol and its Ensembl id."""
    half = sp.csr_matrix(blood.X)
    half.data = np.floor(half.data / 2)
    split = ad.AnnData(sp.hstack([half, blood.X - half], format="csr"), obs=blood.obs.copy())
    split.var_names = [*blood.var_names, *ensembl_ids(blood.var_names)]
    with pytest.warns(ScgpWarning, match="summed") as caught:
        annotate(split)
    assert len(caught) == 1
    _same_answers(split, expected)


def test_one_name_twice(blood, annotate):
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
    _same_answers(once, twice)


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


def test_empty_cells_have_no_label(blood, annotate, expected):
    _emptied(blood, [2, 7])
    with pytest.warns(ScgpWarning, match="2 of 120 cells") as caught:
        annotate(blood)
    assert len(caught) == 1
    empty = blood.obs.iloc[[2, 7]]
    assert empty[LABEL].isna().all()
    assert (empty[TERM] == "").all()
    assert (empty[CONFIDENCE] == 0).all()
    assert (empty[STATUS] == "empty").all()
    assert not blood.obsm["X_scgp"][[2, 7]].any()
    others = np.setdiff1d(np.arange(120), [2, 7])
    _same_answers(blood[others].copy(), expected[others].copy())


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


def test_one_cell(blood, annotate, expected):
    one = blood[5].copy()
    annotate(one)
    _same_answers(one, expected[5].copy())


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


# ---- the user's own atlas ----


def test_an_atlas_is_an_index_is_a_saved_index(blood, annotate, model, tmp_path):
    """reference=, build_index and its directory give the same answer."""
    atlas, query = blood[:90].copy(), blood[90:].copy()
    direct = annotate(query, index=None, reference=atlas, label_key="cell_type", copy=True)
    index = scgp.build_index(atlas, label_key="cell_type", progress=False)
    index.save(tmp_path / "atlas.scgp")
    assert index.model_fingerprint == model.fingerprint
    for given in (index, tmp_path / "atlas.scgp", str(tmp_path / "atlas.scgp")):
        _same_answers(annotate(query, index=given, copy=True), direct)
    assert direct.uns["scgp"]["index"] == repr(index)


def test_an_atlas_has_no_bound_of_text_novelty(blood, model):
    assert model.details["calibration"]["novelty_text"] > 0
    index = scgp.build_index(blood, label_key="cell_type", progress=False)
    assert index.calibration.novelty_text == -1
    assert index.calibration.weight_text == model.details["calibration"]["weight_text"]


def test_building_an_index_changes_nothing(blood, state):
    before = state(blood)
    scgp.build_index(blood, label_key="cell_type", progress=False)
    assert state(blood) == before


def test_a_missing_label_column_names_those_there_are(blood, annotate, state):
    before = state(blood)
    with pytest.raises(MissingColumnError) as caught:
        annotate(blood, index=None, reference=blood, label_key="celltype")
    assert "'celltype'" in str(caught.value)
    assert "'bulk_labels'" in str(caught.value)
    with pytest.raises(MissingColumnError, match="'nope'"):
        scgp.build_index(blood, label_key="cell_type", study_key="nope", progress=False)
    assert state(blood) == before


def _labelled(adata, labels):
    adata.obs["label"] = pd.Series(labels, index=adata.obs_names)
    return adata


@pytest.mark.parametrize("missing", [np.nan, None, "", "  "])
@pytest.mark.parametrize("as_category", [False, True])
def test_cells_without_a_label_are_left_out_and_counted(blood, missing, as_category):
    labels = ["B cell"] * 50 + ["monocyte"] * 40 + [missing] * 30
    _labelled(blood, labels)
    if as_category:
        blood.obs["label"] = blood.obs["label"].astype("category")
    with pytest.warns(ScgpWarning, match="30 of 120 cells have no label") as caught:
        index = scgp.build_index(blood, label_key="label", progress=False)
    assert len(caught) == 1
    assert len(index.code_N) == 90
    assert index.labels == ["B cell", "monocyte"]


@pytest.mark.parametrize("dtype", [object, float, "category"])
def test_a_column_without_any_label(blood, dtype):
    blood.obs["label"] = pd.Series(np.nan, index=blood.obs_names).astype(dtype)
    with (
        pytest.warns(ScgpWarning, match="120 of 120"),
        pytest.raises(LabelError, match="no cell has"),
    ):
        scgp.build_index(blood, label_key="label", progress=False)


def test_an_atlas_of_no_cells(blood):
    none = ad.AnnData(sp.csr_matrix((0, blood.n_vars), dtype=np.float32), var=blood.var)
    none.obs["label"] = pd.Series([], dtype=object)
    with pytest.raises(LabelError, match="no cell has"):
        scgp.build_index(none, label_key="label", progress=False)


def test_empty_cells_of_an_atlas_are_left_out(blood):
    _emptied(blood, [0, 1, 2])
    index = scgp.build_index(blood, label_key="cell_type", progress=False)
    assert len(index.code_N) == 117


def test_one_class(blood, annotate):
    _labelled(blood, ["B cell"] * 120)
    annotate(blood, index=None, reference=blood, label_key="label")
    assert set(blood.obs[LABEL]) <= {"B cell", "unknown"}
    assert set(blood.obs[TERM]) <= {"CL:0000236", ""}
    assert blood.obs[STATUS].isin(["labelled", "unknown"]).all()


def test_labels_with_slashes_and_other_alphabets(blood, annotate, tmp_path):
    """Values, never keys: they are answered as written, and survive a file."""
    names = ["T/NK", "Zellen/β", "単球 🧬"]
    kind_N = pd.factorize(blood.obs["cell_type"])[0] % 3
    _labelled(blood, [names[kind] for kind in kind_N])
    with pytest.warns(ScgpWarning, match="3 of 3 labels") as caught:
        index = scgp.build_index(blood, label_key="label", progress=False)
    assert len(caught) == 1
    assert set(index.labels) == set(names)
    assert index.label_ids == ["", "", ""]
    index.save(tmp_path / "index")
    annotate(blood, index=tmp_path / "index")
    assert set(blood.obs[LABEL]) & set(names)
    assert set(blood.obs[LABEL]) <= {*names, "unknown"}
    assert (blood.obs[TERM] == "").all()
    blood.write_h5ad(tmp_path / "labels.h5ad")
    _same_answers(ad.read_h5ad(tmp_path / "labels.h5ad"), blood)


def test_a_label_that_is_no_term_is_kept_and_said_once(blood, annotate):
    labels = blood.obs["cell_type"].where(blood.obs["cell_type"] != "CL:0000236", "my B")
    _labelled(blood, labels.tolist())
    with pytest.warns(ScgpWarning, match="'my B'") as caught:
        annotate(blood, index=None, reference=blood, label_key="label")
    assert len(caught) == 1
    mine = blood.obs[LABEL] == "my B"
    assert mine.any()
    assert (blood.obs.loc[mine, TERM] == "").all()
    assert not mine[blood.obs["cell_type"] == "CL:0001054"].any()


def test_ids_names_and_synonyms_of_a_term_are_one_label(blood):
    _labelled(blood, ["CL:0000236", "B cell", "B lymphocyte", "monocyte"] * 30)
    index = scgp.build_index(blood, label_key="label", progress=False)
    assert len(index.labels) == 2
    assert dict(zip(index.label_ids, index.labels, strict=True))["CL:0000576"] == "monocyte"
    assert "CL:0000236" in index.label_ids


def test_labels_that_are_numbers(blood):
    """Clusters: text in the index, so that they survive a file."""
    _labelled(blood, [0, 1, 2] * 40)
    with pytest.warns(ScgpWarning, match="3 of 3 labels"):
        index = scgp.build_index(blood, label_key="label", progress=False)
    assert index.labels == ["0", "1", "2"]


def test_studies_of_an_atlas_are_kept(blood):
    blood.obs["study"] = pd.Categorical(["a"] * 60 + ["b"] * 40 + [None] * 20)
    index = scgp.build_index(blood, label_key="cell_type", study_key="study", progress=False)
    assert index.studies == ["", "a", "b"]
    assert np.bincount(index.study_N).tolist() == [20, 60, 40]


def test_a_model_without_a_reference_says_so(blood, model):
    bare = scgp.Model(model.config, model.network, model.genes, model.phenotypes)
    with pytest.raises(ArgumentError, match="no reference of its own"):
        scgp.annotate(blood, model=bare, progress=False)


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


def test_a_reference_without_counts_names_build_index(blood):
    atlas = blood.copy()
    atlas.layers["counts"] = atlas.X.copy()
    atlas.X = np.log1p(atlas.X)
    with pytest.raises(CountsError, match=r"the reference: .*build_index"):
        scgp.annotate(blood, reference=atlas, label_key="bulk_labels", progress=False)
