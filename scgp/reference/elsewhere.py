"""Labels that a sample's tissue speaks against: those that are known from other tissues alone.

Owns which labels these are and what they lose. Must not know how a user names a tissue.

Shapes: B cells, T labels. A stream is a B x T matrix of probabilities, NaN where it knows nothing.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from scgp.phenotypes.ontology import Ontology

#: What is left of the odds of such a label. On left-out studies .37 to .02 do the same for the
#: scores (docs/log.md); of the cells of solid tissue 7.0 % have such a best label where the tissue
#: is not told, 1.9 % with this (benchmarks/results/tissue.md).
ODDS = 0.05
#: A label known from more organs than this may be anywhere. 2 to 4 do the same for the scores; with
#: 5, kinds of endothelium are held to be elsewhere, and the scores fall.
MOST_ORGANS = 3
#: Blood, cord blood and bone marrow: what is known from there may be anywhere.
CIRCULATING = frozenset({"UBERON:0000178", "UBERON:0012168", "UBERON:0002371"})
#: Leukocytes may be anywhere, wherever a reference has them from, but for those that stay:
#: tissue-resident macrophages, uterine natural killer cells, thymocytes, osteoclasts and follicular
#: dendritic cells.
LEUKOCYTE = "CL:0000738"
RESIDENT = frozenset({"CL:0000864", "CL:4052028", "CL:0000893", "CL:0000092", "CL:0000442"})
#: Tissues below one of these are of one organ here: respiratory, hepatobiliary, female and male
#: reproductive, central nervous and visual system, intestine.
WHOLES = frozenset(
    {
        "UBERON:0001004", "UBERON:0002423", "UBERON:0000474", "UBERON:0000079", "UBERON:0001017",
        "UBERON:0002104", "UBERON:0000160",
    }
)  # fmt: skip
#: Breast and mammary gland, of which UBERON has neither below the other.
BREAST = frozenset({"UBERON:0000310", "UBERON:0001911"})


def known_elsewhere(
    label_ids: Sequence[str],
    known: Iterable[tuple[str, str]],
    tissue_id: str,
    *,
    cell_types: Ontology,
    tissues: Ontology,
) -> NDArray[np.bool_]:
    """Tell which labels are known from few tissues, and from none that is related to this one (T).

    Related is what is of one organ with it: the tissue itself, its parts and kinds, what it is a
    part or kind of, and what shares one of `WHOLES` with it. What is known of the terms below a
    label is known of the label. A label that is known from no tissue, or is no term, is not
    elsewhere, nor is a leukocyte that is not `RESIDENT`.

    Parameters
    ----------
    label_ids
        Cell Ontology ids; "" for a label that is no term.
    known
        Pairs of a Cell Ontology and an UBERON id: cells or profiles of the reference. Pairs with ""
        do not count.
    tissue_id
        UBERON id of the sample's tissue.
    cell_types, tissues
        The two ontologies.
    """
    tissues_of: dict[str, set[str]] = defaultdict(set)
    for label_id, place in known:
        if label_id and place:
            for above in cell_types.ancestors(label_id):  # itself among them
                tissues_of[above].add(place)

    def elsewhere(label_id: str) -> bool:
        places = tissues_of.get(label_id, set()) if label_id else set()
        if not places or places & CIRCULATING:
            return False
        above = cell_types.ancestors(label_id)
        if LEUKOCYTE in above and not above & RESIDENT:
            return False
        if any(one_organ(place, tissue_id, tissues) for place in places):
            return False
        return _n_organs(places, tissues) <= MOST_ORGANS

    return np.array([elsewhere(label_id) for label_id in label_ids], dtype=bool)


def one_organ(a: str, b: str, tissues: Ontology) -> bool:
    """Tell whether two tissues are of one organ."""
    above_a, above_b = tissues.ancestors(a), tissues.ancestors(b)
    if a in above_b or b in above_a or above_a & above_b & WHOLES:
        return True
    return bool(above_a & BREAST and above_b & BREAST)


def _n_organs(places: set[str], tissues: Ontology) -> int:
    """Count organs: tissues of one organ, also by way of a third, are one."""
    left, n_organs = set(places), 0
    while left:
        n_organs += 1
        reached = [left.pop()]
        while reached:
            here = reached.pop()
            near = {place for place in left if one_organ(place, here, tissues)}
            left -= near
            reached += near
    return n_organs


def less_likely(
    streams: Mapping[str, NDArray[Any]], elsewhere_T: NDArray[np.bool_]
) -> dict[str, NDArray[Any]]:
    """Return the streams with the odds of some labels lowered to `ODDS` of what they were."""
    factor_T = np.where(elsewhere_T, ODDS, 1.0)
    told = {}
    for name, stream_BT in streams.items():
        less_BT = stream_BT * factor_T
        total_B1 = np.nansum(less_BT, axis=1, keepdims=True)
        told[name] = np.divide(less_BT, total_B1, out=stream_BT.copy(), where=total_B1 > 0)
    return told
