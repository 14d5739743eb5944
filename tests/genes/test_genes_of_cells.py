"""Genes of whole data sets: other species, few genes, those to train on, and real files."""

import re
import sys
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp

import scgp
from scgp.cells.counts import choose_counts
from scgp.cells.genes import (
    FEW_GENES,
    GeneVocabulary,
    match_genes,
    protein_coding_genes,
    training_genes,
)
from scgp.errors import GeneError, ScgpWarning

sys.path.insert(0, str(Path(__file__).parent))
from gene_tables import gene_id, table


def counts_of(names, n_cells=2, **columns):
    var = pd.DataFrame(columns, index=list(names))
    obs = pd.DataFrame(index=[f"c{i}" for i in range(n_cells)])
    x = sp.csr_matrix(np.ones((n_cells, len(var)), dtype=np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata on names that are not unique
        return choose_counts(ad.AnnData(x, obs=obs, var=var))


def test_no_gene_in_common_shows_three_names_of_each_side(vocabulary):
    with pytest.raises(GeneError) as caught:
        match_genes(counts_of(["probe1", "probe2", "probe3", "probe4"]), vocabulary)
    message = str(caught.value)
    assert "no gene in common" in message
    assert "'probe1', 'probe2', 'probe3'" in message
    assert "probe4" not in message
    assert "'VWF' (ENSG00000000001), 'SEPTIN2'" in message
    assert "var['feature_name']" in message
    assert "mouse" not in message


@pytest.mark.parametrize(
    "names",
    [
        ["Vwf", "Actb", "Sod2", "0610007P14Rik"],
        ["Gm1992", "H2-Ab1", "mt-Co1", "Cd3e", "Ptprc", "Ms4a1"],
        ["ENSMUSG00000001930", "ENSMUSG00000029580.14"],
        ["H2-Aa", "H2-Ab1", "H2-K1", "H2-DMb1"],
    ],
)
def test_mouse_is_recognised(vocabulary, names):
    with pytest.raises(GeneError, match=r"look like mouse genes; .*human.*orthologues"):
        match_genes(counts_of(names), vocabulary)


def test_mouse_with_a_few_chance_hits_is_still_an_error(vocabulary):
    names = [f"Gene{'abcdefghij'[i]}" for i in range(10)] + ["VWF"]
    with pytest.raises(GeneError, match=r"only 1 of 11 names in common.*mouse"):
        match_genes(counts_of(names), vocabulary)


def test_mouse_names_with_human_ids_are_fine(vocabulary):
    counts = counts_of(["Vwf", "Sod2"], ensembl_id=["ENSG00000000001", "ENSG00000000008"])
    assert match_genes(counts, vocabulary, minimum=1).n_matched == 2


def test_other_species_ids(vocabulary):
    names = ["ENSDARG00000031598", "ENSDARG00000031599", "ENSDARG00000031600"]
    with pytest.raises(GeneError, match="look like another species genes"):
        match_genes(counts_of(names), vocabulary)


def test_human_names_are_not_mouse(vocabulary):
    names = ["C9orf72", "HLA-A", "MT-CO9", "ENSG00000000099", "LOC1234", "RP11-9A1.1"]
    with pytest.raises(GeneError) as caught:
        match_genes(counts_of(names), vocabulary)
    assert "mouse" not in str(caught.value)


def test_no_columns(vocabulary):
    with pytest.raises(GeneError, match="X has no genes"):
        match_genes(counts_of([]), vocabulary)


def test_no_cells_is_no_matter_here(vocabulary):
    assert match_genes(counts_of(["VWF", "SOD2"], n_cells=0), vocabulary, minimum=1).n_matched == 2


def wide_vocabulary(n_genes):
    rows = [[gene_id(i), f"G{i}", "", "", ""] for i in range(n_genes)]
    return GeneVocabulary(table(*rows))


def test_few_genes_are_warned_about():
    wide = wide_vocabulary(FEW_GENES + 10)
    names = [f"G{i}" for i in range(FEW_GENES - 1)]
    with pytest.warns(
        ScgpWarning, match=rf"few genes.*{FEW_GENES - 1} of {FEW_GENES + 2} names.*'u1'"
    ):
        match_genes(counts_of([*names, "u1", "u2", "u3"]), wide)
    match_genes(counts_of([*names, f"G{FEW_GENES + 5}", "u1"]), wide)  # enough: no warning
    match_genes(counts_of(names), wide, minimum=FEW_GENES - 1)


def test_few_genes_of_which_all_are_known_may_be_a_part_of_what_was_measured():
    with pytest.warns(
        ScgpWarning, match=r"than they say\. All names are known: if genes were left"
    ):
        match_genes(counts_of(["G0", "G1"]), wide_vocabulary(5))


def test_a_subset_to_variable_genes_is_warned_about(all_blood):
    """As scanpy's recipes make it; all genes, some of which are marked, are not."""
    cells = all_blood[:50].copy()
    cells.layers["counts"] = cells.X.copy()
    sc.pp.log1p(cells)
    sc.pp.highly_variable_genes(cells, n_top_genes=600)
    wide = scgp.Model.default().genes
    match_genes(choose_counts(cells, layer="counts"), wide)
    subset = cells[:, cells.var["highly_variable"]].copy()
    with pytest.warns(ScgpWarning, match=r"True for all 6\d\d genes: .* pass the table before it"):
        match_genes(choose_counts(subset, layer="counts"), wide)
    subset.var["highly_variable"] = [np.nan] + [True] * (subset.n_vars - 1)  # of a join
    match_genes(choose_counts(subset, layer="counts"), wide)


def test_a_small_share_of_the_names_is_warned_about():
    wide = wide_vocabulary(FEW_GENES)
    names = [f"G{i}" for i in range(FEW_GENES)]
    with pytest.warns(ScgpWarning, match="few genes"):
        match_genes(counts_of([*names, *(f"u{i}" for i in range(4 * FEW_GENES + 1))]), wide)
    match_genes(counts_of([*names, *(f"u{i}" for i in range(4 * FEW_GENES))]), wide)


def test_repeated_genes_are_warned_about_once(vocabulary):
    counts = counts_of(["VWF", "F8VWF", "ENSG00000000001.2", "SOD2", "SOD2", "SEPT7"])
    with pytest.warns(ScgpWarning) as caught:
        match = match_genes(counts, vocabulary, minimum=1)
    assert [str(w.message) for w in caught] == [
        "5 names stand for 2 genes, so their counts are summed: 'VWF' + 'F8VWF' + "
        "'ENSG00000000001.2', 'SOD2' + 'SOD2'"
    ]
    assert caught[0].filename == __file__
    assert match.token_of_column.tolist() == [0, 0, 0, 7, 7, 2]


def test_match_genes_changes_nothing(vocabulary):
    adata = ad.AnnData(np.ones((2, 2)), var=pd.DataFrame({"gene_ids": ["a", "b"]}, ["VWF", "SOD2"]))
    adata.obs_names = ["a", "b"]
    before = adata.var.copy()
    match_genes(choose_counts(adata), vocabulary, minimum=1)
    pd.testing.assert_frame_equal(adata.var, before)


def source(vocabulary, cells_of_gene):
    """Counts in which each gene (Ensembl number) is seen in that many cells."""
    n_cells = max(cells_of_gene.values())
    dense = np.array([[i < n for n in cells_of_gene.values()] for i in range(n_cells)], dtype="f4")
    var = pd.DataFrame(index=[gene_id(i) for i in cells_of_gene])
    obs = pd.DataFrame(index=[str(i) for i in range(n_cells)])
    return choose_counts(ad.AnnData(sp.csr_matrix(dense), obs=obs, var=var))


def test_training_genes(vocabulary):
    one = source(vocabulary, {1: 5, 2: 3, 3: 2, 99: 5, 4: 5})
    two = source(vocabulary, {1: 3, 3: 9, 5: 9, 2: 2})
    panel = vocabulary.match(["SEPT2", "TWICE", "nothing", "SOD2"])

    def numbers(**settings):
        return sorted(int(gene[4:]) for gene in training_genes([one, two], vocabulary, **settings))

    assert numbers() == [1]
    assert numbers(min_sources=1) == [1, 2, 3, 4, 5]
    assert numbers(min_cells=2) == [1, 2, 3]
    assert numbers(always={gene_id(4), gene_id(6)}) == [1, 4]
    assert numbers(measured=[panel]) == [1, 2, 5]
    assert numbers(min_cells=6, min_sources=1) == [3, 5]


def test_a_gene_under_two_names_is_one_source(vocabulary):
    var = pd.DataFrame(index=["VWF", "F8VWF"])
    obs = pd.DataFrame(index=list("abcd"))
    counts = choose_counts(ad.AnnData(np.ones((4, 2), dtype="f4"), obs=obs, var=var))
    assert training_genes([counts], vocabulary) == frozenset()
    assert training_genes([counts], vocabulary, min_sources=1) == {gene_id(1)}


@pytest.fixture(scope="module")
def real(shared_data):
    genes = shared_data / "resources" / "genes"
    return genes / "hgnc_2024_slim.tsv.gz", genes / "10x_reference_symbol_to_ensembl.tsv.gz"


@pytest.fixture(scope="module")
def everything(real):
    return GeneVocabulary.from_tables(*real)


def var_tables(shared_data, part):
    for path in sorted((shared_data / part).glob("*.h5ad")):
        adata = ad.read_h5ad(path, backed="r")
        yield path.stem, adata.var.copy()
        adata.file.close()


def authors_names(var):
    return var["symbol_author"].astype(object).where(var["symbol_author"].notna(), var.index)


@pytest.mark.parametrize(
    ("part", "hgnc_only", "with_10x"), [("train", 0.89, 0.976), ("eval", 0.94, 0.991)]
)
def test_coverage_of_the_real_files(shared_data, everything, part, hgnc_only, with_10x):
    """Names as the authors wrote them; what is left are clone names of older annotations."""
    n_names = n_matched = n_hgnc = 0
    for _, var in var_tables(shared_data, part):
        match = everything.match(authors_names(var))
        n_names += len(var)
        n_matched += match.n_matched
        n_hgnc += sum(match.routes.get(route, 0) for route in ("symbol", "previous", "alias"))
    assert n_hgnc / n_names < hgnc_only
    assert n_matched / n_names >= with_10x


def test_names_and_ids_of_real_files_agree(shared_data, everything):
    for stem, var in var_tables(shared_data, "train"):
        ids = var["ensembl_id"].astype(object).where(var["ensembl_id"].notna(), "")
        by_id = everything.match(ids).token_of_column
        by_name = everything.match(var.index).token_of_column
        both = (by_id >= 0) & (by_name >= 0)
        assert (by_id[both] == by_name[both]).mean() > 0.998, stem


def test_10x_reference_ids_are_all_known(real, everything):
    pairs = pd.read_csv(real[1], sep="\t", dtype=str, keep_default_na=False)
    newest = pairs[pairs["ref"].str.contains("2020-A")]
    by_id = everything.match(newest["ensembl"]).token_of_column
    by_name = everything.match(newest["symbol"]).token_of_column
    assert (by_id >= 0).all()
    assert (by_id == by_name).mean() > 0.999
    sod2 = everything.match(["ENSG00000112096", "SOD2", "ENSG00000291237"]).token_of_column
    assert len(set(sod2.tolist())) == 1


def test_human_symbols_in_mouse_case_are_refused(everything):
    mouse = [s.capitalize() for s in everything.symbol if re.fullmatch("[A-Z]{3,}[0-9]*", s)]
    assert len(mouse) > 5000
    with pytest.raises(GeneError, match="mouse"):
        match_genes(counts_of(dict.fromkeys(mouse)), everything)


def test_the_training_vocabulary_is_of_the_size_of_the_genome(shared_data, real, everything):
    matrices = [choose_counts(ad.read_h5ad(p)) for p in sorted((shared_data / "train").glob("*"))]
    profiles = [everything.match(v.index, v) for _, v in var_tables(shared_data, "pseudobulk")]
    keep = training_genes(
        matrices, everything, always=protein_coding_genes(real[0]), measured=profiles
    )
    assert 20_000 < len(keep) < 25_000
    kept = GeneVocabulary.from_tables(*real, keep=keep)
    assert set(kept.ensembl) == keep
    for counts in matrices:
        token_V = kept.match(counts.var_names, counts.var).token_of_column
        block = counts.rows(0, 200)
        share = block.data[token_V[block.indices] >= 0].sum() / block.data.sum()
        assert share > 0.96
