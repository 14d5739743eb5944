"""The pure parts of the zero-shot benchmark: folds over terms, choice, penalties, the bootstrap."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from benchmarks import zeroshot_scores as zs
from benchmarks.corpus import Cells
from benchmarks.zeroshot import with_permuted
from benchmarks.zeroshot_baselines import (
    fusion_scores,
    marker_scores,
    marker_sets,
    summary_vectors,
)
from benchmarks.zeroshot_cells import at_most
from benchmarks.zeroshot_folds import (
    TermFold,
    describe_kept,
    eligible_terms,
    kept_for_asking,
    term_folds,
    units_of,
)
from benchmarks.zeroshot_measure import (
    MARKERS,
    OURS,
    SHUFFLED,
    Material,
    among_all,
    among_held_out,
    part_of,
    scaled_by_file,
)
from scgp.phenotypes.ontology import Ontology
from scgp.phenotypes.terms import Phenotypes

BELOW = {
    "T": {"T", "CD4", "CD8", "Treg"},
    "CD4": {"CD4", "Treg"},
    "CD8": {"CD8"},
    "Treg": {"Treg"},
    "B": {"B", "plasma"},
    "plasma": {"plasma"},
    "NK": {"NK"},
}


def descendants(term: str) -> frozenset[str]:
    return frozenset(BELOW[term])


def alike(a: str, b: str) -> float:
    return float(a == b)


CELLS = {"T": 90, "CD4": 40, "CD8": 40, "Treg": 35, "B": 60, "plasma": 31, "NK": 50}


class TestFolds:
    def folds(self, n_folds=3):
        terms, _ = eligible_terms(CELLS, descendants, max_share=0.3)
        return term_folds(CELLS, terms, descendants, alike, n_folds=n_folds)

    def test_broad_and_small_terms_are_left_out_with_a_reason(self):
        terms, why = eligible_terms(CELLS | {"plasma": 29}, descendants, max_share=0.3)
        assert terms == ["B", "CD4", "CD8", "NK", "Treg"]
        assert why == {"T": "205 of 344 cells are its own or below it", "plasma": "29 cells"}

    def test_the_closure_decides_not_the_cells_of_the_term_alone(self):
        terms, _ = eligible_terms({"CD4": 30, "Treg": 100, "NK": 170}, descendants, max_share=0.4)
        assert terms == ["NK", "Treg"] or "CD4" not in terms

    def test_terms_on_one_line_are_one_unit_over_a_shared_descendant(self):
        below = {"a": {"a", "x"}, "b": {"b", "x"}, "x": {"x"}, "c": {"c"}}
        assert units_of(list(below), lambda t: frozenset(below[t])) == [["a", "b", "x"], ["c"]]

    def test_every_term_is_asked_once_and_its_descendants_go_with_it(self):
        folds = self.folds()
        asked = [term for fold in folds for term in fold.asked]
        assert sorted(asked) == ["B", "CD4", "CD8", "NK", "Treg", "plasma"]
        for fold in folds:
            assert all(descendants(term) <= fold.closure for term in fold.asked)
            others = {term for term in asked if term not in fold.asked}
            assert not others & fold.closure

    def test_relatives_go_to_different_folds_where_size_would_not_part_them(self):
        def partners_of_d(alike):
            cells = {"a": 100, "b": 90, "c": 50, "d": 45}
            folds = term_folds(cells, "abcd", frozenset, alike, n_folds=2)
            return next(set(fold.asked) for fold in folds if "d" in fold.asked)

        assert partners_of_d(lambda *_: 0.0) == {"a", "d"}
        assert partners_of_d(lambda x, y: float({x, y} == {"a", "d"})) == {"b", "c", "d"}

    def test_more_folds_than_units_are_refused(self):
        with pytest.raises(ValueError, match="expected 2 to 4"):
            self.folds(n_folds=5)

    def test_corpus_folds_have_no_held_out_term_below_a_term_of_another_fold(self):
        ontology = Ontology("CL")
        ids = ontology.resolve(["B cell", "memory B cell", "naive B cell", "natural killer cell"])
        cells = dict.fromkeys(ids, 40)
        folds = term_folds(cells, ids, ontology.descendants, ontology.soft_score, n_folds=2)
        assert sorted(len(fold.asked) for fold in folds) == [1, 3]


class TestKept:
    def obs(self):
        many = pd.DataFrame({"donor": [f"d{i % 5}" for i in range(100)], "group": "many"})
        one = pd.DataFrame({"donor": ["unknown", "x"] * 50, "group": "one"})
        obs = pd.concat([many, one], ignore_index=True)
        obs["study"] = obs["group"]
        obs["label"] = np.where(np.arange(200) % 4 == 0, "B", "T")
        return obs

    def test_whole_donors_where_there_are_three_and_cells_elsewhere(self):
        obs = self.obs()
        kept = kept_for_asking(obs, seed=0)
        share = obs[obs["group"] == "many"].assign(kept=kept[:100]).groupby("donor")["kept"].mean()
        assert sorted(share) == [0, 0, 0, 0, 1]
        by_label = obs.assign(kept=kept)[100:].groupby("label")["kept"].sum()
        assert by_label.to_dict() == {"B": 5, "T": 15}
        assert describe_kept(obs, kept) == {"of whole donors": 20, "at random": 20}

    def test_seeds_differ_and_repeat(self):
        obs = self.obs()
        assert np.array_equal(kept_for_asking(obs, seed=1), kept_for_asking(obs, seed=1))
        assert not np.array_equal(kept_for_asking(obs, seed=1), kept_for_asking(obs, seed=2))

    def test_at_most_is_per_study_and_label(self):
        obs = self.obs()
        counts = obs[at_most(obs, 7, seed=0)].groupby(["study", "label"]).size()
        assert set(counts) == {7}


def question(score, unseen_t, true, unseen_n, novelty=None):
    score = np.array(score, float)
    return zs.Question(
        score, np.array(["a", "b", "c"]), np.array(true), np.array(unseen_t), np.array(unseen_n),
        np.array(novelty if novelty is not None else score.max(axis=1)),
    )  # fmt: skip


class TestRules:
    Q = question(
        [[0.9, 0.8, 0.1], [0.7, 0.3, 0.2], [0.5, 0.45, 0.0]],
        [False, True, False], ["b", "a", "b"], [True, False, True],
    )  # fmt: skip

    def test_the_penalty_is_taken_from_seen_terms_alone(self):
        assert zs.penalised(self.Q, 0.0).tolist() == ["a", "a", "a"]
        assert zs.penalised(self.Q, 0.2).tolist() == ["b", "a", "b"]
        assert zs.penalised(self.Q, 0.9).tolist() == ["b", "b", "b"]

    def test_the_gate_decides_between_seen_and_unseen(self):
        assert zs.gated(self.Q, 0.6).tolist() == ["a", "a", "b"]
        assert zs.gated(self.Q, 0.0).tolist() == ["a", "a", "a"]

    def test_nothing_said_is_unknown(self):
        silent = np.array([[0.0, 0.0, 0.0], [np.nan] * 3, [np.nan, 0.1, np.nan]])
        assert zs.best_term(silent, np.array(["a", "b", "c"])).tolist() == ["", "", "b"]

    def test_seen_and_unseen_are_means_over_terms(self):
        seen, unseen, both = zs.seen_and_unseen(self.Q, np.array(["b", "a", "a"]))
        assert (seen, unseen) == (1.0, 0.5)
        assert both == pytest.approx(2 / 3)

    def test_a_fold_has_no_part_in_its_own_penalty(self):
        # alone, the first wants .2; the others want none: unseen terms win there already
        other = question(
            [[0.5, 0.9, 0.1], [0.55, 0.5, 0.2]], [False, True, False], ["b", "a"], [True, False]
        )
        grid = (0.0, 0.2)
        assert zs.chosen_on_others([self.Q, other, other], zs.penalised, grid) == [0.0, 0.0, 0.0]
        assert zs.chosen_on_others([self.Q, self.Q, other], zs.penalised, grid)[2] == 0.2
        assert zs.chosen_on_others([self.Q, other], zs.penalised, grid) == [0.0, 0.2]

    def test_rank_of_the_truth_shares_ties(self):
        asked = question(
            [[0.9, 0.8, 0.1], [0.4, 0.4, 0.1], [1, 1, 1]],
            [True] * 3, ["b", "a", "c"], [True, True, False],
        )  # fmt: skip
        assert zs.rank_of_truth(asked).tolist() == [2.0, 1.5]

    def test_permuting_keeps_no_column_in_its_place(self):
        dealt = zs.permuted_columns(np.arange(7.0)[None], rng=np.random.default_rng(0))
        assert sorted(dealt[0]) == list(range(7))
        assert not np.any(dealt[0] == np.arange(7))


class TestScores:
    def test_scores_of_a_term(self):
        true = np.array(["a"] * 4 + ["b"] * 2)
        said = np.array(["a", "b", "", "c", "b", "b"])
        steps = {("a", "a"): 0, ("a", "b"): 1, ("a", "c"): 2, ("b", "b"): 0}
        found = zs.term_scores(
            true, said, lambda a, b: steps[a, b], lambda a, b: float(b in (a, "c"))
        )
        assert found["a"] == {
            "recall": 0.25, "f1": 0.4, "within_1": 0.5, "within_2": 0.75, "right": 0.5,
        }  # fmt: skip
        assert found["b"]["f1"] == pytest.approx(4 / 5)
        assert zs.mean_scores([found])["recall"] == pytest.approx(0.625)

    def test_the_lead_is_paired_and_has_the_exact_mean(self):
        rng = np.random.default_rng(0)
        true = np.repeat(["a", "b", "c", "d"], 25)
        good = np.where(rng.random(100) < 0.9, true, "a")
        bad = np.where(rng.random(100) < 0.3, true, "d")
        folds = [(true, {"ours": [good], "bad": [bad], "same": [good, good]})]
        found = zs.leads(folds, ours="ours", n_resamples=200)
        assert set(found) == {"bad", "same"}
        assert found["same"] == {"recall": (0, 0, 0), "f1": (0, 0, 0)}
        mean, low, high = found["bad"]["recall"]
        assert mean == pytest.approx(zs.recall_of(true, good) - zs.recall_of(true, bad))
        assert low < mean < high

    def test_terms_are_resampled_and_not_cells_alone(self):
        true = np.repeat(["a", "b"], 500)
        ours = true
        other = np.where(true == "a", "a", "x")
        mean, low, high = zs.leads(
            [(true, {"ours": [ours], "other": [other]})], ours="ours", n_resamples=400
        )["other"]["recall"]
        assert (mean, low, high) == (0.5, 0.0, 1.0)


class TestTexts:
    def test_no_term_keeps_its_text_and_the_others_are_left(self):
        vectors = np.eye(6, dtype=np.float16)
        texts = Phenotypes(tuple("abcdef"), vectors, "encoder")
        dealt = with_permuted(texts, ["a", "b", "c", "d", "nowhere"], seed=0)
        assert not np.any(np.all(dealt.vector_TW[:4] == vectors[:4], axis=1))
        assert np.array_equal(np.sort(dealt.vector_TW.argmax(axis=1)), np.arange(6))
        assert np.array_equal(dealt.vector_TW[4:], vectors[4:])
        assert dealt.encoder != texts.encoder


def cells_of(counts, genes):
    count_NG = sp.csr_matrix(np.array(counts, np.float32))
    obs = pd.DataFrame({"label": ["x"] * count_NG.shape[0]})
    return Cells(count_NG, obs, np.array(genes, object), np.ones(len(genes), bool))


class TestBaselines:
    def test_names_of_both_tables_become_terms(self, tmp_path):
        (tmp_path / "PanglaoDB_markers_27_Mar_2020.tsv").write_text(
            "species\tofficial gene symbol\tcell type\n"
            "Mm Hs\tCD79A\tB cells\nMm\tCd19\tB cells\nHs\tIGHD\tB cells naive\nHs\tX\tFoo\n"
        )
        (tmp_path / "CellMarker2_human_tissue_celltype.csv").write_text(
            'Tissue,CT,Gene\nBlood,B cell,"MS4A1, CD79A"\nBlood,CD8+ T cell,CD8A\n'
        )
        found = marker_sets(tmp_path, Ontology("CL"))
        assert found == {
            "CL:0000236": ["CD79A", "MS4A1"], "CL:0000625": ["CD8A"], "CL:0000788": ["IGHD"],
        }  # fmt: skip

    def test_markers_name_the_cells_that_express_them(self):
        rng = np.random.default_rng(0)
        genes = [f"g{i}" for i in range(300)]
        counts = rng.poisson(1.0, (40, 300))
        counts[:20, :5] += 20
        counts[20:, 5:10] += 20
        markers = {"A": genes[:5], "B": genes[5:10], "few": genes[:2]}
        score = marker_scores(cells_of(counts, genes), ["A", "B", "few", "none"], markers)
        said = zs.best_term(score, np.array(["A", "B", "few", "none"]))
        assert said.tolist() == ["A"] * 20 + ["B"] * 20
        assert np.isnan(score[:, 2:]).all()

    def test_fusion_is_the_weighted_mean_of_gene_texts(self):
        cells = cells_of([[10, 0, 5], [0, 1, 50]], ["a", "b", "silent"])
        genes = np.array([[1, 0], [0, 1], [0, 0]], np.float32)
        texts = np.array([[1, 0], [0, 1]], np.float32)
        raw = fusion_scores(cells, genes, texts, centred=False)
        assert raw == pytest.approx(np.eye(2))
        centred = fusion_scores(cells, genes, texts, centred=True)
        assert centred == pytest.approx(2 * np.eye(2) - 1)

    def test_genes_without_a_summary_have_no_vector(self, tmp_path):
        table = tmp_path / "summaries.tsv"
        table.write_text("symbol\tGene_summary\nb\tmakes b\n")

        class Encoder:
            def encode(self, texts):
                assert texts == ["b: makes b"]
                return np.ones((1, 2), np.float32)

        assert summary_vectors(table, ["a", "b"], Encoder()).tolist() == [[0, 0], [1, 1]]


class TestMeasure:
    def test_scaling_is_by_file(self):
        score = np.array([[0.0, 5.0], [2.0, 5.0], [100.0, 1.0], [104.0, 3.0]])
        scaled = scaled_by_file(score, np.array(["x", "x", "y", "y"]))
        assert scaled[:, 0].tolist() == [-1, 1, -1, 1]
        assert np.isnan(scaled[:2, 1]).all()

    TERMS = ("CL:0000236", "CL:0000084", "CL:0000623", "CL:0000576", "CL:0000057")

    def material(self):
        """Two folds of two terms each; the fifth is always seen. The model is always right."""
        b, t, nk, mono, _ = self.TERMS
        true = np.repeat(self.TERMS, 10)
        eye = np.eye(5, dtype=np.float32)[np.repeat(np.arange(5), 10)]
        said = {
            "type_NE": eye,
            "text_TE": np.eye(5, dtype=np.float32),
            "described_NT": eye,
            "unmarked_NT": eye,
            "nearest_N": np.zeros(50, np.float32),
            "annotate_held_out": np.full(50, ""),
            "annotate_all": true.copy(),
        }
        folds = [
            TermFold("fold1of2", (t, b), frozenset({t, b})),
            TermFold("fold2of2", (mono, nk), frozenset({mono, nk})),
        ]
        markers = np.full((50, 5), np.nan)
        markers[:, :2] = eye[:, :2]
        never = np.arange(50) % 10 < 3
        terms = list(self.TERMS)
        file = np.where(np.arange(50) % 2, "x", "y")
        baselines = {MARKERS: markers}
        return Material(true, file, never, terms, terms, folds, [said, said], [], baselines)

    def test_cells_of_held_out_terms_and_kept_cells_of_seen_ones_are_asked(self):
        part = part_of(self.material(), 0, list(self.TERMS), with_seen=True)
        assert part.unseen_N.sum() == 20
        assert (~part.unseen_N).sum() == 9
        assert set(part.true_N[~part.unseen_N]) == set(self.TERMS[2:])
        assert part.unseen_T.tolist() == [True, True, False, False, False]

    def test_a_right_model_has_full_marks_and_permuted_texts_have_none(self):
        found = among_held_out(self.material(), only_with_markers=False)
        assert found["cells"] == 40
        assert found["chance"] == 0.5
        assert found["scores"][OURS]["recall"] == 1
        assert found["scores"][SHUFFLED]["recall"] == 0
        assert found["scores"]["scgp.annotate(labels=)"]["unknown"] == 1

    def test_terms_without_markers_are_left_out_of_their_table(self):
        found = among_held_out(self.material(), only_with_markers=True)
        assert (found["terms"], found["cells"]) == (2, 20)
        assert found["scores"][MARKERS]["recall"] == 1

    def test_the_generalised_question_has_seen_unseen_and_their_mean(self):
        found = among_all(self.material(), list(self.TERMS), with_annotate=True)
        assert found["cells"] == {"unseen": 40, "seen": 18}
        ours = found["scores"][OURS]
        assert (ours["seen"], ours["unseen"], ours["harmonic"]) == (1, 1, 1)
        assert found["median_rank"][OURS] == 1
        assert found["scores"][MARKERS]["unseen"] == 0.5
