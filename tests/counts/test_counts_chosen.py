"""Where the counts are: what is no count is named, and another place is taken or told."""

import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from scgp.cells.counts import PROBE_ROWS, choose_counts, is_counts
from scgp.errors import ArgumentError, CountsError

sys.path.insert(0, str(Path(__file__).parent))
from count_matrices import DENSE, LOG, backed, make, spoiled, with_raw

BAD = {
    "negative": (-1.0, "scaled"),
    "fraction": (0.5, "log-normalised"),
    "large fraction": (1234.5, "normalised (CPM, TPM) or corrected"),
    "nan": (np.nan, "missing (NaN)"),
    "inf": (np.inf, "infinite"),
    "minus inf": (-np.inf, "infinite"),
}


@pytest.mark.parametrize("kind", [np.array, sp.csr_matrix, sp.csc_matrix])
@pytest.mark.parametrize("case", BAD)
def test_what_is_no_count_is_named_with_cell_and_gene(case, kind):
    value, looks_like = BAD[case]
    with pytest.raises(CountsError) as caught:
        choose_counts(make(kind(spoiled(value))))
    message = str(caught.value)
    assert "X does not hold raw counts: cell 'c4', gene 'g2' is" in message
    assert looks_like in message
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("kind", [np.array, sp.csr_matrix])
def test_the_check_goes_on_in_blocks_that_were_not_probed(kind):
    n_cells = 8 * PROBE_ROWS
    counts = choose_counts(make(kind(spoiled(0.25, row=300, n_cells=n_cells))))
    counts.rows(0, 300)
    with pytest.raises(CountsError, match=r"cell 'c300', gene 'g2' is 0.25") as caught:
        counts.rows(290, 310)
    assert "does hold counts" not in str(caught.value)
    with pytest.raises(CountsError, match=r"cell 'c300', gene 'g2' is 0.25"):
        counts.take(np.array([5, 300, 2]))


@pytest.mark.parametrize("row", [3, 4 * PROBE_ROWS, 8 * PROBE_ROWS - 1])
def test_first_middle_and_last_rows_are_checked_at_once(row):
    with pytest.raises(CountsError, match=f"cell 'c{row}'"):
        choose_counts(make(sp.csr_matrix(spoiled(0.25, row=row, n_cells=8 * PROBE_ROWS))))


def test_negative_integers_and_other_types():
    with pytest.raises(CountsError, match="cell 'c4', gene 'g2' is -3"):
        choose_counts(make(spoiled(-3).astype(np.int32)))
    with pytest.raises(CountsError, match="type bool"):
        choose_counts(make(DENSE > 0))
    with pytest.raises(CountsError, match="type complex64"):
        choose_counts(make(DENSE.astype(np.complex64)))
    with pytest.raises(CountsError, match=r"1e\+300"):
        choose_counts(make(spoiled(1e300)))


def test_damaged_indices_are_refused():
    x = sp.csr_matrix(DENSE)
    x.indices[5] = 70
    with pytest.raises(CountsError, match="column 70 and has 7"):
        choose_counts(make(x))
    x.indices[5] = -2
    with pytest.raises(CountsError, match="damaged"):
        choose_counts(make(x))


@settings(deadline=None)
@given(st.lists(st.floats(width=32) | st.integers(0, 100).map(float), min_size=1, max_size=6))
def test_is_counts_agrees_with_its_definition(values):
    expected = all(
        np.isfinite(v) and v >= 0 and v == int(v) and v < np.finfo(np.float32).max for v in values
    )
    for dtype in (np.float32, np.float64):
        assert is_counts(np.array(values, dtype=dtype)) == expected


def test_the_error_names_where_the_counts_are_and_how_to_take_them():
    adata = make(sp.csr_matrix(LOG), layers={"counts": sp.csr_matrix(DENSE), "z": LOG - 1})
    adata.raw = make(sp.csr_matrix(DENSE))
    with pytest.raises(CountsError) as caught:
        choose_counts(adata)
    message = str(caught.value)
    assert "adata.raw.X does hold counts: pass use_raw=True" in message
    assert "adata.layers['counts'] does hold counts: pass layer='counts'" in message
    assert "layers['z'] does" not in message
    assert choose_counts(adata, layer="counts").where == "layers['counts']"
    with pytest.raises(CountsError, match=r"scaled.*pass layer='counts'"):
        choose_counts(adata, layer="z")


def test_the_error_names_x_for_a_wrong_layer_and_says_if_nothing_is_there():
    adata = make(DENSE, layers={"log": LOG})
    with pytest.raises(CountsError, match=r"adata.X does hold counts: pass use_raw=False"):
        choose_counts(adata, layer="log")
    with pytest.raises(CountsError, match=r"No counts elsewhere either \(layers\['a'\]\)"):
        choose_counts(make(LOG, layers={"a": LOG}))
    with pytest.raises(CountsError, match="no other matrix is there"):
        choose_counts(make(LOG))


def test_an_empty_or_boolean_layer_is_not_offered_as_counts():
    adata = make(LOG, layers={"none": np.zeros_like(DENSE), "seen": DENSE > 0})
    with pytest.raises(CountsError, match="No counts elsewhere"):
        choose_counts(adata)


def test_x_none():
    adata = make(DENSE, layers={"counts": DENSE})
    adata.X = None
    with pytest.raises(CountsError, match=r"adata\.X is None.*pass layer='counts'"):
        choose_counts(adata)
    assert choose_counts(adata, layer="counts").n_cells == 23


def test_arguments_that_cannot_be():
    adata = make(DENSE, layers={"counts": DENSE, "spliced": DENSE})
    with pytest.raises(ArgumentError, match="pass one of them"):
        choose_counts(adata, layer="counts", use_raw=True)
    with pytest.raises(ArgumentError, match=r"no layer 'count'.*'counts', 'spliced'"):
        choose_counts(adata, layer="count")
    with pytest.raises(ArgumentError, match="layers in this AnnData: none"):
        choose_counts(make(DENSE), layer="count")
    with pytest.raises(ArgumentError, match=r"adata.raw is None"):
        choose_counts(adata, use_raw=True)


def test_layer_names_of_any_kind():
    name = 'it\'s "raw"/üñ'
    counts = choose_counts(make(LOG, layers={name: DENSE}), layer=name)
    np.testing.assert_array_equal(counts.rows(0, 23).toarray(), DENSE)


def cellxgene(x, raw, *, marker):
    adata = with_raw(x, raw)
    if marker == "names":
        names = [f"ENSG{i:011d}" for i in range(7)]
        adata.raw.var.index = names
        adata.var_names = names
        adata.var["feature_name"] = [f"S{i}" for i in range(7)]
    else:
        adata.uns[marker] = "5.2.0"
    return adata


@pytest.mark.parametrize("marker", ["schema_version", "schema_reference", "names"])
@pytest.mark.parametrize("on_disk", [False, True])
def test_cellxgene_counts_are_taken_from_raw_and_logged(marker, on_disk, tmp_path, caplog):
    adata = cellxgene(sp.csr_matrix(LOG), sp.csr_matrix(DENSE), marker=marker)
    adata = backed(adata, tmp_path) if on_disk else adata
    with caplog.at_level(logging.INFO, logger="scgp"):
        counts = choose_counts(adata)
    assert counts.where == "raw.X"
    assert "raw.X" in caplog.text
    np.testing.assert_array_equal(counts.rows(0, 23).toarray(), DENSE)


def test_cellxgene_layout_with_counts_in_x_stays_with_x():
    adata = cellxgene(sp.csr_matrix(DENSE), sp.csr_matrix(DENSE), marker="schema_version")
    assert choose_counts(adata).where == "X"
    no_raw = make(DENSE)
    no_raw.uns["schema_version"] = "5.2.0"
    assert choose_counts(no_raw).where == "X"


def test_nothing_but_cellxgene_switches_and_use_raw_false_forbids_it():
    with pytest.raises(CountsError, match="use_raw=True"):
        choose_counts(with_raw(sp.csr_matrix(LOG), sp.csr_matrix(DENSE)))
    adata = cellxgene(sp.csr_matrix(LOG), sp.csr_matrix(DENSE), marker="schema_version")
    with pytest.raises(CountsError, match="use_raw=True"):
        choose_counts(adata, use_raw=False)
    neither = cellxgene(sp.csr_matrix(LOG), sp.csr_matrix(LOG), marker="schema_version")
    with pytest.raises(CountsError, match=r"^X does not.*No counts elsewhere"):
        choose_counts(neither)
