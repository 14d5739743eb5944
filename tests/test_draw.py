"""Cells drawn from profiles have the depth, genes and spread that are promised."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scgp.cells import draw
from scgp.errors import ArgumentError, MissingColumnError

N_GENES = 400


def profiles(n_profiles: int = 3, *, measured: bool = False) -> ad.AnnData:
    rng = np.random.default_rng(0)
    mean_PG = rng.lognormal(0.0, 1.0, (n_profiles, N_GENES)).astype(np.float32)
    mean_PG[:, :50] = 0
    obs = pd.DataFrame(
        {"cell_type_ontology_term_id": "CL:0000236", "gene_set": ["a", "b", "a"][:n_profiles]},
        index=[f"profile {p}" for p in range(n_profiles)],
    )
    adata = ad.AnnData(sp.csr_matrix(mean_PG), obs=obs)
    if measured:
        adata.varm["measured"] = pd.DataFrame(
            {"a": np.arange(N_GENES) < 300, "b": np.arange(N_GENES) >= 100}, index=adata.var_names
        )
    return adata


def test_cells_are_counts_with_the_labels_of_their_profile():
    cells = draw.draw_cells(profiles(), n_per_profile=5, seed=0)
    assert cells.shape == (15, N_GENES)
    assert cells.X.dtype == np.int32
    assert cells.X.has_canonical_format
    assert cells.X.data.min() >= 1
    assert cells.obs["drawn"].dtype == bool
    assert cells.obs["drawn"].all()
    assert cells.obs["profile"].tolist() == [f"profile {p}" for p in (0, 1, 2) for _ in range(5)]
    assert (cells.obs["cell_type_ontology_term_id"] == "CL:0000236").all()
    assert cells.obs_names.is_unique
    assert cells.var_names.equals(profiles().var_names)


def test_genes_that_are_zero_or_not_measured_are_never_drawn():
    cells = draw.draw_cells(profiles(measured=True), n_per_profile=20, seed=0)
    count_NG = cells.X.toarray()
    in_a = (cells.obs["gene_set"] == "a").to_numpy()
    assert not count_NG[:, :50].any()
    assert not count_NG[in_a, 300:].any()
    assert not count_NG[~in_a, :100].any()
    assert count_NG[~in_a, 300:].any()


def test_depth_is_log_uniform_whatever_the_gene_noise():
    cells = draw.draw_cells(profiles(1), n_per_profile=4000, seed=1, depth=(100, 10_000))
    total_N = np.asarray(cells.X.sum(axis=1)).ravel()
    assert total_N.min() > 60
    assert total_N.max() < 10_500
    quartiles = np.quantile(np.log10(total_N), [0.25, 0.5, 0.75])
    np.testing.assert_allclose(quartiles, [2.5, 3.0, 3.5], atol=0.06)


def test_without_noise_counts_are_poisson_and_with_it_wider():
    one = profiles(1)
    share_G = one.X.toarray()[0] / one.X.sum()
    depth = (4000.0, 4000.0)
    plain = draw.draw_cells(one, n_per_profile=500, seed=2, depth=depth, gene_noise=0.0)
    noisy = draw.draw_cells(one, n_per_profile=500, seed=2, depth=depth, gene_noise=0.5)
    expected_G = 4000 * share_G
    high_G = expected_G > 5
    counts = plain.X.toarray()[:, high_G]
    standard_error = np.sqrt(expected_G[high_G] / 500)
    assert (np.abs(counts.mean(axis=0) - expected_G[high_G]) < 5 * standard_error).all()
    assert 0.9 < (counts.var(axis=0) / counts.mean(axis=0)).mean() < 1.1
    wide = noisy.X.toarray()[:, high_G]
    # Var = mean + mean^2 (exp(sigma^2) - 1) for Poisson with log-normal rates.
    expected = 1 + wide.mean(axis=0) * (np.exp(0.25) - 1)
    assert 0.85 < np.median(wide.var(axis=0) / wide.mean(axis=0) / expected) < 1.15


def test_the_seed_decides_and_the_profiles_stay():
    source = profiles(measured=True)
    before = source.copy()
    first = draw.draw_cells(source, n_per_profile=3, seed=7)
    again = draw.draw_cells(source, n_per_profile=3, seed=7)
    other = draw.draw_cells(source, n_per_profile=3, seed=8)
    assert (first.X != again.X).nnz == 0
    assert (first.X != other.X).nnz > 0
    assert (source.X != before.X).nnz == 0
    assert source.obs.equals(before.obs)


@pytest.mark.parametrize("n_profiles", [0, 1])
def test_nothing_to_draw_from_gives_no_counts(n_profiles):
    empty = ad.AnnData(sp.csr_matrix((n_profiles, 4), dtype=np.float32))
    cells = draw.draw_cells(empty, n_per_profile=2, seed=0)
    assert cells.shape == (2 * n_profiles, 4)
    assert cells.X.nnz == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_per_profile": 0}, "n_per_profile is 0"),
        ({"depth": (0.0, 10.0)}, "depth is"),
        ({"depth": (10.0, 5.0)}, "depth is"),
        ({"gene_noise": -0.1}, "gene_noise is"),
    ],
)
def test_arguments_out_of_range_are_refused(changed, message):
    with pytest.raises(ArgumentError, match=message):
        draw.draw_cells(profiles(), **({"n_per_profile": 1, "seed": 0} | changed))


@pytest.mark.parametrize("value", [-1.0, np.nan])
def test_profiles_that_are_no_means_are_refused(value):
    with pytest.raises(ArgumentError, match="negative or non-finite"):
        draw.draw_cells(ad.AnnData(np.array([[1.0, value]])), n_per_profile=1, seed=0)


def test_measured_genes_need_the_set_of_each_profile():
    unnamed = profiles(measured=True)
    unnamed.obs["gene_set"] = ["a", "c", "a"]
    with pytest.raises(MissingColumnError, match=r"\['c'\]"):
        draw.draw_cells(unnamed, n_per_profile=1, seed=0)
    del unnamed.obs["gene_set"]
    with pytest.raises(MissingColumnError, match="needs obs"):
        draw.draw_cells(unnamed, n_per_profile=1, seed=0)


def test_a_folder_without_the_files_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match=r"lacks cellprofilelibrary_human\.h5ad"):
        draw.read_profiles(tmp_path)


@pytest.fixture(scope="module")
def kept(shared_data):
    return draw.read_profiles(shared_data / "pseudobulk")


@pytest.fixture(scope="module")
def notes(shared_data):
    path = shared_data / "pseudobulk" / draw.LABELS
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    return table[table["file"].isin([draw.LIBRARY, draw.HCL])].set_index("profile_id")


def test_only_linear_labelled_plausible_profiles_are_read(kept, notes):
    names = kept[0].obs_names.append(kept[1].obs_names)
    left_out = notes.drop(index=names)
    note = notes.loc[names, "note"]
    assert not note.str.contains("log-compressed|implausible").any()
    assert (notes.loc[names, "cell_type_ontology_term_id"] != "").all()
    # What is left out has a reason, and every reason is one of the documented.
    collection = left_out.index.str.partition("|").get_level_values(0)
    reason = (
        (left_out["cell_type_ontology_term_id"] == "")
        | collection.isin(draw.LOG_COMPRESSED | draw.UNDETERMINED)
        | left_out.index.isin(draw.IMPLAUSIBLE)
        | left_out.index.str.endswith(("_Camp", "_Baron"))
    )
    assert reason.all()
    flagged = notes.index[notes["note"].str.contains("log-compressed")]
    assert set(flagged.str.partition("|").get_level_values(0)) == draw.LOG_COMPRESSED
    assert notes.index.isin(draw.IMPLAUSIBLE).sum() == len(draw.IMPLAUSIBLE)


def test_no_profile_comes_from_a_study_of_the_benchmark(kept):
    """``eval/baron2016_cider`` is measured; the atlas holds means over its cells."""
    assert not kept[1].obs["donor"].isin(draw.EVALUATED_SAMPLES).any()
    assert not kept[1].obs_names.str.contains("Baron").any()


def test_profiles_know_what_was_measured(kept):
    library, hcl = kept
    for adata in kept:
        sets = adata.obs["gene_set"]
        assert set(sets) <= set(adata.varm["measured"].columns)
        assert sp.issparse(adata.X)
    assert hcl.varm["measured"].shape == (5467, 1)
    assert hcl.varm["measured"].to_numpy().all()
    assert not library.varm["measured"].to_numpy().all()


def test_cells_drawn_from_real_profiles_carry_their_markers(kept):
    one = kept[0][kept[0].obs["cell_type"] == "B cell"].copy()
    cells = draw.draw_cells(one, n_per_profile=10, seed=0)
    expressed = (cells[:, "MS4A1"].X > 0).sum() / cells.n_obs
    foreign = (cells[:, "CD3D"].X > 0).sum() / cells.n_obs
    assert expressed > 0.5 > 0.3 > foreign
