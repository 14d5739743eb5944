"""What becomes of an answer when one gene of the cell is removed: counts, network, fusion, anew.

Owns the choice of the genes that are tried and the removal. Must not know how cells are chosen
(`explain`).

Shape suffixes: B cells, R removals, N expressed genes of a cell, T labels, V columns of the matrix.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from scgp.embed import CHUNK, CellVectors, embed_rows
from scgp.phenotypes.ontology import Ontology
from scgp.reference.answer import answer, reading_of, streams_of, winners_of
from scgp.reference.background import beside, lies_outside
from scgp.reference.broad_terms import breadth
from scgp.reference.evidence import fuse, pool
from scgp.reference.screening import removal_effects

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch

    from scgp.cells.tokens import TokenBatch
    from scgp.model.checkpoint import Model
    from scgp.reference.background import Reading
    from scgp.reference.index import ReferenceIndex

#: Genes of each direction that are removed: those of the largest estimated effects, and never
#: fewer than twice the rows asked for.
SCREENED = 32
#: Differences nearer to zero are rounding: the network computes in float32.
ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """One cell whose genes are removed.

    Attributes
    ----------
    name
        What it is called.
    row_1V
        Its counts.
    score_T
        Its scores of the gene head, or None.
    counted_T
        Labels that count for the explained one.
    probability, confidence
        Their fused probability, and the calibrated confidence in the explained label.
    term_id
        The term, where the explained answer is a broader term; ``""`` where it is a label.
    """

    name: str
    row_1V: sp.csr_matrix
    score_T: np.ndarray | None
    counted_T: np.ndarray
    probability: float
    confidence: float
    term_id: str


def embed_scored(
    model: Model,
    index: ReferenceIndex,
    blocks: Iterator[sp.csr_matrix],
    token_V: np.ndarray,
    *,
    device: torch.device | str,
    n_cells: int | None = None,
    progress: bool = False,
) -> tuple[CellVectors, np.ndarray | None, np.ndarray | None]:
    """Embed rows as annotate does; also return the gene head's scores (B x S), None without one.

    And the label that each cell is most like (`winners_of`), None where the index does not say.
    """
    head = index.gene_head
    scores: list[np.ndarray] = []
    winners: list[np.ndarray] = []

    def watch(_: int, tokens: TokenBatch, found: CellVectors, measured_G: np.ndarray) -> None:
        if head is None:
            return
        value_BG = tokens.values(model.config.n_genes)
        scores.append(head.scores(value_BG, measured_G))
        winner_B = winners_of(index, found.cell_BE, scores[-1], value_BG, measured_G)
        if winner_B is not None:
            winners.append(winner_B)

    vectors = embed_rows(
        model, blocks, token_V, device=device, n_cells=n_cells, progress=progress, watch=watch
    )
    score_BS, winner_B = (np.concatenate(x) if x else None for x in (scores, winners))
    return vectors, score_BS, winner_B


def gene_tables(
    model: Model,
    index: ReferenceIndex,
    subjects: Sequence[Subject],
    token_V: np.ndarray,
    *,
    n_genes: int,
    device: torch.device | str,
    progress: bool,
) -> list[dict[str, Any]]:
    """Return the rows of ``Explanation.genes`` for each cell."""
    if not subjects:
        return []
    tried = [_screen(model, index, subject, token_V, n_genes) for subject in subjects]
    stop_B = np.cumsum([len(genes) for genes in tried])
    vectors, score_RT, winner_R = embed_scored(
        model, index, _blocks(subjects, tried, token_V), token_V, device=device,
        n_cells=int(stop_B[-1]), progress=progress,
    )  # fmt: skip
    tables = []
    for subject, genes, stop in zip(subjects, tried, stop_B, strict=True):
        part = slice(stop - len(genes), stop)
        found = CellVectors(vectors.cell_BE[part], vectors.type_BE[part], vectors.total_B[part])
        score, winner = (None if x is None else x[part] for x in (score_RT, winner_R))
        tables.append(
            _table(
                model, index, subject, token_V=token_V, genes_R=genes, found=found,
                score_RT=score, winner_R=winner, n_genes=n_genes,
            )
        )  # fmt: skip
    return tables


def _screen(
    model: Model, index: ReferenceIndex, subject: Subject, token_V: np.ndarray, n_genes: int
) -> np.ndarray:
    """Return the genes to remove: those estimated to matter most, half of them for each side."""
    tokens = model.tokenizer.tokenize(subject.row_1V, token_V)
    effect_N = removal_effects(model.network, tokens, index, subject.score_T, subject.counted_T)
    order_N = np.argsort(effect_N, kind="stable")
    n = max(SCREENED, 2 * n_genes)
    kept = np.union1d(order_N[:n], order_N[-n:])
    genes: np.ndarray = tokens.pool_gene_N[kept]
    return genes


def without(row_1V: sp.csr_matrix, token_V: np.ndarray, genes_R: np.ndarray) -> sp.csr_matrix:
    """Return the cell once for each gene, without the counts of that gene (R x V)."""
    n_each = row_1V.nnz
    gone_RN = token_V[row_1V.indices][None] == genes_R[:, None]
    count_RN = np.where(gone_RN, np.float32(0), row_1V.data)
    parts = (count_RN.ravel(), np.tile(row_1V.indices, len(genes_R)))
    indptr = np.arange(len(genes_R) + 1) * n_each
    whole = sp.csr_matrix((*parts, indptr), shape=(len(genes_R), row_1V.shape[1]))
    whole.eliminate_zeros()
    return whole


def _blocks(
    subjects: Sequence[Subject], tried: Sequence[np.ndarray], token_V: np.ndarray
) -> Iterator[sp.csr_matrix]:
    """Give the removals in blocks of whole chunks: the network costs the same for a part of one."""
    waiting: list[sp.csr_matrix] = []
    for subject, genes in zip(subjects, tried, strict=True):
        waiting.append(without(subject.row_1V, token_V, genes))
        if sum(block.shape[0] for block in waiting) >= CHUNK:
            whole = sp.vstack(waiting, format="csr")
            n_whole = whole.shape[0] // CHUNK * CHUNK
            yield whole[:n_whole]
            waiting = [whole[n_whole:]]
    yield sp.vstack(waiting, format="csr")


def _beside(
    reading: Reading, sure_R: np.ndarray, term_id: str, index: ReferenceIndex
) -> np.ndarray:
    """Return confidences as `scgp.reference.decision` has them beside a background."""
    if not term_id:
        return np.minimum(sure_R, reading.covered_B)
    ontology = Ontology("CL")
    labelled = not ontology.ancestors(term_id).isdisjoint(i for i in index.label_ids if i)
    column = ontology.closure(index.label_ids).index(term_id)
    of_term = reading._replace(mass_BA=reading.mass_BA[:, [column]])
    outside_R = lies_outside(reading, index.calibration.threshold)
    return beside(of_term, sure_R[:, None], np.array([labelled]), outside_R)[:, 0]


def _table(
    model: Model,
    index: ReferenceIndex,
    subject: Subject,
    *,
    token_V: np.ndarray,
    genes_R: np.ndarray,
    found: CellVectors,
    score_RT: np.ndarray | None,
    winner_R: np.ndarray | None,
    n_genes: int,
) -> dict[str, Any]:
    """Compare the answers without each gene with that of the whole cell; keep the strongest."""
    fusion = index.calibration
    streams, nearest_R = streams_of(
        index, found.cell_BE, found.type_BE, score_RT, fusion, winner_B=winner_R
    )
    fused_RT = fuse(streams, fusion)
    support_RT = pool(streams, fusion) if fusion.pooled else fused_RT
    # a cell of that gene alone has no answer without it
    after_R = np.where(found.total_B > 0, fused_RT @ subject.counted_T, 0.0)
    mass_R = support_RT @ subject.counted_T
    sure_R = fusion.confidence(mass_R, nearest_R)
    if subject.term_id:
        breadth_1 = breadth([subject.term_id], Ontology("CL"))
        sure_R = fusion.confidence_above(mass_R[:, None], nearest_R, breadth_1)[:, 0]
    reading = reading_of(index, found.type_BE, fusion)
    if reading is not None:
        sure_R = _beside(reading, sure_R, subject.term_id, index)
    sure_R = np.where(found.total_B > 0, sure_R, 0.0)
    answers = answer(index, found.cell_BE, found.type_BE, score_RT, winner_B=winner_R)
    label_R = np.concatenate([decision.label for decision in answers])
    difference_R = subject.probability - after_R
    order_R = np.argsort(-difference_R, kind="stable")
    speaks_for = order_R[difference_R[order_R] > ROUNDING][:n_genes]
    speaks_against = order_R[difference_R[order_R] < -ROUNDING]
    kept = np.concatenate([speaks_for, speaks_against[max(0, len(speaks_against) - n_genes) :]])
    gene_N = token_V[subject.row_1V.indices]
    known = gene_N >= 0
    count_G = np.bincount(gene_N[known], subject.row_1V.data[known], model.config.n_genes)
    count_R = count_G[genes_R[kept]]
    return {
        "cell": subject.name,
        "gene": np.asarray(model.genes.symbol, object)[genes_R[kept]],
        "ensembl_id": np.asarray(model.genes.ensembl, object)[genes_R[kept]],
        "count": count_R,
        "value": np.log1p(count_R * (1e4 / count_G.sum())),
        "probability": subject.probability,
        "probability_without": after_R[kept],
        "difference": difference_R[kept],
        "confidence": subject.confidence,
        "confidence_without": sure_R[kept],
        "label_without": label_R[kept],
    }
