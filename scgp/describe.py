"""What describes labels becomes gene weights: text, place in the ontology, known markers.

Must not know how a label was named (`labels`, `texts`), whose gene head is asked (`which`), nor how
weights follow from descriptions (`reference.kinship`).

Shape suffixes: T labels of a gene head, D labels described, W width of the text encoder, G genes.
"""

import dataclasses
from collections.abc import Sequence

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
        What is taken from the scores of labels that the source has cells of: 0 to ask which cells
        fit a description, `scgp.reference.kinship.PENALTY` to let descriptions compete.

    Returns
    -------
    The head, in the order given; None where the source is none, or has no gene head.
    """
    if source is None or source.gene_head is None:
        return None
    ids = [*source.label_ids, *term_ids]
    vectors = np.concatenate([model.phenotypes.vectors(source.label_ids), vector_DW])
    likeness_DD, marker_DG = _compared(ids, vectors, model)
    head = describing_head(source.gene_head, likeness_DD, marker_DG)
    known = set(source.label_ids) - {""}
    known_D = np.array([term in known for term in term_ids])
    return dataclasses.replace(head, bias_T=np.where(known_D, -penalty, 0).astype(np.float32))


def with_descriptions(
    head: GeneHead, label_ids: Sequence[str], model: Model
) -> tuple[GeneHead, np.ndarray]:
    """Return a gene head with weights of its labels by their descriptions, and their likeness."""
    vector_TW = model.phenotypes.vectors(label_ids)
    likeness_TT, marker_TG = _compared(label_ids, vector_TW, model)
    described = describing_head(
        head, np.tile(likeness_TT, (2, 2)), sp.vstack([marker_TG, marker_TG], format="csr")
    )
    return dataclasses.replace(head, described_HT=described.weight_HT), likeness_TT


def _compared(
    ids: Sequence[str], vector_DW: np.ndarray, model: Model
) -> tuple[np.ndarray, sp.csr_matrix]:
    """Return the likeness of labels, and the weights of their markers."""
    marker_DG = model.markers.weights(ids, model.config.n_genes)
    lineage_DD = Ontology("CL").soft_scores(ids)
    return likeness(model.centred_texts(vector_DW), lineage_DD, marker_DG), marker_DG
