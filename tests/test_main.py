"""The command line: exit codes, and files that appear whole or not at all."""

import dataclasses
import inspect
import logging
import os
import warnings
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scgp
from scgp.__main__ import _TRAIN_KEYS, _TRAIN_PROCESSES, _TRAIN_SETTINGS, main
from scgp.errors import CountsError, ScgpWarning


@pytest.fixture
def cells(tmp_path):
    rng = np.random.default_rng(0)
    adata = ad.AnnData(sp.csr_matrix(rng.poisson(1.0, (30, 12)).astype(np.float32)))
    adata.obs["batch"] = pd.Categorical(["a", "b"] * 15)
    adata.layers["counts"] = adata.X.copy()
    adata.uns["note"] = {"kept": 1}
    path = tmp_path / "in.h5ad"
    adata.write_h5ad(path, compression="gzip")
    return path


def _write_labels(adata, *, key_added="scgp", **options):
    n = adata.n_obs
    adata.obs[f"{key_added}_cell_type"] = pd.Categorical(["B cell", "T/NK"] * (n // 2))
    adata.obs[f"{key_added}_cell_type_ontology_term_id"] = pd.Categorical(["CL:0000236"] * n)
    adata.obs[f"{key_added}_confidence"] = np.ones(n, dtype=np.float32)
    adata.obs[f"{key_added}_status"] = pd.Categorical(["labelled", "unknown"] * (n // 2))
    adata.obsm[f"X_{key_added}"] = np.eye(n, 4, dtype=np.float32)
    adata.uns[key_added] = {"options": np.array(sorted(options), dtype=object)}


@pytest.fixture
def annotate(monkeypatch):
    """Stand in for the verb, and remember how it was called."""
    calls = []

    def fake(adata, **options):
        calls.append(options)
        _write_labels(adata, **options)

    monkeypatch.setitem(vars(scgp), "annotate", fake)
    return calls


def _fail_with(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setitem(vars(scgp), "annotate", fail)


def test_annotate_adds_the_slots_and_keeps_the_rest(cells, annotate, capsys):
    out = cells.with_name("out.h5ad")
    assert main(["annotate", str(cells), str(out)]) == 0
    before, after = ad.read_h5ad(cells), ad.read_h5ad(out)
    assert after.obs["scgp_cell_type"].tolist() == ["B cell", "T/NK"] * 15
    assert after.obs["scgp_confidence"].dtype == np.float32
    np.testing.assert_array_equal(after.obsm["X_scgp"], np.eye(30, 4))
    assert list(after.uns["scgp"]) == ["options"]
    assert (after.X != before.X).nnz == 0
    assert (after.layers["counts"] != before.layers["counts"]).nnz == 0
    assert after.uns["note"] == {"kept": 1}
    pd.testing.assert_frame_equal(after.obs[["batch"]], before.obs)
    assert "30 cells (15 labelled, 15 unknown)" in capsys.readouterr().out


def test_annotate_leaves_the_input_byte_for_byte(cells, annotate):
    before = cells.read_bytes()
    main(["annotate", str(cells), str(cells.with_name("out.h5ad"))])
    assert cells.read_bytes() == before


def test_annotate_keeps_the_compression_of_the_input(cells, annotate):
    out = cells.with_name("out.h5ad")
    main(["annotate", str(cells), str(out)])
    with h5py.File(out) as file:
        assert file["X/data"].compression == "gzip"


def test_options_not_given_are_left_to_the_verb(cells, annotate):
    out = str(cells.with_name("out.h5ad"))
    main(["annotate", str(cells), out])
    main(["annotate", str(cells), out, "--layer", "counts", "--batch-size", "7", "--device",
          "cpu", "--key-added", "mine"])  # fmt: skip
    main(["annotate", str(cells), out, "--use-raw"])
    main(["annotate", str(cells), out, "--min-confidence", "0", "--coverage", ".9", "--tissue",
          "lung"])  # fmt: skip
    assert annotate[0] == {"key_added": "scgp"}
    assert annotate[1] == {
        "key_added": "mine", "layer": "counts", "batch_size": 7, "device": "cpu"}  # fmt: skip
    assert annotate[2] == {"key_added": "scgp", "use_raw": True}
    assert annotate[3] == {
        "key_added": "scgp", "min_confidence": 0.0, "coverage": 0.9, "tissue": "lung"}  # fmt: skip


def test_reference_and_its_label_column_reach_the_verb(cells, annotate):
    out = str(cells.with_name("out.h5ad"))
    main(["annotate", str(cells), out, "--reference", str(cells), "--label-key", "batch"])
    assert annotate[0]["label_key"] == "batch"
    assert annotate[0]["reference"].n_obs == 30


@pytest.mark.parametrize("name", ["umap.png", "umap.pdf"])
def test_plot_is_drawn_and_its_coordinates_are_not_kept(cells, annotate, name, monkeypatch):
    _stand_in_for_umap(monkeypatch)
    out, plot = cells.with_name("out.h5ad"), cells.with_name(name)
    assert main(["annotate", str(cells), str(out), "--plot", str(plot)]) == 0
    assert plot.stat().st_size > 1000
    assert "X_umap" not in ad.read_h5ad(out).obsm


def _stand_in_for_umap(monkeypatch):
    import scanpy as sc

    def place(adata):
        adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(adata.n_obs, 2))

    monkeypatch.setattr(sc.pp, "neighbors", lambda *_, **__: None)
    monkeypatch.setattr(sc.tl, "umap", place)


def _files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["annotate", "nowhere.h5ad", "out.h5ad"], "nowhere.h5ad is not a file"),
        (["annotate", "in.h5ad", "in.h5ad"], "is the input too"),
        (["annotate", "in.h5ad", "no/out.h5ad"], "the folder no does not exist"),
        (["annotate", "in.h5ad", "."], "is a folder"),
        (["annotate", "in.h5ad", "there.zarr"], "there.zarr exists, and no store is replaced"),
        (["annotate", "there.zarr", "there.zarr"], "is the input too"),
        (["annotate", "there.zarr", "also.zarr"], "also.zarr exists, and no store is replaced"),
        (["annotate", "in.h5ad", "out.h5ad", "--reference", "in.h5ad"], "go together"),
        (["annotate", "in.h5ad", "out.h5ad", "--label-key", "x"], "go together"),
        (["annotate", "in.h5ad", "out.h5ad", "--plot", "umap.txt"], "one of .png, .pdf, .svg"),
        (["annotate", "junk.h5ad", "out.h5ad"], "junk.h5ad"),
        (["annotate", "in.h5ad"], "name the file to write, or pass --in-place"),
        (["annotate", "in.h5ad", "out.h5ad", "--in-place"], "leave out out.h5ad, or --in-place"),
        (["annotate", "in.h5ad", "out.h5ad", "--restart"], "--restart goes with --in-place"),
        (["annotate", "in.h5ad", "--in-place", "--plot", "u.png"], "--plot does not go with"),
        (["annotate", "nowhere.h5ad", "--in-place"], "nowhere.h5ad is not a file; expected an"),
        (["annotate", "junk.h5ad", "--in-place"], "junk.h5ad cannot be read as an .h5ad file"),
        (["index", "in.h5ad", ".", "--label-key", "batch"], "exists; name a directory"),
        (["train", "in.h5ad", "nowhere.h5ad", "--out", "model"], "nowhere.h5ad is not a file"),
    ],
)
def test_wrong_files_are_told_in_one_line_and_write_nothing(
    cells, annotate, arguments, told, monkeypatch, capsys
):
    monkeypatch.chdir(cells.parent)
    cells.with_name("junk.h5ad").write_bytes(b"no HDF5")
    for name in ("there.zarr", "also.zarr"):
        cells.with_name(name).mkdir()
        (cells.with_name(name) / ".zgroup").write_text('{"zarr_format": 2}')
    before = _files(cells.parent)
    assert main(arguments) == 2
    line = capsys.readouterr().err
    assert told in line
    assert line.startswith("scgp: error: ")
    assert line.count("\n") == 1
    assert _files(cells.parent) == before
    assert annotate == []


def test_an_error_of_the_verb_is_told_in_one_line(cells, monkeypatch, capsys):
    _fail_with(monkeypatch, CountsError("X looks log-normalised;\npass layer='counts'"))
    assert main(["annotate", str(cells), str(cells.with_name("out.h5ad"))]) == 2
    told = "scgp: error: X looks log-normalised; pass --layer 'counts'\n"
    assert capsys.readouterr().err == told
    assert _files(cells.parent) == ["in.h5ad"]


def test_an_interrupt_writes_nothing(cells, monkeypatch, capsys):
    _fail_with(monkeypatch, KeyboardInterrupt())
    assert main(["annotate", str(cells), str(cells.with_name("out.h5ad"))]) == 130
    assert "no output was written" in capsys.readouterr().err
    assert _files(cells.parent) == ["in.h5ad"]


def test_in_place_passes_only_what_was_given(cells, monkeypatch, capsys):
    calls = []

    def fake(path, **options):
        calls.append((path, options))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return {"labelled": 29, "ancestor": 0, "unknown": 1, "empty": 0}

    monkeypatch.setitem(vars(scgp), "annotate_file", fake)
    command = ["annotate", str(cells), "--in-place"]
    assert main(command) == 0
    assert capsys.readouterr().out == f"30 cells (29 labelled, 1 unknown) -> {cells}\n"
    assert main([*command, "--restart", "--layer", "counts", "--use-rep", "X_pca"]) == 0
    assert main(command) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert calls[0] == (cells, {"key_added": "scgp", "resume": True})
    others = {"layer": "counts", "use_rep": "X_pca"}
    assert calls[1] == (cells, {"key_added": "scgp", "resume": False, **others})


def test_a_file_is_annotated_with_the_arguments_of_annotate():
    of_file = dict(inspect.signature(scgp.annotate_file).parameters)
    of_cells = dict(inspect.signature(scgp.annotate).parameters)
    assert set(of_cells) - set(of_file) == {"adata", "copy"}
    assert set(of_file) - set(of_cells) == {"path", "resume"}
    for name in set(of_cells) & set(of_file):
        assert of_file[name] == of_cells[name]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("disk full")])
def test_an_interrupt_while_writing_leaves_the_old_output(cells, annotate, monkeypatch, error):
    out, plot = cells.with_name("out.h5ad"), cells.with_name("umap.png")
    out.write_bytes(b"the old output")

    def fail(*_, **__):
        raise error

    monkeypatch.setattr("scgp.__main__._plot", fail)
    assert main(["annotate", str(cells), str(out), "--plot", str(plot)]) != 0
    assert out.read_bytes() == b"the old output"
    assert _files(cells.parent) == ["in.h5ad", "out.h5ad"]


def test_a_programming_error_is_not_hidden(cells, monkeypatch):
    _fail_with(monkeypatch, RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        main(["annotate", str(cells), str(cells.with_name("out.h5ad"))])
    assert _files(cells.parent) == ["in.h5ad"]


def test_output_has_the_permissions_of_any_new_file(cells, annotate):
    old = os.umask(0o022)
    try:
        main(["annotate", str(cells), str(cells.with_name("out.h5ad"))])
    finally:
        os.umask(old)
    assert cells.with_name("out.h5ad").stat().st_mode & 0o777 == 0o644


def test_warnings_and_log_lines_are_plain_lines(cells, monkeypatch, capsys):
    def fake(adata, **options):
        warnings.warn("few genes\nmatched", ScgpWarning, stacklevel=2)
        logging.getLogger("scgp.cells.counts").info("counts taken from raw.X")
        _write_labels(adata, **options)

    monkeypatch.setitem(vars(scgp), "annotate", fake)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["annotate", str(cells), str(cells.with_name("out.h5ad"))]) == 0
    told = capsys.readouterr().err.splitlines()
    assert told == ["scgp: ScgpWarning: few genes matched", "scgp: counts taken from raw.X"]
    assert logging.getLogger("scgp").handlers == []


def test_few_cells_without_coordinates_cannot_be_drawn(cells, annotate, capsys):
    small = cells.with_name("small.h5ad")
    ad.read_h5ad(cells)[:4].write_h5ad(small)
    out = cells.with_name("out.h5ad")
    assert main(["annotate", str(small), str(out), "--plot", str(cells.with_name("u.png"))]) == 2
    assert "at least 10 cells" in capsys.readouterr().err
    assert not out.exists()


def test_an_index_can_stay_on_the_disk(cells, annotate, capsys, monkeypatch):
    opened = []

    def load(path, *, memory_map=False):
        opened.append((path, memory_map))
        return "index"

    monkeypatch.setattr(scgp.ReferenceIndex, "load", load)
    command = ["annotate", str(cells), str(cells.with_name("out.h5ad"))]
    assert main([*command, "--memory-map"]) == 2
    assert "--index" in capsys.readouterr().err
    assert main([*command, "--index", "atlas.scgp", "--memory-map"]) == 0
    assert main([*command, "--index", "atlas.scgp"]) == 0
    assert opened == [(Path("atlas.scgp"), True), (Path("atlas.scgp"), False)]


def test_index_is_built_and_saved(cells, monkeypatch):
    calls = []

    class Index:
        def save(self, path):
            path.mkdir()

    def fake(adata, **options):
        calls.append((adata.n_obs, options))
        return Index()

    monkeypatch.setitem(vars(scgp), "build_index", fake)
    out = cells.with_name("atlas.scgp")
    assert main(["index", str(cells), str(out), "--label-key", "batch", "--study-key", "s"]) == 0
    assert calls == [(30, {"label_key": "batch", "study_key": "s"})]
    assert out.is_dir()


@pytest.fixture
def train(monkeypatch):
    calls = []
    monkeypatch.setitem(vars(scgp), "train", lambda data, **o: calls.append((data, o)))
    return calls


def test_train_passes_only_what_was_given(cells, train):
    out = cells.with_name("model")
    assert main(["train", str(cells), "--out", str(out)]) == 0
    assert train == [([cells], {"out": out, "resume": True, "overwrite": False})]


def test_train_passes_what_was_given(cells, train):
    command = ["train", str(cells), str(cells), "--out", "model", "--tissue-key", "organ",
               "--unlabelled", str(cells), "--base", "old", "--steps", "7", "--pool-steps", "5",
               "--batch-size", "32", "--seed", "3", "--restart", "--overwrite",
               "--devices", "4", "--num-nodes", "2", "--strategy", "ddp"]  # fmt: skip
    assert main(command) == 0
    data, options = train[0]
    settings = options.pop("settings")
    assert data == [cells, cells]
    assert options == {
        "out": Path("model"), "tissue_key": "organ", "unlabelled": [cells], "base": Path("old"),
        "resume": False, "overwrite": True, "devices": 4, "num_nodes": 2,
        "strategy": "ddp"}  # fmt: skip
    found = (settings.steps, settings.pool_steps, settings.batch_size, settings.seed)
    assert found == (7, 5, 32, 3)


def test_every_option_of_train_is_an_argument_of_the_verb():
    from scgp.model.config import TrainConfig

    arguments = set(inspect.signature(scgp.train).parameters)
    assert set(_TRAIN_KEYS) | {"unlabelled", "drawn", "base", "device"} <= arguments
    assert set(_TRAIN_PROCESSES) <= arguments
    assert set(_TRAIN_SETTINGS) <= {field.name for field in dataclasses.fields(TrainConfig)}


def test_every_option_of_annotate_is_an_argument_of_the_verb():
    options = {"layer", "use_raw", "batch_size", "device", "model"}
    assert options <= set(inspect.signature(scgp.build_index).parameters)
    options |= {"reference", "label_key", "index", "labels", "key_added", "use_rep"}
    options |= {"coverage", "min_confidence", "tissue"}
    assert options <= set(inspect.signature(scgp.annotate).parameters)


@pytest.mark.filterwarnings("default")
def test_a_file_of_the_oldest_layout_is_written_anew(cells, annotate):
    import scanpy as sc

    source = Path(sc.datasets.__file__).with_name("10x_pbmc68k_reduced.h5ad")
    out = cells.with_name("out.h5ad")
    assert main(["annotate", str(source), str(out)]) == 0
    before, after = _shipped(), ad.read_h5ad(out)
    assert after.obs["scgp_cell_type"].tolist() == ["B cell", "T/NK"] * 350
    np.testing.assert_array_equal(after.X, before.X)
    np.testing.assert_array_equal(after.raw.X.toarray(), before.raw.X.toarray())


@pytest.mark.parametrize("arguments", [[], ["annotate"], ["index", "a.h5ad", "b"]])
def test_wrong_usage_exits_with_two(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "required" in capsys.readouterr().err


def _shipped():
    import scanpy as sc

    return sc.datasets.pbmc68k_reduced()


def test_a_reference_with_counts_elsewhere_is_told_how_it_is_indexed(blood, tmp_path, capsys):
    blood.layers["counts"] = blood.X.copy()
    blood.X = blood.X.log1p()
    blood.write_h5ad(tmp_path / "a.h5ad")
    cells = str(tmp_path / "a.h5ad")
    command = ["annotate", cells, str(tmp_path / "b.h5ad"), "--layer", "counts"]
    assert main([*command, "--reference", cells, "--label-key", "cell_type"]) == 2
    told = capsys.readouterr().err
    assert "the reference (here adata is the reference): X does not hold raw counts" in told
    assert "are options of 'python -m scgp index', and its output is --index" in told
    assert main(["index", cells, str(tmp_path / "i"), "--label-key", "cell_type", "--layer",
                 "counts"]) == 0  # fmt: skip
    assert main([*command, "--index", str(tmp_path / "i")]) == 0
