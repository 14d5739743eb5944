"""The tables of perturb(): the null, p, z, groups and their types, genes that are read."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

import scgp
from scgp.cells.counts import choose_counts
from scgp.errors import ScgpWarning
from scgp.perturb import perturb
from scgp.what_if.matched_genes import expressing, levels, matched, unmatched
from scgp.what_if.perturbation_tables import Drawn, expression_rows

sys.path.insert(0, str(Path(__file__).parent))
from perturbed_cells import GENE, count_of


def test_the_null_is_matched_in_mean_and_detection(model, all_blood):
    counts = choose_counts(all_blood)
    token_V = model.genes.match(all_blood.var_names).token_of_column
    zero = np.zeros(700, np.int64)
    level = levels(counts, token_V, model.config.n_genes, zero, 1, batch_size=300)
    x = all_blood.X.toarray()
    value = 1e4 * x / x[:, token_V >= 0].sum(axis=1, keepdims=True)
    gene = int(model.genes.match([GENE]).token_of_column[0])
    column = list(all_blood.var_names).index(GENE)
    assert level.mean_PG[0, gene] == pytest.approx(value[:, column].mean(), rel=1e-5)
    assert level.detected_PG[0, gene] == pytest.approx((x[:, column] > 0).mean())
    left_out = np.zeros(model.config.n_genes, bool)
    left_out[gene] = True
    drawn = matched(level, 0, np.array([gene]), 10, left_out)[:, 0]
    assert gene not in drawn
    for table in (level.mean_PG[0], level.detected_PG[0]):
        assert np.all(table[drawn] > table[gene] / 2)
        assert np.all(table[drawn] < table[gene] * 2)


def test_no_gene_is_drawn_twice_though_two_are_alike(model, all_blood):
    """Of two genes of one expression each has its own draws; too few genes are shared out."""
    counts = choose_counts(all_blood)
    token_V = model.genes.match(all_blood.var_names).token_of_column
    zero = np.zeros(700, np.int64)
    level = levels(counts, token_V, model.config.n_genes, zero, 1, batch_size=700)
    genes = model.genes.match(["CD3D", "CD3E"]).token_of_column
    left_out = np.isin(np.arange(model.config.n_genes), genes)
    drawn = matched(level, 0, genes, 20, left_out)
    assert drawn.shape == (20, 2)
    assert len(np.unique(drawn)) == 40
    alone = matched(level, 0, genes[:1], 20, left_out)
    assert len(np.intersect1d(alone, matched(level, 0, genes[1:], 20, left_out)))
    left_out |= ~np.isin(np.arange(len(left_out)), drawn[:3])
    few = matched(level, 0, genes, 20, left_out)
    assert sorted(few.ravel()) == sorted(drawn[:3].ravel())


@pytest.mark.parametrize("n_cells", [700, 60])
def test_mean_and_detection_are_matched_in_deviations_of_the_genes(model, all_blood, n_cells):
    """By hand: the ten nearest of the genes that two cells of the group have."""
    counts = choose_counts(all_blood)
    token_V = model.genes.match(all_blood.var_names).token_of_column
    n_genes = model.config.n_genes
    group_B = np.where(np.arange(700) < n_cells, 0, -1)
    level = levels(counts, token_V, n_genes, group_B, 1, batch_size=700)
    gene = int(model.genes.match([GENE]).token_of_column[0])
    n_cells_G = np.rint(n_cells * level.detected_PG[0])
    assert (n_cells_G == 1).any() == (n_cells == 60)
    can = np.flatnonzero((n_cells_G >= 2) & (np.arange(n_genes) != gene))
    log_mean_G = np.log(np.maximum(level.mean_PG[0], 1e-6))
    odds_G = np.log((n_cells_G + 0.5) / (n_cells - n_cells_G + 0.5))
    away = sum(((x[can] - x[gene]) / x[can].std()) ** 2 for x in (log_mean_G, odds_G))
    found = matched(level, 0, np.array([gene]), 10, np.arange(n_genes) == gene)
    assert set(found[:, 0]) == set(can[np.argsort(away)[:10]])
    every = matched(level, 0, np.array([gene]), n_genes, np.arange(n_genes) == gene)
    assert sorted(every[:, 0]) == can.tolist()


def test_cells_that_express_a_set_are_those_of_all_blocks(model, all_blood):
    token_V = model.genes.match(all_blood.var_names).token_of_column
    sets = [model.genes.match(names).token_of_column for names in (["CD3D", "CD3E"], [GENE])]
    even_B = np.arange(700) % 2 == 0
    found = expressing(
        choose_counts(all_blood), token_V, model.config.n_genes, sets,
        lambda i: even_B if i else np.ones(700, bool), batch_size=256,
    )  # fmt: skip
    either_B = (count_of(all_blood, "CD3D") > 0) | (count_of(all_blood, "CD3E") > 0)
    np.testing.assert_array_equal(found[0], np.flatnonzero(either_B))
    np.testing.assert_array_equal(
        found[1], np.flatnonzero(even_B & (count_of(all_blood, GENE) > 0))
    )


@pytest.fixture(scope="module")
def b_cells(all_blood):
    return all_blood[(all_blood.obs["bulk_labels"] == "CD19+ B").to_numpy()].copy()


def test_a_deletion_of_the_highest_gene_is_not_told_by_its_dilution(b_cells, model):
    """CD74 has 548 CP10k in B cells, the next gene 302: nearly all genes rise by the dilution."""
    with pytest.warns(ScgpWarning, match=r"of other levels .*'all' \(CD74 548, theirs 56"):
        told = perturb(b_cells, {"CD74": 0.0}, max_cells=15, model=model, progress=False)
    own = told.expression
    assert told.groups["level"].item() == pytest.approx(told.perturbed["mean"].item())
    assert told.groups["null_level"].item() == pytest.approx(told.null["mean"].median())
    assert own["dilution"].nunique() == 1
    assert own["dilution"][0] > own["shift"].median() / 2 > 0.03
    outside = (own["shift"] < own["null_low"]) | (own["shift"] > own["null_high"])
    assert outside.mean() < 0.25
    assert abs(own["z"].median()) < 1


def test_more_of_the_highest_gene_has_no_null(b_cells, ask):
    with pytest.warns(ScgpWarning, match="CD74 548, theirs .* no z and p of expression"):
        told = ask(b_cells, {"CD74": 2.0}, n_null=20, max_cells=5)
    assert told.expression[["z", "p", "null_mean", "null_low"]].isna().all(axis=None)
    assert (told.expression["dilution"] == 0).all()
    assert told.groups["null_distance"].notna().all()


def test_dilution_is_what_the_share_of_the_counts_says(blood, ask, tiny):
    told = ask(blood, {GENE: 0.0}, genes=["LYZ"], max_cells=200)
    known_V = tiny.genes.match(blood.var_names).token_of_column >= 0
    share_B = count_of(blood, GENE) / np.asarray(blood.X[:, known_V].sum(axis=1)).ravel()
    expected = -np.log1p(-share_B[share_B > 0]).mean()
    assert told.expression["dilution"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("level_N", "words"),
    [
        ([9.5, 7, 8], ""),
        ([8, 7, 8], "10, theirs 7 to 8, median 8"),  # all lower
        ([12, 13, 14], "10, theirs 12 to 14, median 13"),
        ([5, 6, 11], "10, theirs 5 to 11, median 6"),  # the median is too low
        ([], ""),
    ],
)
def test_what_is_no_match_of_a_level(level_N, words):
    assert unmatched(10.0, np.array(level_N, float)) == words


def test_the_null_is_moved_by_the_dilution_it_lacks_synthetic():
    def one(shift, dilution, *, is_null=True):
        drawn = (0, is_null, np.array([9]), 5, 0.1, 0.0, np.zeros(1), np.array([shift]))
        return Drawn(*drawn, dilution=dilution)

    null = [one(0.12, 0.1), one(0.18, 0.2), one(0.11, 0.1)]
    row = expression_rows(one(0.515, 0.5, is_null=False), null, np.array([3]), 1.0).iloc[0]
    assert row["null_mean"] == pytest.approx(0.5 + 0.01 / 3)
    assert row["z"] == pytest.approx((0.015 - 0.01 / 3) / np.std([0.02, -0.02, 0.01]))
    assert row["p"] == pytest.approx(3 / 4)


def test_where_nothing_could_be_read_there_is_no_shift(all_blood, ask):
    """Real cells, fifteen of them without all counts but those of CD79A; ten without it."""
    cells = all_blood[:40].copy()
    dense = cells.X.toarray()
    own = cells.var_names.get_loc(GENE)
    dense[:15] = 0
    dense[:15, own] = 5
    dense[15:25, own] = 0
    dense[25:, own] = np.maximum(dense[25:, own], 1)
    cells.X = sp.csr_matrix(dense)
    cells.obs["group"] = ["alone"] * 15 + ["without"] * 10 + ["with"] * 15
    told = ask(cells, {GENE: 0.0}, groupby="group", genes=["LYZ", "CD74"], n_null=0).expression
    shift = told.groupby("group")[["shift", "shift_all"]]
    assert shift.get_group("alone").isna().all(axis=None)
    assert (shift.get_group("without") == 0).all(axis=None)
    assert (shift.get_group("with") != 0).all(axis=None)


def test_p_is_the_rank_among_the_null():
    def one(shift, gene, *, is_null=True):
        shift = np.array(shift)
        return Drawn(0, is_null, np.array([gene]), 5, 0.1, 0.0, np.zeros(2), shift)

    null = [one([0.1, -0.5], 7), one([-0.4, 0.5], 8), one([0.2, 9.0], 4)]
    own = one([0.3, 0.6], 9, is_null=False)
    table = expression_rows(own, null, np.array([3, 4]), 0.5).set_index("gene")
    assert table.loc[3, "p"] == pytest.approx(2 / 4)
    assert table.loc[4, "p"] == pytest.approx(1 / 3)  # a draw that removes gene 4 has no shift
    assert table.loc[4, "n_null"] == 2
    assert table.loc[3, "null_mean"] == pytest.approx(-0.1 / 3)
    assert table.loc[3, "shift_all"] == pytest.approx(0.15)
    assert table.loc[3, "z"] == pytest.approx((0.3 + 0.1 / 3) / np.std([0.1, -0.4, 0.2]))


def drawn(shift, genes=(9,), *, is_null=False):
    nothing = np.zeros(len(shift))
    return Drawn(0, is_null, np.array(genes), 5, 0.1, 0.0, nothing, np.array(shift))


def test_genes_stand_by_z_and_not_by_what_any_gene_would_do():
    """Synthetic: gene 1 falls with any gene that goes, gene 2 with this one alone."""
    null = [drawn([-0.9, 0.01, 0.2], (7,), is_null=True)]
    null += [drawn([-1.1, -0.01, -0.2], (8,), is_null=True)]
    table = expression_rows(drawn([-1.2, -0.1, 0.3]), null, np.array([1, 2, 3]), 1.0)
    assert table["gene"].tolist() == [2, 1, 3]
    assert table["z"].round(1).tolist() == [-10, -2, 1.5]
    told = expression_rows(drawn([0.1, -0.3, 0.2]), [], np.array([1, 2, 3]), 1.0)
    assert told["gene"].tolist() == [2, 3, 1], "by absolute shift without a null"
    unread = dataclasses.replace(drawn([np.nan] * 3), n_read=0)
    table = expression_rows(unread, null, np.array([1, 2, 3]), 1.0)
    assert table["n_null"].eq(0).all(), "a group in which nothing was read has no p either"
    assert table[["z", "p", "null_mean"]].isna().all(axis=None)


def test_p_of_a_few_cells_is_not_told(ask, blood):
    shown = blood.copy()
    shown.obs["part"] = ["all of it"] * 120
    cells = np.flatnonzero(count_of(shown, GENE) > 0)
    shown.obs.iloc[cells[:9], shown.obs.columns.get_loc("part")] = "nine"
    silent = np.flatnonzero(count_of(shown, GENE) == 0)
    shown.obs.iloc[silent[:9], shown.obs.columns.get_loc("part")] = "none"
    with pytest.warns(ScgpWarning) as warned:
        few = ask(shown, {GENE: 0.0}, groupby="part", genes=["LYZ"])
    words = [str(w.message) for w in warned if "fewer than 10" in str(w.message)]
    assert len(words) == 1
    assert "'nine' 9" in words[0]
    assert "all of it" not in words[0]
    groups = few.groups.set_index("group")
    columns = ["p_distance", "p_change"]
    assert groups.loc["nine", columns].isna().all()
    assert groups.loc["all of it", columns].notna().all()
    genes = few.expression.set_index("group")
    assert np.isnan(genes.loc["nine", "p"])
    assert np.isfinite(genes.loc["nine", "z"]), "what was found stays"
    assert genes.loc["all of it", "p"] > 0


def test_genes_that_hardly_any_cell_has_are_read_only_if_named(found, ask, tiny, blood):
    halves = [
        np.asarray((blood[x].X > 0).mean(axis=0)).ravel() for x in (slice(60), slice(60, 120))
    ]
    share_V = np.maximum(*halves)
    token_V = tiny.genes.match(blood.var_names).token_of_column
    known = (token_V >= 0) & (blood.var_names != GENE)
    often = set(tiny.genes.symbol[token_V[known & (share_V >= 0.05)]])
    rare = set(tiny.genes.symbol[token_V[known & (share_V > 0) & (share_V < 0.05)]])
    assert len(often) > 600
    assert len(rare) > 20
    for _, own in found.expression.groupby("group"):
        assert set(own["gene"]) == often
    named = sorted(rare)[:3]
    assert set(ask(blood, {GENE: 0.0}, genes=named).expression["gene"]) == set(named)


def test_the_change_of_a_type_is_that_of_all_labels_below_it(tiny, all_blood):
    atlas = all_blood[120:].copy()
    kinds = np.array(["memory B cell", "naive B cell", "natural killer cell"], object)
    atlas.obs["kind"] = kinds[np.arange(atlas.n_obs) % 3]
    index = scgp.build_index(atlas, label_key="kind", model=tiny, progress=False)
    shown = all_blood[:120].copy()
    shown.obs["type"] = ["B cell"] * 70 + ["cluster 5"] * 50
    told = perturb(
        shown, {GENE: 0.0}, groupby="type", genes=[], n_null=4, model=tiny, index=index,
        max_cells=200, progress=False,
    )  # fmt: skip
    rows = told.groups.set_index("group")
    table = told.posterior[told.posterior["group"] == "B cell"]
    below = table["label"].isin(["memory B cell", "naive B cell"])
    expected = table.loc[below, "change"].sum() * 70 / rows.loc["B cell", "n_changed"]
    assert abs(expected) > 1e-6
    assert rows.loc["B cell", "group_type_change"] == pytest.approx(expected)
    null = told.null.loc[told.null["group"] == "B cell", "group_type_change"]
    assert rows.loc["B cell", "null_type_change"] == pytest.approx(null.mean())
    larger = (null.abs() >= abs(expected)).sum()
    assert rows.loc["B cell", "p_type_change"] == pytest.approx((1 + larger) / 5)
    columns = ["group_type_change", "null_type_change", "p_type_change"]
    assert rows.loc["cluster 5", columns].isna().all(), "no term"
    assert rows.loc["cluster 5", ["p_distance", "p_change"]].notna().all()


def test_groups_and_posteriors_are_means_of_cells(found, blood):
    for _, row in found.groups.iterrows():
        own = found.cells[(found.cells["group"] == row["group"]) & found.cells["changed"]]
        assert row["n_changed"] == len(own)
        assert row["cosine_distance"] == pytest.approx(own["cosine_distance"].mean())
        null = found.null[found.null["group"] == row["group"]]["cosine_distance"]
        assert len(null) == 4
        assert row["p_distance"] == pytest.approx((1 + (null >= row["cosine_distance"]).sum()) / 5)
        table = found.posterior[found.posterior["group"] == row["group"]]
        assert table["before"].sum() == pytest.approx(1)
        assert table["after"].sum() == pytest.approx(1)
        assert table["change"].is_monotonic_decreasing
    assert found.perturbed["n_cells"].tolist() == [int((count_of(blood, GENE) > 0).sum())]
