"""annotate_file(): the slots of annotate() in a file, and all else as it was; the command line."""

import json
import sys
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scgp
from scgp.__main__ import main
from scgp.errors import ArgumentError, ScgpWarning

sys.path.insert(0, str(Path(__file__).parent))
from annotated_files import SLOTS, content, read, same

KINDS = ["h5ad", "zarr2", "zarr3"]


@pytest.mark.parametrize("kind", KINDS)
def test_slots_are_those_of_annotate_and_all_else_stays(
    file_of, annotate_file, stored, expected, kind, state
):
    path = file_of(kind)
    n_cells = annotate_file(path)
    found = read(path)
    same(found, expected)
    assert n_cells == {**dict.fromkeys(n_cells, 0), **expected.obs["scgp_status"].value_counts()}
    assert not path.with_name(path.name + ".scgp").exists()
    # What annotate() does not document is as it was.
    for name in SLOTS:
        del found.obs[name]
    del found.obsm["X_scgp"], found.uns["scgp"]
    before = read(stored / kind)
    del before.obs["scgp_status"]
    assert state(found) == state(before)
    assert (found.obsp["near"] != before.obsp["near"]).nnz == 0


def test_arrays_that_are_no_slots_keep_their_bytes_in_a_store(file_of, annotate_file):
    path = file_of("zarr3")
    before = content(path)
    annotate_file(path)
    after = content(path)
    changed = {name for name in before if after.get(name) != before[name]}
    allowed = {name for name in changed if name.startswith("obs/scgp_status/")}
    assert changed - allowed == {"zarr.json", "obs/zarr.json"}


@pytest.mark.parametrize("kind", ["zarr2", "zarr3"])
def test_the_metadata_at_the_root_is_what_zarr_would_write(file_of, annotate_file, kind):
    import zarr

    path = file_of(kind)
    annotate_file(path)
    file = path / (".zmetadata" if kind == "zarr2" else "zarr.json")
    found = json.loads(file.read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # version 3 has no word for such a copy
        zarr.consolidate_metadata(path)
    expected = json.loads(file.read_text())
    if kind == "zarr2":  # zarr 3 puts empty copies into groups of version 2, which has none
        for metadata in (found["metadata"], expected["metadata"]):
            for node in metadata.values():
                node.pop("consolidated_metadata", None)
    assert found == expected


@pytest.mark.parametrize("kind", ["h5ad", "zarr3"])
def test_an_earlier_annotation_is_replaced(file_of, annotate_file, blood_index, kind, expected):
    path = file_of(kind)
    annotate_file(path, labels=["B cell", "T cell"])
    sizes = []
    for _ in range(2):
        annotate_file(path)
        sizes.append(path.stat().st_size)
    same(read(path), expected)
    assert sizes[1] <= sizes[0] * 1.1  # the room of the old slots is used again


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        ("h5ad", {"layer": "dense"}),
        ("h5ad", {"use_raw": True}),
        ("zarr3", {"layer": "dense"}),
        ("zarr3", {"use_raw": True}),
    ],
)
def test_counts_are_read_from_where_they_are(file_of, annotate_file, cells, annotate, kind, where):
    path = file_of(kind)
    annotate_file(path, **where, key_added="mine", coverage=None)
    with pytest.warns(ScgpWarning, match="1 of 1400"):
        expected = annotate(cells, **where, key_added="mine", copy=True)
    found = read(path)
    pd.testing.assert_frame_equal(found.obs, expected.obs)
    assert found.uns["mine"] == expected.uns["mine"]


def test_a_representation_is_answered_too(file_of, cells, tmp_path):
    with pytest.warns(ScgpWarning, match="calibrated"):
        index = scgp.build_index(cells[:200].copy(), label_key="cell_type", use_rep="X_pca")
    path = file_of("h5ad")
    expected = cells.copy()
    with pytest.warns(ScgpWarning, match="calibrated"):
        scgp.annotate(expected, index=index, use_rep="X_pca", progress=False)
    with pytest.warns(ScgpWarning, match="calibrated"):
        scgp.annotate_file(path, index=index, use_rep="X_pca", progress=False)
    found = ad.read_h5ad(path)
    pd.testing.assert_frame_equal(found.obs, expected.obs)
    assert "X_scgp" not in found.obsm
    with pytest.raises(ArgumentError, match="obsm has no such key; its keys: 'X_pca'"):
        scgp.annotate_file(path, index=index, use_rep="X_scVI", progress=False)


@pytest.mark.filterwarnings("default")
def test_the_command_line_writes_in_place_and_copies_stores(file_of, capsys, expected):
    path = file_of("h5ad")
    command = ["annotate", str(path), "--in-place", "--min-confidence", "0.6"]
    assert main(command) == 0
    told = capsys.readouterr()
    assert f"-> {path}" in told.out
    assert "1 of 1400 cells have no count" in told.err
    assert read(path).uns["scgp"]["min_confidence"] == 0.6
    store = file_of("zarr3")
    before, out = content(store), store.with_name("out.zarr")
    assert main(["annotate", str(store), str(out), "--min-confidence", "0.6"]) == 0
    assert content(store) == before
    pd.testing.assert_frame_equal(read(out).obs, read(path).obs)
    np.testing.assert_array_equal(read(out).obsm["X_scgp"], read(path).obsm["X_scgp"])
    names = sorted(p.name for p in store.parent.iterdir())
    assert names == ["cells.h5ad", "cells.zarr", "out.zarr"]


@pytest.mark.parametrize("given", ["adata", None, 7, ["a.h5ad"]])
def test_what_is_no_path_is_refused(blood, given):
    path = blood if given == "adata" else given
    told = r"path is of type \w+; expected the path of an \.h5ad file or \.zarr store"
    with pytest.raises(ArgumentError, match=told) as caught:
        scgp.annotate_file(path)
    assert ("scgp.annotate(adata)" in str(caught.value)) == (given == "adata")
