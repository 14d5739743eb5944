"""A verb writes all of its slots or none: whatever fails between two of them."""

from collections import UserDict

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scgp
from scgp.slots import write_slots

SLOTS = {
    "obs": {"mine_a": np.arange(120.0), "mine_b": pd.Categorical(["x", "y"] * 60)},
    "obsm": {"X_mine": np.ones((120, 2), np.float32)},
    "uns": {"mine": {"model": "new"}},
}


def fail_at(monkeypatch, adata, count):
    """Press Ctrl-C in the `count`-th assignment to obs, obsm or uns; later ones work."""
    calls = []

    def counted(owner):
        real = owner.__setitem__

        def assign(self, name, value):
            calls.append(name)
            real(self, name, value)  # what fails may have been written already
            if len(calls) == count:
                raise KeyboardInterrupt

        monkeypatch.setattr(owner, "__setitem__", assign)

    class Dict(UserDict):
        pass

    adata.uns = Dict(adata.uns)
    for owner in (pd.DataFrame, type(adata.obsm), Dict):
        counted(owner)
    return calls


def _embed(adata, index):
    scgp.embed(adata, progress=False)


def _annotate(adata, index):
    scgp.annotate(adata, index=index, progress=False)


VERBS = [(_embed, n) for n in (1, 2)] + [(_annotate, n) for n in range(1, 7)]


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize(("verb", "count"), VERBS)
def test_a_verb_that_fails_between_two_slots_leaves_all_as_they_were(
    blood, blood_index, state, monkeypatch, verb, count, earlier
):
    if earlier:  # slots of an earlier call: other values, between other columns
        verb(blood, blood_index)
        blood.obsm["X_scgp"] = np.zeros((120, 3))
        blood.uns["scgp"] = {"model": "old"}
        for name in ("scgp_cell_type", "scgp_confidence", "scgp_status"):
            blood.obs[name] = "older"
        blood.obs["last"] = 1
    blood.uns = dict(blood.uns)
    before = state(blood)
    with monkeypatch.context() as patch:
        calls = fail_at(patch, blood, count)
        with pytest.raises(KeyboardInterrupt):
            verb(blood, blood_index)
        assert len(calls) >= count
    blood.uns = dict(blood.uns)
    assert state(blood) == before
    verb(blood, blood_index)
    assert blood.obsm["X_scgp"].shape == (120, 128)


def test_a_slot_that_does_not_fit_is_no_half_written_answer(blood, state):
    before = state(blood)
    with pytest.raises(ValueError, match="121"):
        write_slots(blood, {**SLOTS, "obsm": {"X_mine": np.ones((121, 2))}}, copy=False)
    assert state(blood) == before


def test_the_columns_of_repeated_cell_names_come_back(blood, state, monkeypatch):
    names = blood.obs_names.tolist()
    blood.obs_names = [names[0], names[0], *names[2:]]
    blood.obs["mine_a"] = np.arange(120)
    blood.uns = dict(blood.uns)
    before = state(blood)
    with monkeypatch.context() as patch:
        fail_at(patch, blood, 2)
        with pytest.raises(KeyboardInterrupt):
            write_slots(blood, SLOTS, copy=False)
    blood.uns = dict(blood.uns)
    assert state(blood) == before


@pytest.mark.filterwarnings("ignore:this AnnData is a view of another")
def test_a_view_that_could_not_be_written_is_still_a_view(blood, state, monkeypatch):
    blood.uns = dict(blood.uns)
    view = blood[[5, 3, 8]]
    before, of_parent = state(view), state(blood)
    slots = {"obs": {"a": [1, 2, 3], "b": [1, 2, 3]}}
    with monkeypatch.context() as patch:
        fail_at(patch, blood, 2)
        with pytest.raises(KeyboardInterrupt):
            write_slots(view, slots, copy=False)
    blood.uns = dict(blood.uns)
    assert state(view) == before
    assert view.is_view
    assert state(blood) == of_parent
    write_slots(view, slots, copy=False)
    assert not view.is_view
    assert view.obs["b"].tolist() == [1, 2, 3]
    assert state(blood) == of_parent


def test_a_copy_has_the_slots_and_the_original_has_not(blood, state):
    before = state(blood)
    copied = write_slots(blood, SLOTS, copy=True)
    assert isinstance(copied, ad.AnnData)
    assert copied.obs["mine_b"].tolist() == ["x", "y"] * 60
    assert copied.obsm["X_mine"].shape == (120, 2)
    assert copied.uns["mine"] == {"model": "new"}
    assert state(blood) == before
    assert write_slots(blood, SLOTS, copy=False) is None
    assert state(blood) == state(copied)
