"""annotate(tissue=): labels of other organs lose odds. Real ontologies, real cells."""

import dataclasses

import anndata as ad
import numpy as np
import pytest

import scgp
from scgp.errors import ArgumentError, ScgpWarning
from scgp.own import model_index
from scgp.phenotypes.ontology import Ontology
from scgp.reference import elsewhere
from scgp.reference.elsewhere import ODDS, known_elsewhere, less_likely
from scgp.reference.fusion import Fusion
from scgp.tissues import of_tissue

LABEL = "scgp_cell_type"
CL, UBERON = Ontology("CL"), Ontology("UBERON")


def told(known, tissue, *asked):
    """Which labels are elsewhere for a tissue, all by name; what is asked for is what is known."""
    labels = asked or tuple(known)
    pairs = [(CL.id_of(label), UBERON.id_of(x)) for label, places in known.items() for x in places]
    found_T = known_elsewhere(
        [CL.id_of(x) for x in labels], pairs, UBERON.id_of(tissue), cell_types=CL, tissues=UBERON
    )
    return dict(zip(labels, found_T.tolist(), strict=True))


# ---- which labels are elsewhere ----


def test_a_label_of_one_other_organ_is_elsewhere():
    known = {"decidual pericyte": ["decidua"], "hepatocyte": ["liver"], "pneumocyte": ["lung"]}
    assert told(known, "liver") == {
        "decidual pericyte": True, "hepatocyte": False, "pneumocyte": True
    }  # fmt: skip


@pytest.mark.parametrize(
    ("known", "tissue"),
    [
        ("cerebellum", "brain"),  # a part of it
        ("brain", "cerebellum"),  # what it is a part of
        ("bronchus", "lung"),  # one system
        ("decidua", "uterus"),
        ("gallbladder", "liver"),
        ("epithelium of mammary gland", "breast"),  # neither is below the other
    ],
)
def test_related_tissues_are_one_organ(known, tissue):
    assert told({"fibroblast": [known]}, tissue) == {"fibroblast": False}
    assert told({"fibroblast": [known]}, "skin of body") == {"fibroblast": True}


@pytest.mark.parametrize("known", ["blood", "bone marrow", "umbilical cord blood"])
def test_what_is_known_from_blood_may_be_anywhere(known):
    assert told({"erythrocyte": [known, "liver"]}, "skin of body") == {"erythrocyte": False}
    assert told({"hepatocyte": ["liver"]}, known) == {"hepatocyte": True}


def test_leukocytes_may_be_anywhere_but_those_that_stay():
    known = {
        "effector CD8-positive, alpha-beta T cell": ["lung"], "plasmablast": ["spleen"],
        "Kupffer cell": ["liver"], "uterine natural killer cell 1, human": ["decidua"],
        "thymocyte": ["thymus"],
    }  # fmt: skip
    assert list(told(known, "blood").values()) == [False, False, True, True, True]


def test_what_many_organs_have_may_be_anywhere_and_parts_of_one_are_one():
    organs = ["liver", "lung", "kidney", "heart"]
    assert told({"pericyte": organs[:3]}, "breast") == {"pericyte": True}
    assert told({"pericyte": organs}, "breast") == {"pericyte": False}
    gut = ["colon", "rectum", "ileum", "duodenum", "lung", "bronchus"]
    assert told({"pericyte": gut}, "breast") == {"pericyte": True}, "two organs"


def test_tissues_of_the_terms_below_count_and_of_those_above_do_not():
    known = {"decidual pericyte": ["decidua"], "mural cell": ["lung"]}
    found = told(known, "uterus", "pericyte", "decidual pericyte", "mural cell", "cell")
    assert found == {
        "pericyte": False, "decidual pericyte": False, "mural cell": False, "cell": False
    }  # fmt: skip
    assert told(known, "lung", "pericyte", "mural cell") == {"pericyte": True, "mural cell": False}


def test_labels_that_are_no_term_or_of_no_known_tissue_are_not_elsewhere():
    pairs = [("CL:0000182", ""), ("", "UBERON:0002107")]
    found_T = known_elsewhere(
        ["CL:0000182", ""], pairs, UBERON.id_of("lung"), cell_types=CL, tissues=UBERON
    )
    assert not found_T.any()


# ---- what they lose ----


def test_odds_are_lowered_and_nothing_else_synthetic():
    rng = np.random.default_rng(0)
    stream_BT = rng.dirichlet(np.ones(5), size=4)
    partly_BT = np.where(np.arange(5) == 2, np.nan, stream_BT)
    partly_BT /= np.nansum(partly_BT, axis=1, keepdims=True)
    none_BT = np.full((4, 5), np.nan)
    elsewhere_T = np.array([False, True, False, False, True])
    before = {"whole": stream_BT, "partly": partly_BT, "none": none_BT}
    after = less_likely({k: v.copy() for k, v in before.items()}, elsewhere_T)
    for name in ("whole", "partly"):
        np.testing.assert_allclose(np.nansum(after[name], axis=1), 1)
        odds = [x[name][:, 1] / x[name][:, 0] for x in (before, after)]
        np.testing.assert_allclose(odds[1], ODDS * odds[0])
        kept = [x[name][:, 3] / x[name][:, 0] for x in (before, after)]
        np.testing.assert_allclose(kept[1], kept[0])
    assert np.isnan(after["partly"][:, 2]).all()
    assert np.isnan(after["none"]).all()
    every = less_likely({"whole": stream_BT}, np.ones(5, bool))
    np.testing.assert_allclose(every["whole"], stream_BT)


# ---- the verbs ----


@pytest.fixture(scope="module")
def of_liver(model):
    """The reference of the model, as if it knew B cells from the liver alone (synthetic)."""
    index = model_index(model)
    of_b = CL.descendants(CL.id_of("lymphocyte of B lineage"))
    places = [
        UBERON.id_of("liver") if label in of_b else place
        for label, place in zip(index.profiles.label_ids, index.profiles.tissue_ids, strict=True)
    ]
    profiles = dataclasses.replace(index.profiles, tissue_ids=places)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elsewhere, "LEUKOCYTE", "none of them")
        yield dataclasses.replace(index, profiles=profiles)


@pytest.fixture(scope="module")
def answers(all_blood, of_liver):
    """Blood cells: tissue not told, of the liver, of the lung."""
    found = {}
    for tissue in (None, "liver", "lung"):
        adata = all_blood.copy()
        scgp.annotate(adata, index=of_liver, tissue=tissue, progress=False)
        found[tissue] = adata
    return found


def test_labels_elsewhere_are_given_less_often_and_less_surely(answers):
    is_b = answers[None].obs["bulk_labels"] == "CD19+ B"
    b_terms = CL.descendants(CL.id_of("lymphocyte of B lineage"))
    called = {t: x.obs["scgp_cell_type_ontology_term_id"].isin(b_terms) for t, x in answers.items()}
    assert called[None][is_b].mean() > 0.8
    assert (called["liver"] == called[None]).all()
    assert called["lung"][is_b].mean() < called[None][is_b].mean()
    sure = {t: x.obs.loc[is_b & called["lung"], "scgp_confidence"] for t, x in answers.items()}
    assert (sure["lung"] < sure[None]).mean() > 0.9
    assert sure["lung"].mean() < sure[None].mean() - 0.02
    others = {t: x.obs.loc[~called[None], LABEL].astype(str) for t, x in answers.items()}
    assert (others["lung"] == others[None]).mean() > 0.97


def test_blood_cells_are_of_blood(all_blood, monkeypatch):
    """The reference has hardly anything of blood that it knows from other organs alone."""
    monkeypatch.setattr(elsewhere, "LEUKOCYTE", CL.id_of("leukocyte"))
    known, told_so = all_blood.copy(), all_blood.copy()
    scgp.annotate(known, progress=False)
    scgp.annotate(told_so, tissue="blood", progress=False)
    same = known.obs[LABEL].astype(str) == told_so.obs[LABEL].astype(str)
    assert same.mean() > 0.99


def test_what_is_kept_of_the_tissue(answers, all_blood, model, of_liver):
    facts = answers["lung"].uns["scgp"]
    assert facts["tissue"] == "lung"
    assert facts["tissue_ontology_term_id"] == "UBERON:0002048"
    assert "tissue" not in answers[None].uns["scgp"]
    by_id = all_blood[:60].copy()
    scgp.annotate(by_id, index=of_liver, tissue="UBERON:0002048", progress=False)
    assert (by_id.obs[LABEL].astype(str) == answers["lung"].obs[LABEL].astype(str)[:60]).all()
    assert not of_liver.calibration.elsewhere, "the index is as it was"


def test_an_explanation_is_of_the_answer_with_the_tissue(answers, all_blood, of_liver):
    changed = answers["lung"].obs[LABEL].astype(str) != answers[None].obs[LABEL].astype(str)
    cells = list(all_blood.obs_names[changed])[:2]
    why = scgp.explain(all_blood, cells, index=of_liver, tissue="lung", n_genes=0)
    assert why.answer["confidence"].tolist() == pytest.approx(
        answers["lung"].obs.loc[cells, "scgp_confidence"].tolist()
    )
    assert why.facts["tissue"] == "lung"


def test_a_file_is_answered_as_its_cells(answers, all_blood, of_liver, tmp_path):
    path = tmp_path / "cells.h5ad"
    all_blood.copy().write_h5ad(path)
    scgp.annotate_file(path, index=of_liver, tissue="lung", progress=False)
    stored = ad.read_h5ad(path)
    for column in (LABEL, "scgp_confidence"):
        assert (stored.obs[column].to_numpy() == answers["lung"].obs[column].to_numpy()).all()
    assert stored.uns["scgp"]["tissue"] == "lung"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tissue": "lungg"}, "tissue 'lungg' is no id or name .* Did you mean 'lung'"),
        ({"tissue": "CL:0000236"}, "tissue 'CL:0000236' is no id or name"),
        ({"tissue": ["lung"]}, r"tissue is \['lung'\]; expected the id or name of one"),
        ({"tissue": "lung", "labels": "B cell"}, "tissue= and labels= do not go together"),
        ({"tissue": "lung", "use_rep": "X_umap"}, "tissue= cannot go with use_rep="),
    ],
)
def test_what_cannot_be_asked(blood, state, options, words):
    before = state(blood)
    with pytest.raises(ArgumentError, match=words):
        scgp.annotate(blood, progress=False, **options)
    assert state(blood) == before


def test_a_reference_of_ones_own_does_not_know_tissues(blood, all_blood, annotate):
    with pytest.raises(ArgumentError, match="tissue='lung' does not go with reference="):
        scgp.annotate(
            blood, reference=all_blood, label_key="cell_type", tissue="lung", progress=False
        )
    with pytest.raises(ArgumentError, match="needs a reference that says which tissues"):
        annotate(blood, tissue="lung")


def test_a_tissue_without_anything_known_is_said(model):
    with pytest.warns(ScgpWarning, match="no cell or profile of 'parotid gland'"):
        index, _ = of_tissue("parotid gland", model_index(model))
    names = set(index.calibration.elsewhere)
    assert {"hepatocyte", "decidual pericyte"} <= names
    assert not {"T cell", "fibroblast", "endothelial cell"} & names


def test_labels_elsewhere_are_kept_with_a_calibration_and_checked():
    asked = Fusion(elsewhere=("hepatocyte",))
    assert Fusion.from_dict(asked.to_dict()) == asked
    earlier = {k: v for k, v in Fusion().to_dict().items() if k != "elsewhere"}
    assert Fusion.from_dict(earlier) == Fusion()
    with pytest.raises(ArgumentError, match="names of labels elsewhere"):
        Fusion(elsewhere=(1,))
