"""annotate(labels=...): labels that the reference lacks, free text, references of one's own."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

import scgp
from scgp.errors import ArgumentError, ScgpWarning
from scgp.reference import answer

sys.path.insert(0, str(Path(__file__).parent))
from labels_asked import B_CELL, KILLER, LABEL, MONOCYTE, STATUS, TERM, UNSEEN

# ---- labels without reference cells ----


def _without(adata, term):
    """The atlas of the small index, without the cells of a term."""
    atlas = adata[120:].copy()
    return atlas[(atlas.obs["cell_type"] != term).to_numpy()].copy()


def test_an_unseen_term_is_heard_by_its_text(all_blood, blood):
    """B cells asked for, with a reference that has none of them, and said so once."""
    index = scgp.build_index(_without(all_blood, B_CELL), label_key="cell_type", progress=False)
    asked = ["natural killer cell", "B cell", "CD14-positive monocyte", "T cell"]
    with pytest.warns(ScgpWarning, match="1 of 4 labels have no cells.*'B cell'") as caught:
        found = scgp.annotate(blood, labels=asked, index=index, progress=False, copy=True)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert found.uns["scgp"]["labels_in_reference"] == [True, False, True, True]
    is_b = (blood.obs["cell_type"] == B_CELL).to_numpy()
    said = (found.obs[LABEL] == "B cell").to_numpy()
    assert said[is_b].mean() > 0.75
    assert said[~is_b].mean() < 0.05


@pytest.mark.filterwarnings(UNSEEN)
def test_free_text_among_terms(blood, ask, minilm):
    """As given but for white space, without an id."""
    with pytest.warns(ScgpWarning, match="'B cells here', did you mean 'B cell'"):
        found = ask(blood, ["B  cells here ", "monocyte"], encoder=minilm)
    assert found.uns["scgp"]["labels"] == ["B cells here", "monocyte"]
    assert found.uns["scgp"]["labels_ontology_term_ids"] == ["", MONOCYTE]
    is_b = (blood.obs["cell_type"] == B_CELL).to_numpy()
    said = found.obs[LABEL] == "B cells here"
    assert said[is_b].mean() > 0.5
    assert said[~is_b].mean() < 0.1
    assert set(found.obs.loc[said, TERM]) == {""}


@pytest.mark.filterwarnings(UNSEEN)
def test_another_language_is_read_and_promised_nothing(blood, ask, minilm):
    found = ask(blood, ["Gedächtnis-B-Zelle", "単球"], encoder=minilm)
    assert set(found.obs[STATUS]) <= {"labelled", "unknown"}
    assert found.uns["scgp"]["labels"] == ["Gedächtnis-B-Zelle", "単球"]


@pytest.mark.filterwarnings(UNSEEN)
def test_the_own_encoder_is_made_where_a_text_is_free(blood, ask, minilm, same_answers):
    same_answers(ask(blood, [KILLER, "B cell"]), ask(blood, [KILLER, "B cell"], encoder=minilm))


# ---- references of one's own ----


@pytest.fixture(scope="module")
def own_index(all_blood):
    """An atlas whose labels are no terms, but for one."""
    atlas = all_blood[120:].copy()
    names = {B_CELL: "my B", "CL:0001054": "my mono", "CL:0000451": "dendritic cell"}
    atlas.obs["mine"] = atlas.obs["cell_type"].map(names).fillna("the rest")
    with pytest.warns(ScgpWarning, match="3 of 4 labels"):
        return scgp.build_index(atlas, label_key="mine", progress=False)


def test_labels_that_are_no_terms(blood, ask, own_index):
    with pytest.warns(ScgpWarning, match="1 of 4 labels of the ref.* covers them: 'the rest'"):
        found = ask(blood, ["my B", "my mono", "dendritic cell"], index=own_index)
    is_b = (blood.obs["cell_type"] == B_CELL).to_numpy()
    assert (found.obs.loc[is_b, LABEL] == "my B").mean() > 0.75
    assert set(found.obs[LABEL]) == {"my B", "my mono", "dendritic cell", "unknown"}
    assert (found.obs.loc[found.obs[LABEL] == "my B", TERM] == "").all()
    assert found.uns["scgp"]["labels_ontology_term_ids"] == ["", "", "CL:0000451"]


def test_cells_of_a_label_that_is_not_asked_for_are_unknown(blood, ask, own_index):
    with pytest.warns(ScgpWarning, match="1 of 4 labels of the ref.* covers them: 'the rest'"):
        found = ask(blood, ["my B", "my mono", "dendritic cell"], index=own_index)
    other = (blood.obs["cell_type"] == "CL:0000623").to_numpy()
    assert (found.obs.loc[other, LABEL] == "unknown").mean() > 0.75  # "the rest"


def test_a_label_of_the_reference_is_read_as_it_is_written(blood, ask, all_blood):
    """Even one that reads as an id, or has two blanks; no encoder is asked for."""
    names = ["cluster_0000001", "the  rest"]
    atlas = all_blood[120:].copy()
    atlas.obs["mine"] = np.where(atlas.obs["cell_type"] == B_CELL, *names)
    with pytest.warns(ScgpWarning, match="2 of 2 labels"):
        index = scgp.build_index(atlas, label_key="mine", progress=False)
    found = ask(blood, names, index=index)
    assert found.uns["scgp"]["labels"] == names
    assert found.uns["scgp"]["labels_in_reference"] == [True, True]


def test_a_reference_and_labels(blood, ask, all_blood):
    atlas = all_blood[120:400].copy()
    options = {"index": None, "reference": atlas, "label_key": "cell_type"}
    found = ask(blood, ["lymphocyte", "monocyte"], **options)
    assert set(found.obs[LABEL]) == {"lymphocyte", "monocyte", "unknown"}


@pytest.mark.parametrize("labels", [["my B", "neuron"], ["neuron", "hepatocyte"]])
def test_what_nothing_can_compare_is_refused(blood, all_blood, ask, state, labels):
    """Labels without text beside labels without cells."""
    atlas = all_blood[120:].copy()
    atlas.obs["mine"] = np.where(atlas.obs["cell_type"] == B_CELL, "my B", "the rest")
    with pytest.warns(ScgpWarning, match="2 of 2 labels"):
        index = scgp.build_index(atlas, label_key="mine", progress=False)
    before = state(blood)
    with pytest.raises(ArgumentError, match=r"'neuron' has no cells in the ref.*'my B'.*has none"):
        ask(blood, labels, index=index, copy=False)
    assert state(blood) == before


# ---- references of which little is known ----


def test_an_index_without_a_gene_head_has_no_gene_evidence(all_blood, blood_index, monkeypatch):
    """The scores of the describing head, from the model's own index, are no such evidence."""
    bare = dataclasses.replace(blood_index, gene_head=None)
    seen = []
    real = answer.choose

    def watched(streams, *arguments, **options):
        seen.append((streams["gene"], options["described_BX"]))
        return real(streams, *arguments, **options)

    monkeypatch.setattr(answer, "choose", watched)
    with pytest.warns(ScgpWarning, match="'neuron'"):
        scgp.annotate(
            all_blood[:20].copy(), labels=["B cell", "neuron"], index=bare, progress=False
        )
    ((gene_BT, described_BX),) = seen
    assert np.isnan(gene_BT).all()
    assert described_BX.shape == (answer.BLOCK, len(bare.labels) + 2)  # filled up


def test_the_warning_says_what_is_not_calibrated(blood, ask, minilm):
    with pytest.warns(ScgpWarning, match="no cells in the reference") as caught:
        ask(blood, ["neuron", "B cell"])
    assert "was measured on other terms" in str(caught[0].message)
    with pytest.warns(ScgpWarning, match="no cells in the reference") as caught:
        ask(blood, ["neuron", KILLER, "B cell"], encoder=minilm)
    assert f"the confidence of {KILLER!r} is not calibrated" in str(caught[0].message)


def test_labels_of_an_atlas_that_are_no_terms_are_counted_in_the_warning(blood, own_index):
    with pytest.warns(ScgpWarning, match="labels of the reference") as caught:
        scgp.annotate(blood, labels=["dendritic cell", "neuron"], index=own_index, progress=False)
    unseen, uncovered = (str(w.message) for w in caught)
    assert "3 labels of the reference that are no terms cannot be compared" in unseen
    assert uncovered.startswith("3 of 4 labels of the reference are no terms")
