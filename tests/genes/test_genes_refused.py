"""Names that mean no gene, or next to none: refused with the way out, and what is not refused."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scgp
from scgp.cells.counts import choose_counts
from scgp.cells.genes import match_genes
from scgp.errors import GeneError, ScgpWarning


@pytest.fixture(scope="module")
def genes(model):
    return model.genes


@pytest.fixture
def symbols(blood):
    return [str(name) for name in blood.var_names]


def counts_of(names, **columns):
    """Synthetic counts of two cells under these names."""
    var = pd.DataFrame(columns, index=list(names))
    x = sp.csr_matrix(np.ones((2, len(var)), dtype=np.float32))
    return choose_counts(ad.AnnData(x, obs=pd.DataFrame(index=["a", "b"]), var=var))


def numbers(n):
    return [str(i) for i in range(n)]


def test_digits_alone_are_no_gene(genes):
    aliases = genes._table["aliases"].str.split("|").explode()
    digits = [name for name in aliases if name.isdigit()]
    assert "225" in digits
    assert genes.match([*digits, *(f"{name}.1" for name in digits)]).n_matched == 0
    assert genes.match(numbers(5000)).n_matched == 0


def test_a_column_of_symbols_beside_numbers_is_used(blood, symbols, annotate, same_answers):
    named = annotate(blood, copy=True)
    blood.var["gene_symbols"] = symbols
    blood.var_names = numbers(765)
    same_answers(annotate(blood, copy=True), named)


def test_numbers_alone_are_refused(blood, symbols, annotate, state):
    blood.var_names = numbers(765)
    blood.var["own names"] = symbols
    before = state(blood)
    with pytest.raises(GeneError) as caught:
        annotate(blood)
    message = str(caught.value)
    assert "no gene in common: the data has '0', '1', '2' (765 names)" in message
    assert "Numbers name no gene, be they positions or ids of NCBI. Put Ensembl ids" in message
    assert "(the columns of var: 'own names')" in message
    assert state(blood) == before


@pytest.mark.parametrize("n", [765, 30, 1])
def test_human_symbols_in_lower_case_are_refused(blood, symbols, annotate, n):
    cells = blood[:, :n].copy()
    cells.var_names = [name.lower() for name in symbols[:n]]
    with pytest.raises(GeneError, match=r"case .*; .*|In upper case") as caught:
        annotate(cells)
    assert "adata.var_names = adata.var_names.str.upper()" in str(caught.value)


@pytest.mark.parametrize(
    ("named", "helps"),
    [
        ("GRCh38_{}", "Without 'GRCh38_' 7.. of them are human genes: adata.var_names = "),
        ("hg19___{}", "Without 'hg19___' 7.. of them"),
        ("{}_ENSG", r"They hold Ensembl ids: adata.var\['ensembl_id'\] = .*extract"),
    ],
)
def test_what_pipelines_put_around_a_name_is_told(genes, symbols, ensembl_ids, named, helps):
    ids = ensembl_ids(symbols)
    names = [
        f"{symbol}_{i}" if named == "{}_ENSG" else named.format(symbol)
        for symbol, i in zip(symbols, ids, strict=True)
    ]
    with pytest.raises(GeneError, match=helps):
        match_genes(counts_of(names), genes)


def test_cells_of_two_species_are_told_the_prefix_of_the_human_genes(genes, symbols):
    mouse = [f"mm10___{name.capitalize()}" for name in symbols]
    with pytest.raises(GeneError, match=r"Without 'hg19___' 7.. of them are human genes"):
        match_genes(counts_of([*(f"hg19___{name}" for name in symbols), *mouse]), genes)


def test_what_the_message_says_helps(blood, annotate):
    blood.var_names = blood.var_names.str.lower()
    blood.var_names = blood.var_names.str.upper()
    annotate(blood)
    assert (blood.obs["scgp_status"] != "empty").all()


def test_mouse_is_still_mouse(genes, symbols):
    with pytest.raises(GeneError, match="mouse"):
        match_genes(counts_of(name.capitalize() for name in symbols), genes)


def test_lower_case_names_with_ids_beside_them_are_fine(genes, symbols, ensembl_ids):
    lower = counts_of([name.lower() for name in symbols], gene_ids=ensembl_ids(symbols))
    assert match_genes(lower, genes).n_matched > 750


def test_chance_among_many_names_is_refused(genes):
    names = [f"peak_{i}" for i in range(1000)]
    with pytest.raises(GeneError, match=r"only 9 of 1009 names in common: the data has 'peak_0'"):
        match_genes(counts_of([*names, *genes.symbol[:9]]), genes)


@pytest.mark.parametrize(
    ("known", "unknown"),
    [(1, 0), (1, 3), (20, 0), (1, 198), (10, 0), (300, 0), (300, 228), (3, 197), (250, 60_000)],
    ids=str,
)
def test_panels_antibodies_and_small_queries_are_not(genes, known, unknown):
    """From a single gene to peaks beside a panel; that genes are few is told where they are."""
    names = [*genes.symbol[:known], *(f"CD{i}_TotalSeqB" for i in range(unknown))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScgpWarning)
        assert match_genes(counts_of(names), genes).n_matched == known


def test_every_verb_refuses_alike(blood):
    blood.var_names = numbers(765)
    for ask in (
        lambda: scgp.embed(blood, progress=False),
        lambda: scgp.score_text(blood, "B cell", progress=False),
        lambda: scgp.build_index(blood, label_key="cell_type", progress=False),
    ):
        with pytest.raises(GeneError, match="Numbers name no gene"):
            ask()
