"""Every name a gene goes by leads to that gene, and to no other."""

import sys
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scgp.cells.genes import GeneVocabulary, protein_coding_genes

sys.path.insert(0, str(Path(__file__).parent))
from gene_tables import HGNC, TENX, gene_id, write_tables


def found(vocabulary, names, var=None):
    """Ensembl number of each name, None where there is no gene."""
    tokens = vocabulary.match(names, var).token_of_column
    return [int(vocabulary.ensembl[t][4:]) if t >= 0 else None for t in tokens]


@pytest.mark.parametrize(
    ("name", "gene", "route"),
    [
        ("ENSG00000000001", 1, "ensembl_id"),
        ("ENSG00000000001.14", 1, "ensembl_id"),
        ("ENSG00000000001.14_PAR_Y", 1, "ensembl_id"),
        ("ENSG00000000080", 8, "ensembl_id"),
        ("ENSG00000000080.2", 8, "ensembl_id"),
        ("ENSG00000000099", None, None),
        ("ENSG00000000001x", None, None),
        ("VWF", 1, "symbol"),
        ("SEPT2", 2, "previous"),
        ("OLD", 4, "symbol"),
        ("TWICE", 5, "10x"),
        ("RP11-1A1.1", 1, "10x"),
        ("NOID", 9, "symbol"),
        ("SEPT2X", 9, "alias"),
        ("F8VWF", 1, "alias"),
        ("SHARED", None, None),
        ("ALIAS10X", 11, "symbol"),
        ("AC1.1", 61, "symbol"),
        ("BOTH", None, None),
        ("LINC1", 12, "symbol"),
        ("LINC2", 12, "previous"),
        ("NOWHERE", None, None),
        ("C1orf112", 7, "symbol"),
        ("C1ORF112", 7, "upper_case"),
        ("Vwf", None, None),
        ("vwf", None, None),
        ("COX2", 40, "alias"),
        ("", None, None),
        ("nan", None, None),
        ("42", None, None),
    ],
)
def test_each_name_has_its_gene_and_route(vocabulary, name, gene, route):
    match = vocabulary.match([name])
    assert found(vocabulary, [name]) == [gene]
    assert match.unmatched == ([] if gene else [name])
    expected = "10x" if name in {"ALIAS10X", "AC1.1"} else route  # HGNC does not have these genes
    assert match.routes == ({} if gene is None else {expected: 1})


def test_match_reports_what_it_did(vocabulary):
    match = vocabulary.match(["VWF", "what", "ENSG00000000002.1", "F8VWF", "SOD2", "ever"])
    assert match.token_of_column.dtype == np.int32
    assert match.token_of_column.tolist() == [0, -1, 1, 0, 7, -1]
    assert match.routes == {"ensembl_id": 1, "symbol": 2, "alias": 1}
    assert match.duplicated == ["VWF", "F8VWF"]
    assert match.unmatched == ["what", "ever"]
    assert (match.n_matched, match.n_genes) == (4, 3)
    assert vocabulary.match([]).token_of_column.shape == (0,)


@pytest.mark.parametrize("column", ["ensembl_id", "gene_ids", "feature_id", "Ensembl_ID"])
def test_ids_beside_the_names_come_before_the_names(vocabulary, column):
    ids = pd.Categorical(["ENSG00000000002.3", "", None, "ENSG00000000099"])
    var = pd.DataFrame({column: ids}, index=["VWF", "VWF", "SOD2", "SEPT7"])
    assert found(vocabulary, var.index, var) == [2, 1, 8, 3]
    assert vocabulary.match(var.index, var).routes == {
        "ensembl_id": 1, "symbol": 2, "previous": 1,
    }  # fmt: skip


@pytest.mark.parametrize("column", ["feature_name", "gene_symbols", "Symbol", "gene_name"])
def test_symbols_beside_ids_or_numbers(vocabulary, column):
    var = pd.DataFrame(
        {column: ["SOD2", "VWF", "SEPT2", np.nan], "other": 1},
        index=["ENSG00000000001", "ENSG00000000099", "0", "1"],
    )
    assert found(vocabulary, var.index, var) == [1, 1, 2, None]


def test_repeated_column_names_in_var(vocabulary):
    var = pd.DataFrame([["VWF", "SOD2"]], columns=["symbol", "symbol"], index=["0"])
    assert found(vocabulary, var.index, var) == [1]


def test_a_number_that_makes_names_unique_is_cut_only_beside_the_name(vocabulary):
    assert found(vocabulary, ["VWF", "VWF-1", "SOD2.1", "SEPT2--1", "SEPT2"]) == [1, 1, None, 2, 2]
    assert found(vocabulary, ["VWF", "VWF.2", "VWF-11", "VWF_1"]) == [1, 1, None, None]
    assert found(vocabulary, ["VWF-1", "SOD2"]) == [None, 8]
    assert found(vocabulary, ["ENSG00000000001", "ENSG00000000001-1"]) == [1, 1]
    assert vocabulary.match(["VWF", "VWF-1"]).routes == {"symbol": 1, "made_unique": 1}


def test_anndatas_own_unique_names_are_found(vocabulary):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata = ad.AnnData(np.ones((1, 3)), var=pd.DataFrame(index=["VWF", "SOD2", "VWF"]))
        adata.var_names_make_unique()
    assert found(vocabulary, adata.var_names) == [1, 8, 1]


def test_bare_mitochondrial_names_need_company(vocabulary):
    bare = ["ND1", "ND2", "ND3", "ND4", "ND4L", "ND5", "ND6", "CYTB", "COX2", "RNR2"]
    assert found(vocabulary, bare) == [20, 21, 22, 23, 24, 25, 26, 32, 30, 34]
    assert found(vocabulary, ["ND1", "COX2"]) == [None, 40]
    full = [str(name) for name in vocabulary.symbol if name.startswith("MT-")]
    assert found(vocabulary, [*full, "COX2"])[-1] == 40  # MT-CO2 is there itself
    assert found(vocabulary, [n for n in full if n != "MT-CO2"] + ["COX2"])[-1] == 30


def test_genes_are_sorted_and_keep_drops(tables, vocabulary):
    assert list(vocabulary.ensembl) == sorted(set(vocabulary.ensembl))
    assert gene_id(80) not in vocabulary.ensembl
    symbol_of = dict(zip(vocabulary.ensembl, vocabulary.symbol, strict=True))
    assert symbol_of[gene_id(11)] == "ALIAS10X"  # HGNC does not have these
    assert symbol_of[gene_id(62)] == gene_id(62)
    small = GeneVocabulary.from_tables(*tables, keep={gene_id(3), gene_id(80), "ENSG_no"})
    assert list(small.ensembl) == [gene_id(3), gene_id(8)]
    assert list(small.symbol) == ["SEPTIN7", "SOD2"]


def test_a_dropped_genes_names_do_not_fall_to_another(tables):
    small = GeneVocabulary.from_tables(*tables, keep=[gene_id(i) for i in (3, 6, 10, 13)])
    names = ["OLD", "SHARED", "TWICE", "ALIAS10X", "NOWHERE"]
    assert found(small, names) == [None] * 5


def test_each_name_stands_in_one_row(vocabulary):
    for gene, symbol in zip(vocabulary.ensembl, vocabulary.symbol, strict=True):
        number = int(gene[4:])
        assert found(vocabulary, [gene]) == [number]
        assert found(vocabulary, [symbol]) == [number] or symbol == gene


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_names_are_settled_the_same_in_any_row_order(tmp_path_factory, data):
    ours = [row for row in HGNC if not row[0].startswith("LINC")]

    def turned(row):
        names = ("|".join(reversed(field.split("|"))) for field in row[1:3])
        return (row[0], *names, *row[3:])

    hgnc = [turned(row) for row in data.draw(st.permutations(ours))]
    tenx = data.draw(st.permutations(TENX))
    folder = tmp_path_factory.mktemp("any")
    reference = write_tables(folder, ours, TENX)
    expected = GeneVocabulary.from_tables(*reference).fingerprint
    assert GeneVocabulary.from_tables(*write_tables(folder, hgnc, tenx)).fingerprint == expected


@settings(deadline=None)
@given(data=st.data())
def test_matching_does_not_depend_on_order_or_company(vocabulary, data):
    known = ["VWF", "F8VWF", "SEPT2", "ENSG00000000080.3", "C1ORF112", "nothing", "TWICE", "SHARED"]
    names = data.draw(st.lists(st.sampled_from(known), max_size=20))
    alone = [found(vocabulary, [name])[0] for name in names]
    assert found(vocabulary, names) == alone


def test_protein_coding_genes(tables):
    coding = protein_coding_genes(tables[0])
    assert gene_id(1) in coding
    assert gene_id(4) not in coding
    assert "" not in coding
