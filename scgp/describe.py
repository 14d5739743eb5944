"""What describes labels becomes gene weights: text, place in the ontology, known markers.

Must not know how a label was named (`labels`, `texts`), whose gene head is asked (`which`), nor how
weights follow from descriptions (`reference.kinship`).

Shape suffixes: T labels of a gene head, D labels described, W width of the text encoder, G genes.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.sparse as sp

from scgp.model.checkpoint import Model
from scgp.phenotypes.ontology import Ontology
from scgp.reference.gene_head import GeneHead
from scgp.reference.index import ReferenceIndex
from scgp.reference.kinship import describing_head, likeness


def describe(
    term_ids: Sequence[str],
    vector_DW: np.ndarray,
    model: Model,
    source: ReferenceIndex | None,
    *,
    penalty: float = 0.0,
) -> GeneHead | None:
    """Return a head whose scores compare cells with descriptions of labels.

    Parameters
    ----------
    term_ids
        Ontology ids of the labels described, "" for free text.
    vector_DW
        Vectors of their texts, as the encoder made them.
    source
        The index from whose labels the weights follow.
    penalty
        What is taken from the scores of labels that the source has cells of (of the term, or of one
        below it): 0 to ask which cells
        fit a description, `scgp.reference.kinship.PENALTY` to let descriptions compete.

    Returns
    -------
    The head, in the order given; None where the source is none, or has no gene head.
    """
    if source is None or source.gene_head is None:
        return None
    ids = [*source.label_ids, *term_ids]
    vectors = np.concatenate([model.phenotypes.vectors(source.label_ids), vector_DW])
    likeness_DD, marker_DG = compared(ids, vectors, model)
    n = len(source.label_ids)
    head = describing_head(
        source.gene_head, likeness_DD[:n, :n], likeness_DD[:n, n:], marker_DG[n:]
    )
    known = set(Ontology("CL").closure(source.label_ids))
    known_D = np.array([term in known for term in term_ids])
    return dataclasses.replace(head, bias_T=np.where(known_D, -penalty, 0).astype(np.float32))


def with_descriptions(
    head: GeneHead, label_ids: Sequence[str], model: Model
) -> tuple[GeneHead, np.ndarray]:
    """Return a gene head with weights of its labels by their descriptions, and their likeness."""
    vector_TW = model.phenotypes.vectors(label_ids)
    likeness_TT, marker_TG = compared(label_ids, vector_TW, model)
    described = describing_head(head, likeness_TT, likeness_TT, marker_TG)
    return dataclasses.replace(head, described_HT=described.weight_HT), likeness_TT


def compared(
    ids: Sequence[str], vector_DW: np.ndarray, model: Model
) -> tuple[np.ndarray, sp.csr_matrix]:
    """Return the likeness of labels, and the weights of their markers."""
    marker_DG = model.markers.weights(ids, model.config.n_genes)
    lineage_DD = Ontology("CL").soft_scores(ids)
    return likeness(model.centred_texts(vector_DW), lineage_DD, marker_DG), marker_DG


def uses_descriptions(calibration: Mapping[str, object] | None) -> bool:
    """Whether a stored calibration was fitted with the stream by description.

    One that was fitted without (before 0.5.0) must not be given it: its weights and its confidence
    are those of the other streams. Where there is none, the default has all streams.
    """
    return calibration is None or "weight_described" in calibration
