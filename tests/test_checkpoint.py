"""A saved model is read back as it was, or refused."""

import dataclasses
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from safetensors.torch import load_file, save_file

import scgp
from scgp.cells.vocabulary import GeneVocabulary
from scgp.embed import embed_rows
from scgp.errors import ArgumentError, CheckpointError
from scgp.model import directory
from scgp.model.checkpoint import Model, read_state, round_weights, write_state
from scgp.model.config import ModelConfig
from scgp.model.network import CellTransformer
from scgp.phenotypes.terms import Phenotypes

N_GENES = 40
CONFIG = ModelConfig(
    n_genes=N_GENES, n_tokens=8, width=16, n_layers=1, context_layers=0, pool_width=16,
    embed_dim=16, text_dim=8,
)  # fmt: skip
TERMS = ("CL:0000084", "CL:0000236")
FILES = ["README.md", "config.json", "genes.tsv", "model.safetensors", "phenotypes.npz"]


class Planted:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


def make_vocabulary(n_genes=N_GENES):
    ids = [f"ENSG{i:011d}" for i in range(n_genes)]
    table = pd.DataFrame({"ensembl_id": ids, "symbol": [f"SYN{i}" for i in range(n_genes)]})
    return GeneVocabulary(table.assign(previous="", aliases="", names_10x=""))


def make_model(seed=0):
    torch.manual_seed(seed)
    network = CellTransformer(CONFIG)
    torch.nn.init.normal_(network.to_slots)
    network.gene_weight_G.copy_(torch.rand(N_GENES) + 0.5)
    round_weights(network)
    vector_TW = np.random.default_rng(seed).normal(size=(2, 8))
    vector_TW /= np.linalg.norm(vector_TW, axis=1, keepdims=True)
    phenotypes = Phenotypes(TERMS, vector_TW.astype(np.float16), "synthetic")
    return Model(
        CONFIG, network, make_vocabulary(), phenotypes, card="# größer", details={"seed": seed}
    )


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture
def saved(model, tmp_path):
    model.save(tmp_path / "model")
    return tmp_path / "model"


def vectors(model):
    counts = sp.csr_matrix(np.random.default_rng(1).poisson(1.0, (7, N_GENES)), dtype=np.float32)
    return embed_rows(model, [counts], np.arange(N_GENES))


def forge(path, *, manifest=None, **files):
    """Change files and manifest with right checksums, as an attacker or a bug would."""
    content = json.loads((path / "config.json").read_text(encoding="utf-8"))
    for name, rewrite in files.items():
        rewrite(path / name.replace("_", ".", 1))
    content["files"] = {
        f: directory._write_file(path / f, (path / f).read_bytes())
        for f in content["files"]
        if (path / f).exists()
    }
    content.update(manifest or {})
    content["checksum"] = directory._checksum(content)
    (path / "config.json").write_text(json.dumps(content), encoding="utf-8")


def test_a_model_comes_back_as_it_was(model, saved):
    again = Model.load(saved)
    a, b = vectors(model), vectors(again)
    np.testing.assert_array_equal(a.cell_BE, b.cell_BE)
    np.testing.assert_array_equal(a.type_BE, b.type_BE)
    np.testing.assert_array_equal(model.project_terms([*TERMS]), again.project_terms([*TERMS]))
    assert (again.fingerprint, again.card, again.details) == (
        model.fingerprint,
        model.card,
        {"seed": 0},
    )
    assert (again.config, again.genes.fingerprint) == (CONFIG, model.genes.fingerprint)
    assert (again.phenotypes.ids, again.phenotypes.encoder) == (TERMS, "synthetic")
    assert again.directory == saved
    assert not again.network.training
    assert sorted(p.name for p in saved.iterdir()) == FILES


def test_saving_twice_gives_the_same_bytes(model, saved, tmp_path):
    Model.load(saved).save(tmp_path / "again")
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()


def test_the_fingerprint_is_of_weights_and_genes(model):
    assert make_model().fingerprint == model.fingerprint
    assert make_model(seed=1).fingerprint != model.fingerprint
    changed = make_model()
    with torch.no_grad():
        changed.network.slot[0, 0] += 1
    assert changed.fingerprint != model.fingerprint
    assert model.fingerprint[:12] in repr(model)


def test_weights_are_stored_as_half_precision_under_pinned_names(saved):
    tensors = load_file(saved / "model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float16}
    assert set(tensors) == set(CellTransformer(CONFIG).state_dict())


def test_terms_without_a_text_have_zero_rows(model):
    projected_TE = model.project_terms(["CL:0000236", "", "CL:0000000"])
    assert np.linalg.norm(projected_TE[0]) == pytest.approx(1, abs=1e-5)
    assert not projected_TE[1:].any()
    assert projected_TE.dtype == np.float32
    assert model.project_terms([]).shape == (0, 16)


def test_a_directory_that_exists_is_not_overwritten(model, saved):
    before = {p.name: p.read_bytes() for p in saved.iterdir()}
    with pytest.raises(ArgumentError, match="overwrite=True"):
        make_model(seed=1).save(saved)
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before
    other = make_model(seed=1)
    other.save(saved, overwrite=True)
    assert Model.load(saved).fingerprint == other.fingerprint


@pytest.mark.parametrize("name", FILES)
def test_missing_truncated_and_edited_files_are_refused(saved, name):
    content = (saved / name).read_bytes()
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        Model.load(saved)
    (saved / name).write_bytes(content[:-2])
    with pytest.raises(CheckpointError, match=r"truncated|edited|no JSON"):
        Model.load(saved)
    edited = content.replace(b"e", b"E", 1) if name == "config.json" else b"?" + content[1:]
    (saved / name).write_bytes(edited)
    with pytest.raises(CheckpointError, match=r"altered|edited|kind|describes"):
        Model.load(saved)
    (saved / name).write_bytes(content)
    Model.load(saved)


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match=r"no saved model|does not exist"):
            Model.load(path)


@pytest.mark.parametrize("name", ["model.pt", "deep/weights.bin", "x.pkl", "a.joblib"])
def test_a_planted_pickle_is_refused_and_not_run(saved, tmp_path, name):
    trace = tmp_path / "ran"
    (saved / name).parent.mkdir(exist_ok=True)
    (saved / name).write_bytes(pickle.dumps(Planted(trace)))
    with pytest.raises(CheckpointError, match="pickle"):
        Model.load(saved)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["model_safetensors", "phenotypes_npz"])
def test_a_pickle_in_the_place_of_a_file_is_refused_and_not_run(saved, tmp_path, name):
    trace = tmp_path / "ran"
    forge(saved, **{name: lambda file: file.write_bytes(pickle.dumps(Planted(trace)))})
    with pytest.raises(CheckpointError, match=r"no safetensors file|no npz file"):
        Model.load(saved)
    assert not trace.exists()


def test_objects_in_an_npz_are_refused_and_not_run(saved, tmp_path):
    trace = tmp_path / "ran"
    odd = np.array([Planted(trace), 0], dtype=object)
    forge(saved, phenotypes_npz=lambda file: np.savez(file, ids=odd, vectors=odd))
    with pytest.raises(CheckpointError, match="without a pickle"):
        Model.load(saved)
    assert not trace.exists()


def change_weights(change):
    def rewrite(file):
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)

    return rewrite


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop("slot"),
        lambda t: t.update(slots=t["slot"].clone()),
        lambda t: t.update(slot=t["slot"][:3].clone()),
        lambda t: t.update(slot=t["slot"].T.contiguous()),
    ],
    ids=["missing", "unknown", "fewer rows", "transposed"],
)
def test_weights_that_do_not_fit_are_refused(saved, change):
    forge(saved, model_safetensors=change_weights(change))
    with pytest.raises(CheckpointError, match=r"weights do not fit the config: .*slot"):
        Model.load(saved)


def test_weights_of_another_model_are_refused(saved, tmp_path):
    make_model(seed=1).save(tmp_path / "other")
    forge(
        saved,
        model_safetensors=lambda f: shutil.copy(tmp_path / "other" / "model.safetensors", f),
    )
    with pytest.raises(CheckpointError, match="not those that the manifest names"):
        Model.load(saved)


def test_configs_that_are_not_ours_are_refused(saved):
    config = CONFIG.to_dict()
    forge(saved, manifest={"model": {**config, "flavour": 1}})
    with pytest.raises(CheckpointError, match="flavour"):
        Model.load(saved)
    forge(saved, manifest={"model": {**config, "width": "16"}})
    with pytest.raises(CheckpointError, match=r"ModelConfig\.width"):
        Model.load(saved)
    forge(saved, manifest={"model": {**config, "n_layers": 2}})
    with pytest.raises(CheckpointError, match=r"blocks\.1"):
        Model.load(saved)


@pytest.mark.parametrize("fact", ["model", "encoder", "fingerprint", "details"])
def test_a_manifest_that_lacks_a_fact_is_refused(saved, fact):
    content = json.loads((saved / "config.json").read_text(encoding="utf-8"))
    del content[fact]
    content["checksum"] = directory._checksum(content)
    (saved / "config.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CheckpointError, match=fact):
        Model.load(saved)


@pytest.mark.parametrize("name", ["README.md", "genes.tsv", "model.safetensors", "phenotypes.npz"])
def test_a_manifest_that_lists_less_than_a_model_is_refused(saved, name):
    (saved / name).unlink()
    forge(saved)  # a right checksum over the rest
    with pytest.raises(CheckpointError, match=name):
        Model.load(saved)


def test_texts_that_are_none_are_refused(saved):
    forge(saved, phenotypes_npz=lambda file: directory.save_npz(file, {"ids": np.array(TERMS)}))
    with pytest.raises(CheckpointError, match="expected ids and vectors"):
        Model.load(saved)


def test_parts_that_do_not_belong_together_are_refused(model):
    for genes, width in ((make_vocabulary(30), 8), (model.genes, 9)):
        texts = Phenotypes(("CL:0000084",), np.ones((1, width), np.float16), "synthetic")
        with pytest.raises(CheckpointError, match="config says 40 genes and text vectors of 8"):
            Model(CONFIG, model.network, genes, texts)


def test_rounding_loses_nothing_more_when_saved(tmp_path):
    torch.manual_seed(5)
    network = CellTransformer(CONFIG)
    exact = {k: v.clone() for k, v in network.state_dict().items()}
    round_weights(network)
    rounded = network.state_dict()
    for name, weight in exact.items():
        torch.testing.assert_close(rounded[name], weight.half().float(), rtol=0, atol=0)


def test_a_training_state_is_whole_or_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    write_state(path, {"a": torch.arange(6.0).reshape(2, 3).T, "step": torch.tensor(7)}, {})
    state = read_state(path)
    assert state["a"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert int(state["step"]) == 7
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="not a whole training state"):
        read_state(path)


def test_the_fingerprint_tells_what_makes_the_vectors(saved):
    """Same weights, other vectors: an index of one must not serve the other."""
    model = Model.load(saved)
    config = dataclasses.replace(model.config, token_slots=not model.config.token_slots)
    network = CellTransformer(config)
    network.load_state_dict(model.network.state_dict())
    other = Model(config, network, model.genes, model.phenotypes)
    assert other.fingerprint != model.fingerprint


def test_load_model_reads_a_directory_or_gives_the_default(saved):
    assert scgp.load_model(saved).fingerprint == Model.load(saved).fingerprint
    assert scgp.load_model() is scgp.load_model(None) is Model.default()
    with pytest.raises(TypeError, match="path"):  # whose path is its own business
        Model.load()
