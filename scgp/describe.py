"""What describes labels becomes gene weights: text, place in the ontology, known markers.

Must not know how a label was named (`labels`, `texts`), nor how weights follow from descriptions
(`reference.kinship`).

Shape suffixes: L labels of a gene head, D labels described, W width of the text encoder.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from scgp.model.checkpoint import Model
from scgp.phenotypes.ontology import Ontology
from scgp.reference.gene_head import GeneHead
from scgp.reference.index import ReferenceIndex
from scgp.reference.kinship import describing_head, likeness
from scgp.which import has_index, model_index


def describe(
    term_ids: Sequence[str],
    vector_DW: np.ndarray,
    model: Model,
    index: ReferenceIndex | None = None,
    *,
    penalty: float = 0.0,
) -> GeneHead | None:
    """Return a head whose scores compare cells with descriptions of labels.

    Its weights come from the labels of the model's own index, which are many, or from `index` where
    the model has none.

    Parameters
    ----------
    term_ids
        Ontology ids of the labels described, "" for free text.
    vector_DW
        Vectors of their texts, as the encoder made them.
    penalty
        What is taken from the scores of labels that the index has cells of: 0 to ask which cells
        fit a description, `scgp.reference.kinship.PENALTY` to let descriptions compete.

    Returns
    -------
    The head, in the order given; None where no index has a gene head.
    """
    source = model_index(model) if has_index(model) else index
    if source is None or source.gene_head is None:
        return None
    ids = [*source.label_ids, *term_ids]
    known = set(source.label_ids) - {""}
    text_DW = np.concatenate([model.phenotypes.vectors(source.label_ids), vector_DW])
    marker_DG = model.markers.weights(ids, model.config.n_genes)
    likeness_DD = likeness(model.centred_texts(text_DW), Ontology("CL").soft_scores(ids), marker_DG)
    head = describing_head(source.gene_head, likeness_DD, marker_DG)
    known_D = np.array([term in known for term in term_ids])
    return dataclasses.replace(head, bias_T=np.where(known_D, -penalty, 0).astype(np.float32))
