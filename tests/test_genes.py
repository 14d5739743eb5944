"""Every name a gene goes by leads to that gene, and to no other."""

import gzip
import re
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from scgp.cells.counts import choose_counts
from scgp.cells.gene_table import COLUMNS, parse_table, table_bytes
from scgp.cells.genes import (
    FEW_GENES,
    GeneVocabulary,
    match_genes,
    protein_coding_genes,
    training_genes,
)
from scgp.errors import CheckpointError, GeneError, ScgpWarning


def gene_id(number):
    return f"ENSG{number:011d}"


# symbol, alias, previous, id, group. What each is for:
HGNC = [
    ("VWF", "F8VWF|VWD", "", 1, "protein-coding gene"),
    ("SEPTIN2", "DIFF6|SHARED", "SEPT2|NEDD5", 2, "protein-coding gene"),
    ("SEPTIN7", "SHARED", "CDC10|SEPT7|OLD", 3, "protein-coding gene"),  # ambiguous alias
    ("OLD", "", "", 4, "non-coding RNA"),  # approved here, previous of SEPTIN7
    ("TWICE1", "", "TWICE", 5, "pseudogene"),  # previous of two genes, in 10x one of them
    ("TWICE2", "", "TWICE", 6, "pseudogene"),
    ("C1orf112", "", "", 7, "protein-coding gene"),
    ("SOD2", "", "", 8, "protein-coding gene"),  # its retired id 80 is in 10x
    ("NOID", "SEPT2X", "", None, "protein-coding gene"),  # 10x knows its id: 9
    ("NOWHERE", "", "", None, "protein-coding gene"),  # nobody knows an id
    ("CLONED", "ALIAS10X", "", 10, "non-coding RNA"),  # 10x gives its alias to 11
    ("LINC1", "", "", 12, "non-coding RNA"),
    ("LINC2", "", "", 12, "non-coding RNA"),  # shares an id with LINC1
    ("TAKEN", "NOWHERE", "", 13, "protein-coding gene"),  # alias is approved elsewhere
    *((f"MT-{name}", "", "", 20 + i, "protein-coding gene") for i, name in enumerate(
        ("ND1", "ND2", "ND3", "ND4", "ND4L", "ND5", "ND6", "ATP6", "ATP8", "CO1", "CO2", "CO3",
         "CYB", "RNR1", "RNR2"))),
    ("PTGS2", "COX2", "", 40, "protein-coding gene"),
]  # fmt: skip
V1, V3, V2020 = "10x_GRCh38-1.2.0?", "10x_GRCh38-3.0.0", "10x_GRCh38-2020-A"
TENX = [
    (1, "VWF", f"{V1}|{V3}|{V2020}"),
    (1, "RP11-1A1.1", V1),  # a clone name of VWF
    (5, "TWICE", V1),
    (80, "SOD2", f"{V3}|{V2020}"),
    (9, "NOID", V2020),
    (11, "ALIAS10X", V3),
    (60, "AC1.1", V1),  # the name moved from gene 60 to 61
    (61, "AC1.1", V2020),
    (62, "BOTH", V2020),  # two genes in one reference
    (63, "BOTH", V2020),
]


def write_tables(folder, hgnc=None, tenx=None):
    rows = ["symbol\talias_symbol\tprev_symbol\tensembl_gene_id\tlocus_group\textra"]
    for symbol, alias, previous, number, group in hgnc or HGNC:
        ensembl = gene_id(number) if number else ""
        rows.append(f"{symbol}\t{alias}\t{previous}\t{ensembl}\t{group}\tx")
    (folder / "hgnc.tsv").write_text("\n".join(rows) + "\n")
    rows = ["ensembl\tsymbol\tref", *(f"{gene_id(i)}\t{s}\t{r}" for i, s, r in tenx or TENX)]
    with gzip.open(folder / "10x.tsv.gz", "wt") as file:
        file.write("\n".join(rows) + "\n")
    return folder / "hgnc.tsv", folder / "10x.tsv.gz"


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return write_tables(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def vocabulary(tables):
    return GeneVocabulary.from_tables(*tables)


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


def test_tables_without_a_column_are_refused(tmp_path, tables):
    wrong = tmp_path / "wrong.tsv"
    wrong.write_text("symbol\tname\nVWF\tx\n")
    with pytest.raises(GeneError, match=r"wrong.tsv has no column .*prev_symbol.*it has.*name"):
        GeneVocabulary.from_tables(wrong, tables[1])


def test_written_and_read_again(vocabulary, tmp_path):
    path = tmp_path / "genes.tsv"
    vocabulary.write(path)
    again = GeneVocabulary.read(path)
    assert again.fingerprint == vocabulary.fingerprint
    assert re.fullmatch("[0-9a-f]{64}", again.fingerprint)
    assert list(again.symbol) == list(vocabulary.symbol)
    names = ["VWF", "SEPT2", "F8VWF", "RP11-1A1.1", "ENSG00000000080", "C1ORF112", "x"]
    assert again.match(names).routes == vocabulary.match(names).routes
    assert path.read_text(encoding="utf-8").startswith("\t".join(COLUMNS) + "\n")


def table(*rows):
    return pd.DataFrame(list(rows), columns=list(COLUMNS), dtype=str)


def test_the_fingerprint_knows_every_cell():
    one = table(["E1", "A", "P", "L|M", "X"])
    prints = {GeneVocabulary(one).fingerprint}
    for column in COLUMNS:
        other = one.copy()
        other[column] = other[column] + "x"
        prints.add(GeneVocabulary(other).fingerprint)
    assert len(prints) == 1 + len(COLUMNS)


def test_the_file_format_stays():
    """Files of format 1 are read for ever: neither bytes nor fingerprint may change."""
    one = table(["ENSG00000110799", "VWF", "F8VWF", "VWD|ü", "RP11-1A1.1"])
    content = (
        b"ensembl_id\tsymbol\tprevious\taliases\tnames_10x\n"
        b"ENSG00000110799\tVWF\tF8VWF\tVWD|\xc3\xbc\tRP11-1A1.1\n"
    )
    assert table_bytes(one) == content
    assert GeneVocabulary(one).fingerprint.startswith("8643f191f92fc0ea")


def test_an_empty_vocabulary_can_be_written(tmp_path):
    GeneVocabulary(table()).write(tmp_path / "genes.tsv")
    assert GeneVocabulary.read(tmp_path / "genes.tsv").n_genes == 0


HEADER = "\t".join(COLUMNS) + "\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "first line"),
        ("ensembl_id,symbol\n", "first line"),
        (HEADER.replace("\n", "\r\n"), "first line"),
        (HEADER + "E1\tA\t\t\n", "line 2 is not whole"),
        (HEADER + "E1\tA\t\t\t\nE2\tB\t\t\t", "line 3 is not whole"),
        (HEADER + "E1\tA\t\t\t\n\n", "line 3 is not whole"),
        (HEADER + "E2\tA\t\t\t\nE1\tB\t\t\t\n", "not sorted"),
        (HEADER + "E1\tA\t\t\t\nE1\tB\t\t\t\n", "twice"),
        (HEADER + "E1\tA\t\t\t\nE2\tA\t\t\t\n", "'A' belongs to E1 and to E2"),
        (HEADER + "E1\tA\t\tB|C\t\nE2\tB\t\t\t\n", "'B' belongs to E2 and to E1"),
        (HEADER + "E1\tA\tE2\t\t\nE2\tB\t\t\t\n", "'E2' belongs"),
        (HEADER + "E1\t\t\t\t\n", "no symbol"),
        (HEADER + "\tA\t\t\t\n", "no Ensembl id"),
        (HEADER + "E1\tA|B\t\t\t\n", "separates"),
        (HEADER + "E1\tA\t\t\tx\r\n", "separates"),
        (b"\xff\xfe", "decode"),
    ],
)
def test_malformed_files_are_refused(content, message, tmp_path):
    path = tmp_path / "genes.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        GeneVocabulary.read(path)
    assert "genes.tsv" in str(caught.value)


def test_malformed_tables_are_refused():
    with pytest.raises(GeneError, match="its columns are"):
        GeneVocabulary(pd.DataFrame({"symbol": ["A"]}))
    with pytest.raises(GeneError, match="belongs to"):
        GeneVocabulary(table(["E1", "A", "", "", ""], ["E2", "B", "A", "", ""]))


FIELD = st.text(st.characters(codec="utf-8", exclude_characters="\t\n"), max_size=5)


@settings(deadline=None)
@given(st.lists(st.tuples(*[FIELD] * len(COLUMNS)), max_size=5))
def test_any_fields_survive_writing_and_reading(rows):
    written = table_bytes(table(*rows))
    assert parse_table(written).to_numpy().tolist() == [list(row) for row in rows]
    assert table_bytes(parse_table(written)) == written


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
    match_genes(counts_of([*names, "G205", "u1"]), wide)  # enough: no warning
    match_genes(counts_of(names), wide, minimum=FEW_GENES - 1)


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
        "5 names stand for 2 genes, so their counts are summed: 'VWF', 'F8VWF', 'ENSG00000000001.2'"
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
