"""predict_expression() with the shipped model: what organs are for, and their background."""

import numpy as np
import pytest

from scgp.model.checkpoint import Model
from scgp.own import model_index
from scgp.phenotypes.ontology import Ontology
from scgp.predict import predict_expression


def test_the_default_checkpoint_knows_what_organs_are_for():
    asked = {
        "hepatocyte": ("liver", "ALB"),
        "endothelial cell": ("lung", "VWF"),
        "type B pancreatic cell": ("islet of Langerhans", "INS"),
        "cardiac muscle cell": ("heart", "MYH7"),
        "plasma cell": ("bone marrow", "JCHAIN"),
    }
    tissues, genes = (list(column) for column in zip(*asked.values(), strict=True))
    said = predict_expression(list(asked), tissue=tissues, genes=genes)
    assert (said.layers["deviation"].argmax(axis=0) == np.arange(len(asked))).all()
    assert Ontology("CL").label(said.obs["ontology_term_id"].iloc[1]) == "endothelial cell"


def test_background_of_a_tissue_is_gone_within_it():
    """Surfactant, albumin and insulin of other cells rank with T-cell genes by deviation alone."""
    organs = {"lung": "SFTPC", "liver": "ALB", "pancreas": "INS"}
    said = predict_expression(["T cell"] * 3, tissue=list(organs))
    rank = {}
    for layer in ("deviation", "within_tissue"):
        frame = said.to_df(layer).set_axis(list(organs)).T
        rank[layer] = frame.rank(ascending=False)
    for organ, gene in organs.items():
        before, after = (rank[layer][organ] for layer in ("deviation", "within_tissue"))
        assert before[gene] < 120
        assert after[gene] > 5 * after["CD3D"]
        assert after[["CD3D", "TRAC"]].max() < 20
        assert after[gene] > before[gene] + 40


def test_the_mean_of_a_tissue_is_of_levels_which_are_never_negative():
    """Over all genes; one level in twenty and more is held at 0 before the mean is taken."""
    retina = "UBERON:0000966"  # of seven labels
    groups = model_index(Model.default()).profiles
    known = zip(groups.label_ids, groups.tissue_ids, strict=True)
    said = predict_expression(sorted({label for label, t in known if t == retina}), tissue=retina)
    assert (said.X >= 0).all()
    assert (said.X == 0).mean() > 0.05
    np.testing.assert_allclose(said.layers["within_tissue"], said.X - said.X.mean(0), atol=1e-5)


def test_what_an_organ_is_for_stays_within_it():
    asked = {"hepatocyte": ("liver", "ALB"), "type B pancreatic cell": ("pancreas", "INS"),
             "pulmonary alveolar type 2 cell": ("lung", "SFTPC")}  # fmt: skip
    said = predict_expression(list(asked), tissue=[tissue for tissue, _ in asked.values()])
    assert said.to_df("within_tissue").idxmax(axis=1).tolist() == [g for _, g in asked.values()]


def test_a_pair_that_was_never_seen_is_told_from_one_that_was():
    tissues = ["liver", "brain", "placenta", "tooth"]
    obs = predict_expression(["hepatocyte"] * 4, tissue=tissues, genes="ALB").obs
    np.testing.assert_allclose(obs["nearest_likeness"], 1)  # of the label alone
    assert obs["n_profiles"].iloc[0] > 0
    assert obs["n_profiles"].tolist()[1:] == [0, 0, 0]
    assert obs["nearest_tissue_likeness"].iloc[0] == pytest.approx(1)
    assert (obs["nearest_tissue_likeness"].iloc[1:] < 0.5).all()
