"""From the vectors of cells to answers: search, streams of evidence, fusion, decision.

Shape suffixes: B cells, G genes, K neighbours, T labels, S scores of the gene head (one or two a
label), E width of the joint space.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from scgp.phenotypes.ontology import Ontology
from scgp.reference.background import Reading
from scgp.reference.candidates import Candidates, choose
from scgp.reference.conformal import label_sets, set_names
from scgp.reference.decision import Decision, decide
from scgp.reference.elsewhere import less_likely
from scgp.reference.evidence import (
    described_evidence,
    fuse,
    gene_evidence,
    head_evidence,
    nearest_text,
    neighbour_evidence,
    pool,
    text_evidence,
    winner_evidence,
)
from scgp.reference.fusion import BACKGROUND, PAIRWISE, Fusion
from scgp.reference.gene_head import TEMPERATURE
from scgp.reference.index import ReferenceIndex
from scgp.reference.kinship import DESCRIBED_TEMPERATURE

#: Cells answered at once. Always this many (the last block is filled up with empty cells): how a
#: product of matrices rounds depends on its shape, and an answer must not depend on the company.
BLOCK = 512
#: Cells searched for at once: FAISS takes half as long for each as with `BLOCK`, and the cosines of
#: a cell do not depend on the others.
SEARCHED = 1024


def streams_of(
    index: ReferenceIndex,
    cell_BE: np.ndarray,
    type_BE: np.ndarray,
    score_BS: np.ndarray | None,
    fusion: Fusion,
    *,
    found: tuple[np.ndarray, np.ndarray] | None = None,
    reading: Reading | None = None,
    winner_B: np.ndarray | None = None,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the evidence of the streams (each B x T) and the largest cosine (B).

    ``found`` is what `ReferenceIndex.search` gave for the cells, where they have been searched for,
    ``reading`` what `reading_of` gave, and ``winner_B`` what `winners_of` did (None: that stream is
    left out). The background is left out where the index has none.
    The stream of scores by description is left out where the index has none (before 0.5.0). An
    index of a representation has neighbours and head alone. Labels that are ``elsewhere`` for the
    fusion have less of all streams.
    """
    similarity_BK, row_BK = index.search(cell_BE, fusion.k) if found is None else found
    n_labels = len(index.labels)
    neighbour_BT = neighbour_evidence(
        similarity_BK, index.code_N[row_BK], n_labels, temperature=fusion.temperature_neighbour
    )
    head_BT = head_evidence(cell_BE, index.head_weight_TD, index.head_bias_T)
    if index.use_rep is not None:  # no network has read these cells
        return {"neighbour": neighbour_BT, "head": head_BT}, similarity_BK[:, 0]
    streams = {
        "neighbour": neighbour_BT,
        "text": text_evidence(type_BE, index.text_TD, temperature=fusion.temperature_text),
        "head": head_BT,
        "gene": gene_evidence(
            None if score_BS is None else score_BS[:, :n_labels],
            (len(cell_BE), n_labels),
            temperature=TEMPERATURE,
        ),
    }
    head = index.gene_head
    if score_BS is not None and head is not None and head.described_HT is not None:
        has_T = np.asarray(np.any(head.described_HT, axis=0))
        streams["described"] = described_evidence(
            score_BS[:, n_labels:], has_T, temperature=DESCRIBED_TEMPERATURE
        )
    reading = reading_of(index, type_BE, fusion) if reading is None else reading
    if reading is not None:
        streams[BACKGROUND] = reading.prior_BT
    if winner_B is not None:
        streams[PAIRWISE] = winner_evidence(winner_B, n_labels)
    if fusion.elsewhere:
        streams = less_likely(streams, np.isin(index.labels, fusion.elsewhere))
    return streams, similarity_BK[:, 0]


def winners_of(
    index: ReferenceIndex,
    cell_BE: np.ndarray,
    score_BS: np.ndarray | None,
    value_BG: sp.csr_matrix,
    measured_G: np.ndarray,
) -> np.ndarray | None:
    """Return which of the likeliest labels each cell is most like; -1: cannot tell.

    None where the index has no pairwise profiles, or does not hear them. Likeliest are labels by
    the linear head and by description (or, where labels are not described, by the gene head): what
    has read the cell with the network, and what has read its genes.

    Parameters
    ----------
    index
        The reference.
    cell_BE
        Vectors of the cells.
    score_BS
        Their scores of the index's gene head.
    value_BG
        Their log1p(CP10k) over the vocabulary.
    measured_G
        Genes that the data measure.
    """
    profiles = index.pairwise
    if profiles is None or score_BS is None or not index.calibration.weight_pairwise:
        return None
    parts = []
    for start in range(0, len(cell_BE), BLOCK):
        likely_BT = likely_labels(index, _filled_up(cell_BE, start), _filled_up(score_BS, start))
        stop = min(start + BLOCK, len(cell_BE))
        part = profiles.winners(likely_BT[: stop - start], value_BG[start:stop], measured_G)
        parts.append(part)
    return np.concatenate(parts) if parts else np.zeros(0, np.int32)


def likely_labels(index: ReferenceIndex, cell_BE: np.ndarray, score_BS: np.ndarray) -> np.ndarray:
    """Return how likely the labels are by the two streams that `winners_of` asks (B x T, logs).

    -inf for labels that are ``elsewhere`` for the index's fusion.
    """
    n_labels, head = len(index.labels), index.gene_head
    streams = {"head": head_evidence(cell_BE, index.head_weight_TD, index.head_bias_T)}
    if head is not None and head.described_HT is not None:
        has_T = np.asarray(np.any(head.described_HT, axis=0))
        streams["described"] = described_evidence(
            score_BS[:, n_labels:], has_T, temperature=DESCRIBED_TEMPERATURE
        )
    else:
        shape = (len(cell_BE), n_labels)
        streams["gene"] = gene_evidence(score_BS, shape, temperature=TEMPERATURE)
    equal = Fusion(weight_head=0.45, weight_described=0.45, weight_gene=0.45)
    elsewhere_T = np.isin(index.labels, index.calibration.elsewhere)
    likely_BT: np.ndarray = np.where(elsewhere_T, -np.inf, np.log(fuse(streams, equal)))
    return likely_BT


def reading_of(index: ReferenceIndex, type_BE: np.ndarray, fusion: Fusion) -> Reading | None:
    """Return what the background of an index says of cells, or None where it has none."""
    if index.background is None:
        return None
    return index.background.read(type_BE, fusion.temperature_text)


def unlike_reference(
    index: ReferenceIndex, type_BE: np.ndarray, nearest_B: np.ndarray, fusion: Fusion
) -> np.ndarray:
    """Return which cells are unlike every reference cell, or unlike the text of every label."""
    far_B = np.asarray(nearest_B, float) < fusion.novelty_threshold
    unlike_B: np.ndarray = far_B | (nearest_text(type_BE, index.text_TD) < fusion.novelty_text)
    return unlike_B


def answer(
    index: ReferenceIndex,
    cell_BE: np.ndarray,
    type_BE: np.ndarray,
    score_BS: np.ndarray | None,
    *,
    winner_B: np.ndarray | None = None,
    fusion: Fusion | None = None,
    candidates: Candidates | None = None,
    described_BX: np.ndarray | None = None,
    set_mass: float | None = None,
) -> Iterator[Decision]:
    """Answer cells block by block; zero rows are empty cells.

    Parameters
    ----------
    index
        The reference.
    cell_BE, type_BE
        Vectors of :class:`scgp.embed.CellVectors`.
    score_BS
        Scores of the index's gene head (`scgp.reference.gene_head.GeneHead.scores`), or None.
    winner_B
        What `winners_of` gave for the cells, or None.
    fusion
        How streams are fused; None takes the index's own calibration.
    candidates
        The labels that may be answered; None: all of the index, and the terms above them.
    described_BX
        Scores of the candidates' describing head, or None where they have none.
    set_mass
        The mass of label sets (`scgp.reference.conformal.mass_for`); None: no sets.
    """
    fusion = fusion or index.calibration
    for first in range(0, len(cell_BE), SEARCHED):
        found = index.search(cell_BE[first : first + SEARCHED], fusion.k)
        for start in range(first, min(first + SEARCHED, len(cell_BE)), BLOCK):
            n_cells = min(BLOCK, len(cell_BE) - start)
            near = tuple(_filled_up(x, start - first) for x in found)
            whole = _answer_block(
                index, *(_filled_up(x, start) for x in (cell_BE, type_BE, score_BS, described_BX)),
                winner_B=_filled_up(winner_B, start), found=(near[0], near[1]), fusion=fusion,
                candidates=candidates, set_mass=set_mass,
            )  # fmt: skip
            held = {name: x for name, x in vars(whole).items() if x is not None}
            yield Decision(**{name: x[:n_cells] for name, x in held.items()})


def _filled_up(rows_BX: np.ndarray | None, start: int) -> Any:
    """Return the rows of one block, with rows of zeros up to `BLOCK`; None stays None."""
    if rows_BX is None:
        return None
    part = rows_BX[start : start + BLOCK]
    filled = np.zeros((BLOCK, *part.shape[1:]), part.dtype)
    filled[: len(part)] = part
    return filled


def _answer_block(
    index: ReferenceIndex,
    cell_BE: np.ndarray,
    type_BE: np.ndarray,
    score_BS: np.ndarray | None,
    described_BX: np.ndarray | None,
    *,
    winner_B: np.ndarray | None,
    found: tuple[np.ndarray, np.ndarray],
    fusion: Fusion,
    candidates: Candidates | None,
    set_mass: float | None,
) -> Decision:
    """Answer the cells of one block."""
    reading = reading_of(index, type_BE, fusion)
    streams, nearest_B = streams_of(
        index, cell_BE, type_BE, score_BS, fusion, found=found, reading=reading, winner_B=winner_B
    )
    empty_B = np.logical_not(np.any(cell_BE, axis=1))
    novelty_B = np.where(empty_B, np.nan, np.clip(1 - nearest_B, 0, 2)).astype(np.float32)
    if candidates is not None:
        chosen = choose(
            streams, candidates, type_BE, index.text_TD, nearest_B=nearest_B, fusion=fusion,
            empty_B=empty_B, described_BX=described_BX,
            covered_B=None if reading is None else reading.covered_B,
        )  # fmt: skip
        return dataclasses.replace(chosen, novelty=novelty_B)
    pooled_BT = pool(streams, fusion)
    decision = decide(
        fuse(streams, fusion),
        index.labels,
        index.label_ids,
        Ontology("CL"),
        nearest_B,
        threshold=fusion.threshold,
        threshold_above=fusion.threshold_above,
        threshold_outside=fusion.threshold_outside,
        novel_B=unlike_reference(index, type_BE, nearest_B, fusion),
        empty_B=empty_B,
        weight_near=fusion.weight_near,
        support_BT=pooled_BT if fusion.pooled else None,
        confidence=fusion.confidence,
        confidence_above=fusion.confidence_above,
        reading=reading,
    )
    if set_mass is not None:
        sets_BT = label_sets(pooled_BT, set_mass) & ~empty_B[:, None]
        decision = dataclasses.replace(
            decision,
            label_set=set_names(sets_BT, index.labels),
            set_size=sets_BT.sum(axis=1).astype(np.int32),
        )
    return dataclasses.replace(decision, novelty=novelty_B)
