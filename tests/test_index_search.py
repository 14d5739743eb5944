"""Exact search and lists: what is found, how surely, and that nothing but the query decides it."""

import dataclasses
import warnings

import faiss
import numpy as np
import pytest

import scgp
from scgp.errors import ArgumentError, CheckpointError
from scgp.own import model_index
from scgp.reference import nearest, store
from scgp.reference.index import ReferenceIndex
from scgp.reference.store import Segment, VectorStore, choose_probes


@pytest.fixture(scope="module")
def cells(model) -> np.ndarray:
    """Vectors of the real cells of the default reference (12,068), shuffled."""
    index = model_index(model)
    found = np.array(index.vectors_ND[~index.drawn_N])
    return found[np.random.default_rng(0).permutation(len(found))]


@pytest.fixture(scope="module")
def queries(all_blood, model) -> np.ndarray:
    """Vectors of 700 real blood cells of another study."""
    return scgp.embed(all_blood, model=model, progress=False, copy=True).obsm["X_scgp"]


def build(vectors_ND, **options):
    labels = ["x"] * len(vectors_ND)
    return ReferenceIndex.build(
        vectors_ND, labels, label_ids=[""], model_fingerprint="model-a", **options
    )


@pytest.fixture(scope="module")
def exact(cells) -> ReferenceIndex:
    return build(cells)


@pytest.fixture(scope="module")
def lists(cells) -> ReferenceIndex:
    return build(cells, search="lists")


def recall(found, truth, k=15):
    return np.mean([len({*a} & {*b}) / k for a, b in zip(found[:, :k], truth[:, :k], strict=True)])


def test_lists_find_the_cells_of_another_study(exact, lists, queries):
    truth = exact.search(queries, 30)
    found = lists.search(queries, 30)
    assert recall(found[1], truth[1]) >= 0.99
    assert lists.recall >= 0.99
    assert exact.recall == 1
    inside = lists.store.segments[0].lists
    assert inside.probes < inside.n_lists / 2  # else nothing is saved


def test_one_probe_fewer_was_too_few(cells, lists):
    segment = lists.store.segments[0]
    fewer = max(p for p in store.PROBES if p < segment.lists.probes)
    only = dataclasses.replace(segment.lists, probes=fewer)
    own = np.sort(np.random.default_rng(0).choice(len(cells), store.SAMPLE, replace=False))
    rows = np.random.default_rng(1).integers(len(cells), size=len(own))
    moved = store.moved(cells[own], cells[rows])
    np.testing.assert_allclose(np.einsum("bd,bd->b", moved, cells[own]), store.MOVED, atol=1e-5)
    found = VectorStore((Segment(cells, only),)).search(moved, 15)[0]
    truth = VectorStore((Segment(cells),)).search(moved, 15)[0]
    assert (found >= truth[:, -1:]).mean() < store.RECALL


def test_the_cosines_of_lists_are_those_of_the_vectors(lists, cells, queries):
    cosine_BK, row_BK = lists.search(queries[:50], 10)
    expected = np.einsum("bd,bkd->bk", queries[:50], cells[row_BK])
    np.testing.assert_array_equal(cosine_BK, expected)
    assert (np.diff(cosine_BK, axis=1) <= 0).all()


@pytest.mark.parametrize("name", ["exact", "lists"])
def test_neither_company_nor_threads_change_an_answer(name, queries, request):
    index = request.getfixturevalue(name)
    before = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(1)
        alone = [index.search(queries[i : i + 1], 30) for i in range(0, 700, 35)]
        one = index.search(queries, 30)
        faiss.omp_set_num_threads(2)
        two = index.search(queries, 30)
    finally:
        faiss.omp_set_num_threads(before)
    for i in range(2):
        np.testing.assert_array_equal(one[i], two[i])
        np.testing.assert_array_equal(one[i][::35], np.concatenate([x[i] for x in alone]))


def test_lists_made_twice_are_the_same(cells, lists, queries):
    again = build(cells, search="lists")
    for first, second in zip(lists.search(queries, 15), again.search(queries, 15), strict=True):
        np.testing.assert_array_equal(first, second)


def test_auto_is_exact_up_to_a_bound(cells, monkeypatch):
    monkeypatch.setattr(store, "EXACT_CELLS", 3000)
    assert build(cells[:3000]).store.is_exact
    assert not build(cells[:3001]).store.is_exact
    assert build(cells[:3001], search="exact").store.is_exact
    assert not build(cells[:500], search="lists").store.is_exact
    with pytest.raises(ArgumentError, match="search is 'hnsw', expected one of"):
        build(cells[:10], search="hnsw")


def test_todays_reference_is_searched_exactly(model):
    index = model_index(model)
    assert index.store.is_exact
    assert index.n_cells <= store.EXACT_CELLS
    assert store.EXACT_CELLS >= 40_000


@pytest.mark.parametrize("n_cells", [1, 2, 40, 60, 300])
def test_few_cells_in_lists_are_all_found(cells, queries, n_cells):
    index = build(cells[:n_cells], search="lists")
    k = min(n_cells, 50)
    _, row_BK = index.search(queries[:20], 100)
    assert row_BK.shape == (20, min(100, n_cells))
    expected = build(cells[:n_cells]).search(queries[:20], n_cells)[1]
    if n_cells <= 100:  # more is asked for than one list holds: all lists are read
        np.testing.assert_array_equal(row_BK, expected[:, :100])
    assert all(len({*rows}) == len(rows) for rows in row_BK[:, :k])


def test_cells_on_one_spot_are_all_found(cells):
    """Synthetic: 400 copies of one cell make one list, which a query of another reads at last."""
    same = np.repeat(cells[:1], 400, axis=0)
    index = build(np.concatenate([same, cells[1:201]]), search="lists")
    cosine_BK, row_BK = index.search(cells[:1], 500)
    assert (cosine_BK[0, :400] > 0.9999).all()
    assert len({*row_BK[0]}) == 500


def test_an_array_is_copied_unless_it_is_read_only(cells):
    mine = cells[:50].copy()
    index = build(mine)
    mine[:] = 0
    np.testing.assert_array_equal(index.vectors_ND, cells[:50])
    frozen = cells[:50].copy()
    frozen.flags.writeable = False
    assert np.shares_memory(build(frozen).vectors_ND, frozen)
    with pytest.raises(ValueError, match="read-only"):
        index.vectors_ND[0] = 1
    np.testing.assert_array_equal(index.vectors_at(np.array([[3, 1]])), cells[[[3, 1]]])


def test_rows_that_are_not_there_are_no_answer(lists, cells, queries):
    """Lists of more cells than there are vectors: a file that contradicts itself, mapped."""
    segment = lists.store.segments[0]
    short = VectorStore((Segment(cells[:500], segment.lists),))
    with pytest.raises(CheckpointError, match="cells that are not there"):
        short.search(queries[:100], 15)


def test_lists_that_lack_cells_are_told(lists):
    inverted = faiss.clone_index(lists.store.segments[0].lists.inverted)
    assert nearest.Lists(inverted).fault() == ""
    inverted.remove_ids(np.array([5], np.int64))
    inverted.ntotal += 1
    assert "lack cells" in nearest.Lists(inverted).fault()


def test_a_segment_without_lists_has_no_probes(cells):
    with pytest.raises(ArgumentError, match="without lists"):
        choose_probes(Segment(cells[:10]))


def test_vectors_are_compared_in_blocks_where_they_are_not_aligned(cells, queries, monkeypatch):
    """As those of a mapped file are, whose head is 45 bytes long."""
    content = np.zeros(cells.nbytes + 45, np.uint8)
    odd = content[45:].view(np.float32).reshape(cells.shape)
    odd[:] = cells
    assert not odd.flags.aligned
    expected = VectorStore((Segment(cells),)).search(queries[:90], 30)
    monkeypatch.setattr(nearest, "ROWS", 1700)
    for found, exact in zip(
        VectorStore((Segment(odd),)).search(queries[:90], 30), expected, strict=True
    ):
        np.testing.assert_array_equal(found, exact)


@pytest.mark.parametrize("use_rep", [None, "X_own"])
def test_build_index_takes_the_way_to_search(all_blood, model, queries, use_rep):
    atlas = all_blood[:200].copy()
    atlas.obsm["X_own"] = queries[:200]
    options = {"label_key": "cell_type", "use_rep": use_rep, "progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scgp.errors.ScgpWarning)  # no studies: not calibrated
        made = [scgp.build_index(atlas, search=way, **options) for way in ("auto", "lists")]
    assert [index.store.is_exact for index in made] == [True, False]
    with pytest.raises(ArgumentError, match="search is 'fast'"):
        scgp.build_index(atlas, search="fast", **options)
