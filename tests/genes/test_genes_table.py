"""The table of a vocabulary: made, written, read again, and refused where it is malformed."""

import re
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scgp.cells.gene_table import COLUMNS, parse_table, table_bytes
from scgp.cells.genes import GeneVocabulary
from scgp.errors import CheckpointError, GeneError

sys.path.insert(0, str(Path(__file__).parent))
from gene_tables import table


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
