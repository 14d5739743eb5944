"""What users give: numbers, names, columns and lists, of Python, numpy and pandas."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from threadpoolctl import threadpool_limits

import scgp
from scgp.device import resolve_device
from scgp.errors import ArgumentError, CountsError, DeviceError, MissingColumnError, ScgpWarning
from scgp.number import whole_number
from scgp.own import model_index


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "1", None, np.float64(2), np.bool_(True)])
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(ArgumentError, match=r"^n is .*whole number of at least 1"):
        whole_number(value, "n", least=1)


@pytest.mark.parametrize("value", [1, np.int64(1), np.uint8(1)])
def test_whole_numbers_of_numpy(value):
    assert type(whole_number(value, "n", least=1)) is int


@pytest.mark.parametrize(
    "options",
    [
        {"coverage": "0.9"}, {"coverage": True}, {"key_added": None}, {"key_added": 3},
        {"key_added": "a\0b"}, {"index": 3}, {"reference": "atlas.h5ad", "label_key": "x"},
        {"labels": {"B cell", "T cell"}}, {"labels": {"B cell": 1}}, {"labels": 3}, {"smooth": 3},
    ],
)  # fmt: skip
def test_annotate_refuses_what_it_cannot_read(blood, state, options):
    before = state(blood)
    with pytest.raises(ArgumentError):
        scgp.annotate(blood, progress=False, **options)
    assert state(blood) == before


NAMES = ["B cell", "T cell"]


@pytest.mark.parametrize(
    "labels",
    [
        pd.Categorical(NAMES), pd.Series(NAMES), pd.Series(NAMES).unique(), np.array(NAMES),
        dict.fromkeys(NAMES).keys(), tuple(NAMES), pd.array(NAMES, dtype="string"),
    ],
    ids=lambda labels: type(labels).__name__,
)  # fmt: skip
def test_labels_of_any_list(blood, labels):
    scgp.annotate(blood, labels=labels, progress=False)
    assert blood.uns["scgp"]["labels"] == NAMES


def test_explain_takes_numbers_of_numpy_and_refuses_what_is_none(blood):
    why = scgp.explain(blood, np.array(0), n=np.int64(3), n_genes=np.int64(1))
    assert len(why.neighbours) == 3
    for options in ({"n": "3"}, {"n": 1.5}, {"n": True}, {"n_genes": -1}):
        with pytest.raises(ArgumentError, match="whole number"):
            scgp.explain(blood, 0, **options)


@pytest.mark.parametrize("genes", [None, 5])
def test_genes_that_are_no_names(blood, genes):
    with pytest.raises(ArgumentError, match="HGNC symbols"):
        scgp.embed_genes(blood, genes, progress=False)


def test_a_column_is_one_column(blood):
    for key in (["cell_type"], 3):
        with pytest.raises(ArgumentError, match="name of one column"):
            scgp.embed_genes(blood, ["CD79A"], groupby=key, progress=False)
    twice = ad.AnnData(blood.X, pd.concat([blood.obs, blood.obs[["cell_type"]]], axis=1), blood.var)
    with pytest.raises(ArgumentError, match="2 columns of the name 'cell_type'"):
        scgp.build_index(twice, label_key="cell_type", progress=False)
    with pytest.raises(MissingColumnError, match=r"the reference's.*did you mean 'cell_type'"):
        scgp.annotate(blood, reference=blood, label_key="cel_type", progress=False)


def test_device_0_is_not_the_cpu():
    """In torch 0 is the first GPU."""
    with pytest.raises(DeviceError):
        resolve_device(0)
    assert resolve_device(None).type == "cpu"


def test_a_column_cannot_have_the_name_of_the_index(blood, state):
    """AnnData could not write both to a file."""
    blood.obs.index.name = "scgp_status"
    before = state(blood)
    with pytest.raises(ArgumentError, match="index of obs has the name 'scgp_status'"):
        scgp.annotate(blood, progress=False)
    assert state(blood) == before
    scgp.annotate(blood, key_added="mine", progress=False)


def test_coordinates_of_a_plot(blood):
    scgp.annotate(blood, progress=False)
    xy_N2 = np.random.default_rng(0).random((blood.n_obs, 2))  # synthetic
    blood.obsm["X_umap"] = sp.csr_matrix(xy_N2)
    scgp.pl.embedding(blood, basis="umap")
    with pytest.raises(ArgumentError, match="whole number"):
        scgp.pl.embedding(blood, basis="umap", max_labels=2.5)
    xy_N2[3] = np.nan
    blood.obsm["X_umap"] = xy_N2
    with pytest.raises(ArgumentError, match="NaN or infinite values in 1 of"):
        scgp.pl.embedding(blood, basis="umap")


def test_the_number_of_threads_does_not_matter(blood):
    """To the bit: workers of dask have one thread, this process may have many."""
    head = model_index(scgp.Model.default()).gene_head
    measured_RG = np.random.default_rng(0).random((20, head.gene_H.max() + 1)) < 0.5
    nothing = sp.csr_matrix((1, measured_RG.shape[1]), dtype=np.float32)
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads, "blas"):
            answered = scgp.annotate(blood, progress=False, copy=True)
            found.append((answered, [head.scores(nothing, row_G) for row_G in measured_RG]))
    (one, scores), (two, others) = found
    pd.testing.assert_frame_equal(one.obs, two.obs, check_exact=True)
    np.testing.assert_array_equal(one.obsm["X_scgp"], two.obsm["X_scgp"])
    np.testing.assert_array_equal(scores, others)


def test_nor_does_it_matter_for_what_is_fitted_to_a_reference(all_blood):
    """To the bit; an unfinished run is gone on with only by an index of the same numbers."""
    atlas, query = all_blood[120:].copy(), all_blood[:120].copy()
    atlas.obs["study"] = np.where(np.arange(580) % 2, "odd", "even")
    made = []
    for threads in (1, 2):
        with threadpool_limits(threads, "blas"):
            index = scgp.build_index(atlas, label_key="cell_type", study_key="study",
                                     progress=False)  # fmt: skip
            made.append((index, scgp.annotate(query, index=index, progress=False, copy=True)))
    (one, answered), (two, again) = made
    np.testing.assert_array_equal(one.head_weight_TD, two.head_weight_TD)
    np.testing.assert_array_equal(one.gene_head.weight_HT, two.gene_head.weight_HT)
    np.testing.assert_array_equal(one.gene_head.described_HT, two.gene_head.described_HT)
    pd.testing.assert_frame_equal(answered.obs, again.obs, check_exact=True)


def test_a_score_depends_on_no_other_cell(blood):
    """To the bit; on other texts not beyond rounding, for their gene weights are solved for."""
    texts = ["B cell", "natural killer cell", "monocyte"]
    every = scgp.score_text(blood, texts, progress=False, copy=True).obsm["scgp_text"]
    few = scgp.score_text(blood[5:8].copy(), texts, progress=False, copy=True).obsm["scgp_text"]
    one = scgp.score_text(blood, texts[1], progress=False, copy=True).obsm["scgp_text"]
    np.testing.assert_array_equal(few, every[5:8])
    np.testing.assert_allclose(one[:, 0], every[:, 1], rtol=0, atol=1e-5)


def test_a_representation_that_is_a_table(blood):
    """Its columns are in one order in query and reference, of whatever type they are."""
    rows_NE = np.random.default_rng(0).random((blood.n_obs, 3))  # synthetic
    table = pd.DataFrame(rows_NE, blood.obs_names, list("abc"))
    blood.obsm["R"] = table
    atlas = blood.copy()
    options = {"reference": atlas, "label_key": "cell_type", "use_rep": "R", "progress": False}
    with pytest.warns(ScgpWarning):
        plain = scgp.annotate(blood, **options, copy=True)
    blood.obsm["R"] = table.astype("Float64")
    with pytest.warns(ScgpWarning):
        nullable = scgp.annotate(blood, **options, copy=True)
    pd.testing.assert_frame_equal(plain.obs, nullable.obs)
    blood.obsm["R"] = table[list("cba")]
    with pytest.raises(ArgumentError, match=r"columns c, b, a .*reference a, b, c"):
        scgp.annotate(blood, **options)
    table = table.astype("Float64")
    table.iloc[2, 1] = pd.NA
    blood.obsm["R"] = table
    with pytest.raises(ArgumentError, match="NaN, infinite"):
        scgp.annotate(blood, **options)


def test_masked_values_are_not_read_as_counts(blood):
    dense = blood.X.toarray()
    masked = ad.AnnData(np.ma.masked_array(dense, dense > dense.mean()), blood.obs, blood.var)
    with pytest.raises(CountsError, match="masked"):
        scgp.annotate(masked, progress=False)


def test_seeds_and_factors_are_refused_before_any_work(blood):
    cells = {"groupby": "cell_type", "progress": False}
    for seed in (-1, "a", 1.5):
        with pytest.raises(ArgumentError, match=r"seed is .*whole number"):
            scgp.perturb(blood, {"CD79A": 0.0}, seed=seed, **cells)
        with pytest.raises(ArgumentError, match=r"seed is .*whole number"):
            scgp.polyfunctionality(blood, ["CD79A"], seed=seed, **cells)
        with pytest.raises(ArgumentError, match=r"seed is .*whole number"):
            scgp.gene_roles(blood, "CD79A", seed=seed, **cells)
        with pytest.raises(ArgumentError, match=r"seed is .*whole number"):
            scgp.biomarkers(blood, across="cell_type", seed=seed, **cells)
    with pytest.raises(ArgumentError, match=r"n_roles is .*whole number"):
        scgp.gene_roles(blood, "CD79A", n_roles="2", **cells)
    with pytest.raises(ArgumentError, match=r"factor of 'CD79A' is 1e.308; expected 0 to 1e.06"):
        scgp.perturb(blood, {"CD79A": 1e308}, **cells)
