"""train() of the transformer that reads genes in their context: what it changes and what it keeps.

Shape suffixes: N cells of the corpus, G genes, S sources.
"""

import sys
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

import scgp
from scgp import train as train_function
from scgp.cells.corpus import read_corpus
from scgp.errors import ArgumentError
from scgp.model.checkpoint import Model
from scgp.model.config import ModelConfig, TrainConfig
from scgp.model.network import CellTransformer
from scgp.training import loop, start
from scgp.training.objective import term_tables
from scgp.training.start import same_shape, set_components, set_means
from scgp.training.within_types import components_within_types

sys.path.insert(0, str(Path(__file__).parent))
from trained_cells import make_genes, make_texts

N_GENES = 300
TYPES = ("CL:0000084", "CL:0000236", "CL:0000576")
CONFIG = ModelConfig(
    n_genes=N_GENES, n_tokens=8, width=16, context_layers=1, pool_width=16, embed_dim=16, text_dim=8
)
OLDER = replace(CONFIG, n_layers=1, context_layers=0)
SHORT = TrainConfig(
    pool_steps=3, steps=3, batch_size=16, context_cells=8, queries=12, masked_cells=4,
    learning_rate=1e-2,
)  # fmt: skip
ON_TOP = replace(SHORT, pool_steps=0)
NONE = {"genes": None, "phenotypes": None, "config": None}


def make_cells(n_each=20, seed=0):
    """Synthetic counts: 20 genes mark each label."""
    rng = np.random.default_rng(seed)
    rate = np.full((len(TYPES), N_GENES), 0.3)
    for i in range(len(TYPES)):
        rate[i, 20 * i : 20 * (i + 1)] = 4.0
    row = np.tile(np.arange(len(TYPES)), n_each)
    obs = pd.DataFrame(
        {
            "cell_type_ontology_term_id": np.array(TYPES)[row],
            "study": np.resize(["a", "b"], len(row)),
            "donor": np.resize(["x", "y"], len(row)),
            "synthetic": True,
        },
        index=[f"synthetic {n}" for n in range(len(row))],
    )
    var = pd.DataFrame(index=[f"SYN{g}" for g in range(N_GENES)])
    return ad.AnnData(sp.csr_matrix(rng.poisson(rate[row]), dtype=np.float32), obs=obs, var=var)


def train(data, out, **changed):
    options = {
        "genes": make_genes(), "phenotypes": make_texts(TYPES), "config": CONFIG, "settings": SHORT,
        "calibrate_on_studies": False, "progress": False,
    }  # fmt: skip
    return train_function(data, out=out, **{**options, **changed})


def weights(model):
    return model.network.state_dict()


def changed(a, b):
    """Names of the weights that two models do not share to the bit."""
    same, other = weights(a), weights(b)
    assert same.keys() == other.keys()
    return {name for name in same if not torch.equal(same[name], other[name])}


def of_context(names):
    return {name for name in names if name.startswith("context.")}


@pytest.fixture(scope="module")
def cells():
    return make_cells()


@pytest.fixture(scope="module")
def whole(cells, tmp_path_factory):
    """A short run that nothing interrupted, with its directory."""
    out = tmp_path_factory.mktemp("whole") / "model"
    return train(cells, out), out


@pytest.fixture(scope="module")
def older(cells, tmp_path_factory):
    """A model as of 0.7.0."""
    return train(cells, tmp_path_factory.mktemp("older") / "model", config=OLDER)


def test_a_run_leaves_a_model_that_reads_genes(cells, whole):
    model, out = whole
    assert not changed(Model.load(out), model)
    assert model.config == CONFIG
    history = pd.read_csv(out.parent / "model.history.csv")
    assert history["step"].tolist() == list(range(6))
    assert history["type"].notna().tolist() == [True] * 3 + [False] * 3
    assert history["context"].notna().tolist() == [False] * 3 + [True] * 3
    assert "masked" not in history
    np.testing.assert_array_equal(history["context"][3:], history["loss"][3:])
    found = scgp.embed_genes(cells, ["SYN0", "SYN1"], model=out, progress=False)
    assert found.shape[1] == 16
    assert np.isfinite(found.X).all()


def test_the_vectors_are_left_to_the_bit_and_the_context_learns(cells, whole, tmp_path):
    alone = train(cells, tmp_path / "alone", settings=replace(SHORT, steps=0))
    names = changed(alone, whole[0])
    assert names == of_context(names)
    for name in of_context(weights(alone)):
        assert name in names, name  # every part of it learns
    found = [
        scgp.annotate(cells, model=model, copy=True, progress=False) for model in (alone, whole[0])
    ]
    np.testing.assert_array_equal(*(adata.obsm["X_scgp"] for adata in found))
    for name in ("scgp_cell_type", "scgp_confidence", "scgp_status"):
        assert found[0].obs[name].tolist() == found[1].obs[name].tolist()
    assert all(p.requires_grad for p in whole[0].network.parameters())


def test_a_context_says_nothing_while_the_pooled_view_is_trained(cells, whole, tmp_path):
    alone = train(cells, tmp_path / "alone", settings=replace(SHORT, steps=0))
    torch.manual_seed(SHORT.seed)
    start = CellTransformer(CONFIG).state_dict()
    for name in of_context(weights(alone)) - {"context.mean_G"}:
        assert torch.equal(weights(alone)[name], start[name].half().float()), name


@pytest.mark.parametrize(
    ("name", "count"),
    [("forward", 2), ("in_context", 1), ("in_context", 3), ("after", 2), ("after", 5)],
)
def test_interrupted_and_resumed_is_as_if_uninterrupted(
    cells, whole, tmp_path, monkeypatch, name, count
):
    owner = loop.KeepState if name == "after" else loop.Objective
    method = "on_train_batch_end" if name == "after" else name
    real, calls = getattr(owner, method), []

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == count:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, method, interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(cells, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    resumed = train(cells, tmp_path / "model")
    assert not changed(resumed, whole[0])
    assert resumed.fingerprint == whole[0].fingerprint
    history = pd.read_csv(tmp_path / "model.history.csv")
    assert history["step"].iloc[-1] == 5


def test_the_seed_decides_bit_for_bit(cells, whole, tmp_path):
    torch.manual_seed(99)
    assert not changed(train(cells, tmp_path / "again"), whole[0])
    other = train(cells, tmp_path / "other", settings=replace(SHORT, seed=1))
    assert of_context(changed(other, whole[0]))


def test_in_bfloat16_where_the_processor_has_it(cells, whole, tmp_path, monkeypatch):
    seen = []
    real = loop.Objective.in_context

    def watch(self, *args):
        seen.append(torch.is_autocast_enabled("cpu"))
        return real(self, *args)

    monkeypatch.setattr(loop, "has_bf16", lambda _: True)
    monkeypatch.setattr(loop.Objective, "in_context", watch)
    train(cells, tmp_path / "model")
    assert seen == [True] * 3
    history = pd.read_csv(tmp_path / "model.history.csv")
    exact = pd.read_csv(whole[1].parent / "model.history.csv")
    np.testing.assert_allclose(history["context"][3:], exact["context"][3:], rtol=0.02)


def test_a_context_without_a_pooled_view_is_refused(cells, tmp_path):
    with pytest.raises(ArgumentError, match="pool_steps is 0"):
        train(cells, tmp_path / "model", settings=ON_TOP)
    assert not list(tmp_path.iterdir())


# ---- a context for a model that has none ----


def test_a_context_is_added_and_the_vectors_are_kept(cells, older, tmp_path):
    before = {name: tensor.clone() for name, tensor in weights(older).items()}
    options = NONE | {"base": older, "config": CONFIG, "settings": ON_TOP}
    model = train(cells, tmp_path / "model", **options)
    assert model.config == CONFIG
    assert model.details["base"] == older.fingerprint != model.fingerprint
    same = {name for name in weights(model) if not name.startswith("context.")}
    assert {"gene.weight", "pool.1.weight", "text.weight", "text_mean", "gene_weight_G"} < same
    for name in same:
        assert torch.equal(weights(model)[name], before[name]), name
    assert all(torch.equal(weights(older)[name], tensor) for name, tensor in before.items())
    vectors = [
        scgp.embed(cells, model=m, copy=True, progress=False).obsm["X_scgp"] for m in (older, model)
    ]
    np.testing.assert_array_equal(*vectors)
    assert weights(model)["context.mean_G"][:-1].min() > 2  # it starts at the means of these cells
    assert not changed(train(cells, tmp_path / "again", **options), model)
    wider = replace(CONFIG, width=32, n_tokens=16, context_layers=2)
    assert train(cells, tmp_path / "wider", **options | {"config": wider}).config == wider


def test_a_context_is_trained_on_from_where_it_stood(cells, whole, tmp_path):
    slow = replace(ON_TOP, learning_rate=1e-6)
    for name, config in (("none", None), ("same", CONFIG)):
        options = NONE | {"base": whole[0], "config": config, "settings": slow}
        again = train(cells, tmp_path / name, **options)
        for key, tensor in weights(whole[0]).items():
            if config is None or key != "context.mean_G":
                torch.testing.assert_close(weights(again)[key], tensor, rtol=0, atol=2e-3)
    options = NONE | {"base": whole[0], "settings": ON_TOP}
    names = changed(train(cells, tmp_path / "more", **options), whole[0])
    assert names == of_context(names) != set()


def test_a_config_that_would_change_the_vectors_is_refused(cells, older, tmp_path):
    options = NONE | {"base": older, "settings": ON_TOP}
    for other in ({"pool_width": 8}, {"embed_dim": 8}):
        with pytest.raises(ArgumentError, match=r"these differ otherwise: \['"):
            train(cells, tmp_path / "model", **options | {"config": replace(CONFIG, **other)})
    both = train(cells, tmp_path / "both", config=replace(OLDER, token_slots=True))
    with pytest.raises(ArgumentError, match="token_slots"):
        train(cells, tmp_path / "model", **options | {"base": both, "config": CONFIG})
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("devices", [1, 2])
def test_a_reader_of_before_0_19_is_given_a_linear_view_and_embeds_as_before(
    cells, tmp_path, devices
):
    without = replace(CONFIG, context_components=0)
    base = train(cells, tmp_path / "base", config=without)
    more = make_cells(n_each=60, seed=3)
    wider = replace(without, context_components=8)
    options = NONE | {"base": base, "config": wider, "devices": devices}
    model = train(more, tmp_path / "model", **options, settings=ON_TOP)
    assert model.config == wider
    state, before = weights(model), weights(base)
    differ = {name for name in before if not torch.equal(state[name], before[name])}
    assert differ == {"context.rate.weight", "context.mean_G", "context.log_size"}
    assert state["context.component.weight"].any()
    genes = ["SYN0", "SYN41"]
    found, expected = (
        scgp.embed_genes(more, genes, model=m, progress=False, expressed=False)
        for m in (model, base)
    )
    np.testing.assert_array_equal(found.X, expected.X)
    assert (found.obs["predicted"] - expected.obs["predicted"]).abs().max() > 1e-3
    if devices == 1:  # and once the pooled view is trained again, all of it is
        all_of_it = train(more, tmp_path / "all", **options, settings=SHORT)
        changes = {n for n in before if not torch.equal(weights(all_of_it)[n], before[n])}
        assert {"context.pool.weight", "context.norm.weight", "gene.weight"} < changes


def test_a_linear_view_is_trained_on_from_where_it_stood(tmp_path, monkeypatch):
    cells, config = make_cells(n_each=60), replace(CONFIG, context_components=8)
    base = train(cells, tmp_path / "base", config=config)
    name = "context.component.weight"
    axes = CellTransformer(config)
    monkeypatch.setattr(start, "components_within_types", lambda *_, **__: np.eye(N_GENES, 8))
    for given in (None, config):
        options = NONE | {"base": base, "config": given}
        slow = replace(ON_TOP, learning_rate=1e-9)
        model = train(cells, tmp_path / f"{given is None}", **options, settings=slow)
        torch.testing.assert_close(weights(model)[name], weights(base)[name], rtol=0, atol=2e-3)
    axes.context.start_components(torch.eye(N_GENES, 8))
    assert (weights(base)[name] - axes.context.component.weight).abs().max() > 0.5


def test_a_model_without_a_reader_has_the_shape_it_had_before_there_were_linear_views():
    assert same_shape(OLDER, replace(OLDER, context_components=0))
    assert not same_shape(CONFIG, replace(CONFIG, context_components=0))


def test_a_run_goes_on_where_the_start_of_the_linear_view_rounds_otherwise(tmp_path, monkeypatch):
    """As with another number of threads, or on another processor."""
    cells = make_cells(n_each=60)
    options = {"config": replace(CONFIG, context_components=8)}
    whole = train(cells, tmp_path / "whole", **options)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop.Objective, "in_context", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(cells, tmp_path / "model", **options)
    assert (tmp_path / "model.training" / "state.safetensors").is_file()

    def otherwise(*args, **kwargs):
        return components_within_types(*args, **kwargs) + np.float32(1e-6)

    monkeypatch.setattr(start, "components_within_types", otherwise)
    assert train(cells, tmp_path / "model", **options).fingerprint == whole.fingerprint
    elsewhere = train(cells, tmp_path / "elsewhere", **options)
    assert elsewhere.fingerprint != whole.fingerprint  # the test can fail


# ---- where it starts ----


@pytest.mark.filterwarnings("ignore:few genes in common")  # synthetic: few
def test_predictions_start_at_the_mean_of_the_cells_that_measure_a_gene(cells):
    """Two sources, of which one lacks 50 genes, and cells drawn from profiles."""
    fewer = make_cells(n_each=10, seed=5)[:, 50:].copy()
    drawn = make_cells(n_each=5, seed=6)
    drawn.obs["profile"] = "p"
    drawn.X = drawn.X * 50
    corpus = read_corpus(
        [cells, fewer], make_genes(), label_key="cell_type_ontology_term_id", study_key="study",
        donor_key="donor", drawn=[drawn],
    )  # fmt: skip
    network = CellTransformer(CONFIG)
    set_means(network, corpus)
    level = [1e4 * x / x.sum(axis=1, keepdims=True) for x in (cells.X.toarray(), fewer.X.toarray())]
    sum_G = level[0].sum(axis=0)
    sum_G[50:] += level[1].sum(axis=0)
    n_G = np.where(np.arange(N_GENES) < 50, 60, 60 + 30)
    found = network.context.mean_G.detach().numpy()
    np.testing.assert_allclose(found[:-1], np.log(sum_G / n_G + 1e-3), atol=0.01)
    assert found[-1] == 0
    set_means(CellTransformer(OLDER), corpus)  # which has nothing to set


def test_the_linear_view_starts_at_what_cells_of_one_type_differ_in(tmp_path):
    cells = make_cells(n_each=60)
    corpus = read_corpus(
        cells, make_genes(), label_key="cell_type_ontology_term_id", study_key="study",
        donor_key="donor",
    )  # fmt: skip
    types = term_tables(corpus, make_texts(TYPES))["type"]
    network = CellTransformer(replace(CONFIG, context_components=8))
    random_GC = network.context.component.weight.detach().clone()
    set_components(network, corpus, types, 3)
    axis_GC = components_within_types(corpus, types.cell_N, 8, seed=3)
    assert axis_GC.shape == (N_GENES, 8)
    found_GC = network.context.component.weight.detach().numpy()
    np.testing.assert_array_equal(found_GC[:-1], axis_GC)
    assert not found_GC[-1].any()
    rate_GC = network.context.component_rate.weight.detach().numpy()
    np.testing.assert_allclose(rate_GC[:-1], 0.5 * axis_GC)
    few = read_corpus(
        make_cells(n_each=5), make_genes(), label_key="cell_type_ontology_term_id",
        study_key="study", donor_key="donor",
    )  # fmt: skip
    other = CellTransformer(replace(CONFIG, context_components=8))
    with torch.no_grad():
        other.context.component.weight.copy_(random_GC)
    set_components(other, few, term_tables(few, make_texts(TYPES))["type"], 3)
    assert torch.equal(other.context.component.weight, random_GC)  # too few cells: as it was
    set_components(CellTransformer(OLDER), corpus, types, 3)  # which has nothing to set
    options = {"settings": replace(SHORT, learning_rate=1e-9, seed=3)}
    model = train(
        cells, tmp_path / "model", config=replace(CONFIG, context_components=8), **options
    )
    np.testing.assert_allclose(weights(model)["context.component.weight"][:-1], axis_GC, atol=1e-3)


def test_the_loss_falls_on_real_cells(all_blood, model, tmp_path):
    config = ModelConfig(
        n_genes=model.config.n_genes, n_tokens=32, width=16, context_layers=1,
        pool_width=model.config.pool_width, embed_dim=model.config.embed_dim,
        text_dim=model.config.text_dim,
    )  # fmt: skip
    settings = TrainConfig(pool_steps=0, steps=60, context_cells=32, queries=32, learning_rate=3e-3)
    train_function(
        all_blood[:300], out=tmp_path / "model", base=model, config=config, settings=settings,
        label_key="cell_type", study_key=None, donor_key=None, calibrate_on_studies=False,
        progress=False,
    )  # fmt: skip
    loss = pd.read_csv(tmp_path / "model.history.csv")["context"]
    assert loss.notna().all()
    assert loss.iloc[-3:].mean() < 0.8 * loss.iloc[0]
