"""What cells of one type differ in: the axes that a reader of genes starts with; synthetic cells.

Shape suffixes: N cells, G genes, C components.
"""

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp

from scgp.cells.corpus import Corpus
from scgp.training import within_types
from scgp.training.within_types import components_within_types

N_GENES = 60


def made(seed=0, n_cells=160, spread=1.2):
    """Synthetic cells of two types in two studies; within each, two programs of ten genes vary."""
    rng = np.random.default_rng(seed)
    class_N, study_N = np.arange(n_cells) % 2, np.arange(n_cells) // 2 % 2
    log_G = rng.normal(size=N_GENES)
    log_NG = np.tile(log_G, (n_cells, 1))
    log_NG[:, 20:40] += 3.0 * class_N[:, None]  # types differ most, then studies, then programs
    log_NG[:, 40:60] += 2.0 * study_N[:, None]
    state_N2 = rng.normal(size=(n_cells, 2))
    log_NG[:, :10] += spread * state_N2[:, :1]
    log_NG[:, 10:20] += spread * state_N2[:, 1:]
    share_NG = np.exp(log_NG)
    share_NG /= share_NG.sum(axis=1, keepdims=True)
    depth_N = rng.lognormal(8, 0.5, n_cells)
    counts = rng.poisson(share_NG * depth_N[:, None]).astype(np.float32)
    text = np.array(["a", "b"])[class_N]
    return Corpus(
        count_NG=sp.csr_matrix(counts), label_N=text, tissue_N=text, disease_N=text,
        study_N=study_N, donor_N=np.zeros(n_cells, int), drawn_N=np.zeros(n_cells, bool),
        source_N=study_N.copy(), studies=("one", "two"),
        measured_SG=np.ones((2, N_GENES), bool),
    ), class_N  # fmt: skip


def share_of(axis_GC, genes):
    """How much of the axes' length lies on some genes."""
    return float((axis_GC[genes] ** 2).sum() / (axis_GC**2).sum())


def test_the_axes_are_of_programs_and_not_of_types_studies_or_depth():
    corpus, class_N = made()
    axis_GC = components_within_types(corpus, class_N, 2, seed=0)
    assert axis_GC.shape == (N_GENES, 2)
    assert axis_GC.dtype == np.float32
    np.testing.assert_allclose(axis_GC.T @ axis_GC, np.eye(2), atol=1e-4)
    # what else moves is the share that the programs take from the other genes
    assert share_of(axis_GC, slice(0, 20)) > 0.7
    assert share_of(axis_GC, slice(20, 40)) < 0.15
    one_type = components_within_types(corpus, np.zeros_like(class_N), 1, seed=0)
    assert share_of(one_type, slice(20, 40)) > 0.3  # the test can fail: types taken for one


def test_the_same_seed_gives_the_same_axes():
    corpus, class_N = made()
    first, again = (components_within_types(corpus, class_N, 4, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_cells_that_have_no_part():
    """Drawn cells, cells without a label, groups of few cells, and sources of few genes."""
    corpus, class_N = made()
    expected = components_within_types(corpus, class_N, 2, seed=0)
    junk = np.random.default_rng(1).poisson(30, (60, N_GENES)).astype(np.float32)
    junk[:30, :5] *= 100
    n = corpus.n_cells
    longer = {
        f.name: np.concatenate([getattr(corpus, f.name), getattr(corpus, f.name)[:60]])
        for f in dataclasses.fields(corpus)
        if f.name in ("label_N", "tissue_N", "disease_N", "study_N", "donor_N")
    }
    few = corpus.measured_SG.copy()
    few = np.concatenate([few, [np.arange(N_GENES) < 0.4 * N_GENES]])
    more = dataclasses.replace(
        corpus, count_NG=sp.vstack([corpus.count_NG, sp.csr_matrix(junk)], format="csr"),
        drawn_N=np.arange(n + 60) >= n + 40,
        source_N=np.r_[corpus.source_N, np.full(20, 2), corpus.source_N[:40]],
        measured_SG=few, **longer,
    )  # fmt: skip
    codes = np.r_[class_N, np.zeros(20, int), np.full(20, -1), np.zeros(20, int)]
    found = components_within_types(more, codes, 2, seed=0)
    assert share_of(found, slice(0, 20)) == pytest.approx(
        share_of(expected, slice(0, 20)), abs=0.02
    )
    scarce = np.r_[class_N, np.full(19, 7), np.full(41, -1)]
    assert share_of(components_within_types(more, scarce, 2, seed=0), slice(0, 20)) > 0.7


def test_too_few_cells_have_no_axes():
    corpus, class_N = made(n_cells=40)  # ten of a type and study
    assert components_within_types(corpus, class_N, 8, seed=0).shape == (N_GENES, 0)


def test_there_are_no_more_axes_than_cells_differ_in():
    corpus, class_N = made()
    share_N = np.random.default_rng(0).uniform(0.1, 0.9, corpus.n_cells)
    counts = np.tile(corpus.count_NG[:1].toarray(), (corpus.n_cells, 1))
    counts[:, :2] = np.rint(1e4 * np.stack([share_N, 1 - share_N], axis=1))  # all that differs
    alike = dataclasses.replace(corpus, count_NG=sp.csr_matrix(counts))
    axis_GC = components_within_types(alike, class_N, 8, seed=0)
    assert 1 <= axis_GC.shape[1] <= 3
    assert share_of(axis_GC[:, :1], slice(0, 2)) > 0.9
    same = dataclasses.replace(corpus, count_NG=sp.csr_matrix(np.zeros_like(counts)))
    assert components_within_types(same, class_N, 8, seed=0).shape == (N_GENES, 0)


def test_the_number_of_cells_is_bounded(monkeypatch):
    corpus, class_N = made(n_cells=400)
    seen = []
    blocks = Corpus.blocks

    def counted(self, rows=None):
        seen.append(len(rows))
        return blocks(self, rows)

    monkeypatch.setattr(Corpus, "blocks", counted)
    monkeypatch.setattr(within_types, "MOST_CELLS", 160)
    axis_GC = components_within_types(corpus, class_N, 2, seed=0)
    assert seen == [160]
    assert share_of(axis_GC, slice(0, 20)) > 0.7
