"""From the vectors of cells to answers: search, four streams of evidence, fusion, decision.

Shape suffixes: B cells, K neighbours, T labels, E width of the joint space.
"""

from collections.abc import Iterator

import numpy as np

from scgp.phenotypes.ontology import Ontology
from scgp.reference.decision import Decision, decide
from scgp.reference.evidence import (
    Fusion,
    fuse,
    gene_evidence,
    head_evidence,
    neighbour_evidence,
    pool,
    text_evidence,
)
from scgp.reference.gene_head import TEMPERATURE
from scgp.reference.index import ReferenceIndex

#: Cells answered at once: bounds the memory of the B x T matrices.
BLOCK = 4096


def streams_of(
    index: ReferenceIndex,
    cell_BE: np.ndarray,
    type_BE: np.ndarray,
    score_BT: np.ndarray | None,
    fusion: Fusion,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the evidence of the four streams (each B x T) and the largest cosine (B)."""
    similarity_BK, row_BK = index.search(cell_BE, fusion.k)
    n_labels = len(index.labels)
    streams = {
        "neighbour": neighbour_evidence(
            similarity_BK,
            index.code_N[row_BK],
            n_labels,
            temperature=fusion.temperature_neighbour,
        ),
        "text": text_evidence(type_BE, index.text_TD, temperature=fusion.temperature_text),
        "head": head_evidence(cell_BE, index.head_weight_TD, index.head_bias_T),
        "gene": gene_evidence(score_BT, (len(cell_BE), n_labels), temperature=TEMPERATURE),
    }
    return streams, similarity_BK[:, 0]


def answer(
    index: ReferenceIndex,
    cell_BE: np.ndarray,
    type_BE: np.ndarray,
    score_BT: np.ndarray | None,
    *,
    fusion: Fusion | None = None,
) -> Iterator[Decision]:
    """Answer cells block by block; zero rows are empty cells.

    Parameters
    ----------
    index
        The reference.
    cell_BE, type_BE
        Vectors of :class:`scgp.embed.CellVectors`.
    score_BT
        Scores of the index's gene head (`scgp.reference.gene_head.GeneHead.scores`), or None.
    fusion
        How streams are fused; None takes the index's own calibration.
    """
    fusion = fusion or index.calibration
    ontology = Ontology("CL")
    for start in range(0, len(cell_BE), BLOCK):
        part = slice(start, start + BLOCK)
        block_BE = cell_BE[part]
        streams, nearest_B = streams_of(
            index, block_BE, type_BE[part], None if score_BT is None else score_BT[part], fusion
        )
        yield decide(
            fuse(streams, fusion),
            index.labels,
            index.label_ids,
            ontology,
            nearest_B,
            threshold=fusion.threshold,
            novelty_threshold=fusion.novelty_threshold,
            empty_B=np.logical_not(np.any(block_BE, axis=1)),
            weight_near=fusion.weight_near,
            support_BT=pool(streams, fusion) if fusion.pooled else None,
            confidence=fusion.confidence,
        )
