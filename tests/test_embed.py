"""embed(): vectors of cells, on real cells; and the loop that the verbs share."""

import contextlib
import dataclasses
import sys

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch

import scgp
from scgp.device import has_bf16, resolve_device
from scgp.embed import CHUNK, embed_rows, resolve_model
from scgp.errors import ArgumentError, CheckpointError, CountsError, DeviceError, ScgpWarning
from scgp.model.checkpoint import DEFAULT_DIRECTORY
from scgp.model.network import CellTransformer


def _embed(adata, **options):
    return scgp.embed(adata, progress=False, **options)


def test_the_documented_slots_and_nothing_else(blood, model, state):
    before = state(blood)
    assert _embed(blood) is None
    vector_BE = blood.obsm["X_scgp"]
    assert vector_BE.shape == (120, model.config.embed_dim)
    assert vector_BE.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vector_BE, axis=1), 1, atol=1e-5)
    facts = blood.uns["scgp"]
    assert (facts["model"], facts["counts"], facts["n_genes"]) == (model.fingerprint, "X", 765)
    del blood.obsm["X_scgp"], blood.uns["scgp"]
    assert state(blood) == before


def test_annotate_writes_the_same_vectors(blood, annotated):
    _embed(blood)
    np.testing.assert_array_equal(blood.obsm["X_scgp"], annotated.obsm["X_scgp"])


def test_copy_and_key_added(blood, state):
    before = state(blood)
    copied = _embed(blood, copy=True, key_added="mine")
    assert state(blood) == before
    assert "X_mine" in copied.obsm
    assert "mine" in copied.uns
    assert "X_scgp" not in copied.obsm


def test_like_cells_lie_together(annotated):
    """Nearest neighbours share their label far more often than cells at random."""
    vector_BE = annotated.obsm["X_scgp"]
    label_B = annotated.obs["cell_type"].to_numpy()
    similarity_BB = vector_BE @ vector_BE.T
    np.fill_diagonal(similarity_BB, -2)
    shared = (label_B[similarity_BB.argmax(axis=1)] == label_B).mean()
    at_random = (label_B[:, None] == label_B[None]).mean()
    assert shared > 2 * at_random


def test_empty_cells_are_zero_rows_and_said(blood):
    blood.X = sp.csr_matrix(sp.diags([0.0, *[1.0] * 119]) @ blood.X).astype(np.float32)
    with pytest.warns(ScgpWarning, match="1 of 120 cells.*vector is zero") as caught:
        _embed(blood)
    assert len(caught) == 1
    assert not blood.obsm["X_scgp"][0].any()
    assert blood.obsm["X_scgp"][1:].any(axis=1).all()


@pytest.mark.parametrize("n_cells", [0, 1])
def test_few_cells(blood, n_cells):
    few = blood[:n_cells].copy()
    _embed(few)
    assert few.obsm["X_scgp"].shape == (n_cells, 128)


def test_a_view_becomes_a_cell_set_of_its_own(blood, annotated, state):
    """Nothing is written through to the parent, and a warning says so."""
    vectors = annotated.obsm["X_scgp"]
    before = state(blood)
    view = blood[[7, 3, 90]]
    with pytest.warns(ScgpWarning, match=r"a view of another, which stays as it is.*\.copy\(\)"):
        _embed(view)
    assert not view.is_view
    np.testing.assert_allclose(view.obsm["X_scgp"], vectors[[7, 3, 90]], atol=1e-6)
    assert state(blood) == before


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"key_added": "a/b"}, ArgumentError, "key_added"),
        ({"key_added": ""}, ArgumentError, "key_added"),
        ({"key_added": "."}, ArgumentError, r"key_added is '\.'; expected a name"),
        ({"key_added": ".."}, ArgumentError, r"key_added is '\.\.'; expected a name"),
        ({"batch_size": 0}, ArgumentError, "batch_size is 0; expected a whole number of at least"),
        ({"batch_size": 1.5}, ArgumentError, r"batch_size is 1\.5; expected a whole number"),
        ({"batch_size": "a"}, ArgumentError, "batch_size is 'a'; expected a whole number"),
        ({"batch_size": True}, ArgumentError, "batch_size is True; expected a whole number"),
        ({"layer": "log"}, CountsError, "use_raw=False"),
        ({"model": "no/such/model"}, CheckpointError, "no/such/model"),
        ({"device": "nonsense"}, DeviceError, "nonsense"),
    ],
)
def test_errors_change_nothing(blood, state, options, error, words):
    blood.layers["log"] = blood.X.log1p()
    before = state(blood)
    with pytest.raises(error, match=words):
        _embed(blood, **options)
    assert state(blood) == before


def test_an_interrupt_inside_the_network_writes_nothing(blood, model, state, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(model.network, "forward", interrupted)
    before = state(blood)
    with pytest.raises(KeyboardInterrupt):
        _embed(blood)
    assert state(blood) == before


@pytest.fixture
def backed(blood, tmp_path):
    blood.write_h5ad(tmp_path / "blood.h5ad")
    adata = ad.read_h5ad(tmp_path / "blood.h5ad", backed="r")
    yield adata
    adata.file.close()


def test_a_backed_file_is_read_and_not_written(backed, annotated):
    content = backed.filename.read_bytes()
    _embed(backed)
    assert backed.isbacked
    np.testing.assert_array_equal(backed.obsm["X_scgp"], annotated.obsm["X_scgp"])
    assert backed.filename.read_bytes() == content


@pytest.mark.parametrize("verb", [scgp.embed, scgp.annotate])
def test_what_cannot_be_written_to_is_refused_before_any_work(backed, verb, state, monkeypatch):
    monkeypatch.setattr(sys.modules["scgp.embed"], "choose_counts", None)  # not the verb
    view = backed[:20]
    before = state(view)
    with pytest.raises(ArgumentError, match="to_memory"):
        verb(view)
    with pytest.raises(ArgumentError, match="to_memory"):
        verb(backed, copy=True)
    assert state(view) == before


def test_a_view_of_a_file_in_memory(backed, annotated):
    """What the message says to do."""
    view = backed[:20].to_memory()
    _embed(view)
    np.testing.assert_allclose(view.obsm["X_scgp"], annotated.obsm["X_scgp"][:20], atol=1e-6)


def test_progress_is_shown_unless_switched_off(blood, capsys):
    _embed(blood)
    assert capsys.readouterr().err == ""
    scgp.embed(blood)
    assert "120/120" in capsys.readouterr().err


def test_what_names_a_model(model):
    assert resolve_model(None) is model
    assert resolve_model(model) is model
    assert resolve_model(str(DEFAULT_DIRECTORY)).fingerprint == model.fingerprint
    with pytest.raises(ArgumentError, match="model is a float"):
        resolve_model(1.5)


def test_what_names_a_device(monkeypatch):
    assert resolve_device(None) == resolve_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("cuda", "cuda:1"):
        with pytest.raises(DeviceError, match="sees no CUDA device"):
            resolve_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("cuda").type == "cuda"


@pytest.mark.parametrize("fails", [False, True])
def test_the_network_goes_back_to_its_device(blood, model, monkeypatch, fails):
    """Whoever shares the model finds it where it was: term texts are projected there."""
    devices = []
    to, forward = model.network.to, model.network.forward

    def move(device):
        devices.append(str(device))
        return to(device)

    def compute(cells, **options):
        if fails:
            raise KeyboardInterrupt
        return forward(cells, **options)

    monkeypatch.setattr(model.network, "to", move)
    monkeypatch.setattr(model.network, "forward", compute)
    with pytest.raises(KeyboardInterrupt) if fails else contextlib.nullcontext():
        _embed(blood, device="cpu:0")
    assert devices == ["cpu:0", "cpu"]


def test_a_chunk_is_always_full(blood, model, monkeypatch):
    """Whatever comes, the network sees one shape: that is why company does not matter."""
    seen = []
    forward = model.network.forward

    def recorded(cells, **options):
        seen.append((tuple(cells.gene_BL.shape), len(cells.offset_B)))
        return forward(cells, **options)

    monkeypatch.setattr(model.network, "forward", recorded)
    token_V = model.genes.match(blood.var_names).token_of_column
    rows = sp.vstack([blood.X] * 3, format="csr")
    vectors = embed_rows(model, [rows, rows[:1]], token_V)
    assert vectors.cell_BE.shape == (361, 128)
    assert seen == [((CHUNK, model.config.n_tokens), CHUNK + 1)] * 3


@pytest.fixture
def older(model):
    """The default checkpoint with a transformer over the slots, of random weights, as in 0.7.0."""
    config = dataclasses.replace(model.config, n_layers=2, context_layers=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = CellTransformer(config)
        torch.nn.init.normal_(network.to_slots, std=0.5)
    state = model.network.state_dict()
    pooled = {name: tensor for name, tensor in state.items() if not name.startswith("context.")}
    network.load_state_dict({**network.state_dict(), **pooled})
    return scgp.Model(config, network, model.genes, model.phenotypes)


def test_the_pooled_view_alone(blood, model, older):
    """It makes the vectors of the default checkpoint; with a transformer they are others."""
    token_V = model.genes.match(blood.var_names).token_of_column
    pooled = embed_rows(model, [blood.X], token_V, use_tokens=False)
    default = embed_rows(model, [blood.X], token_V)
    np.testing.assert_array_equal(default.cell_BE, pooled.cell_BE)
    np.testing.assert_array_equal(default.type_BE, pooled.type_BE)
    with_layers = embed_rows(older, [blood.X], token_V)
    np.testing.assert_array_equal(with_layers.cell_BE, pooled.cell_BE)
    whole = embed_rows(older, [blood.X], token_V, use_tokens=True)
    np.testing.assert_allclose(np.linalg.norm(pooled.cell_BE, axis=1), 1, atol=1e-5)
    assert np.abs(pooled.cell_BE - whole.cell_BE).max() > 1e-3
    np.testing.assert_array_equal(pooled.total_B, whole.total_B)


def test_the_model_is_not_changed_by_being_used(blood, model):
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    _embed(blood)
    after = model.network.state_dict()
    assert not model.network.training
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_bfloat16_is_used_only_where_the_processor_has_it(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for has in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=has: has)
        assert has_bf16(torch.device("cpu")) is has


def test_a_watcher_is_shown_every_chunk_in_order(blood, model):
    token_V = model.genes.match(blood.var_names).token_of_column
    seen = []

    def watch(first, tokens, vectors, measured_G):
        seen.append((first, tokens.n_cells))
        assert set(np.flatnonzero(measured_G)) == set(token_V[token_V >= 0])
        parts.append(tokens.values(model.config.n_genes))

    parts = []
    rows = sp.vstack([blood.X] * 3, format="csr")
    embed_rows(model, [rows, rows[:1]], token_V, watch=watch)
    assert seen == [(0, CHUNK), (256, 104), (360, 1)]
    values = sp.vstack(parts, format="csr")
    tokens = model.tokenizer.tokenize(rows, token_V)
    np.testing.assert_array_equal(values[:360].toarray(), tokens.values(23262).toarray())
    np.testing.assert_allclose(np.expm1(values.astype(float)).sum(axis=1), 1e4, rtol=1e-4)
