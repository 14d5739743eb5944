"""Names that list the gates of a sorter: read where the markers agree with the words."""

import pytest

import scgp
from scgp import demo
from scgp.errors import ScgpWarning
from scgp.phenotypes.names import spelling
from scgp.phenotypes.ontology import Ontology

CELLS = Ontology("CL")
NAIVE_CD4 = "naive thymus-derived CD4-positive, alpha-beta T cell"
NAIVE_CD8 = "naive thymus-derived CD8-positive, alpha-beta T cell"
TREG = "CD4-positive, CD25-positive, alpha-beta regulatory T cell"

READ = {
    "CD4+/CD25 T Reg": TREG,
    "CD4+CD25+CD127lo Treg": TREG,
    "CD4+ CD25+ FOXP3+ Tregs": TREG,
    "CD8+/CD25+ Treg": "CD8-positive, CD25-positive, alpha-beta regulatory T cell",
    "CD25+ Treg": "regulatory T cell",
    "CD4+/CD45RA+/CD25- Naive T": NAIVE_CD4,
    "CD4+CD45RA+CCR7+ naive T cells": NAIVE_CD4,
    "CD4+/CD45RO+ Memory": "CD4-positive, alpha-beta memory T cell",
    "CD3+/CD4+ T cells": "CD4-positive, alpha-beta T cell",
    "CD8+/CD45RA+ Naive Cytotoxic": NAIVE_CD8,
    "CD8 naive cytotoxic T cell": NAIVE_CD8,
    "naive helper CD4 T": NAIVE_CD4,
    "CD8+CD45RO+CCR7- effector memory T": "effector memory CD8-positive, alpha-beta T cell",
    "CD8+ Cytotoxic T": "CD8-positive, alpha-beta cytotoxic T cell",
    "CD14+/CD16+ monocytes": "CD14-positive, CD16-positive monocyte",
}


@pytest.mark.parametrize("name", READ)
def test_gates_that_agree_with_the_words(name):
    assert CELLS.id_of(name) == ""
    assert CELLS.label(CELLS.read(name)) == READ[name]


@pytest.mark.parametrize(
    "name",
    [
        "CD4+/CD45RA+ Memory", "CD4+/CD45RO+ Naive T", "CD4+/CD25+ Naive T", "CD4+/CD25- Treg",
        "CD4+/CD8+ T cells", "CD4/CD8 T cells", "CD4-/CD8- T cells", "CD4+/CD25+", "CD3+/CD4+",
        "CD4+/CD25+ T cell", "CD45RA+ naive", "CD8+CD45RA+ effector memory T", "CD4+/CD19+ T cell",
        "CD4+/NK cells", "naive cytotoxic", "CD4 naive cytotoxic", "CD8 naive helper", "CD34+",
        "CD4+/monocyte", "CD8+/CD45RA+", "Treg/CD8+ T",
    ],
)  # fmt: skip
def test_gates_that_say_something_else_are_no_name(name):
    assert CELLS.read(name) == ""


def test_a_slash_joins_gates_only_behind_a_sign():
    assert spelling("CD14+/CD16- monocytes") == spelling("CD14+ CD16- monocytes")
    assert "/" in spelling("CD14/CD16 monocytes")
    assert "/" in spelling("CD14+/FCER1A+ cells")


def test_the_labels_of_the_best_known_data_set_are_read():
    """All but "CD34+", a marker alone: endothelial cells have it, too."""
    unread = [label for label in demo.BULK_LABEL_TO_CL if not CELLS.read(label)]
    assert unread == ["CD34+"]
    for label, term in demo.BULK_LABEL_TO_CL.items():
        if label != "CD34+":
            assert term in CELLS.ancestors(CELLS.read(label))  # the term given by hand, or below it


NOT_COVERED = "are no terms of the ontology, so that none of the labels asked for covers them"


def test_an_atlas_whose_labels_list_gates_answers_with_broader_ones(all_blood, annotate):
    atlas, query = all_blood[120:].copy(), all_blood[:120].copy()
    wanted = ["T cell", "B cell", "monocyte"]
    with pytest.warns(ScgpWarning) as caught:
        annotate(query, index=None, reference=atlas, label_key="bulk_labels", labels=wanted)
    told = [str(w.message) for w in caught]
    assert any(f"1 of 10 labels of the reference {NOT_COVERED}: 'CD34+'" in text for text in told)
    is_t = query.obs["bulk_labels"].astype(str).map(demo.BULK_LABEL_TO_CL).isin(
        CELLS.descendants("CL:0000084"))  # fmt: skip
    assert (query.obs["scgp_cell_type"][is_t] == "T cell").mean() > 0.9


def _messages(blood, labels, **arguments):
    with pytest.warns(ScgpWarning) as caught:
        scgp.annotate(blood, labels=labels, progress=False, **arguments)
    return [str(w.message) for w in caught if "none of the labels asked for" in str(w.message)]


def test_labels_that_nothing_covers_are_named_up_to_five(blood):
    blood.obs["own"] = [f"cluster {i % 8}" if i < 100 else "B cell" for i in range(120)]
    blood.obsm["X_own"] = blood.obsm["X_umap"].copy()
    for more in ({}, {"use_rep": "X_own"}):
        told = _messages(blood, ["B cell", "cluster 7"], reference=blood, label_key="own", **more)
        named = ", ".join(f"'cluster {i}'" for i in range(5))
        assert len(told) == 1
        assert told[0].startswith(f"7 of 9 labels of the reference {NOT_COVERED}: {named} ...")


def test_nothing_is_said_where_each_label_is_a_term_or_named(blood):
    blood.obs["own"] = ["cluster 1" if i < 60 else "B cell" for i in range(120)]
    both = ["B cell", "cluster 1"]
    assert _messages(blood, both, reference=blood, label_key="own") == []
