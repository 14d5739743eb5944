"""Which broad terms of the Cell Ontology tell a reader what kind of cell it is, and how broad.

Knows the ontology; neither cells nor answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scgp.phenotypes.ontology import Ontology

# A term above more than this share of the ontology names no kind of cell ("cell", 100 %,
# "eukaryotic cell", 95 %; the next, "neural cell", has 32 %).
GENERAL_SHARE = 0.5
# Terms of CL that sort cells of all lineages by one trait: a back-off to them is true and tells
# nothing. Neither their size nor their depth sets them apart from "epithelial cell".
ONE_TRAIT = frozenset(
    {
        "CL:0000064",  # ciliated cell
        "CL:0000080",  # circulating cell
        "CL:0000151",  # secretory cell
        "CL:0000183",  # contractile cell
        "CL:0000211",  # electrically active cell
        "CL:0000219",  # motile cell
        "CL:0000225",  # anucleate cell
        "CL:0000226",  # single nucleate cell
        "CL:0000325",  # stuff accumulating cell
        "CL:0000393",  # electrically responsive cell
        "CL:0000404",  # electrically signaling cell
        "CL:0000412",  # polyploid cell
        "CL:0000413",  # haploid cell
        "CL:0000424",  # excretory cell
        "CL:0000630",  # supporting cell
        "CL:0001034",  # cell in vitro
        "CL:0001061",  # abnormal cell
        "CL:0002242",  # nucleate cell
        "CL:0002321",  # embryonic cell (metazoa)
        "CL:0011026",  # progenitor cell
        "CL:0011115",  # precursor cell
    }
)


def says_something(term_id: str, ontology: Ontology) -> bool:
    """Whether a back-off to this term tells a reader what kind of cell it is."""
    share = len(ontology.descendants(term_id)) / ontology.n_terms
    return share <= GENERAL_SHARE and term_id not in ONE_TRAIT


def breadth(term_ids: Sequence[str], ontology: Ontology) -> NDArray[np.float64]:
    """Return how broad terms are: the log of the number of terms at or below each, less 6.

    0 for a term of some 400, such as "leukocyte" or "epithelial cell".
    """
    size = np.array([len(ontology.descendants(i)) for i in term_ids], float)
    return np.log1p(size) - 6.0
