"""One answer for each cluster of cells, from the answers of its cells.

Pure functions on arrays. Knows neither where clusters come from nor AnnData, and changes no answer
of a cell.

Shapes: B cells, K clusters, D distinct answers of cells, M = D + A nodes (the answers, then the A
terms that may be given though no cell has them).

The rule. A cell votes for its own label, with the weight of its ``leaf_confidence``, and so for
every term above it; an "unknown" cell votes for nothing, and counts in the whole.

1. A cluster with more than half of its cells unknown is "unknown".
2. Otherwise the answer is the most specific label, or else a broader term that says something
   (`says_something`), with more than half of the vote; if there is none, "unknown".
3. From there it goes down, as long as it can, to the most specific label that has more than half of
   the votes that go deeper, and a quarter of the whole (`FLOOR`). Votes for the broader label do
   not speak against a deeper one: a monocyte may be a classical monocyte.

The last step is why a mixture of "monocyte" and "classical monocyte" gets the deeper name once a
quarter of it backs that. "CD14-positive monocyte", too, is a monocyte, but in the ontology neither
above nor below a classical one: where cells say all three, the more frequent of the two wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgp.reference.broad_terms import says_something
from scgp.reference.decision import UNKNOWN, Decision
from scgp.reference.fusion import MAJORITY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from scgp.phenotypes.ontology import Ontology

#: Share of the vote that a deeper label needs; a third and a tenth were tried, too (docs/log.md).
FLOOR = 0.25
#: Weight of a cell whose confidence is 0, so that a cluster of such cells is decided by number.
LEAST = 1e-6
_SLACK = 1e-9  # votes are sums of floats


@dataclass(frozen=True)
class Consensus:
    """The answer of each cell's cluster; all arrays have length B.

    ``label`` (str objects) and ``ontology_id`` (str objects, "" where there is none) are None for
    an empty cell, and the cell's own where it is in no cluster. ``share`` (float32) is the share of
    the cluster's cells with a count that agree: whose own label is the cluster's, a term below it
    or above it. It is NaN for empty cells and those in no cluster.
    """

    label: NDArray[np.object_]
    ontology_id: NDArray[np.object_]
    share: NDArray[np.float32]


@dataclass(frozen=True)
class _Nodes:
    """What may be answered: the answers that cells have, then broader terms."""

    names: list[str]
    ids: list[str]
    above_MM: NDArray[np.bool_]  # node i is node j, or an ancestor of it
    rank_M: NDArray[np.int64]  # the lower, the more specific
    broad_M: NDArray[np.bool_]  # may be given to a cluster of which no cell has it
    n_answers: int

    def deeper_D(self, node: int) -> NDArray[np.bool_]:
        """Return which answers lie below a node, and not above it too."""
        n = self.n_answers
        found: NDArray[np.bool_] = self.above_MM[node, :n] & ~self.above_MM[:n, node]
        return found


def agree(
    decision: Decision,
    cluster_B: NDArray[np.integer],
    ontology: Ontology,
    *,
    broader: Mapping[str, str] | None = None,
    own_names: Mapping[str, str] | None = None,
) -> Consensus:
    """Answer for each cluster; the module's text says by which rule.

    Parameters
    ----------
    decision
        The answers of the cells.
    cluster_B
        Cluster of each cell, 0 and up; -1: in none.
    ontology
        The ontology of their terms.
    broader
        Ids, and names, of the terms that may be given where no cell has them; None: all that say
        something.
    own_names
        Names of terms, by id, that stand in for the ontology's.

    Examples
    --------
    >>> from scgp.phenotypes.ontology import Ontology
    >>> ids = np.array(["CL:0000576", "CL:0000860", "CL:0000860"], object)  # classical monocytes
    >>> names = np.array(["monocyte", "classical monocyte", "classical monocyte"], object)
    >>> sure, status = np.array([0.9, 0.4, 0.4], np.float32), np.array(["labelled"] * 3, object)
    >>> cells = Decision(names, ids, sure, status, names, sure)
    >>> found = agree(cells, np.zeros(3, int), Ontology("CL"))
    >>> found.label[0], float(found.share[0])
    ('classical monocyte', 1.0)
    """
    empty_B = decision.status == "empty"
    label_B, id_B = decision.label.copy(), decision.ontology_id.copy()
    label_B[empty_B] = id_B[empty_B] = None
    share_B = np.full(len(label_B), np.nan, np.float32)
    rows = np.flatnonzero((np.asarray(cluster_B) >= 0) & ~empty_B)
    if len(rows):
        answer_R, named = _answers(label_B[rows], id_B[rows], decision.status[rows] == UNKNOWN)
        cluster_R = np.unique(np.asarray(cluster_B)[rows], return_inverse=True)[1]
        nodes = _nodes(named, ontology, broader, own_names or {})
        weight_R = np.maximum(decision.leaf_confidence[rows].astype(np.float64), LEAST)
        node_K, share_K = _elected(answer_R, cluster_R, weight_R, nodes)
        label_B[rows] = np.array([*nodes.names, UNKNOWN], object)[node_K[cluster_R]]
        id_B[rows] = np.array([*nodes.ids, ""], object)[node_K[cluster_R]]
        share_B[rows] = share_K[cluster_R]
    return Consensus(label_B, id_B, share_B)


def _answers(
    label_R: NDArray[np.object_], id_R: NDArray[np.object_], unknown_R: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], list[tuple[str, str]]]:
    """Return the answer of each cell, and name and id of each; past the last for "unknown"."""
    name_R, names = pd.factorize(label_R, sort=True)
    term_R, terms = pd.factorize(id_R, sort=True)
    pair_R = np.where(unknown_R, -1, name_R * len(terms) + term_R)
    pairs, answer_R = np.unique(pair_R, return_inverse=True)
    if pairs[0] < 0:
        pairs, answer_R = pairs[1:], np.where(unknown_R, len(pairs) - 1, answer_R - 1)
    named = [(str(names[i // len(terms)]), str(terms[i % len(terms)])) for i in pairs.tolist()]
    return answer_R.astype(np.int64), named


def _nodes(
    named: list[tuple[str, str]],
    ontology: Ontology,
    broader: Mapping[str, str] | None,
    own_names: Mapping[str, str],
) -> _Nodes:
    """Return the answers, and the terms above them that no answer is."""
    names, ids = [name for name, _ in named], [term for _, term in named]
    above = [term for term in ontology.closure(ids) if term not in set(ids)]
    if broader is None:
        broad = {term for term in {*ids, *above} - {""} if says_something(term, ontology)}
    else:
        broad = {*broader} - {""}
    given = broader or own_names
    terms = {t: given.get(t) or ontology.label(t) for t in above if t in broad}
    names, ids = [*names, *terms.values()], [*ids, *terms]
    below = [len(ontology.descendants(i)) if i else 0 for i in ids]
    rank_M = np.empty(len(ids), np.int64)
    rank_M[sorted(range(len(ids)), key=lambda m: (below[m], ids[m], names[m]))] = range(len(ids))
    broad_M = np.array([term in broad for term in ids], bool)
    return _Nodes(names, ids, ontology.relation(ids), rank_M, broad_M, len(named))


def _elected(
    answer_R: NDArray[np.int64],
    cluster_R: NDArray[np.intp],
    weight_R: NDArray[np.float64],
    nodes: _Nodes,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the node of each cluster (the last for "unknown"), and the share that agrees.

    ``answer_R`` is the answer of each cell, the number of answers for "unknown".
    """
    n, n_clusters = nodes.n_answers, int(cluster_R.max()) + 1
    vote_KD, cells_KD = np.zeros((n_clusters, n + 1)), np.zeros((n_clusters, n + 1))
    np.add.at(vote_KD, (cluster_R, answer_R), weight_R)
    np.add.at(cells_KD, (cluster_R, answer_R), 1)
    total_K, n_K = vote_KD.sum(axis=1), cells_KD.sum(axis=1)
    unknown = len(nodes.ids)
    node_K = np.full(n_clusters, unknown, np.int64)
    share_K = cells_KD[:, n] / n_K
    on_line_DM = (nodes.above_MM | nodes.above_MM.T)[:n]
    for k in np.flatnonzero(share_K <= MAJORITY).tolist():
        node = _deepest(vote_KD[k, :n], float(total_K[k]), nodes)
        if node >= 0:
            node_K[k] = node
            share_K[k] = cells_KD[k, :n] @ on_line_DM[:, node] / n_K[k]
    return node_K, share_K.astype(np.float32)


def _deepest(vote_D: NDArray[np.float64], total: float, nodes: _Nodes) -> int:
    """Return the node that a cluster's votes lead to, or -1 where nothing has a majority."""
    n = nodes.n_answers
    mass_M = nodes.above_MM[:, :n] @ vote_D
    most_M = mass_M > MAJORITY * total + _SLACK
    there_M = np.zeros(len(mass_M), bool)
    there_M[:n] = vote_D > 0
    node = _most_specific(most_M & there_M, nodes)
    if node < 0:
        node = _most_specific(most_M & nodes.broad_M, nodes)
    step = node
    while step >= 0:
        node = step
        deeper_D = nodes.deeper_D(node) & there_M[:n]
        needed = max(MAJORITY * float(vote_D @ deeper_D) + _SLACK, FLOOR * total - _SLACK)
        step = _most_specific(deeper_D & (mass_M[:n] >= needed), nodes)
    return node


def _most_specific(allowed_M: NDArray[np.bool_], nodes: _Nodes) -> int:
    """Return the most specific allowed node, or -1 for none."""
    allowed = np.flatnonzero(allowed_M)
    return int(allowed[nodes.rank_M[allowed].argmin()]) if len(allowed) else -1
