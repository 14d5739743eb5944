"""What a broader term needs is the user's to say."""

import numpy as np
import pytest

import scgp
from scgp.errors import ArgumentError


@pytest.fixture(scope="module")
def asked():
    """The demonstration's cells, few counts left, so that many labels are in doubt (synthetic)."""
    adata = scgp.demo.counts()
    rng = np.random.default_rng(0)
    adata.X.data = rng.binomial(adata.X.data.astype(int), 0.05).astype(np.float32)
    adata.X.eliminate_zeros()
    found = {}
    for broader in (None, 0.8, 0.0):
        cells = adata.copy()
        scgp.annotate(cells, min_confidence_broader=broader, progress=False)
        found[broader] = cells
    return adata, found


def test_a_lower_bound_gives_more_terms_and_the_same_labels(asked):
    _, found = asked
    status = {broader: cells.obs["scgp_status"].to_numpy(str) for broader, cells in found.items()}
    n_broad = {broader: (x == "ancestor").sum() for broader, x in status.items()}
    assert n_broad[None] < n_broad[0.8] <= n_broad[0.0]
    labelled = status[None] == "labelled"
    assert labelled.any()
    for broader in (0.8, 0.0):
        np.testing.assert_array_equal(status[broader] == "labelled", labelled)
        first, second = (found[x].obs["scgp_cell_type"][labelled] for x in (None, broader))
        assert first.tolist() == second.tolist()


def test_terms_are_as_sure_as_was_asked_for_and_never_less_than_a_label(asked):
    _, found = asked
    for broader, least in ((None, 0.96), (0.8, 0.8), (0.0, 0.5)):
        obs = found[broader].obs
        sure = obs["scgp_confidence"][obs["scgp_status"] == "ancestor"]
        assert (sure >= least - 1e-6).all()
    assert found[0.8].uns["scgp"]["min_confidence_broader"] == 0.8
    assert "min_confidence_broader" not in found[None].uns["scgp"]


def test_a_file_is_answered_the_same(asked, tmp_path):
    adata, found = asked
    adata.write_h5ad(tmp_path / "cells.h5ad")
    n_cells = scgp.annotate_file(
        tmp_path / "cells.h5ad", min_confidence_broader=0.8, progress=False
    )
    assert n_cells["ancestor"] == (found[0.8].obs["scgp_status"] == "ancestor").sum()


def test_what_is_no_probability_is_refused(asked):
    with pytest.raises(ArgumentError, match=r"min_confidence_broader is 1\.5; expected a prob"):
        scgp.annotate(asked[0], min_confidence_broader=1.5, progress=False)
