"""Counts that stay stored: what is read, when, how often; and drawing by tiles, and excerpts."""

import dataclasses
import threading

import numpy as np
import pytest
import scipy.sparse as sp

from scgp.cells import counts as counts_module
from scgp.cells import sampling, stored
from scgp.cells.corpus import Corpus
from scgp.cells.dataset import CellDataset
from scgp.cells.excerpt import excerpt
from scgp.cells.sampling import ROUND_STEPS, TILES, Sampler
from scgp.cells.stored import StoredCounts
from scgp.cells.tokens import Tokenizer
from scgp.errors import CountsError


@pytest.fixture(scope="module")
def parts(all_blood, model):
    return [CellDataset([all_blood[:300], all_blood[300:500]], model.genes),
            CellDataset(all_blood[500:], model.genes)]  # fmt: skip


@pytest.fixture(scope="module")
def whole(all_blood, model):
    return CellDataset(all_blood, model.genes).in_memory()


@pytest.fixture
def read(monkeypatch):
    """Rows of each read, with the thread that read them."""
    seen = []
    real = StoredCounts._read

    def spy(self, row_R):
        seen.append((row_R, threading.current_thread()))
        return real(self, row_R)

    monkeypatch.setattr(StoredCounts, "_read", spy)
    return seen


def test_rows_are_those_of_the_matrix_in_memory(parts, whole):
    counts = StoredCounts(parts)
    assert counts.shape == whole.shape
    rows = np.array([650, 0, 0, 299, 300, 499, 500, 3])
    for asked in (rows, slice(490, 510), slice(None), np.array([], int)):
        taken = counts[asked]
        assert taken.dtype == np.float32
        assert (taken != whole[asked].astype(np.float32)).nnz == 0
    part = counts.part(rows).part(np.array([7, 1, 5]))
    assert part.shape == (3, whole.shape[1])
    assert (part[np.array([2, 0])] != whole[[499, 3]].astype(np.float32)).nnz == 0


def test_a_read_takes_some_rows_at_a_time(parts, whole, monkeypatch):
    monkeypatch.setattr(stored, "READ_ROWS", 64)
    assert (StoredCounts(parts)[:] != whole.astype(np.float32)).nnz == 0


def test_steps_are_read_in_rounds_each_row_once_and_one_round_ahead(
    parts, whole, read, monkeypatch
):
    monkeypatch.setattr(stored, "ROUND_CELLS", 100)
    rng = np.random.default_rng(0)
    plan = {step: rng.integers(0, 700, 30) for step in range(10, 30)}
    counts = StoredCounts(parts)
    with counts.ahead(plan.__getitem__, range(10, 30)):
        for step, rows in plan.items():
            assert (counts[rows] != whole[rows].astype(np.float32)).nnz == 0
            if step == 10:  # the second round is under way before it is asked for
                assert counts.reads.rounds == 2
    assert counts.reads.missed == 0
    assert len(read) == counts.reads.rounds > 4
    for row_R, thread in read:
        assert (np.diff(row_R) > 0).all()
        assert len(row_R) <= 100
        assert thread is not threading.main_thread()
    assert not [t for t in threading.enumerate() if t.name.startswith("scgp-counts")]
    assert (counts._held, counts._next) == (None, None)


def test_steps_that_belong_together_are_one_round(parts, read, monkeypatch):
    monkeypatch.setattr(stored, "ROUND_CELLS", 10)
    counts = StoredCounts(parts)
    with counts.ahead(lambda step: np.array([step, 600]), range(2, 9), together=4):
        for step in range(2, 9):
            assert counts[np.array([600, step])].shape[0] == 2
    assert [row_R.tolist() for row_R, _ in read] == [[2, 3, 600], [4, 5, 6, 7, 600], [8, 600]]


def test_a_step_larger_than_a_round_is_a_round(parts, read, monkeypatch):
    monkeypatch.setattr(stored, "ROUND_CELLS", 10)
    counts = StoredCounts(parts)
    with counts.ahead(lambda step: np.arange(40) + 40 * step, range(3)):
        for step in range(3):
            assert counts[np.arange(40) + 40 * step].shape[0] == 40
    assert [len(row_R) for row_R, _ in read] == [40, 40, 40]


def test_rows_that_were_not_foreseen_are_read_and_the_plan_goes_on(parts, whole, monkeypatch):
    monkeypatch.setattr(stored, "ROUND_CELLS", 10)
    counts = StoredCounts(parts)
    with counts.ahead(lambda step: np.arange(10) + 10 * step, range(4)):
        for step in range(4):
            counts[np.arange(10) + 10 * step]
            odd = np.array([699, step])
            assert (counts[odd] != whole[odd].astype(np.float32)).nnz == 0
    assert counts.reads.missed == 8
    assert counts.reads.rounds == 4


def test_a_fault_in_the_thread_reaches_the_one_who_asks(all_blood, model, monkeypatch):
    monkeypatch.setattr(counts_module, "PROBE_ROWS", 10)
    broken = all_blood.copy()
    broken.X.data[broken.X.indptr[400] : broken.X.indptr[401]] = 0.5
    counts = StoredCounts([CellDataset(broken, model.genes)])

    def run():
        with counts.ahead(lambda step: np.arange(100 * step, 100 * step + 100), range(7)):
            for step in range(7):
                counts[np.arange(100 * step, 100 * step + 100)]

    with pytest.raises(CountsError, match=broken.obs_names[400]):
        run()


def test_an_early_end_leaves_no_thread(parts):
    counts = StoredCounts(parts)
    with counts.ahead(lambda step: np.arange(step, step + 50), range(600)):
        counts[np.arange(50)]
    assert not [t for t in threading.enumerate() if t.name.startswith("scgp-counts")]
    assert counts[np.arange(3)].shape[0] == 3


# Drawing by tiles: synthetic columns, no counts.


def columns(n_cells, tile_rows, n_studies=6, seed=0):
    rng = np.random.default_rng(seed)
    text = np.full(n_cells, "", dtype=object)
    class_N = np.sort(rng.integers(-1, 5, n_cells))
    corpus = Corpus(
        count_NG=sp.csr_matrix((n_cells, 20), dtype=np.float32),
        label_N=text, tissue_N=text, disease_N=text,
        study_N=rng.integers(0, n_studies, n_cells), donor_N=rng.integers(0, 9, n_cells),
        drawn_N=np.zeros(n_cells, bool), source_N=np.zeros(n_cells, int),
        studies=tuple(map(str, range(n_studies))), measured_SG=np.ones((1, 20), bool),
        tile_N=np.arange(n_cells) // tile_rows,
    )  # fmt: skip
    return corpus, class_N


def sampler_of(corpus, class_N, batch_size=64):
    tokenizer = Tokenizer(20, 4, np.ones(20, np.float32))
    options = {"batch_size": batch_size, "drawn_share": 0.3, "seed": 3}
    return Sampler(corpus, class_N, tokenizer, **options)


@pytest.mark.parametrize("by_tiles", [False, True])
def test_the_rows_told_beforehand_are_those_that_are_read(by_tiles):
    corpus, class_N = columns(3000, 10)
    if not by_tiles:
        corpus = dataclasses.replace(corpus, tile_N=None)
    asked = []

    class Recorder:
        shape = corpus.count_NG.shape

        def __getitem__(self, rows):
            asked.append(rows)
            return corpus.count_NG[rows]

    sampler = sampler_of(dataclasses.replace(corpus, count_NG=Recorder()), class_N)
    for step in (0, 1, 200):
        sampler.batch(step)
        np.testing.assert_array_equal(asked[-1], sampler.batch_rows(step))
        sampler.masked_batch(step, 7)
        np.testing.assert_array_equal(asked[-1], sampler.masked_rows(step, 7))
        sampler.context_batch(step, 9, 2)
        np.testing.assert_array_equal(asked[-1], sampler.context_rows(step, 9))


def test_by_tiles_a_round_sees_few_tiles_and_all_rounds_see_every_cell_as_often(monkeypatch):
    monkeypatch.setattr(sampling, "TILES", 8)
    corpus, class_N = columns(400, 10)
    sampler = sampler_of(corpus, class_N, batch_size=4096)
    in_round = [set(corpus.tile_N[sampler.batch_rows(step)]) for step in range(ROUND_STEPS)]
    assert len(set.union(*in_round)) <= 8
    assert len(set.union(*in_round) | set(corpus.tile_N[sampler.batch_rows(ROUND_STEPS)])) > 8
    drawn_N = np.zeros(400)
    for round_ in range(3000):
        drawn_N += np.bincount(sampler.batch_rows(round_ * ROUND_STEPS), minlength=400)
    assert not drawn_N[class_N < 0].any()
    weight_N = sampling.balance(class_N, corpus.study_N, corpus.donor_N)
    tiles = np.bincount(corpus.tile_N, weight_N)
    found = np.bincount(corpus.tile_N, drawn_N) / drawn_N.sum()
    # a tile of weight w is drawn about 3000 * 8 * w times
    np.testing.assert_allclose(found, tiles, atol=5 * np.sqrt(tiles.max() / 24_000))
    of_tile = corpus.tile_N == np.argmax(tiles)
    share = weight_N[of_tile] / weight_N[of_tile].sum()
    np.testing.assert_allclose(drawn_N[of_tile] / drawn_N[of_tile].sum(), share, atol=0.01)


def test_tiles_of_a_part_are_those_of_the_cells_that_are_left():
    corpus, class_N = columns(4000, 10)
    rows = np.arange(0, 4000, 3)
    part = corpus.part(rows)
    np.testing.assert_array_equal(part.tile_N, rows // 10)
    row_B = sampler_of(part, class_N[rows]).batch_rows(5)
    assert len(set(part.tile_N[row_B])) <= TILES


# Excerpts.


@pytest.mark.parametrize("tile_rows", [100, None])
def test_an_excerpt_keeps_rare_classes_and_its_bounds(tile_rows):
    n_cells = 40_000
    corpus, _ = columns(n_cells, tile_rows or 1)
    class_N = np.zeros(n_cells, int)
    class_N[7300:7460] = 1  # 160 cells of a rare class
    class_N[30_000:30_020] = 2  # and all 20 of another
    class_N[35_000:] = -1
    tile_N = corpus.tile_N if tile_rows else None
    corpus = dataclasses.replace(corpus, tile_N=tile_N, drawn_N=np.arange(n_cells) >= 39_900)
    rows = excerpt(corpus, class_N, seed=1, most=3000, most_tiles=60)
    assert (np.diff(rows) > 0).all()
    real = rows[rows < 39_900]
    assert len(rows) - len(real) == 100
    assert 1500 < len(real) <= 3000
    assert (class_N[real] == 2).sum() == 20
    assert (class_N[real] == 1).sum() >= 150
    assert len(set(real // (tile_rows or 2048))) <= 60
    again = excerpt(corpus, class_N, seed=1, most=3000, most_tiles=60)
    np.testing.assert_array_equal(rows, again)
    assert len(np.setdiff1d(excerpt(corpus, class_N, seed=2, most=3000, most_tiles=60), rows))


def test_a_corpus_that_is_no_larger_needs_no_excerpt():
    corpus, class_N = columns(500, 10)
    assert excerpt(corpus, class_N, seed=0, most=500) is None
    assert len(excerpt(corpus, class_N, seed=0, most=499)) <= 499
