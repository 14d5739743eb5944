"""The reference index: exact search, and a directory that is whole or refused."""

import json
import pickle
import shutil
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scgp.errors import ArgumentError, CheckpointError, FingerprintError, LabelError
from scgp.model import directory
from scgp.reference import nearest
from scgp.reference.evidence import head_evidence
from scgp.reference.fusion import Fusion
from scgp.reference.index import ReferenceIndex

LABELS = ["CD4+/CD25+ T", "B cell", "größe/β 細胞", " spaced ", "B cell"]


class Planted:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def vectors(n_cells, width=6, seed=0):
    return unit(np.random.default_rng(seed).normal(size=(n_cells, width)))


def build(vectors_ND, labels, **options):
    n_labels = len(set(labels))
    options = {"label_ids": [""] * n_labels, "model_fingerprint": "model-a", **options}
    return ReferenceIndex.build(vectors_ND, labels, **options)


@pytest.fixture
def index():
    return build(
        vectors(40),
        LABELS * 8,
        label_ids=["", "CL:0000236", "CL:0000792", ""],
        studies=["one", "zwei/2"] * 20,
        drawn=np.arange(40) >= 30,
        text_TD=np.vstack([vectors(3), np.zeros((1, 6))]),
        calibration=Fusion(k=3, threshold=0.7, novelty_threshold=0.2),
        names=[f"cell/{i}" for i in range(40)],
    )


def test_build_sorts_labels_and_keeps_cells(index):
    assert index.labels == sorted(set(LABELS))
    assert [index.labels[code] for code in index.code_N] == LABELS * 8
    assert [index.studies[code] for code in index.study_N] == ["one", "zwei/2"] * 20
    assert index.cells_per_label_T.tolist() == [8, 16, 8, 8]
    assert index.code_N.dtype == np.int32
    assert index.drawn_N.sum() == 10
    np.testing.assert_array_equal(index.vectors_ND, vectors(40))
    assert (index.n_cells, index.width) == (40, 6)
    assert index.calibration == Fusion(k=3, threshold=0.7, novelty_threshold=0.2)
    assert "40 cells (10 drawn), 4 labels, 2 studies" in repr(index)


def test_the_head_is_fitted(index):
    centre_TD = unit(np.eye(4, 6))
    code_N = np.arange(80) % 4
    near_ND = unit(centre_TD[code_N] + 0.1 * vectors(80))
    fitted = build(near_ND, [f"label {c}" for c in code_N])
    prob_NT = head_evidence(near_ND, fitted.head_weight_TD, fitted.head_bias_T)
    assert (prob_NT.argmax(axis=1) == code_N).all()
    assert fitted.head_weight_TD.dtype == np.float32


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(1, 40), st.integers(1, 25))
def test_search_is_exact(seed, n_cells, k, n_queries):
    rng = np.random.default_rng(seed)
    vectors_ND = unit(rng.normal(size=(n_cells, 4)))
    query_BD = unit(rng.normal(size=(n_queries, 4)))
    similarity_BK, row_BK = build(vectors_ND, ["x"] * n_cells).search(query_BD, k)
    exact_BN = query_BD @ vectors_ND.T
    assert row_BK.shape == similarity_BK.shape == (n_queries, min(k, n_cells))
    np.testing.assert_allclose(
        similarity_BK, -np.sort(-exact_BN, axis=1)[:, : min(k, n_cells)], atol=1e-6
    )
    np.testing.assert_allclose(
        similarity_BK, np.take_along_axis(exact_BN, row_BK, axis=1), atol=1e-6
    )


def test_ties_come_by_row_whatever_the_company():
    vectors_ND = np.tile(vectors(5, width=32), (7, 1))  # each vector stands seven times
    index = build(vectors_ND, ["x"] * 35)
    query_BD = vectors(64, width=32, seed=1)
    query_BD[:5] = vectors(5, width=32)
    similarity_BK, row_BK = index.search(query_BD, 9)
    for row in range(5):
        assert row_BK[row, :7].tolist() == [row + 5 * i for i in range(7)]
    assert (np.diff(similarity_BK, axis=1) <= 0).all()
    level = np.diff(similarity_BK, axis=1) == 0
    assert level.any()
    assert (np.diff(row_BK, axis=1)[level] > 0).all()


def rounding(query_BD, vectors_ND, k, *, metric):
    """FAISS, with cosines off in the last digit, as those of its matrix product are."""
    all_BN, row_BN = faiss_knn(query_BD, vectors_ND, len(vectors_ND), metric=metric)
    noise_N = 1e-7 * np.random.default_rng(len(query_BD)).normal(size=len(vectors_ND))
    order_BK = np.argsort(-(all_BN + noise_N[row_BN]), axis=1)[:, :k]
    return tuple(np.take_along_axis(x, order_BK, axis=1) for x in (all_BN, row_BN))


faiss_knn = faiss.knn


def test_rounding_inside_faiss_does_not_choose_between_equal_cells(monkeypatch):
    index = build(np.tile(vectors(5, width=32), (7, 1)), ["x"] * 35)
    expected = index.search(vectors(5, width=32), 4)
    monkeypatch.setattr(faiss, "knn", rounding)
    for found, exact in zip(index.search(vectors(5, width=32), 4), expected, strict=True):
        np.testing.assert_array_equal(found, exact)


def test_a_query_does_not_depend_on_its_company():
    index = build(vectors(3000, width=64), ["x"] * 3000)
    query_BD = vectors(1500, width=64, seed=1)
    together = index.search(query_BD, 10)
    for rows in (slice(0, 1), slice(3, 22), slice(1020, 1030), slice(1499, 1500)):
        alone = index.search(query_BD[rows], 10)
        np.testing.assert_allclose(alone[0], together[0][rows], atol=1e-6)
        np.testing.assert_array_equal(alone[1], together[1][rows])


def test_a_zero_query_has_no_similarity(index):
    similarity_BK, row_BK = index.search(np.zeros((1, 6), np.float32), 3)
    np.testing.assert_array_equal(similarity_BK, 0)
    assert (row_BK >= 0).all()
    assert index.search(np.zeros((0, 6), np.float32), 3)[0].shape == (0, 3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_queries_that_faiss_would_answer_with_row_minus_one_are_refused(index, value):
    query_BD = vectors(3)
    query_BD[1, 2] = value
    with pytest.raises(ArgumentError, match="finite"):
        index.search(query_BD, 2)
    with pytest.raises(ArgumentError, match=r"expected \(cells, 6\)"):
        index.search(vectors(3, width=5), 2)
    for k in (0, 1.5, "2", True):
        with pytest.raises(ArgumentError, match=r"k is .*; expected a whole number of at least 1"):
            index.search(vectors(3), k)


@pytest.mark.parametrize("fault", ["zero", "long", "nan", "none", "flat"])
def test_vectors_that_are_no_unit_vectors_are_refused(fault):
    vectors_ND = vectors(5)
    if fault in ("zero", "long", "nan"):
        vectors_ND[3] *= {"zero": 0, "long": 2, "nan": np.nan}[fault]
    if fault == "none":
        vectors_ND = vectors_ND[:0]
    if fault == "flat":
        vectors_ND = vectors_ND.ravel()
    expected = "expected .cells, width" if fault in ("none", "flat") else "1 of 5 .*row 3"
    with pytest.raises(ArgumentError, match=expected):
        build(vectors_ND, ["x"] * 5)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ArgumentError, match="4 labels for 5 vectors"):
        build(vectors(5), ["x"] * 4)
    for options in (
        {"label_ids": []},
        {"drawn": [True]},
        {"text_TD": np.zeros((2, 6))},
        {"text_TD": np.full((1, 6), np.nan)},
        {"names": ["a"]},
    ):
        with pytest.raises(ArgumentError, match=f"cannot build an index: {next(iter(options))}"):
            build(vectors(5), ["x"] * 5, **options)
    with pytest.raises(ArgumentError, match="2 studies for 5 vectors"):
        build(vectors(5), ["x"] * 5, studies=["a", "b"])


@pytest.mark.parametrize("missing", [None, float("nan"), ""])
def test_a_cell_without_label_is_refused(missing):
    with pytest.raises(LabelError, match="2 of 5 cells have no label"):
        ReferenceIndex.build(
            vectors(5), ["x", missing, "y", missing, "y"], label_ids=["", ""], model_fingerprint=""
        )


def test_one_class_and_one_cell(tmp_path):
    index = build(vectors(1), ["only/one"], label_ids=["CL:0000236"])
    _, row_BK = index.search(vectors(4, seed=1), 30)
    assert row_BK.tolist() == [[0]] * 4
    index.save(tmp_path / "one.scgp")
    loaded = ReferenceIndex.load(tmp_path / "one.scgp")
    assert loaded.labels == ["only/one"]
    prob_BT = head_evidence(vectors(4), loaded.head_weight_TD, loaded.head_bias_T)
    np.testing.assert_array_equal(prob_BT, 1)


def test_categorical_and_number_labels():
    import pandas as pd

    index = build(vectors(4), pd.Categorical(["b", "a", "b", "a"], categories=["b", "a", "c"]))
    assert (index.labels, index.code_N.tolist()) == (["a", "b"], [1, 0, 1, 0])
    assert build(vectors(3), pd.Series([10, 9, 10], index=[7, 7, 7])).labels == ["10", "9"]


def test_what_is_saved_comes_back(index, tmp_path):
    path = tmp_path / "Größe β" / "atlas.scgp"
    index.save(path)
    assert sorted(p.name for p in path.iterdir()) == ["index.json", "labels.npz", "vectors.faiss"]
    loaded = ReferenceIndex.load(path, model_fingerprint="model-a")
    for name in ("labels", "label_ids", "studies", "model_fingerprint", "calibration"):
        assert getattr(loaded, name) == getattr(index, name)
    for name in (
        "code_N", "study_N", "drawn_N", "text_TD", "head_weight_TD", "head_bias_T", "names_N",
        "vectors_ND",
    ):  # fmt: skip
        np.testing.assert_array_equal(getattr(loaded, name), getattr(index, name))
        assert getattr(loaded, name).dtype == getattr(index, name).dtype
    query_BD = vectors(9, seed=3)
    for found, expected in zip(loaded.search(query_BD, 5), index.search(query_BD, 5), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert ReferenceIndex.load(path).names_N[3] == "cell/3"


def test_saving_twice_gives_the_same_bytes(index, tmp_path):
    for name in ("a", "b"):
        index.save(tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_an_index_of_another_model_is_refused(index, tmp_path):
    index.save(tmp_path / "a.scgp")
    with pytest.raises(FingerprintError, match=r"made by the model model-a.*model-b") as caught:
        ReferenceIndex.load(tmp_path / "a.scgp", model_fingerprint="model-b")
    assert "scgp.build_index" in str(caught.value)


def test_overwriting(index, tmp_path):
    path = tmp_path / "a.scgp"
    index.save(path)
    smaller = build(vectors(2), ["x", "y"])
    with pytest.raises(ArgumentError, match="overwrite=True"):
        smaller.save(path)
    assert ReferenceIndex.load(path).n_cells == 40
    smaller.save(path, overwrite=True)
    assert ReferenceIndex.load(path).n_cells == 2
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_bytes(b"years")
    with pytest.raises(ArgumentError, match="no saved reference index"):
        smaller.save(mine, overwrite=True)


@pytest.mark.parametrize("name", ["index.json", "labels.npz", "vectors.faiss"])
@pytest.mark.parametrize("fault", ["missing", "truncated", "edited"])
def test_damage_is_refused(index, tmp_path, name, fault):
    index.save(tmp_path / "a.scgp")
    file = tmp_path / "a.scgp" / name
    content = file.read_bytes()
    if fault == "missing":
        file.unlink()
    elif fault == "truncated":
        file.write_bytes(content[: len(content) // 2])
    else:
        middle = len(content) // 2
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :])
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        ReferenceIndex.load(tmp_path / "a.scgp")


def forge(path, name, content):
    """Replace a file and make every checksum right, as an attacker would."""
    (path / name).write_bytes(content)
    manifest = json.loads((path / "index.json").read_text(encoding="utf-8"))
    listed = manifest["files"][name]
    listed["size"] = len(content)
    listed["sha256"] = directory.hashlib.sha256(content).hexdigest()
    manifest["checksum"] = directory._checksum(manifest)
    (path / "index.json").write_text(json.dumps(manifest), encoding="utf-8")


@pytest.mark.parametrize("name", ["labels.npz", "vectors.faiss", "extra.pkl"])
def test_a_planted_pickle_is_never_run(index, tmp_path, name):
    path = tmp_path / "a.scgp"
    index.save(path)
    payload = pickle.dumps(Planted(tmp_path / "ran"))
    if name == "extra.pkl":
        (path / name).write_bytes(payload)
    else:
        forge(path, name, payload)
    with pytest.raises(CheckpointError):
        ReferenceIndex.load(path)
    assert not (tmp_path / "ran").exists()


def test_planted_objects_in_the_labels_are_never_unpickled(index, tmp_path):
    path = tmp_path / "a.scgp"
    index.save(path)
    planted = np.array([Planted(tmp_path / "ran")], object)
    np.savez(tmp_path / "evil.npz", labels=planted)
    forge(path, "labels.npz", (tmp_path / "evil.npz").read_bytes())
    with pytest.raises(CheckpointError, match="without a pickle"):
        ReferenceIndex.load(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("code_N", np.full(40, 99, np.int32), "codes from 99"),
        ("code_N", np.full(40, -1, np.int32), "codes from -1"),
        ("code_N", np.zeros(39, np.int32), "shape"),
        ("code_N", np.zeros(40), "another type"),
        ("labels", np.array(["a", "a", "b", "c"]), "not sorted"),
        ("head_weight_TD", np.full((4, 6), np.nan, np.float32), "NaN"),
        ("studies", None, "lacks studies"),
    ],
)
def test_labels_that_contradict_the_vectors_are_refused(index, tmp_path, name, value, message):
    path = tmp_path / "a.scgp"
    index.save(path)
    arrays = {**directory.load_npz(path / "labels.npz"), name: value}
    arrays = {key: array for key, array in arrays.items() if array is not None}
    directory.save_npz(tmp_path / "other.npz", arrays)
    forge(path, "labels.npz", (tmp_path / "other.npz").read_bytes())
    with pytest.raises(CheckpointError, match=message):
        ReferenceIndex.load(path)


def test_other_vectors_than_flat_unit_ones_are_refused(index, tmp_path):
    index.save(tmp_path / "a.scgp")
    euclid, wide = faiss.IndexFlatL2(6), faiss.IndexFlatIP(6)
    euclid.add(vectors(40))
    wide.add(3 * vectors(40))
    for other, message in ((euclid, "expected an IndexFlatIP"), (wide, "not of unit length")):
        shutil.copytree(tmp_path / "a.scgp", tmp_path / "b.scgp")
        forge(tmp_path / "b.scgp", "vectors.faiss", faiss.serialize_index(other).tobytes())
        with pytest.raises(CheckpointError, match=message):
            ReferenceIndex.load(tmp_path / "b.scgp")
        shutil.rmtree(tmp_path / "b.scgp")


def test_a_full_disk_leaves_nothing(index, tmp_path, monkeypatch):
    monkeypatch.setattr(nearest, "_contiguous", lambda part_ND: part_ND[: len(part_ND) // 2].copy())
    with pytest.raises(OSError, match="is the disk full"):
        index.save(tmp_path / "a.scgp")
    assert not list(tmp_path.iterdir())


def test_no_index_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        ReferenceIndex.load(tmp_path / "none.scgp")
