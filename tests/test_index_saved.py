"""Large indexes on disk: mapped, refused where memory or disk is short, and nothing run."""

import dataclasses
import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest

from scgp.errors import ArgumentError, CheckpointError
from scgp.model import directory
from scgp.own import model_index
from scgp.reference import memory, nearest, saved
from scgp.reference.gene_head import GeneHead
from scgp.reference.index import ReferenceIndex

MAPPED = """
import resource, sys, time
import faiss, numpy as np
from scgp.reference.index import ReferenceIndex
def now():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
before, start = now(), time.perf_counter()
index = ReferenceIndex.load(sys.argv[1], memory_map=True)
print(time.perf_counter() - start, now() - before)
index.search(index.vectors_at(np.arange(3)), 15)
"""


@pytest.fixture(scope="module")
def cells(model) -> np.ndarray:
    """3,000 real cells of the default reference."""
    index = model_index(model)
    rows = np.random.default_rng(0).permutation(np.flatnonzero(~index.drawn_N))[:3000]
    return index.vectors_ND[rows]


def build(vectors_ND, **options):
    labels = ["a", "b", "c"] * (len(vectors_ND) // 3) + ["a"] * (len(vectors_ND) % 3)
    options = {"names": [f"cell {i}" for i in range(len(vectors_ND))], **options}
    return ReferenceIndex.build(
        vectors_ND, labels, label_ids=[""] * 3, model_fingerprint="model-a", **options
    )


@pytest.fixture(scope="module")
def exact(cells):
    return build(cells)


@pytest.fixture(scope="module")
def mixed(cells):
    """Lists, some of whose cells were removed, then further cells."""
    lists = build(cells[:2000], search="lists").remove(np.arange(7, 1500, 3))
    return ReferenceIndex.merge([lists, build(cells[2000:])])


def same(found, expected, cells):
    for name in ("labels", "label_ids", "studies", "model_fingerprint", "calibration"):
        assert getattr(found, name) == getattr(expected, name)
    for name in ("code_N", "study_N", "drawn_N", "head_weight_TD", "names_N", "vectors_ND"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    for one, two in zip(
        found.search(cells[:300], 30), expected.search(cells[:300], 30), strict=True
    ):
        np.testing.assert_array_equal(one, two)
    assert found.recall == expected.recall


@pytest.mark.parametrize("memory_map", [False, True])
@pytest.mark.parametrize("name", ["exact", "mixed"])
def test_what_is_saved_comes_back(name, memory_map, request, cells, tmp_path):
    index = request.getfixturevalue(name)
    index.save(tmp_path / "a.scgp")
    loaded = ReferenceIndex.load(tmp_path / "a.scgp", memory_map=memory_map)
    same(loaded, index, cells)
    loaded.check()
    # what was read can be saved, mapped or not, over itself too, and added to
    loaded.save(tmp_path / "b.scgp")
    for file in (tmp_path / "a.scgp").iterdir():
        assert file.read_bytes() == (tmp_path / "b.scgp" / file.name).read_bytes(), file.name
    loaded.save(tmp_path / "a.scgp", overwrite=True)
    same(loaded, index, cells)
    grown = loaded.add(cells[:4], ["a", "b", "c", "d"])
    assert grown.search(cells[3:4], 2)[1].max() == index.n_cells + 3
    same(grown.remove(np.arange(index.n_cells, index.n_cells + 4)), loaded.remove([]), cells)


def test_an_exact_index_is_written_as_ever(exact, tmp_path):
    """Format 1, and the bytes of FAISS itself: any earlier scgp reads it."""
    exact.save(tmp_path / "a.scgp")
    manifest = json.loads((tmp_path / "a.scgp" / "index.json").read_text(encoding="utf-8"))
    assert manifest["format_version"] == 1
    assert "segments" not in manifest
    flat = faiss.IndexFlatIP(128)
    flat.add(exact.vectors_ND)
    assert (tmp_path / "a.scgp" / "vectors.faiss").read_bytes() == faiss.serialize_index(
        flat
    ).tobytes()


def test_earlier_versions_are_told_to_upgrade(mixed, tmp_path):
    mixed.save(tmp_path / "a.scgp")
    files = sorted(path.name for path in (tmp_path / "a.scgp").iterdir())
    assert files == [
        "index.json", "labels.npz", "lists.faiss", "removed.npz", "vectors-1.faiss",
        "vectors.faiss",
    ]  # fmt: skip
    with pytest.raises(CheckpointError, match="format version 2; this scgp reads 1 to 1: upgrade"):
        directory.read_directory(
            tmp_path / "a.scgp", kind="reference index", manifest_name="index.json"
        )


def test_a_gene_head_that_lacks_labels_is_not_for_earlier_versions(exact, cells, tmp_path):
    head = GeneHead(
        gene_H=np.arange(2, dtype=np.int32), scale_H=np.ones(2, np.float32),
        mean_H=np.ones(2, np.float32), weight_HT=np.ones((2, 3), np.float16),
        bias_T=np.ones(3, np.float32),
    )  # fmt: skip
    grown = dataclasses.replace(exact, gene_head=head).add(cells[:2], ["d", "d"])
    grown.save(tmp_path / "a.scgp")
    manifest = json.loads((tmp_path / "a.scgp" / "index.json").read_text(encoding="utf-8"))
    assert manifest["format_version"] == 2
    loaded = ReferenceIndex.load(tmp_path / "a.scgp")
    np.testing.assert_array_equal(loaded.gene_head.bias_T, [1, 1, 1, np.nan])
    odd = dataclasses.replace(head, bias_T=np.full(3, np.nan, np.float32))
    dataclasses.replace(exact, gene_head=odd).save(tmp_path / "b.scgp")
    with pytest.raises(CheckpointError, match="bias_T of the gene head holds NaN"):
        ReferenceIndex.load(tmp_path / "b.scgp")


def test_recall_is_in_the_manifest(mixed, tmp_path):
    mixed.save(tmp_path / "a.scgp")
    manifest = json.loads((tmp_path / "a.scgp" / "index.json").read_text(encoding="utf-8"))
    said = manifest["segments"][0]["lists"]
    assert min(said["recall_15"], said["recall_15_moved"]) == mixed.recall >= 0.99
    assert 1 <= said["probes"] <= said["n_lists"]
    assert "lists" not in manifest["segments"][1]


def test_opening_mapped_reads_little(cells, tmp_path):
    """100,000 vectors, real ones tiled with noise (synthetic): 51 MB, of which 10 are not read."""
    rng = np.random.default_rng(0)
    many = np.concatenate([cells] * 34)[:100_000]
    many += 0.02 * rng.standard_normal(many.shape, dtype=np.float32)
    many /= np.linalg.norm(many, axis=1, keepdims=True)
    build(many, names=None, search="exact").save(tmp_path / "a.scgp")
    done = subprocess.run(
        [sys.executable, "-c", MAPPED, str(tmp_path / "a.scgp")],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    seconds, grew = map(float, done.stdout.split())
    assert seconds < 5
    assert grew < 10e6


@pytest.fixture
def opened(mixed, tmp_path):
    mixed.save(tmp_path / "a.scgp")
    return tmp_path / "a.scgp"


@pytest.mark.parametrize("name", ["vectors.faiss", "vectors-1.faiss", "lists.faiss"])
def test_what_is_not_checked_when_mapped_is_checked_on_demand(opened, name):
    file = opened / name
    content = bytearray(file.read_bytes())
    content[-100] ^= 64
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name} was altered"):
        ReferenceIndex.load(opened)
    index = ReferenceIndex.load(opened, memory_map=True)
    with pytest.raises(CheckpointError, match=f"{name} was altered"):
        index.check()


@pytest.mark.parametrize("name", ["index.json", "labels.npz", "removed.npz"])
def test_small_files_are_checked_when_mapped(opened, name):
    file = opened / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=name.split(".")[0]):
        ReferenceIndex.load(opened, memory_map=True)


def test_a_file_cut_short_is_refused_when_mapped(opened):
    content = (opened / "lists.faiss").read_bytes()
    (opened / "lists.faiss").write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match=r"lists\.faiss has .* bytes, expected"):
        ReferenceIndex.load(opened, memory_map=True)


def test_mapped_lists_are_sent_nowhere(opened, cells):
    with pytest.raises(ArgumentError, match=r"memory_map=True, and its .* cannot be sent"):
        pickle.dumps(ReferenceIndex.load(opened, memory_map=True))
    in_memory = ReferenceIndex.load(opened)
    sent = pickle.loads(pickle.dumps(in_memory))
    for found, expected in zip(
        sent.search(cells[:3], 5), in_memory.search(cells[:3], 5), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_a_directory_written_anew_is_told(opened, exact):
    index = ReferenceIndex.load(opened, memory_map=True)
    exact.save(opened, overwrite=True)
    with pytest.raises(CheckpointError, match="was written anew"):
        index.check()
    assert index.search(index.vectors_at(np.arange(3)), 5)[0].shape == (3, 5)


def test_a_mapped_index_is_saved_as_it_was_opened(cells, tmp_path):
    """Another index, of the same sizes, takes its place in between: its lists are not copied."""
    first, second = (build(x, search="lists") for x in (cells, cells[::-1].copy()))
    first.save(tmp_path / "a.scgp")
    first.save(tmp_path / "first.scgp")
    mapped = ReferenceIndex.load(tmp_path / "a.scgp", memory_map=True)
    second.save(tmp_path / "a.scgp", overwrite=True)
    mapped.save(tmp_path / "b.scgp")
    for file in (tmp_path / "first.scgp").iterdir():
        assert file.read_bytes() == (tmp_path / "b.scgp" / file.name).read_bytes(), file.name
    same(ReferenceIndex.load(tmp_path / "b.scgp"), first, cells)
    shutil.rmtree(tmp_path / "a.scgp")
    mapped.save(tmp_path / "c.scgp")
    same(ReferenceIndex.load(tmp_path / "c.scgp"), first, cells)


def forge(path, name, content, **facts):
    """Replace a file or a fact and make every checksum right, as an attacker would."""
    manifest = json.loads((path / "index.json").read_text(encoding="utf-8"))
    if name:
        (path / name).write_bytes(content)
        digest = directory.hashlib.sha256(content).hexdigest()
        manifest["files"][name] = {"size": len(content), "sha256": digest}
    manifest |= facts
    manifest["checksum"] = directory._checksum(manifest)
    (path / "index.json").write_text(json.dumps(manifest), encoding="utf-8")


def other_lists(cells, kind):
    made = faiss.index_factory(128, f"IVF20,{kind}", faiss.METRIC_INNER_PRODUCT)
    made.train(cells[:2000])
    made.add(cells[:2000])
    return made


@pytest.mark.parametrize("memory_map", [False, True])
def test_other_types_of_faiss_are_refused(opened, cells, memory_map, tmp_path):
    flat = other_lists(cells, "Flat")
    four_bits = other_lists(cells, "SQ4")
    euclid = faiss.index_factory(128, "IVF20,SQ8")
    euclid.train(cells[:2000])
    euclid.add(cells[:2000])
    fewer = other_lists(cells, "SQ8")
    fewer.remove_ids(np.arange(3))
    # lists of a mapped index name another file, which must not be opened for us
    faiss.write_index(other_lists(cells, "SQ8"), str(tmp_path / "own.faiss"))
    mapped = faiss.read_index(str(tmp_path / "own.faiss"), faiss.IO_FLAG_MMAP)
    elsewhere = faiss.downcast_InvertedLists(mapped.invlists)
    elsewhere.filename = str(tmp_path / "own.faiss")
    for other, message in (
        (flat, "begins with"), (four_bits, "sizes"), (euclid, "begins with"),
        (fewer, "begins with"), (mapped, "another kind or file"),
    ):  # fmt: skip
        shutil.copytree(opened, tmp_path / "b.scgp")
        forge(tmp_path / "b.scgp", "lists.faiss", faiss.serialize_index(other).tobytes())
        with pytest.raises(CheckpointError, match=message):
            ReferenceIndex.load(tmp_path / "b.scgp", memory_map=memory_map)
        shutil.rmtree(tmp_path / "b.scgp")
    for content in (b"", b"IwSq", os.urandom(500)):
        forge(opened, "lists.faiss", content)
        with pytest.raises(CheckpointError, match="begins with"):
            ReferenceIndex.load(opened, memory_map=memory_map)


def test_lists_that_name_other_cells_are_refused(opened, cells):
    twice = other_lists(cells, "SQ8")
    twice.reset()
    twice.add_with_ids(cells[:2000], np.arange(2000) // 2)
    forge(opened, "lists.faiss", faiss.serialize_index(twice).tobytes())
    with pytest.raises(CheckpointError, match="lists lack cells, or have some twice"):
        ReferenceIndex.load(opened)
    mapped = ReferenceIndex.load(opened, memory_map=True)
    with pytest.raises(CheckpointError, match="lists lack cells"):
        mapped.check()


@pytest.mark.parametrize("memory_map", [False, True])
@pytest.mark.parametrize("field", range(6))
def test_vectors_whose_sizes_contradict_each_other_are_refused(exact, tmp_path, field, memory_map):
    exact.save(tmp_path / "a.scgp")
    file = tmp_path / "a.scgp" / "vectors.faiss"
    content = file.read_bytes()
    head = list(nearest.FLAT.unpack(content[: nearest.FLAT.size]))
    place = (0, 1, 2, 6, 7, 7)[field]
    head[place] = (b"IxFl", 64, 2**40, 1, 5, 2**50)[field]
    forge(tmp_path / "a.scgp", file.name, nearest.FLAT.pack(*head) + content[nearest.FLAT.size :])
    with pytest.raises(CheckpointError, match="expected an IndexFlatIP"):
        ReferenceIndex.load(tmp_path / "a.scgp", memory_map=memory_map)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ([], "names no segments"),
        ([{}], "without its files"),
        ([{"vectors": "vectors.faiss", "lists": {"file": "lists.faiss"}}], "without its files"),
        ([{"vectors": "../vectors.faiss"}], "lacks"),
        ([{"vectors": "vectors.faiss", "lists": {
            "file": "", "n_lists": 9, "probes": 0, "recall_15": 1, "recall_15_moved": 1}}],
         "says 0 of the probes"),
        ([{"vectors": "vectors.faiss"}], "removes cells that are not there"),
    ],
)  # fmt: skip
def test_segments_that_are_none_are_refused(opened, facts, message):
    forge(opened, None, None, segments=facts)
    with pytest.raises(CheckpointError, match=message):
        ReferenceIndex.load(opened)


def test_cells_removed_that_are_not_there_are_refused(opened, tmp_path):
    directory.save_npz(tmp_path / "x.npz", {"removed_0": np.array([5000])})
    forge(opened, "removed.npz", (tmp_path / "x.npz").read_bytes())
    with pytest.raises(CheckpointError, match="removes cells that are not there"):
        ReferenceIndex.load(opened)


def test_an_index_larger_than_memory_is_refused_unless_mapped(opened, monkeypatch, mixed, cells):
    needed = sum(path.stat().st_size for path in opened.glob("*.faiss"))
    monkeypatch.setattr(saved, "available_memory", lambda: needed - 1)
    with pytest.raises(ArgumentError, match=r"memory_map=True\), which reads what a search needs"):
        ReferenceIndex.load(opened)
    same(ReferenceIndex.load(opened, memory_map=True), mixed, cells)
    for enough in (needed, None):  # None: the system does not say
        monkeypatch.setattr(saved, "available_memory", lambda enough=enough: enough)
        same(ReferenceIndex.load(opened), mixed, cells)


def test_the_least_of_machine_and_container_is_available(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   4096 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    assert memory.available_memory() == 4096 * 1024
    for name, text in {
        "memory.max": "max\n", "memory.current": "5000\n",
        "memory.stat": "anon 1\ninactive_file 1000\n",
    }.items():  # fmt: skip
        (tmp_path / name).write_text(text)
    assert memory.available_memory() == 4096 * 1024
    (tmp_path / "memory.max").write_text("6000\n")
    assert memory.available_memory() == 6000 - 5000 + 1000
    (tmp_path / "memory.max").write_text("3000\n")
    assert memory.available_memory() == 0
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "none")
    monkeypatch.setattr(memory, "GROUP", tmp_path / "none")
    assert memory.available_memory() is None


@pytest.mark.parametrize("name", ["exact", "mixed"])
def test_a_disk_without_room_is_told_before_anything_is_written(
    name, request, tmp_path, monkeypatch
):
    index = request.getfixturevalue(name)
    index.save(tmp_path / "a.scgp")
    before = {path.name: path.read_bytes() for path in (tmp_path / "a.scgp").iterdir()}
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    for path in (tmp_path / "a.scgp", tmp_path / "new" / "b.scgp"):
        with pytest.raises(OSError, match="nothing was written") as caught:
            index.save(path, overwrite=True)
        assert caught.value.errno == errno.ENOSPC
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "a.scgp").iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["a.scgp"]


def test_a_disk_that_fills_up_leaves_nothing(mixed, tmp_path, monkeypatch):
    monkeypatch.setattr(faiss, "write_index", lambda _, path: Path(path).write_bytes(b"half"))
    with pytest.raises(OSError, match="is the disk full"):
        mixed.save(tmp_path / "a.scgp")
    assert not list(tmp_path.iterdir())
