"""Rows of counts to labels, block by block: what annotate() does with cells, wherever it runs.

Owns the order of the steps and the threads that take them. Knows neither AnnData nor where rows are
stored.

Shape suffixes: B cells of a block, V columns of the counts, E width of the joint space, G genes.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
import torch

from scgp.cells.tokens import TokenBatch
from scgp.device import lent
from scgp.embed import (
    GPU_CHUNK,
    CellVectors,
    embed_chunk,
    measured_by,
    portions_of,
    rows_at_once,
)
from scgp.model.checkpoint import Model
from scgp.reference.answer import BLOCK, answer, winners_of
from scgp.reference.candidates import Candidates
from scgp.reference.decision import Decision
from scgp.reference.index import ReferenceIndex
from scgp.reference.products import one_thread_here

#: Blocks and cells that are labelled at once, at most: 1,024 cells take some 40 MB, and 6 % of the
#: work is Python's own, which threads cannot share.
MOST_BLOCKS, MOST_CELLS = 12, 65_536


@dataclass(frozen=True, eq=False)
class Labeller:
    """What labels cells: a model, a reference, and what is asked of them.

    Attributes
    ----------
    model, index
        The model and the reference made with it.
    candidates
        The labels that may be answered; None: all of the index, and the terms above them.
    set_mass
        The mass of label sets (`scgp.reference.conformal.mass_for`); None: no sets.
    """

    model: Model
    index: ReferenceIndex
    candidates: Candidates | None = None
    set_mass: float | None = None

    def label(
        self,
        counts: sp.csr_matrix,
        token_of_column: np.ndarray,
        device: torch.device | str = "cpu",
    ) -> "Labelled":
        """Label the cells of a block; the network is on `device`.

        Parameters
        ----------
        counts
            B x V raw counts. What a cell is answered does not depend on the others.
        token_of_column
            Gene of the model of each column (V integers), -1 where it has none.
        """
        return self.answered(self.read(counts, token_of_column, device))

    def read(
        self, counts: sp.csr_matrix, token_of_column: np.ndarray, device: torch.device | str
    ) -> "Read":
        """Embed the cells of a block and score their genes: the part that the network does."""
        describing = None if self.candidates is None else self.candidates.describing
        heads = [self.index.gene_head, describing]
        n_genes = self.model.config.n_genes
        measured_G = measured_by(token_of_column, n_genes)
        vectors: list[CellVectors] = []
        scores: list[list[np.ndarray]] = [[] for _ in heads]
        kept: list[sp.csr_matrix] = []

        def embedded(part: slice) -> tuple[TokenBatch, CellVectors]:
            tokens = self.model.tokenizer.tokenize(counts[part], token_of_column)
            return tokens, embed_chunk(self.model, tokens, device)

        for tokens, found_vectors in portions_of(device).run(embedded, counts.shape[0]):
            vectors.append(found_vectors)
            values = None if not any(heads) else tokens.values(n_genes)
            for head, found in zip(heads, scores, strict=True):
                if head is not None:
                    found.append(head.scores(values, measured_G))
            if self.index.pairwise is not None and heads[0] is not None:
                kept.append(values)
        score_BS, described_BX = (np.concatenate(found) if found else None for found in scores)
        return Read(
            CellVectors.join(vectors, self.model.config.embed_dim),
            score_BS,
            described_BX,
            sp.vstack(kept, format="csr") if kept else None,
            measured_G,
        )

    def answered(self, read: "Read") -> "Labelled":
        """Compare what was read with the reference, and decide."""
        vectors, winner_B = read.vectors, None
        if read.value_BG is not None:
            winner_B = winners_of(
                self.index, vectors.cell_BE, read.score_BS, read.value_BG, read.measured_G
            )
        parts = answer(
            self.index, vectors.cell_BE, vectors.type_BE, read.score_BS,
            candidates=self.candidates, described_BX=read.described_BX, set_mass=self.set_mass,
            winner_B=winner_B,
        )  # fmt: skip
        return Labelled(Decision.join(list(parts), sets=self.set_mass is not None), vectors)


@dataclass(frozen=True)
class Read:
    """A block of cells as network and heads see it: vectors, and scores where there is a head.

    And which genes are measured, with log1p(CP10k) where the index compares it (`winners_of`).
    """

    vectors: CellVectors
    score_BS: np.ndarray | None
    described_BX: np.ndarray | None
    value_BG: sp.csr_matrix | None
    measured_G: np.ndarray


@dataclass(frozen=True)
class Labelled:
    """The answers to a block of cells, and their vectors."""

    decision: Decision
    vectors: CellVectors

    @property
    def n_cells(self) -> int:
        """Number of cells of the block."""
        return len(self.vectors.total_B)


def label_blocks(
    labeller: Labeller,
    rows: Callable[[int, int], sp.csr_matrix],
    n_cells: int,
    token_of_column: np.ndarray,
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
    first: int = 0,
) -> Iterator[tuple[int, Labelled]]:
    """Label cells in blocks of about `batch_size`, in order; memory holds a few blocks.

    One thread reads the blocks, one after another. Others label them, as many as torch has threads
    in the thread that asks (two at least, `MOST_BLOCKS` at most), each with one thread of torch's
    and FAISS's own. So the number of threads changes how long it takes, and no answer.

    Parameters
    ----------
    labeller
        What labels them.
    rows
        Gives the counts of the cells ``start`` to ``stop``.
    n_cells, first
        Cells there are, and the first to be labelled.
    token_of_column
        Gene of the model of each column.
    batch_size
        Cells of a block; brought up to whole blocks of `answer`, and without effect on any answer.
        On a GPU blocks have at least `GPU_CHUNK`.
    device
        Where the network computes.

    Yields
    ------
    The position of a block's first cell, and its answers.
    """
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        labeller = replace(labeller, index=labeller.index.on(device))
    size = max(rows_at_once(batch_size, BLOCK), rows_at_once(GPU_CHUNK, BLOCK) if on_gpu else 0)
    at_once = max(2, min(torch.get_num_threads(), MOST_BLOCKS, MOST_CELLS // size))
    waiting: deque[tuple[int, Future[Labelled]]] = deque()

    def label(counts: Future[sp.csr_matrix]) -> Labelled:
        return labeller.label(counts.result(), token_of_column, device)

    with (
        lent(labeller.model.network, device),
        ThreadPoolExecutor(1, "scgp-read") as reader,
        ThreadPoolExecutor(at_once, "scgp-label", initializer=one_thread_here) as workers,
    ):
        try:
            for start in range(first, n_cells, size):
                counts = reader.submit(rows, start, min(start + size, n_cells))
                waiting.append((start, workers.submit(label, counts)))
                if len(waiting) > at_once:
                    begun, future = waiting.popleft()
                    yield begun, future.result()
            while waiting:
                begun, future = waiting.popleft()
                yield begun, future.result()
        finally:
            for pool in (reader, workers):
                pool.shutdown(wait=False, cancel_futures=True)


def joined(parts: list[Labelled], labeller: Labeller) -> Labelled:
    """Put the blocks of cells together, in their order."""
    sets = labeller.set_mass is not None
    width = labeller.model.config.embed_dim
    decision = Decision.join([part.decision for part in parts], sets=sets)
    return Labelled(decision, CellVectors.join([part.vectors for part in parts], width))
