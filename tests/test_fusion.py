"""The numbers that streams are fused with."""

import json

import pytest

from scgp.errors import ArgumentError, CheckpointError
from scgp.reference.fusion import Fusion


def test_fusion_survives_json_and_is_strict():
    fusion = Fusion(k=5, weight_text=0.1 + 0.2, threshold=0.7, novelty_threshold=0.35)
    assert Fusion.from_dict(json.loads(json.dumps(fusion.to_dict()))) == fusion
    for fields in ({**fusion.to_dict(), "magic": 1}, {"k": 5}):
        with pytest.raises(CheckpointError, match="expected"):
            Fusion.from_dict(fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"k": 0},
        {"k": 2.5},
        {"k": True},
        {"temperature_text": 0.0},
        {"temperature_neighbour": -1.0},
        {"weight_head": -0.1},
        {"weight_head": float("nan")},
        {"threshold": 1.5},
        {"threshold": "high"},
        {"novelty_threshold": float("inf")},
        {"set_mass": (0.5, 0.4)},
    ],
)
def test_fusion_refuses_impossible_numbers(fields):
    with pytest.raises(ArgumentError, match="expected k >= 1"):
        Fusion(**fields)


def test_a_calibration_of_an_earlier_version_gives_genes_no_weight():
    fields = Fusion(weight_head=0.7).to_dict()
    del fields["weight_gene"]
    assert Fusion.from_dict(fields) == Fusion(weight_head=0.7, weight_gene=0.0)
