"""The choices of the study of VWF that no author made."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import scgp
from benchmarks.polyfunction_report import _networks

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def skin(shared_data, model):
    path = ROOT / "benchmarks" / "polyfunction_skin.py"
    spec = importlib.util.spec_from_file_location("polyfunction_skin", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.warns(scgp.ScgpWarning, match="stand for"):
        return module.skin_endothelium(shared_data, model)


def _expressed(cells, gene):
    return float((cells[:, gene].X.toarray() > 0).mean())


def test_endothelium_of_skin_is_endothelium(skin):
    assert 80 <= skin.n_obs <= 200
    assert _expressed(skin, "PECAM1") > 0.7
    assert _expressed(skin, "VWF") > 0.4
    assert max(_expressed(skin, gene) for gene in ("PTPRC", "CD3D", "PROX1")) < 0.1


def test_every_donor_has_both_kinds_of_vessels(skin):
    table = skin.obs.groupby(["donor", "context"], observed=True).size().unstack()
    assert table.shape == (3, 2)
    assert table.to_numpy().min() >= 8


SIDES = {"venule": "venular", "vein": "venular", "artery": "other vessels"}


def test_what_annotate_calls_venules_veins_and_arteries_lies_on_the_two_sides(skin):
    """The split rests on counts of seven genes, the labels on the model."""
    label, context = skin.obs["scgp_cell_type"].astype(str), skin.obs["context"].to_numpy()
    called = {word: label.str.contains(word).to_numpy() for word in SIDES}
    right = sum((context[called[word]] == side).sum() for word, side in SIDES.items())
    n_called = sum(rows.sum() for rows in called.values())
    assert min(rows.sum() for rows in called.values()) >= 3
    assert n_called >= 15
    assert right > 0.9 * n_called


def test_asked_for_the_kinds_of_vessels_it_tells_most_cells_apart(skin, model):
    kinds = ["endothelial cell of venule", "endothelial cell of artery"]
    with pytest.warns(scgp.ScgpWarning, match="stand for"):
        asked = scgp.annotate(
            skin, model=model, labels=kinds, key_added="asked", progress=False, copy=True
        )
    label, context = asked.obs["asked_cell_type"].astype(str), asked.obs["context"].to_numpy()
    for kind, side in zip(kinds, ("venular", "other vessels"), strict=True):
        called = (label == kind).to_numpy()
        assert called.sum() >= 30
        assert np.mean(context[called] == side) > 0.8


def _records(excess):
    return [{"gene": gene, "excess": x} for gene, x in excess.items()]


def test_what_networks_do_not_agree_on_is_shown():
    """Synthetic: the second network has the excess of the first, the third its opposite."""
    shipped = {"VWF": 0.05, "CLDN5": 0.02, "ACTB": -0.03}
    ours = {"liver": _records(shipped) + _records({g: x + 0.02 for g, x in shipped.items()})}
    others = [
        {"gradient": rho, "vwf": {"liver": _records({g: sign * x for g, x in shipped.items()})}}
        for rho, sign in ((0.5, 1), (-0.25, -1))
    ]
    text = "\n".join(_networks(others, ours))
    assert "| **VWF** | +0.06 / +0.05 / -0.05 |" in text
    assert "| ACTB | -0.02 / -0.03 / +0.03 |" in text
    assert "mean over pairs: liver -0.33." in text  # of 1, -1 and -1
    assert "Spearman 0.50, -0.25." in text
    assert _networks([], ours) == []
