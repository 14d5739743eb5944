"""Genes of the interferon response are no markers of a type."""

import numpy as np
import pytest
import scipy.sparse as sp

import scgp
from scgp.annotate import model_index
from scgp.reference.interferon import STIMULATED, stimulated


@pytest.fixture(scope="module")
def own(all_blood, model):
    """An index of 580 blood cells of two studies (every second one, for show)."""
    atlas = all_blood[120:].copy()
    atlas.obs["study"] = np.where(np.arange(580) % 2, "odd", "even")
    return scgp.build_index(
        atlas, label_key="cell_type", study_key="study", model=model, progress=False
    )


def test_every_gene_is_known_by_its_approved_symbol(model):
    assert len(set(STIMULATED)) == len(STIMULATED) == len(stimulated(model.genes))
    columns = stimulated(model.genes)
    assert {model.genes.symbol[c] for c in columns} == set(STIMULATED)


def test_profiles_of_labels_have_none_of_them_though_the_gene_head_does(model, own):
    columns = stimulated(model.genes)
    for index in (model_index(model), own):
        assert len(np.intersect1d(index.gene_head.gene_H, columns)) > 5
        assert not len(np.intersect1d(index.pairwise.gene_H, columns))


def test_what_interferon_raises_changes_no_winner(model):
    """Levels between two labels of the shipped index; raised in every cell (synthetic)."""
    index = model_index(model)
    profiles = index.pairwise
    rng = np.random.default_rng(0)
    two_B2 = rng.integers(len(profiles.label_P), size=(50, 2))
    level_BG = np.zeros((50, model.config.n_genes), np.float32)
    level_BG[:, profiles.gene_H] = profiles.mean_PH[two_B2].astype(np.float32).mean(axis=1)
    likely_BT = rng.normal(size=(50, len(index.labels)))
    measured_G = np.ones(model.config.n_genes, bool)
    raised_BG = level_BG.copy()
    raised_BG[:, stimulated(model.genes)] += 3
    before_B, after_B = (
        profiles.winners(likely_BT, sp.csr_matrix(x_BG), measured_G)
        for x_BG in (level_BG, raised_BG)
    )
    np.testing.assert_array_equal(before_B, after_B)
    assert len(set(before_B)) > 10
