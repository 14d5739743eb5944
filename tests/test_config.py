"""Settings: strict JSON, and shapes that cannot be are refused."""

import json

import pytest

from scgp.errors import ArgumentError, CheckpointError
from scgp.model.config import ModelConfig, TrainConfig


@pytest.mark.parametrize("config", [ModelConfig(n_genes=7, dropout=0.0), TrainConfig(seed=3)])
def test_round_trip_through_json(config):
    again = type(config).from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config


def test_fields_of_a_saved_config_are_pinned():
    # A field that is added, dropped or renamed makes old checkpoints unreadable.
    assert list(ModelConfig(n_genes=7).to_dict()) == [
        "n_genes", "n_tokens", "width", "n_layers", "n_heads", "pool_width", "embed_dim",
        "text_dim", "dropout", "token_slots", "context_layers", "context_components",
    ]  # fmt: skip


def test_configs_of_earlier_versions_have_vectors_of_pooled_view_and_transformer():
    before = ModelConfig(n_genes=7).to_dict()
    assert before.pop("token_slots") is False
    assert ModelConfig.from_dict(before).token_slots is True


def test_configs_of_earlier_versions_have_no_context():
    before = ModelConfig(n_genes=7, n_layers=4, context_layers=0).to_dict()
    assert before.pop("context_layers") == 0
    assert ModelConfig.from_dict(before) == ModelConfig(n_genes=7, n_layers=4, context_layers=0)


def test_by_default_the_transformer_is_the_one_that_reads_genes_in_their_context():
    config = ModelConfig(n_genes=7)
    assert (config.n_layers, config.context_layers, config.n_tokens) == (0, 2, 128)
    assert config.pooled_alone
    assert config.trained_on_top
    assert not config.tokens_on_top


def test_components_are_not_below_0():
    with pytest.raises(ArgumentError, match="context_components -1"):
        ModelConfig(n_genes=7, context_components=-1)


def test_a_model_has_one_transformer():
    with pytest.raises(ArgumentError, match=r"n_layers is 1 and context_layers is 2.*either to 0"):
        ModelConfig(n_genes=7, n_layers=1)
    for layers in ({"n_layers": 1, "context_layers": 0}, {"n_layers": 0, "context_layers": 0}):
        assert ModelConfig(n_genes=7, **layers).to_dict().items() >= layers.items()


@pytest.mark.parametrize(
    ("layers", "alone", "on_top"),
    [
        ({"context_layers": 0}, True, False),  # no transformer: all steps train the pooled view
        ({"context_layers": 0, "n_layers": 1}, True, True),  # as in 0.7.0
        ({"context_layers": 0, "n_layers": 1, "token_slots": True}, False, False),
        ({"context_layers": 1}, True, True),
    ],
)
def test_what_the_vectors_are_of_and_what_is_trained_on_top(layers, alone, on_top):
    config = ModelConfig(n_genes=7, **layers)
    assert (config.pooled_alone, config.trained_on_top) == (alone, on_top)


def test_fields_more_or_less_are_refused_by_name():
    values = ModelConfig(n_genes=7).to_dict()
    with pytest.raises(CheckpointError, match=r"unknown fields \['flavour'\], missing \[\]"):
        ModelConfig.from_dict({**values, "flavour": 1})
    del values["width"]
    with pytest.raises(CheckpointError, match=r"unknown fields \[\], missing \['width'\]"):
        ModelConfig.from_dict(values)


@pytest.mark.parametrize(
    ("field", "value"),
    [("n_genes", 7.0), ("n_genes", "7"), ("n_genes", True), ("dropout", "0.1"), ("width", None)],
)
def test_values_of_another_type_are_refused(field, value):
    values = ModelConfig(n_genes=7).to_dict() | {field: value}
    with pytest.raises(CheckpointError, match=rf"ModelConfig.{field} is .*; expected (int|float)"):
        ModelConfig.from_dict(values)


def test_a_whole_number_passes_for_a_float():
    values = ModelConfig(n_genes=7).to_dict() | {"dropout": 0}
    assert ModelConfig.from_dict(values).dropout == 0


@pytest.mark.parametrize(
    "changed",
    [
        {"n_genes": 0}, {"n_tokens": 0}, {"width": 0}, {"n_heads": 0}, {"pool_width": -1},
        {"embed_dim": 0}, {"text_dim": 0}, {"n_heads": 3}, {"n_layers": -1}, {"dropout": 0.5},
        {"context_layers": -1},
        {"dropout": -0.1}, {"dropout": float("nan")},
    ],
)  # fmt: skip
def test_shapes_that_no_network_has_are_refused(changed):
    with pytest.raises(ArgumentError, match=next(iter(changed)).removeprefix("n_")):
        ModelConfig(**{"n_genes": 7, **changed})


@pytest.mark.parametrize(
    "changed",
    [
        {"pool_steps": -1}, {"steps": -1}, {"pool_steps": 0, "steps": 0}, {"batch_size": 1},
        {"drawn_share": 1.0}, {"drawn_share": -0.1}, {"learning_rate": 0.0},
        {"learning_rate": float("nan")}, {"learning_rate": float("inf")},
        {"precision": "bfloat16"}, {"patience": -1}, {"validate_every": 0},
        {"validation_share": 0.0}, {"validation_share": 1.0},
    ],
)  # fmt: skip
def test_settings_that_cannot_train_are_refused(changed):
    with pytest.raises(ArgumentError, match=next(iter(changed))):
        TrainConfig(**changed)


def test_settings_of_earlier_versions_stop_no_run_early():
    before = TrainConfig(seed=3).to_dict()
    for name in ("precision", "patience", "validate_every", "validation_share"):
        del before[name]
    assert TrainConfig.from_dict(before) == TrainConfig(seed=3)
    assert (
        TrainConfig(seed=3).asked() == before
    )  # so that their unfinished runs can be gone on with
    assert TrainConfig(patience=2).asked()["patience"] == 2


def test_one_phase_is_enough():
    assert TrainConfig(pool_steps=0, steps=1).steps == 1
    assert TrainConfig(pool_steps=1, steps=0).pool_steps == 1
