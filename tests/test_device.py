"""Devices: memory that is out halves what is computed at once; the search as torch does it."""

import weakref

import numpy as np
import pytest
import torch

import scgp
from scgp import labelling
from scgp.annotate import model_index
from scgp.device import Portions
from scgp.embed import CHUNK, GPU_CHUNK, embed_chunk, portions_of
from scgp.errors import DeviceError


def too_many(most, asked):
    """Return what refuses more than `most` rows, and says of every call how many were asked for."""

    def compute(part):
        asked.append(part.stop - part.start)
        if asked[-1] > most:
            message = "synthetic"
            raise torch.OutOfMemoryError(message)
        return part

    return compute


def test_rows_are_halved_until_they_fit_and_stay_so():
    asked = []
    portions = Portions(64, least=4)
    found = list(portions.run(too_many(17, asked), 40))
    assert asked == [40, 20, 10, 10, 10, 10]
    assert [(p.start, p.stop) for p in found] == [(0, 10), (10, 20), (20, 30), (30, 40)]
    asked.clear()
    assert len(list(portions.run(too_many(17, asked), 25))) == 3
    assert asked == [10, 10, 5]


def test_what_was_computed_is_free_before_memory_is_given_back(monkeypatch):
    """The error's traceback holds the tensors; while it does, their memory cannot go back."""
    tensors, held = [], []

    def compute(part):
        tensor = torch.ones(part.stop - part.start)
        tensors.append(weakref.ref(tensor))
        if len(tensor) > 4:
            message = "synthetic"
            raise torch.OutOfMemoryError(message)
        return len(tensor)

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: held.append(tensors[-1]() is not None))
    assert list(Portions(8, least=1).run(compute, 8)) == [4, 4]
    assert held == [False]


def test_too_little_memory_for_the_least_is_told():
    with pytest.raises(DeviceError, match="no memory for 7 cells"):
        list(Portions(7, least=4).run(too_many(3, []), 20))
    with pytest.raises(ZeroDivisionError):  # another error is not taken for it
        list(Portions(7, least=4).run(lambda _: 1 // 0, 20))


def test_chunks_are_larger_on_a_gpu():
    assert portions_of("cpu").size == portions_of("cuda").least == CHUNK
    assert portions_of(torch.device("cuda", 1)).size == GPU_CHUNK > CHUNK


def test_labels_are_the_same_when_memory_was_out(all_blood, monkeypatch):
    plain, halved = all_blood.copy(), all_blood.copy()
    scgp.annotate(plain, progress=False)
    asked = []

    def embedded(model, tokens, device, **options):
        asked.append(tokens.n_cells)
        if tokens.n_cells > 400:
            message = "synthetic"
            raise torch.OutOfMemoryError(message)
        return embed_chunk(model, tokens, device, **options)

    monkeypatch.setattr(labelling, "embed_chunk", embedded)
    monkeypatch.setattr(labelling, "portions_of", lambda _: Portions(GPU_CHUNK, least=CHUNK))
    scgp.annotate(halved, progress=False)
    assert asked == [700, 350, 350]
    assert (halved.obs["scgp_cell_type"] == plain.obs["scgp_cell_type"]).all()
    np.testing.assert_allclose(halved.obsm["X_scgp"], plain.obsm["X_scgp"], atol=1e-5)


def test_the_search_of_torch_finds_what_faiss_does(all_blood, model):
    index = model_index(model)
    query_BD = scgp.embed(all_blood, progress=False, copy=True).obsm["X_scgp"]
    on_device = index.on("cpu")
    assert on_device.store.segments[0].device == "cpu"
    assert index.store.segments[0].device is None
    for one, other in zip(index.search(query_BD, 30), on_device.search(query_BD, 30), strict=True):
        np.testing.assert_array_equal(one, other)
    fewer = on_device.remove(np.arange(100))
    assert fewer.store.segments[0].device == "cpu"
    np.testing.assert_array_equal(
        fewer.search(query_BD, 5)[1], index.remove(np.arange(100)).search(query_BD, 5)[1]
    )


def test_lists_are_left_to_faiss(model):
    vectors_ND = model_index(model).vectors_ND[:600]
    index = scgp.ReferenceIndex.build(
        vectors_ND, ["x"] * 600, label_ids=[""], model_fingerprint="synthetic", search="lists"
    )
    assert index.on("cpu").store.segments[0].device is None
