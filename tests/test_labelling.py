"""Blocks of cells that are labelled side by side: in order, within bounds, and equal."""

import threading
import time
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

import scgp
from scgp.errors import CountsError
from scgp.labelling import MOST_BLOCKS, MOST_CELLS, label_blocks
from scgp.reference.answer import BLOCK


@pytest.fixture
def torch_threads():
    """Set the number of torch's threads, and set it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def stand_in(label):
    """Return what labels rows by a function of their first number (synthetic)."""
    model = SimpleNamespace(network=torch.nn.Linear(1, 1))
    return SimpleNamespace(model=model, label=lambda counts, *_: label(counts))


def labelled(label, n_cells, *, rows=lambda start, stop: start, **options):
    blocks = label_blocks(
        stand_in(label), rows, n_cells, np.arange(1), **{"batch_size": BLOCK} | options
    )
    return list(blocks)


def test_the_number_of_threads_changes_no_answer(all_blood, torch_threads, same_answers):
    cells = ad.concat([all_blood[::-1], all_blood, all_blood, all_blood], index_unique="-")
    found = []
    for n_threads in (1, 2, MOST_BLOCKS):
        torch_threads(n_threads)
        found.append(scgp.annotate(cells, batch_size=1, progress=False, copy=True))
    assert cells.n_obs > 4 * BLOCK
    for other in found[1:]:
        same_answers(found[0], other)
        np.testing.assert_array_equal(found[0].obsm["X_scgp"], other.obsm["X_scgp"])


def test_other_threads_keep_their_number(blood):
    def numbers():
        pools = threadpool_info()
        return torch.get_num_threads(), [(x["filepath"], x["num_threads"]) for x in pools]

    scgp.annotate(blood, progress=False)
    before = numbers()
    scgp.annotate(blood, progress=False)
    assert numbers() == before


def test_blocks_come_in_order_whichever_is_ready_first():
    def label(start):
        time.sleep(0.05 if start % (2 * BLOCK) == 0 else 0)
        return start

    assert labelled(label, 5 * BLOCK + 1) == [(i * BLOCK, i * BLOCK) for i in range(6)]


def test_later_blocks_only():
    assert [i for i, _ in labelled(int, 3 * BLOCK, first=BLOCK)] == [BLOCK, 2 * BLOCK]


@pytest.mark.parametrize("n_threads", [1, 4])
def test_blocks_are_labelled_side_by_side(torch_threads, n_threads):
    torch_threads(n_threads)
    at_once = threading.Barrier(max(2, n_threads))

    def label(start):
        at_once.wait(timeout=20)  # breaks where one waits for the other
        return torch.get_num_threads()

    assert {found for _, found in labelled(label, 8 * BLOCK)} == {1}


@pytest.mark.parametrize(
    ("n_threads", "batch_size", "most"),
    [(1, BLOCK, 2), (4, BLOCK, 4), (64, BLOCK, MOST_BLOCKS), (64, MOST_CELLS, 2)],
)
def test_memory_holds_a_few_blocks(torch_threads, n_threads, batch_size, most):
    torch_threads(n_threads)
    n_read, n_given = 0, 0

    def rows(start, stop):
        nonlocal n_read
        n_read += 1
        assert n_read - n_given <= most + 1
        return start

    size = -(-batch_size // BLOCK) * BLOCK
    blocks = label_blocks(stand_in(int), rows, 20 * size, np.arange(1), batch_size=batch_size)
    for _ in blocks:
        time.sleep(0.005)  # the reader would go on, if nothing held it
        n_given += 1
    assert n_given == 20


def test_a_block_that_cannot_be_read_is_told_after_those_before_it():
    def rows(start, stop):
        if start >= 2 * BLOCK:
            message = "synthetic"
            raise CountsError(message)
        return start

    blocks = label_blocks(stand_in(int), rows, 9 * BLOCK, np.arange(1), batch_size=BLOCK)
    assert [next(blocks)[0], next(blocks)[0]] == [0, BLOCK]
    with pytest.raises(CountsError, match="synthetic"):
        next(blocks)


def test_who_stops_asking_leaves_no_thread_behind(torch_threads):
    torch_threads(4)
    before, read = threading.active_count(), []

    def rows(start, stop):
        read.append(start)
        time.sleep(0.2)
        return start

    blocks = label_blocks(stand_in(int), rows, 50 * BLOCK, np.arange(1), batch_size=BLOCK)
    next(blocks)
    blocks.close()
    assert threading.active_count() == before
    assert len(read) <= 3  # of five that were asked for
