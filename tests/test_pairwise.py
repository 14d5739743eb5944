"""The likeliest labels, compared over the genes that set them apart: what wins, and what counts."""

import dataclasses
import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.sparse as sp

import scgp
from scgp.cells.counts import choose_counts
from scgp.cells.gene_sets import GeneSets
from scgp.cells.genes import match_genes
from scgp.embed import embed_counts
from scgp.explaining.occlusion import embed_scored
from scgp.reference import pairwise
from scgp.reference.answer import streams_of, winners_of
from scgp.reference.evidence import fuse, pool, winner_evidence
from scgp.reference.fusion import PAIRWISE, Fusion
from scgp.reference.interferon import STIMULATED
from scgp.reference.pairwise import PairwiseProfiles, fit_pairwise
from scgp.reference.pairwise_loops import fill_markers

N_GENES, N_LABELS = 60, 5
ALL = np.ones(N_GENES, bool)
EVERY = np.arange(N_GENES, dtype=np.int32)


def synthetic(n=200, seed=0):
    """Synthetic log1p(CP10k) of two studies; six genes mark each label, the others are noise."""
    rng = np.random.default_rng(seed)
    code_N, study_N = rng.integers(N_LABELS, size=n), rng.integers(2, size=n)
    value_NG = rng.gamma(1.0, 1.0, (n, N_GENES)) * (rng.random((n, N_GENES)) < 0.4)
    for label in range(N_LABELS):
        of_label = np.flatnonzero(code_N == label)
        value_NG[np.ix_(of_label, range(6 * label, 6 * label + 6))] += 1.0
    return sp.csr_matrix(value_NG.astype(np.float32)), code_N, study_N


def by_numpy(profiles, likely_T, value_G, measured_G):
    """Return the winner of one cell by the rule as it is written, without a compiled loop."""
    mean_PH, label_P = profiles.mean_PH.astype(np.float32), profiles.label_P
    centre = {t: np.median(mean_PH[label_P == t], axis=0) for t in np.unique(label_P)}
    left = sorted(centre, key=lambda t: (-likely_T[t], t))[: pairwise.N_CANDIDATES]
    measured, winner = np.flatnonzero(measured_G[profiles.gene_H]), -1
    while len(left) > 1:
        genes = set()
        for a in left:
            for b in left:
                above = (centre[a] - centre[b])[measured]
                order = np.argsort(-above, kind="stable")[: pairwise.N_MARKERS]
                genes |= {int(measured[i]) for i in order if above[i] > 0}
        kept = sorted(genes)
        x_H = value_G[profiles.gene_H][kept]
        if len(kept) < pairwise.FEWEST_GENES or np.ptp(x_H) == 0:
            break
        score = {
            t: max(np.corrcoef(x_H, mean_PH[p][kept])[0, 1] for p in np.flatnonzero(label_P == t))
            for t in left
        }
        winner = max(left, key=lambda t: score[t])
        still = [t for t in left if score[t] >= score[winner] - pairwise.MARGIN]
        if len(still) == len(left):
            break
        left = still
    return winner


@pytest.mark.parametrize("case", ["all measured", "some", "few", "many markers", "ties"])
def test_the_winner_is_that_of_the_rule(case, monkeypatch):
    monkeypatch.setattr(pairwise, "N_CANDIDATES", 4)
    monkeypatch.setattr(pairwise, "N_MARKERS", 40 if case == "many markers" else 10)
    (value_NG, code_N, study_N), (asked_BG, _, _) = synthetic(), synthetic(100, seed=1)
    if case == "ties":  # every gene twice: which of the two is a marker follows from the order
        value_NG = sp.hstack([value_NG[:, :30], value_NG[:, :30]], format="csr")
    profiles = fit_pairwise(value_NG, code_N, EVERY, study_N=study_N)
    rng = np.random.default_rng(2)
    likely_BT = rng.normal(size=(100, N_LABELS))
    measured_G = {"some": rng.random(N_GENES) < 0.6, "few": np.arange(N_GENES) < 4}.get(case, ALL)
    asked_BG = sp.csr_matrix(asked_BG.multiply(measured_G), dtype=np.float32)
    found_B = profiles.winners(likely_BT, asked_BG, measured_G)
    dense_BG = asked_BG.toarray().astype(float)
    expected = [by_numpy(profiles, likely_BT[b], dense_BG[b], measured_G) for b in range(100)]
    assert (found_B >= 0).all() == (case != "few")
    np.testing.assert_array_equal(found_B, expected)


def test_it_tells_labels_apart_that_are_as_likely():
    value_NG, code_N, study_N = synthetic(400)
    profiles = fit_pairwise(value_NG, code_N, EVERY, study_N=study_N)
    asked_BG, true_B, _ = synthetic(200, seed=1)
    alike_BT = np.zeros((200, N_LABELS))
    assert (profiles.winners(alike_BT, asked_BG, ALL) == true_B).mean() > 0.85
    # what is not among the likeliest cannot win, nor can what is out of the question
    never_BT = np.where(np.arange(N_LABELS) == 1, -np.inf, alike_BT)
    assert 1 not in profiles.winners(never_BT, asked_BG, ALL)


def test_a_cell_does_not_depend_on_its_company_or_on_what_was_asked_before():
    value_NG, code_N, study_N = synthetic()
    likely_BT = np.random.default_rng(0).normal(size=(200, N_LABELS))
    half_G = np.arange(N_GENES) % 2 == 0

    def asked(profiles, rows, measured_G):
        return profiles.winners(likely_BT[rows], value_NG[rows], measured_G)

    profiles = fit_pairwise(value_NG, code_N, EVERY, study_N=study_N)
    whole_B = asked(profiles, np.arange(200), ALL)
    halved_B = asked(profiles, np.arange(200), half_G)
    assert (whole_B != halved_B).any()
    anew = fit_pairwise(value_NG, code_N, EVERY, study_N=study_N)
    alone_B = np.concatenate([asked(anew, [row], ALL) for row in range(199, -1, -1)])[::-1]
    np.testing.assert_array_equal(alone_B, whole_B)
    np.testing.assert_array_equal(asked(anew, np.arange(200), half_G), halved_B)
    np.testing.assert_array_equal(asked(profiles, np.arange(200), ALL), whole_B)


def test_profiles_are_the_means_of_real_cells_by_label_and_study():
    value_NG, code_N, study_N = synthetic()
    drawn_N = np.arange(200) % 3 == 0
    profiles = fit_pairwise(value_NG, code_N, EVERY[5:], study_N=study_N, drawn_N=drawn_N)
    np.testing.assert_array_equal(profiles.label_P, np.repeat(np.arange(N_LABELS), 2))
    for p in range(10):
        of_both = (code_N == p // 2) & (study_N == p % 2) & ~drawn_N
        expected = value_NG[of_both].toarray()[:, 5:].mean(axis=0)
        np.testing.assert_allclose(profiles.mean_PH[p], expected, atol=2e-3)


def test_no_profile_of_one_label_or_of_drawn_cells():
    value_NG, code_N, _ = synthetic()
    assert fit_pairwise(value_NG, np.zeros_like(code_N), EVERY) is None
    assert fit_pairwise(value_NG, code_N, EVERY, drawn_N=code_N != 2) is None


def test_no_profile_where_no_gene_is_left_or_one_study_is_known(all_blood, model):
    value_NG, code_N, _ = synthetic()
    assert fit_pairwise(value_NG, code_N, EVERY[:0]) is None
    atlas = all_blood[:300].copy()
    atlas.obs["study"] = np.where(np.arange(300) % 2, "odd", None)
    made = {"label_key": "cell_type", "study_key": "study", "model": model, "progress": False}
    assert scgp.build_index(atlas, **made).pairwise is None
    atlas.obs["study"] = np.where(np.arange(300) % 2, "odd", "even")
    panel = atlas[:, atlas.var_names.isin([*STIMULATED])].copy()
    assert panel.n_vars > 5
    with pytest.warns(scgp.ScgpWarning):
        assert scgp.build_index(panel, **made).pairwise is None


def test_a_pair_that_is_written_again_is_never_seen_half_done():
    """Two threads may find the markers of a pair at once, and one of them read it already."""
    rng = np.random.default_rng(0)
    centre_LH = rng.random((12, 20_000)).astype(np.float32)
    high_Q, low_Q = np.nonzero(~np.eye(12, dtype=bool))
    gene_LLM = np.zeros((12, 12, pairwise.N_MARKERS), np.int32)
    write = functools.partial(
        fill_markers, centre_LH, np.ones(20_000, bool), high_Q, low_Q, gene_LLM
    )
    write()
    there_LLM = gene_LLM.copy()
    with ThreadPoolExecutor(1) as other:
        for _ in range(5):
            again = other.submit(write)
            while not again.done():
                np.testing.assert_array_equal(gene_LLM.copy(), there_LLM)


def test_a_gene_that_a_study_lacks_has_the_mean_of_the_labels_other_studies():
    value_NG, code_N, study_N = synthetic()
    kept = ~((code_N == 4) & (study_N == 0))  # label 4 is of the study that lacks genes alone
    value_NG, code_N, study_N = value_NG[kept], code_N[kept], study_N[kept]
    lacks_G = np.arange(N_GENES) < 12
    narrow_NG = value_NG.multiply(~((study_N == 1)[:, None] & lacks_G)).tocsr()
    sets = GeneSets(study_N, np.stack([ALL, ~lacks_G]))
    profiles = fit_pairwise(narrow_NG, code_N, EVERY, study_N=study_N, gene_sets=sets)
    first, second = profiles.mean_PH[0], profiles.mean_PH[1]  # of label 0
    np.testing.assert_array_equal(second[lacks_G], first[lacks_G])
    assert not np.allclose(second[~lacks_G], first[~lacks_G])
    wide_PH = profiles.mean_PH[[0, 2, 4, 6]]
    np.testing.assert_allclose(
        profiles.mean_PH[8, lacks_G], wide_PH[:, lacks_G].astype(float).mean(axis=0), atol=2e-3
    )


def test_a_label_has_profiles_of_the_studies_of_the_most_cells(monkeypatch):
    monkeypatch.setattr(pairwise, "MOST_STUDIES", 1)
    value_NG, code_N, _ = synthetic()
    study_N = (np.arange(200) % 4 == 0).astype(int)
    profiles = fit_pairwise(value_NG, code_N, EVERY, study_N=study_N)
    larger = np.flatnonzero((code_N == 3) & (study_N == 0))
    np.testing.assert_array_equal(profiles.label_P, np.arange(N_LABELS))
    expected = value_NG[larger].toarray().mean(axis=0)
    np.testing.assert_allclose(profiles.mean_PH[3], expected, atol=2e-3)


def test_some_labels_are_taken_in_the_order_asked_for():
    value_NG, code_N, study_N = synthetic()
    profiles = fit_pairwise(value_NG, code_N, EVERY, study_N=study_N)
    taken = profiles.taken(np.array([3, -1, 1]))
    np.testing.assert_array_equal(taken.label_P, [0, 0, 2, 2])
    np.testing.assert_array_equal(taken.mean_PH, profiles.mean_PH[[6, 7, 2, 3]])
    assert profiles.taken(np.array([-1])) is None
    assert not taken.fault(3)


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("mean_PH", np.zeros((2, 60), np.float16), "shape"),
        ("mean_PH", np.full((10, 60), np.nan, np.float16), "NaN"),
        ("gene_H", EVERY[::-1], "ascending"),
        ("gene_H", EVERY - 1, "ascending"),
        ("label_P", np.repeat(np.arange(1, 6, dtype=np.int32), 2), "5 labels"),
        ("label_P", np.repeat(np.arange(-1, 4, dtype=np.int32), 2), "5 labels"),
        ("label_P", np.tile(np.arange(5, dtype=np.int32), 2), "label by label"),
    ],
)
def test_faults_are_told(part, value, words):
    profiles = fit_pairwise(*synthetic()[:2], EVERY, study_N=synthetic()[2])
    assert not profiles.fault(N_LABELS)
    assert words in dataclasses.replace(profiles, **{part: value}).fault(N_LABELS)


def test_the_winner_has_its_odds_multiplied_and_confidence_does_not_hear_of_it():
    head_BT = np.array([[0.5, 0.3, 0.2]])
    fusion = Fusion(weight_head=0.9, weight_described=0.0, weight_pairwise=pairwise.WEIGHT)
    streams = {"head": head_BT, PAIRWISE: winner_evidence(np.array([1]), 3)}
    without, with_it = fuse({"head": head_BT}, fusion)[0], fuse(streams, fusion)[0]
    odds = (with_it[1] / with_it[0]) / (without[1] / without[0])
    assert 4.0 < odds < 5.0  # e to the 1.5
    np.testing.assert_allclose(with_it[2] / with_it[0], without[2] / without[0])
    np.testing.assert_allclose(pool(streams, fusion), pool({"head": head_BT}, fusion))
    nobody = fuse({**streams, PAIRWISE: winner_evidence(np.array([-1]), 3)}, fusion)[0]
    np.testing.assert_allclose(nobody, without)


def test_alone_it_is_no_evidence():
    alone = {PAIRWISE: winner_evidence(np.array([1]), 3)}
    for fused in (fuse, pool):
        with pytest.raises(scgp.errors.ArgumentError, match=r"streams are .*, expected some of"):
            fused(alone, Fusion(weight_pairwise=pairwise.WEIGHT))


def test_it_does_not_stand_in_for_a_stream_that_is_silent():
    streams = {"head": np.array([[0.5, 0.5]]), "described": np.array([[0.5, np.nan]])}
    fusion = Fusion(weight_head=0.4, weight_described=0.4, weight_pairwise=pairwise.WEIGHT)
    lost = {**streams, PAIRWISE: np.array([[0.0, 0.0]])}
    np.testing.assert_allclose(fuse(lost, fusion), fuse(streams, fusion))


@pytest.fixture(scope="module")
def heard(all_blood, model):
    """An index of 580 blood cells of two studies (every second one, for show)."""
    atlas = all_blood[120:].copy()
    atlas.obs["study"] = np.where(np.arange(580) % 2, "odd", "even")
    index = scgp.build_index(
        atlas, label_key="cell_type", study_key="study", model=model, progress=False
    )
    assert index.calibration.weight_pairwise == pairwise.WEIGHT
    return index


def asked_of(adata, model, index):
    """Return vectors, scores and winners of real cells."""
    counts = choose_counts(adata)
    match = match_genes(counts, model.genes)
    rows = iter([counts.rows(0, counts.n_cells)])
    return embed_scored(model, index, rows, match.token_of_column, device="cpu")


def test_real_blood_cells_are_told_apart(heard, blood, model):
    vectors, score_BS, winner_B = asked_of(blood, model, heard)
    true_B = blood.obs["cell_type"].to_numpy(str)
    found_B = np.array(heard.label_ids)[winner_B]
    assert (winner_B >= 0).all()
    assert (found_B == true_B).mean() > 0.6
    streams, _ = streams_of(
        heard, vectors.cell_BE, vectors.type_BE, score_BS, heard.calibration, winner_B=winner_B
    )
    np.testing.assert_array_equal(streams[PAIRWISE].argmax(axis=1), winner_B)
    np.testing.assert_array_equal(streams[PAIRWISE].max(axis=1), 1.0)


def test_an_atlas_of_one_study_has_none(blood_index, all_blood, model):
    """One study's own means say what its neighbours say: nothing was gained by them."""
    assert blood_index.pairwise is None
    atlas = all_blood[120:].copy()
    atlas.obs["study"] = "the one"
    index = scgp.build_index(
        atlas, label_key="cell_type", study_key="study", model=model, progress=False
    )
    assert index.pairwise is None


def test_annotate_and_explain_hear_it(heard, blood, model):
    silent = dataclasses.replace(
        heard, calibration=dataclasses.replace(heard.calibration, weight_pairwise=0.0)
    )
    told = {}
    for name, index in (("heard", heard), ("silent", silent)):
        scgp.annotate(blood, index=index, min_confidence=0, progress=False)
        told[name] = blood.obs["scgp_cell_type"].astype(str).to_numpy()
        why = scgp.explain(blood, list(range(120)), index=index, min_confidence=0, n_genes=0)
        np.testing.assert_array_equal(why.answer["label"], told[name])
        of_pairs = why.streams[why.streams["stream"] == "pairwise"]
        assert len(of_pairs) == (120 if name == "heard" else 0)
        assert (of_pairs["probability"] == 1).all()
    changed = told["heard"] != told["silent"]
    assert changed.any()
    _, _, winner_B = asked_of(blood, model, heard)
    winner = np.array(heard.labels)[winner_B]
    assert (told["heard"] == winner)[changed].mean() > (told["silent"] == winner)[changed].mean()


def test_explain_tells_what_was_compared(heard, blood, model):
    _, _, winner_B = asked_of(blood, model, heard)
    why = scgp.explain(blood, list(range(30)), index=heard, n_genes=0)
    assert set(why.pairs["cell"]) == set(blood.obs_names[:30])
    for b, name in enumerate(blood.obs_names[:30]):
        own = why.pairs[why.pairs["cell"] == name]
        last = own[own["round"] == own["round"].max()]
        assert last["label"].iloc[0] == heard.labels[winner_B[b]]
        for number, part in own.groupby("round"):
            assert part["correlation"].is_monotonic_decreasing
            assert part["rank"].tolist() == list(range(1, len(part) + 1))
            later = own[own["round"] == number + 1]
            near = part["correlation"] >= part["correlation"].iloc[0] - pairwise.MARGIN
            assert not len(later) or set(later["label"]) == set(part["label"][near])
            assert len(later) or near.sum() in {1, len(part)}
    b_cells = why.pairs[(why.pairs["label"] == "B cell") & (why.pairs["rank"] == 1)]
    assert b_cells["markers"].str.contains("CD79A").all()
    assert "likest over their markers" in repr(why)
    silent = dataclasses.replace(heard, pairwise=None)
    assert not len(scgp.explain(blood, [0], index=silent, n_genes=0).pairs)


def test_genes_are_removed_from_what_it_reads(heard, blood):
    why = scgp.explain(blood, [3], index=heard, n_genes=3)
    gene = why.genes.iloc[0]
    column = blood.var_names.get_loc(gene["gene"])
    without = blood[[3]].copy()
    without.X = without.X.multiply(np.arange(blood.n_vars) != column).tocsr()
    counted = set(why.streams.loc[why.streams["counted"], "label"])
    after = scgp.explain(without, [0], index=heard, n=50, n_genes=0).streams
    fused = after[(after["stream"] == "fused") & after["label"].isin(counted)]
    assert fused["probability"].sum() == pytest.approx(gene["probability_without"], abs=2e-3)


def test_labels_of_another_organ_do_not_win(heard, blood, model):
    _, _, winner_B = asked_of(blood, model, heard)
    most = heard.labels[np.bincount(winner_B).argmax()]
    fusion = dataclasses.replace(heard.calibration, elsewhere=(most,))
    elsewhere = dataclasses.replace(heard, calibration=fusion)
    _, _, after_B = asked_of(blood, model, elsewhere)
    assert (after_B >= 0).all()
    assert most not in np.array(heard.labels)[after_B]


def test_empty_cells_and_indexes_without_it(heard, blood, model):
    blood.X = blood.X.multiply((np.arange(120) != 5)[:, None]).tocsr()
    vectors, score_BS, winner_B = asked_of(blood, model, heard)
    assert winner_B[5] == -1
    assert (np.delete(winner_B, 5) >= 0).all()
    values = sp.csr_matrix((120, model.config.n_genes), dtype=np.float32)
    every_G = np.ones(model.config.n_genes, bool)
    asked = (vectors.cell_BE, score_BS, values, every_G)
    assert winners_of(dataclasses.replace(heard, pairwise=None), *asked) is None
    unheard = dataclasses.replace(heard, calibration=Fusion())
    assert winners_of(unheard, *asked) is None
    assert len(winners_of(heard, *(x[:0] for x in asked[:3]), every_G)) == 0


def test_it_is_saved_with_the_index_and_read_again(heard, tmp_path):
    heard.save(tmp_path / "a.scgp")
    found = scgp.ReferenceIndex.load(tmp_path / "a.scgp").pairwise
    for name, value in heard.pairwise.arrays().items():
        np.testing.assert_array_equal(getattr(found, name), value)
    dataclasses.replace(heard, pairwise=None).save(tmp_path / "b.scgp")
    assert scgp.ReferenceIndex.load(tmp_path / "b.scgp").pairwise is None
    short = dataclasses.replace(heard.pairwise, mean_PH=heard.pairwise.mean_PH[1:])
    dataclasses.replace(heard, pairwise=short).save(tmp_path / "c.scgp")
    with pytest.raises(scgp.errors.CheckpointError, match="pairwise profiles have the shape"):
        scgp.ReferenceIndex.load(tmp_path / "c.scgp")
    kind = PairwiseProfiles(
        heard.pairwise.gene_H.astype(np.int64), heard.pairwise.mean_PH, heard.pairwise.label_P
    )
    dataclasses.replace(heard, pairwise=kind).save(tmp_path / "d.scgp")
    with pytest.raises(scgp.errors.CheckpointError, match="pairwise_gene_H"):
        scgp.ReferenceIndex.load(tmp_path / "d.scgp")


def test_an_index_that_grows_keeps_it_while_it_knows_every_label(heard, all_blood, model):
    vectors, _ = embed_counts(
        choose_counts(all_blood[:3]), model, batch_size=1024, device=None, progress=False
    )
    known = heard.labels[1]
    grown = heard.add(vectors.cell_BE, [known] * 3)
    np.testing.assert_array_equal(grown.pairwise.label_P, heard.pairwise.label_P)
    assert heard.add(vectors.cell_BE, ["new"] * 3).pairwise is None
    fewer = heard.remove(np.flatnonzero(heard.code_N == 0))
    assert fewer.labels == heard.labels[1:]
    left = heard.pairwise.label_P > 0
    np.testing.assert_array_equal(fewer.pairwise.label_P, heard.pairwise.label_P[left] - 1)
    np.testing.assert_array_equal(fewer.pairwise.mean_PH, heard.pairwise.mean_PH[left])
