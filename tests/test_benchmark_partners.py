"""The benchmark of partners on synthetic matrices and cells whose answer is planted.

No real data: every number here is drawn. Shapes: G genes, N cells, P processes, R resamples.
"""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from benchmarks.partners_baselines import LinearReading, OfTraining, Pooled
from benchmarks.partners_cells import PAIRS, Context, correlation, of_type, unit_columns
from benchmarks.partners_measure import (
    centred,
    changing,
    left_of,
    over_pairs,
    partial_spearman,
    partner_auroc,
    profile_agreement,
    role_profile,
    without_means,
)
from benchmarks.partners_pair import Genes, Pair
from benchmarks.partners_report import report, summary
from benchmarks.partners_scores import (
    Score,
    gene_scores,
    go_partners,
    measured_elsewhere,
    reliability,
    role_changes,
)
from benchmarks.partners_seed import HALVES, PEARSON, POOLED, SCGP, UNTRAINED, Said
from benchmarks.partners_train import HELD_OUT, training_cells

N_GENES, N_BLOCKS = 120, 6


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def _blocks(rng, block_G, *, n_cells=150, noise=1.0):
    """Values of genes that move with the factor of their block."""
    factor_NB = rng.normal(size=(n_cells, N_BLOCKS))
    return factor_NB[:, block_G] + noise * rng.normal(size=(n_cells, len(block_G)))


def _corr(rng, block_G, **kwargs):
    value_NG = _blocks(rng, block_G, **kwargs)
    return correlation(unit_columns(value_NG, np.ones((len(value_NG), 1))))


def test_partners_are_found_and_shuffled_ones_are_not(rng):
    block_G = rng.integers(N_BLOCKS, size=N_GENES)
    corr_GG = _corr(rng, block_G)
    detected_G = rng.uniform(size=N_GENES)
    share_GG = block_G[:, None] == block_G
    assert np.nanmean(partner_auroc(corr_GG, share_GG, detected_G)) > 0.95
    deal = rng.permutation(N_GENES)
    shuffled = partner_auroc(corr_GG, share_GG[deal][:, deal], detected_G)
    assert np.nanmean(shuffled) == pytest.approx(0.5, abs=0.05)


def test_partners_that_are_only_detected_more_are_none(rng):
    """Genes of a process are highly detected, and highly detected genes move with everything."""
    detected_G = np.linspace(0, 1, N_GENES)
    corr_GG = detected_G[:, None] + detected_G + 0.001 * rng.normal(size=(N_GENES, N_GENES))
    often_G = rng.uniform(size=N_GENES) < detected_G**3
    share_GG = often_G[:, None] & often_G
    matched = np.nanmean(partner_auroc(corr_GG, share_GG, detected_G))
    naive = [
        (corr_GG[i, often_G][:, None] > corr_GG[i, ~often_G]).mean()
        for i in np.flatnonzero(often_G)
    ]
    assert np.mean(naive) > 0.75
    assert matched < 0.65
    # what a gene has with every other goes with the main effects
    assert np.nanmean(partner_auroc(centred(corr_GG), share_GG, detected_G)) == pytest.approx(
        0.5, abs=0.05
    )


def test_a_gene_is_never_its_own_partner():
    n = 40
    share_GG = np.eye(n, dtype=bool)
    assert np.isnan(partner_auroc(np.eye(n), share_GG, np.arange(n, dtype=float))).all()


def test_main_effects_are_out():
    main_G = np.arange(30.0)
    np.testing.assert_allclose(centred(main_G[:, None] + main_G), 0, atol=1e-4)


def test_covariates_do_not_make_genes_move_together(rng):
    depth_N = rng.normal(size=300)
    value_NG = depth_N[:, None] * rng.uniform(1, 2, size=20) + 0.1 * rng.normal(size=(300, 20))
    value_NG[:, 3] = 7  # never changes
    plain, design = np.ones((300, 1)), np.column_stack([np.ones(300), depth_N])
    off = ~np.eye(20, dtype=bool)
    off[3] = off[:, 3] = False
    assert correlation(unit_columns(value_NG, plain))[off].min() > 0.9
    left = correlation(unit_columns(value_NG, design))
    assert abs(left[off]).max() < 0.3
    assert not left[3].any()


def test_pairs_agree_where_planted_and_the_interval_covers(rng):
    block_G = rng.integers(N_BLOCKS, size=N_GENES)
    first, second = (centred(_corr(rng, block_G)) for _ in range(2))
    weight_RG = rng.exponential(size=(100, N_GENES)).astype(np.float32)
    value, resampled_R = over_pairs(first, second, weight_RG)
    assert value > 0.7
    assert np.percentile(resampled_R, 2.5) < value < np.percentile(resampled_R, 97.5)
    ones = np.ones((1, N_GENES), np.float32)
    assert over_pairs(first, second, ones)[1][0] == pytest.approx(value, abs=1e-4)
    deal = rng.permutation(N_GENES)
    assert abs(over_pairs(first, second[deal][:, deal], ones)[0]) < 0.1
    # nothing is left beyond a method that says the same
    assert abs(over_pairs(left_of(first, second), left_of(second, second), ones)[0]) < 1e-2 or (
        abs(left_of(second, second)).max() < 1e-4
    )


def test_a_change_of_roles_replicates_and_not_by_chance(rng):
    """Genes 0 to 29 leave their block for another in the second type, the same in two studies."""
    first_G = np.repeat(np.arange(N_BLOCKS), N_GENES // N_BLOCKS)
    member_GP = first_G[:, None] == np.arange(N_BLOCKS)
    moved_G = first_G.copy()
    moved_G[:30] = (first_G[:30] + rng.integers(1, N_BLOCKS, size=30)) % N_BLOCKS
    changes = []
    for _ in range(2):
        profiles = [
            role_profile(centred(_corr(rng, block, n_cells=1500)), member_GP)
            for block in (first_G, moved_G)
        ]
        changes.append(without_means(profiles[0] - profiles[1]))
    moments, rank_G = profile_agreement(*changes)
    assert moments.value() > 0.3
    assert rank_G[:30].mean() > 0.8
    shuffled, shuffled_rank_G = profile_agreement(
        changes[0], changes[1][rng.permutation(N_GENES)]
    )  # fmt: skip
    assert abs(shuffled.value()) < 0.15
    assert shuffled_rank_G.mean() == pytest.approx(0.5, abs=0.1)
    weight_RG = np.ones((2, N_GENES))
    np.testing.assert_allclose(moments.resampled(weight_RG), moments.value())


def test_role_profiles_leave_the_gene_itself_out():
    """A gene alone in moving with its own process would stand out by itself."""
    member_GP = np.zeros((30, 1), bool)
    member_GP[:10] = True
    flat_GG = np.zeros((30, 30))
    np.testing.assert_allclose(role_profile(flat_GG, member_GP), 0, atol=1e-6)


def test_genes_whose_company_changes_are_told_from_noise(rng):
    first_G = np.repeat(np.arange(N_BLOCKS), N_GENES // N_BLOCKS)
    kinds = []
    for _ in range(3):
        block_G = first_G.copy()
        block_G[::6] = rng.integers(N_BLOCKS, size=len(block_G[::6]))
        kinds.append(block_G)
    halves = [[centred(_corr(rng, block)) for block in kinds] for _ in range(2)]
    score_G = changing(*halves)
    moves_G = np.arange(N_GENES) % 6 == 0
    assert np.median(score_G[moves_G]) > 3 * np.median(score_G[~moves_G])
    # halves of another gene's partners share nothing: noise adds nothing
    deal = rng.permutation(N_GENES)
    other = changing(halves[0], [half[deal][:, deal] for half in halves[1]])
    assert abs(other.mean()) < 0.1 * score_G.mean()


def test_level_explains_no_agreement(rng):
    level_G = rng.normal(size=400)
    x_G, y_G = (level_G + 0.3 * rng.normal(size=400) for _ in range(2))
    assert np.corrcoef(x_G, y_G)[0, 1] > 0.8
    assert abs(partial_spearman(x_G, y_G, level_G[:, None]).value()) < 0.15
    both = x_G + 0.3 * rng.normal(size=400)
    assert partial_spearman(x_G, both, level_G[:, None]).value() > 0.5


def test_the_linear_reading_hides_the_gene_itself(rng):
    axis_VD = np.linalg.qr(rng.normal(size=(20, 3)))[0]
    value_NG = rng.normal(size=(50, 20)).astype(np.float32)
    context = Context(
        None, np.arange(20), np.arange(20), value_NG, np.ones((50, 1)), np.ones(20)
    )  # fmt: skip
    before = LinearReading(axis_VD).read(context)
    value_NG[:, 4] += rng.normal(size=50)
    after = LinearReading(axis_VD).read(context)
    np.testing.assert_allclose(before[:, 4], after[:, 4], atol=1e-5)
    assert abs(before - after)[:, :4].max() > 0.01


def test_training_studies_are_averaged_where_they_measured_both_genes(rng):
    unit = unit_columns(rng.normal(size=(80, 3)), np.ones((80, 1)))
    other = unit_columns(rng.normal(size=(40, 2)), np.ones((40, 1)))
    of = OfTraining([(unit, np.array([1, 2, 5]), 80), (other, np.array([2, 5]), 40)])
    found = of.correlation(np.array([1, 2, 5, 9]))
    assert found[0, 1] == pytest.approx(correlation(unit)[0, 1], abs=1e-5)
    mean = (2 * correlation(unit)[1, 2] + correlation(other)[0, 1]) / 3
    assert found[1, 2] == pytest.approx(mean, abs=1e-5)
    assert not found[3].any()


def test_types_take_what_is_below_them():
    obs = pd.DataFrame({"cell_type_ontology_term_id": ["CL:0000084", "CL:0000624", "CL:0000236"]})
    below = {"CL:0000084": {"CL:0000624"}}
    assert of_type(obs, "T cell", below.__getitem__).tolist() == [True, True, False]


def test_no_cell_of_a_held_out_group_trains(tmp_path):
    """Whole files, and one study of a file of several."""
    studies = {
        "zheng_sorted_mudan": ["Zheng 2017 (bead-sorted PBMC)"] * 3,
        "pbmc_7studies_mangiola": ["10x PBMC6k", "SCP591", "SCP591"],
        "zheng2017_frozen_pbmc_a": ["Zheng 2017 (frozen PBMC donor A)"] * 3,
        "geact_fetal_7organs": ["GeACT (fetal organs)"] * 3,
        "pbmc_pisces": ["PBMC (PISCES demo)"] * 3,
    }
    for name, study in studies.items():
        cells = ad.AnnData(np.ones((3, 2), np.float32), obs={"study": study})
        cells.obs_names = [f"{name}{i}" for i in range(3)]
        cells.write_h5ad(tmp_path / f"{name}.h5ad")
    found = training_cells(tmp_path)
    assert [cells.obs_names.tolist() for cells in found] == [
        ["pbmc_7studies_mangiola1", "pbmc_7studies_mangiola2"]
    ]
    assert "Kang 2018" not in HELD_OUT


@pytest.fixture
def two_studies(rng):
    """Zheng and PBMC3k, drawn: genes 0 to 19 are of other blocks in monocytes and NK cells.

    What "scgp" says is drawn anew from the same blocks, what the untrained network says at random.
    """
    first_G = np.repeat(np.arange(N_BLOCKS), 10)
    contexts, value = {}, {SCGP: {}, UNTRAINED: {}, PEARSON: {}}
    for study in ("Zheng", "PBMC3k"):
        for kind in PAIRS["Zheng", "PBMC3k"]:
            moved = kind in {"monocyte", "NK cell"}
            block_G = np.where(moved & (np.arange(60) < 20), 2 + np.arange(60) % 4, first_G)
            drawn = [_blocks(rng, block_G).astype(np.float32) for _ in range(2)]
            ones, detected_G = np.ones((150, 1)), np.tile(np.linspace(0.1, 1, 10), 6)
            contexts[study, kind] = Context(
                None, np.arange(60), np.arange(60), drawn[0], ones, detected_G
            )  # fmt: skip
            value[PEARSON][study, kind], value[SCGP][study, kind] = drawn
            value[UNTRAINED][study, kind] = rng.normal(size=(150, 60)).astype(np.float32)
    unit = np.zeros((2, 60), np.float32)
    pooled = Pooled(np.arange(60), unit, unit)
    training = {kind: OfTraining([]) for kind in PAIRS["Zheng", "PBMC3k"]}
    said = Said(contexts, value, {}, training, pooled)
    member_GP = first_G[:, None] == np.arange(N_BLOCKS)
    weight_RG = rng.exponential(size=(20, 60)).astype(np.float32)
    return said, Genes(member_GP, np.zeros(60, bool), weight_RG)


def test_every_question_finds_what_is_planted_and_nothing_at_random(two_studies):
    said, genes = two_studies
    pair = Pair(("Zheng", "PBMC3k"), said, said, said.contexts, genes)
    asked = (measured_elsewhere, reliability, role_changes, gene_scores)
    scores = [*go_partners(said, genes), *(s for ask in asked for s in ask(pair))]
    values: dict[tuple[str, str], list[float]] = {}
    for score in scores:
        assert np.isfinite(score.resampled_R).all()
        values.setdefault((score.measure, score.method), []).append(score.value)
    mean = {key: np.mean(found) for key, found in values.items()}
    assert len(values["pairs", SCGP]) == 10
    assert len(values["difference", SCGP]) == 20
    assert mean["GO", SCGP] > 0.8
    assert mean["GO", UNTRAINED] == pytest.approx(0.5, abs=0.05)
    least = {"pairs": 0.6, "difference": 0.2, "roles": 0.1, "roles, measured": 0.1}
    for measure, bound in least.items():
        assert mean[measure, SCGP] > bound, measure
        assert abs(mean[measure, UNTRAINED]) < max(bound / 2, 0.08), measure
    for measure in ("gene score", "gene score, measured"):  # one number for 60 genes
        assert mean[measure, SCGP] > 0.4, measure
        assert abs(mean[measure, UNTRAINED]) < 0.4, measure
    assert mean["pairs", HALVES] > 0.4
    assert ("difference", POOLED) not in mean  # the same in both types


def _scored(method, values, *, drawn):
    return [
        Score("pairs", method, f"A -> B, {kind}", (kind,) if drawn else (), v, np.full(200, v), 9)
        for kind, v in zip("tuvw", values, strict=True)
    ]


def test_means_leads_and_intervals_of_the_table():
    ours = [_scored("scgp", [0.1, 0.2, 0.3, 0.4], drawn=True) for _ in range(2)]
    theirs = _scored("other", [0.0, 0.1, 0.2, 0.3], drawn=True)
    found = summary([ours[0] + theirs, ours[1]])
    rows = {row["method"]: row for row in found["rows"]}
    assert rows["scgp"]["mean"] == pytest.approx(0.25)
    assert rows["scgp"]["low"] < 0.2 < 0.3 < rows["scgp"]["high"]
    lead = rows["other"]["lead"]
    assert (lead["mean"], lead["low"], lead["high"]) == pytest.approx((0.1, 0.1, 0.1))
    text = report({**found, "command": "python", "seeds": [0, 1]})
    assert "| other | 0.150 (" in text
    assert "| other | 0.100 (0.100 to 0.100) |" in text
