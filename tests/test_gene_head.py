"""The gene head: what it is fitted to, what it says, and of what it is independent."""

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp

import scgp
from scgp.reference import gene_head
from scgp.reference.answer import streams_of
from scgp.reference.fusion import Fusion
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


def of_studies(n, offset_S, seed=0):
    """Synthetic cells of some studies; one gene marks no label but is shifted in each study.

    Labels are dealt to studies unevenly, so that the shifted gene seems to tell them.
    """
    value_NG, code_N = cells(n, seed)
    rng = np.random.default_rng(seed + 100)
    study_N = np.where(rng.random(n) < 0.5, code_N, rng.integers(3, size=n))
    dense_NG = value_NG.toarray()
    dense_NG[:, N_GENES - 1] = 2.0 + np.asarray(offset_S)[study_N] + rng.normal(0, 0.3, n)
    for gene in set(range(15)) - {0, 5, 10}:  # one true marker of each label is left
        dense_NG[:, gene] = rng.permutation(dense_NG[:, gene])
    return sp.csr_matrix(dense_NG.astype(np.float32)), code_N, study_N


def test_what_separates_the_studies_of_a_label_counts_less():
    value_NG, code_N, study_N = of_studies(1500, [0.0, 2.0, 4.0])
    plain = fit_gene_head(value_NG, code_N, N_LABELS)
    aware = fit_gene_head(value_NG, code_N, N_LABELS, study_N=study_N)
    shifted = np.flatnonzero(plain.gene_H == N_GENES - 1)[0]
    size = [np.abs(h.weight_HT[shifted].astype(float)).max() for h in (plain, aware)]
    assert size[1] < 0.75 * size[0]


def test_one_study_or_one_for_each_label_changes_nothing():
    value_NG, code_N = cells()
    plain = fit_gene_head(value_NG, code_N, N_LABELS)
    for study_N in (np.zeros_like(code_N), code_N + 5):
        head = fit_gene_head(value_NG, code_N, N_LABELS, study_N=study_N)
        np.testing.assert_array_equal(head.weight_HT, plain.weight_HT)


def test_the_scatter_of_studies_is_what_it_is_called():
    value_NG, code_N, study_N = of_studies(200, [0.0, 1.0, 2.0])
    weight_N = np.random.default_rng(0).random(200)
    x_NH = value_NG.toarray().astype(float)
    pairs, pair_N = np.unique(np.stack([code_N, study_N]), axis=1, return_inverse=True)
    sum_PH = (np.eye(pairs.shape[1])[pair_N.ravel()] * weight_N[:, None]).T @ x_NH
    found_HH = gene_head._scatter(sum_PH, np.bincount(pair_N.ravel(), weight_N), pairs[0])
    expected_HH = np.zeros_like(found_HH)
    for label in range(N_LABELS):
        of_label = code_N == label
        mean_H = np.average(x_NH[of_label], axis=0, weights=weight_N[of_label])
        for study in np.unique(study_N[of_label]):
            rows = of_label & (study_N == study)
            apart_H = np.average(x_NH[rows], axis=0, weights=weight_N[rows]) - mean_H
            expected_HH += weight_N[rows].sum() * np.outer(apart_H, apart_H)
    np.testing.assert_allclose(found_HH, expected_HH, rtol=1e-5, atol=1e-6)


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


def test_no_gene_decides_alone_however_much_a_cell_has_of_it(all_blood, blood_index, model):
    """Beyond ten deviations more of a gene adds nothing to a score (real cells)."""
    head = blood_index.gene_head
    tokens = model.tokenizer.tokenize(
        all_blood[:5].X, model.genes.match(all_blood.var_names).token_of_column
    )
    value_BG = tokens.values(model.config.n_genes).tolil()
    every_G = np.ones(model.config.n_genes, bool)
    scores = []
    for times in (0.5, 1, 1.5):
        value_BG[:, head.gene_H[100]] = times * gene_head.CLIP * head.scale_H[100]
        scores.append(head.scores(value_BG.tocsr().astype(np.float32), every_G))
    assert np.abs(scores[1] - scores[0]).max() > 1e-3
    np.testing.assert_allclose(scores[2], scores[1], atol=1e-6)


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
        ("described_HT", lambda x: x[:, :-1]),
    ],
)
def test_a_gene_head_that_contradicts_itself_is_refused(blood_index, tmp_path, name, change):
    changed = dataclasses.replace(
        blood_index.gene_head, **{name: change(getattr(blood_index.gene_head, name))}
    )
    dataclasses.replace(blood_index, gene_head=changed).save(tmp_path / "index")
    with pytest.raises(scgp.errors.CheckpointError, match="gene head"):
        scgp.ReferenceIndex.load(tmp_path / "index")


# ---- scores by description ----


def test_scores_by_description_stand_behind_the_others():
    value_NG, code_N = cells()
    head = fit_gene_head(value_NG, code_N, N_LABELS)
    described_HT = head.weight_HT[:, [1, 2, 0]]
    both = dataclasses.replace(head, described_HT=described_HT)
    assert (head.n_scores, both.n_scores) == (N_LABELS, 2 * N_LABELS)
    score_BS = both.scores(value_NG, ALL)
    np.testing.assert_allclose(score_BS[:, :N_LABELS], head.scores(value_NG, ALL), atol=1e-5)
    without_bias = dataclasses.replace(
        head, weight_HT=described_HT, bias_T=np.zeros(N_LABELS, np.float32)
    )
    expected_BT = without_bias.scores(value_NG, ALL)
    np.testing.assert_allclose(score_BS[:, N_LABELS:], expected_BT, atol=1e-5)


def test_an_index_of_blood_has_a_stream_by_description(all_blood, blood_index, model):
    """Made by build_index from 580 cells; of the other 120 it names about as many as genes do."""
    atlas = all_blood[:120].copy()
    match = model.genes.match(atlas.var_names)
    tokens = model.tokenizer.tokenize(atlas.X, match.token_of_column)
    measured_G = np.zeros(model.config.n_genes, bool)
    measured_G[match.token_of_column[match.token_of_column >= 0]] = True
    head = blood_index.gene_head
    assert head.described_HT.shape == head.weight_HT.shape
    score_BS = head.scores(tokens.values(model.config.n_genes), measured_G)
    vectors = np.eye(len(score_BS), 128, dtype=np.float32)
    streams, _ = streams_of(blood_index, vectors, vectors, score_BS, Fusion())
    ids = np.array(blood_index.label_ids)
    right = {
        name: (ids[streams[name].argmax(axis=1)] == atlas.obs["cell_type"]).mean()
        for name in ("gene", "described")
    }
    assert right["described"] > 0.5
    assert abs(right["described"] - right["gene"]) < 0.2
    np.testing.assert_allclose(streams["described"].sum(axis=1), 1)


def test_an_index_without_descriptions_has_no_such_stream(blood_index):
    """Such as those of 0.4.0."""
    head = dataclasses.replace(blood_index.gene_head, described_HT=None)
    before = dataclasses.replace(blood_index, gene_head=head)
    score_BS = np.zeros((2, head.n_scores), np.float32)
    vectors = np.eye(2, 128, dtype=np.float32)
    streams, _ = streams_of(before, vectors, vectors, score_BS, Fusion())
    assert "described" not in streams
