"""The gene head: what it is fitted to, what it says, and of what it is independent."""

import numpy as np
import pytest
import scipy.sparse as sp

import scgp
from scgp.reference import gene_head
from scgp.reference.gene_head import fit_gene_head

N_GENES, N_LABELS = 40, 3


def cells(n=300, seed=0):
    """Synthetic log1p(CP10k): five genes mark each label; the other genes are noise."""
    rng = np.random.default_rng(seed)
    code_N = rng.integers(N_LABELS, size=n)
    value_NG = rng.gamma(1.0, 1.0, (n, N_GENES)) * (rng.random((n, N_GENES)) < 0.3)
    for label in range(N_LABELS):
        of_label = np.flatnonzero(code_N == label)
        value_NG[np.ix_(of_label, range(5 * label, 5 * label + 5))] += 2.0
    return sp.csr_matrix(value_NG.astype(np.float32)), code_N


ALL = np.ones(N_GENES, bool)


def test_it_tells_labels_of_cells_it_has_not_seen():
    head = fit_gene_head(*cells(), N_LABELS)
    value_BG, code_B = cells(seed=1)
    assert (head.scores(value_BG, ALL).argmax(axis=1) == code_B).mean() > 0.98


def test_it_is_ridge_regression_with_each_gene_dropped_at_random():
    """The closed form is the limit of regression on many copies with genes lost (blankout)."""
    value_NG, code_N = cells(200)
    head = fit_gene_head(value_NG, code_N, N_LABELS)
    weight_N = 1 / np.sqrt(np.bincount(code_N)[code_N])
    weight_N /= weight_N.sum()
    x_NH = np.minimum(value_NG.toarray()[:, head.gene_H] / head.scale_H, gene_head.CLIP)
    share_T = np.bincount(code_N, weight_N)
    y_NT = np.eye(N_LABELS)[code_N] - share_T
    mean_H = weight_N @ x_NH
    c_NH = x_NH - mean_H
    penalty = np.diag(gene_head.PENALTY * (weight_N @ x_NH**2) + gene_head.RIDGE)
    expected = np.linalg.solve(
        (c_NH * weight_N[:, None]).T @ c_NH + penalty, (c_NH * weight_N[:, None]).T @ y_NT
    ) / np.sqrt(share_T)
    np.testing.assert_allclose(head.weight_HT.astype(float), expected, atol=2e-3, rtol=2e-3)


def test_a_gene_that_is_not_measured_is_not_zero():
    value_NG, code_N = cells()
    head = fit_gene_head(value_NG, code_N, N_LABELS)
    panel_G = ALL.copy()
    panel_G[10:15] = False  # the markers of the last label are not on the panel
    narrow_BG = sp.csr_matrix(value_NG.toarray() * panel_G)
    as_zero, as_unknown = head.scores(narrow_BG, ALL), head.scores(narrow_BG, panel_G)
    of_last = code_N == 2
    assert (as_unknown[of_last].argmax(axis=1) == 2).mean() > (
        as_zero[of_last].argmax(axis=1) == 2
    ).mean()
    nothing_known = head.scores(sp.csr_matrix((1, N_GENES), dtype=np.float32), ~ALL)
    np.testing.assert_allclose(nothing_known[0], head.bias_T, atol=1e-6)


def test_a_cell_has_the_same_scores_in_any_company():
    value_NG, code_N = cells(600)
    head = fit_gene_head(value_NG, code_N, N_LABELS)
    together = head.scores(value_NG, ALL)
    for rows in ([0], [599, 3], range(250, 520)):
        np.testing.assert_array_equal(head.scores(value_NG[list(rows)], ALL), together[list(rows)])
    assert head.scores(value_NG[:0], ALL).shape == (0, N_LABELS)


def test_only_genes_that_vary_are_taken_and_no_more_than_asked():
    value_NG, code_N = cells()
    dense = value_NG.toarray()
    dense[:, 20:] = 1.0
    head = fit_gene_head(sp.csr_matrix(dense), code_N, N_LABELS)
    assert head.gene_H.max() < 20
    few = fit_gene_head(value_NG, code_N, N_LABELS, n_genes=7)
    assert len(few.gene_H) == 7
    assert np.all(np.diff(few.gene_H) > 0)


def test_drawn_cells_count_less():
    value_NG, code_N = cells()
    flipped = np.concatenate([code_N, (code_N + 1) % N_LABELS])
    both = sp.vstack([value_NG, value_NG], format="csr")
    drawn_N = np.repeat([False, True], len(code_N))
    head = fit_gene_head(both, flipped, N_LABELS, drawn_N=drawn_N)
    assert (head.scores(value_NG, ALL).argmax(axis=1) == code_N).mean() > 0.9


def test_one_label_and_one_cell_are_enough():
    value_NG, _ = cells(5)
    for n in (1, 5):
        head = fit_gene_head(value_NG[:n], np.zeros(n, int), 1)
        assert np.isfinite(head.scores(value_NG, ALL)).all()


def test_real_blood_cells_are_told_by_genes_alone(all_blood, blood_index, model):
    """Fitted to 580 cells by build_index, asked about the 120 others."""
    asked = all_blood[:120]
    tokens = model.tokenizer.tokenize(asked.X, model.genes.match(asked.var_names).token_of_column)
    measured_G = np.zeros(model.config.n_genes, bool)
    measured_G[np.unique(tokens.pool_gene_N)] = True
    score_BT = blood_index.gene_head.scores(tokens.values(model.config.n_genes), measured_G)
    found = np.array(blood_index.label_ids)[score_BT[:, : len(blood_index.labels)].argmax(axis=1)]
    assert (found == asked.obs["cell_type"]).mean() > 0.65


def test_an_index_keeps_its_gene_head(blood_index, tmp_path):
    blood_index.save(tmp_path / "index")
    read = scgp.ReferenceIndex.load(tmp_path / "index")
    for name, array in blood_index.gene_head.arrays().items():
        np.testing.assert_array_equal(getattr(read.gene_head, name), array)
        assert getattr(read.gene_head, name).dtype == array.dtype


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("weight_HT", lambda x: x[:, :-1]),
        ("bias_T", lambda x: x * np.float32(np.nan)),
        ("gene_H", lambda x: x[::-1].copy()),
        ("scale_H", lambda x: -x),
    ],
)
def test_a_gene_head_that_contradicts_itself_is_refused(blood_index, tmp_path, name, change):
    import dataclasses

    changed = dataclasses.replace(
        blood_index.gene_head, **{name: change(getattr(blood_index.gene_head, name))}
    )
    dataclasses.replace(blood_index, gene_head=changed).save(tmp_path / "index")
    with pytest.raises(scgp.errors.CheckpointError, match="gene head"):
        scgp.ReferenceIndex.load(tmp_path / "index")
