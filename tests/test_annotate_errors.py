"""What annotate() refuses, and that the user's object then stays as it was."""

import os
import shutil

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch

import scgp
from scgp.errors import (
    ArgumentError,
    CheckpointError,
    CountsError,
    DeviceError,
    FingerprintError,
    GeneError,
)
from scgp.model.checkpoint import DEFAULT_DIRECTORY


def _log(matrix):
    return sp.csr_matrix(matrix).log1p()


def _with_x(adata, matrix, **layers):
    changed = adata.copy()
    changed.X = matrix
    for name, layer in layers.items():
        changed.layers[name] = layer
    return changed


def _log_with_layer(adata):
    return _with_x(adata, _log(adata.X), counts=adata.X.copy())


def _log_with_raw(adata):
    adata.raw = adata
    return _with_x(adata, _log(adata.X))


def _scaled(adata):
    dense = adata.X.toarray()
    return _with_x(adata, dense - dense.mean(axis=0, keepdims=True))


def _spoilt(value):
    def spoil(adata):
        dense = adata.X.toarray()
        dense[3, 5] = value
        return _with_x(adata, dense)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda a: _with_x(a, _log(a.X)), ["X does not hold raw counts", "log-normalised"]),
        (_log_with_layer, ["log-normalised", "layer='counts'"]),
        (_log_with_raw, ["log-normalised", "use_raw=True"]),
        (_scaled, ["scaled or centred"]),
        (_spoilt(-1), ["below zero"]),
        (_spoilt(np.nan), ["NaN"]),
        (_spoilt(np.inf), ["infinite"]),
    ],
    ids=["log", "log, layer", "log, raw", "scaled", "negative", "nan", "inf"],
)
def test_what_is_no_count_is_refused(blood, annotate, state, spoil, words):
    adata = spoil(blood)
    before = state(adata)
    with pytest.raises(CountsError) as caught:
        annotate(adata)
    assert all(word in str(caught.value) for word in words)
    assert state(adata) == before


def test_a_fault_that_shows_late_leaves_nothing(blood, annotate, state):
    """Row 300 of 1,440 is in none of the rows that are looked at first."""
    tiled = ad.concat([blood] * 12, index_unique="-")
    tiled.X = tiled.X.copy()
    tiled.X.data[tiled.X.indptr[300]] = 0.5
    before = state(tiled)
    with pytest.raises(CountsError, match=r"is 0\.5;"):
        annotate(tiled, batch_size=256)
    assert state(tiled) == before


def test_no_gene_in_common(blood, annotate, state):
    blood.var_names = [f"peak_{i}" for i in range(blood.n_vars)]
    before = state(blood)
    with pytest.raises(GeneError) as caught:
        annotate(blood)
    message = str(caught.value)
    assert "'peak_0', 'peak_1', 'peak_2'" in message
    assert message.count("(ENSG") == 3
    assert state(blood) == before


@pytest.mark.parametrize("kind", ["symbols", "ids"])
def test_mouse_genes_are_recognised(blood, annotate, state, kind):
    if kind == "symbols":
        blood.var_names = [name.capitalize() for name in blood.var_names]
        blood.var_names_make_unique()
    else:
        blood.var_names = [f"ENSMUSG{i:011d}" for i in range(blood.n_vars)]
    before = state(blood)
    with pytest.raises(GeneError, match="mouse"):
        annotate(blood)
    assert state(blood) == before


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"layer": "nope"}, ArgumentError, "'nope'"),
        ({"layer": "nope", "use_raw": True}, ArgumentError, "two matrices"),
        ({"use_raw": True}, ArgumentError, "raw is None"),
        ({"batch_size": 0}, ArgumentError, "batch_size"),
        ({"key_added": "a/b"}, ArgumentError, "key_added"),
        ({"key_added": ""}, ArgumentError, "key_added"),
        ({"device": "nonsense"}, DeviceError, "nonsense"),
        ({"device": "meta"}, DeviceError, "not supported"),
        ({"model": 3}, ArgumentError, "int"),
        ({"model": "no/such/model"}, CheckpointError, "no/such/model"),
        ({"index": "no/such/index"}, CheckpointError, "no/such/index"),
        ({"index": None, "label_key": "cell_type"}, ArgumentError, "go together"),
    ],
)
def test_wrong_arguments(blood, annotate, state, options, error, words):
    before = state(blood)
    with pytest.raises(error, match=words):
        annotate(blood, **options)
    assert state(blood) == before


def test_reference_and_index_exclude_each_other(blood, annotate):
    with pytest.raises(ArgumentError, match="not both"):
        annotate(blood, reference=blood, label_key="cell_type")


def test_a_reference_without_its_label_column(blood):
    with pytest.raises(ArgumentError, match="label_key"):
        scgp.annotate(blood, reference=blood, progress=False)


@pytest.mark.parametrize("given", [None, "cells.h5ad", np.zeros((3, 3))])
def test_what_is_no_anndata(annotate, given):
    with pytest.raises(ArgumentError, match=f"found {type(given).__name__}"):
        annotate(given)


def test_a_reference_that_is_no_anndata(blood):
    with pytest.raises(ArgumentError, match="reference has the type str"):
        scgp.annotate(blood, reference="atlas.h5ad", label_key="cell_type", progress=False)


def test_cuda_without_one(blood, annotate, state, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = state(blood)
    with pytest.raises(DeviceError, match=r"cuda.*device='cpu'"):
        annotate(blood, device="cuda")
    assert state(blood) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_inside_the_network_writes_nothing(
    blood, annotate, model, state, monkeypatch, error
):
    tiled = ad.concat([blood] * 4, index_unique="-")
    before, calls, pooled = state(tiled), [], model.network.pooled

    def interrupted(cells):
        calls.append(cells)
        if len(calls) == 2:
            raise error
        return pooled(cells)

    monkeypatch.setattr(model.network, "pooled", interrupted)
    with pytest.raises(error):
        annotate(tiled, batch_size=256)
    assert len(calls) == 2
    assert state(tiled) == before


def test_an_interrupt_in_the_answer_writes_nothing(blood, annotate, state, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("scgp.reference.answer.decide", interrupted)
    before = state(blood)
    with pytest.raises(KeyboardInterrupt):
        annotate(blood)
    assert state(blood) == before


def test_an_index_of_another_model(blood, annotate, blood_index, state, tmp_path):
    other = scgp.ReferenceIndex.build(
        np.eye(2, 128, dtype=np.float32), ["a", "b"], label_ids=["", ""],
        model_fingerprint="f" * 64,
    )  # fmt: skip
    other.save(tmp_path / "other.scgp")
    before = state(blood)
    for index in (other, tmp_path / "other.scgp"):
        with pytest.raises(FingerprintError) as caught:
            annotate(blood, index=index)
        assert "f" * 12 in str(caught.value)
        assert blood_index.model_fingerprint[:12] in str(caught.value)
    assert state(blood) == before


@pytest.mark.parametrize("fault", ["truncated", "edited", "missing", "pickle"])
def test_a_damaged_checkpoint(blood, annotate, state, tmp_path, fault):
    """The shipped checkpoint itself; a copy of hard links, so that only the damaged file is new."""
    folder = tmp_path / "model"
    shutil.copytree(DEFAULT_DIRECTORY, folder, copy_function=_link)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    weights.unlink()
    if fault == "truncated":
        weights.write_bytes(content[:-100])
    elif fault == "edited":
        content[-1] ^= 1
        weights.write_bytes(content)
    elif fault == "pickle":
        weights.write_bytes(content)
        (folder / "extra.pkl").write_bytes(b"cos\nsystem\n(S'touch planted'\ntR.")
    before = state(blood)
    with pytest.raises(CheckpointError):
        annotate(blood, model=folder)
    assert state(blood) == before


def _link(source, target):
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def test_a_reference_without_counts_names_build_index(blood):
    atlas = blood.copy()
    atlas.layers["counts"] = atlas.X.copy()
    atlas.X = np.log1p(atlas.X)
    with pytest.raises(CountsError, match=r"the reference .*build_index"):
        scgp.annotate(blood, reference=atlas, label_key="bulk_labels", progress=False)
