"""Ontology terms: names, relations and their matrices, on the real Cell Ontology."""

import math
import time

import numpy as np
import pytest

from scgp.errors import ArgumentError, LabelError
from scgp.phenotypes.ontology import Ontology

CELL, LYMPHOCYTE, T_CELL = "CL:0000000", "CL:0000542", "CL:0000084"
CD4, CD8, B_CELL = "CL:0000624", "CL:0000625", "CL:0000236"
OBSOLETE = "CL:0000003"  # native cell, replaced by "cell"
OBSOLETE_ELSEWHERE = "CL:0000002"  # replaced by a term of another ontology


@pytest.fixture(scope="module")
def cells():
    return Ontology("CL")


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("T cell", T_CELL),
        ("t CELL", T_CELL),
        ("  T   cell ", T_CELL),
        ("T lymphocyte", T_CELL),
        ("t-lymphocyte", T_CELL),
        (T_CELL, T_CELL),
        (" cl:0000084", T_CELL),
        ("CL_0000084", T_CELL),
        ("cl_0000003", CELL),
        ("cluster_0000084", ""),
        ("CL-0000084", ""),
        (OBSOLETE, CELL),
        ("native cell", CELL),
        ("obsolete native cell", CELL),
        (OBSOLETE_ELSEWHERE, ""),
        ("cluster 7", ""),
        ("", ""),
    ],
)
def test_names_find_live_terms(cells, label, expected):
    assert cells.id_of(label) == expected


def test_a_label_wins_over_the_synonym_of_another_term(cells):
    name = "substantia nigra dopaminergic neuron"
    assert name in cells.synonyms("CL:4072006")
    assert cells.label(cells.id_of(name)) == name
    assert cells.id_of(name) != "CL:4072006"


def test_a_synonym_of_two_terms_names_neither():
    tissues = Ontology("UBERON")
    for term_id in ("UBERON:0002633", "UBERON:2005093"):
        assert "nv" in map(str.casefold, tissues.synonyms(term_id))
    assert tissues.id_of("nv") == ""


class Named:
    """Reads as a label and is none."""

    def __str__(self):
        return "T cell"


def test_resolve_keeps_order_and_gives_nothing_for_what_is_no_string(cells):
    assert cells.resolve(["B cell", float("nan"), "B cell", None, "T cell", Named()]) == [
        B_CELL, "", B_CELL, "", T_CELL, "",
    ]  # fmt: skip


def test_every_label_resolves_to_its_term(cells):
    assert cells.resolve([cells.label(i) for i in cells.ids]) == cells.ids


def test_labels_of_the_project_data_are_live(cells, shared_data):
    lines = (shared_data / "labels.tsv").read_text(encoding="utf-8").splitlines()
    fields = [line.split("\t") for line in lines[1:]]
    named = {(row[3], row[4]) for row in fields if row[3]}
    assert len(named) > 60
    assert all(cells.id_of(label) == term_id for term_id, label in named)


def test_text_is_label_and_definition(cells):
    assert cells.text(T_CELL).startswith("T cell. A type of lymphocyte")
    bare = next(i for i in cells.ids if "." not in cells.text(i))
    assert cells.text(bare) == cells.label(bare)


def test_ancestors_and_descendants_hold_the_term_and_mirror_each_other(cells):
    assert {T_CELL, LYMPHOCYTE, CELL} <= cells.ancestors(T_CELL)
    assert {T_CELL, CD4, CD8} <= cells.descendants(T_CELL)
    assert B_CELL not in cells.descendants(T_CELL) | cells.ancestors(T_CELL)
    for term_id in cells.ids[::97]:
        assert all(term_id in cells.descendants(above) for above in cells.ancestors(term_id))
    assert cells.descendants(CELL) == set(cells.ids)


def test_distance(cells):
    assert cells.distance(T_CELL, T_CELL) == 0
    assert cells.distance(T_CELL, LYMPHOCYTE) == cells.distance(LYMPHOCYTE, T_CELL) == 1
    assert 1 < cells.distance(CD4, CD8) < cells.distance(CD4, "CL:0000540")
    tissues = Ontology("UBERON")
    alone = [i for i in tissues.ids if len(tissues.ancestors(i)) == 1][:2]
    assert tissues.distance(*alone) == math.inf


def test_soft_score(cells):
    above_cd4, above_cd8 = cells.ancestors(CD4), cells.ancestors(CD8)
    expected = len(above_cd4 & above_cd8) / len(above_cd4 | above_cd8)
    assert cells.soft_score(CD4, CD8) == pytest.approx(expected)
    assert cells.soft_score(CD4, CD4) == 1
    assert cells.soft_score(CD4, CD8) > cells.soft_score(CD4, B_CELL) > 0


def test_relation_agrees_with_ancestors_pair_by_pair(cells):
    ids = [*cells.ids[::40], "", CD4, T_CELL, CD4, ""]
    is_ancestor_TT = cells.relation(ids)
    expected = [
        [i == j or bool(a and b and a in cells.ancestors(b)) for j, b in enumerate(ids)]
        for i, a in enumerate(ids)
    ]
    np.testing.assert_array_equal(is_ancestor_TT, expected)


def test_relation_of_nothing_and_of_labels_without_terms(cells):
    assert cells.relation([]).shape == (0, 0)
    np.testing.assert_array_equal(cells.relation(["", ""]), np.eye(2, dtype=bool))
    np.testing.assert_array_equal(cells.soft_scores(["", ""]), np.eye(2))


def test_soft_scores_agree_pair_by_pair(cells):
    ids = [*cells.ids[::80], CD4, CD4]
    expected = [[cells.soft_score(a, b) for b in ids] for a in ids]
    np.testing.assert_allclose(cells.soft_scores(ids), expected, rtol=1e-6)


def test_closure_holds_all_ancestors_once(cells):
    assert cells.closure([CD4, "", CD8, CD4]) == sorted(cells.ancestors(CD4) | cells.ancestors(CD8))


def test_relation_of_all_terms_takes_no_second(cells):
    start = time.perf_counter()
    cells.relation(cells.ids[:3000])
    assert time.perf_counter() - start < 5  # .1 s alone; the bound is for a busy machine


@pytest.mark.parametrize("prefix", ["UBERON", "MONDO"])
def test_tissues_and_diseases(prefix):
    terms = Ontology(prefix)
    name = {"UBERON": "lung", "MONDO": "asthma"}[prefix]
    term_id = terms.id_of(name)
    assert term_id.startswith(prefix)
    assert terms.label(term_id) == name
    assert len(terms.ancestors(term_id)) > 3


def test_wrong_ids_say_what_to_do(cells):
    with pytest.raises(LabelError, match=r"resolve\(labels\)"):
        cells.label("T cell")
    with pytest.raises(LabelError, match=r"obsolete.*use CL:0000000 \(cell\)"):
        cells.relation([OBSOLETE])
    with pytest.raises(ArgumentError, match="expected one of CL, UBERON, MONDO"):
        Ontology("EFO")
    assert not cells.is_term(OBSOLETE)
    assert cells.is_term(T_CELL)


def test_the_second_ontology_costs_nothing():
    Ontology("CL")
    start = time.perf_counter()
    for _ in range(1000):
        Ontology("CL")
    assert time.perf_counter() - start < 1
