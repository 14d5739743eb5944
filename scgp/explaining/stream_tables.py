"""What each stream of evidence says of some cells, as rows of the tables of an Explanation.

Must not know what was answered, nor why (`explain`).

Shape suffixes: B cells, T labels of the reference, K neighbours.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from scgp.reference.answer import likely_labels, streams_of
from scgp.reference.evidence import fuse
from scgp.reference.fusion import ALL_STREAMS, PAIRWISE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import scipy.sparse as sp

    from scgp.embed import CellVectors
    from scgp.reference.index import ReferenceIndex


@dataclasses.dataclass(frozen=True, eq=False)
class StreamTables:
    """The evidence of cells; made by `make`, told by the other methods.

    Attributes
    ----------
    names
        What the cells are called.
    index, vectors
        The reference, and the cells' vectors.
    streams, fused_BT
        The evidence of `scgp.reference.evidence`, and all of it together.
    nearest_B
        Cosine to the nearest reference cell.
    filled
        The cells that have a count, of which alone there is something to tell.
    """

    names: Sequence[str]
    index: ReferenceIndex
    vectors: CellVectors
    streams: Mapping[str, np.ndarray]
    fused_BT: np.ndarray
    nearest_B: np.ndarray
    filled: np.ndarray

    @classmethod
    def make(
        cls,
        names: Sequence[str],
        index: ReferenceIndex,
        vectors: CellVectors,
        score_BT: np.ndarray | None,
        winner_B: np.ndarray | None,
    ) -> StreamTables:
        """Ask the streams; ``score_BT`` and ``winner_B`` as in `scgp.reference.answer.answer`."""
        fusion = index.calibration
        streams, nearest_B = streams_of(
            index, vectors.cell_BE, vectors.type_BE, score_BT, fusion, winner_B=winner_B
        )
        filled = np.flatnonzero(vectors.total_B > 0)
        return cls(names, index, vectors, streams, fuse(streams, fusion), nearest_B, filled)

    def neighbour_rows(self, n: int) -> list[dict[str, Any]]:
        """Return the nearest reference cells."""
        index = self.index
        cosine_BK, row_BK = index.search(self.vectors.cell_BE, n)
        studies = np.array(index.studies, object)
        return [
            {
                "cell": self.names[b],
                "rank": np.arange(1, row_BK.shape[1] + 1),
                **self._named(index.code_N[row_BK[b]]),
                "study": studies[index.study_N[row_BK[b]]],
                "drawn": index.drawn_N[row_BK[b]],
                "name": "" if index.names_N is None else index.names_N[row_BK[b]].astype(object),
                "cosine": cosine_BK[b],
            }
            for b in self.filled
        ]

    def text_rows(self, n: int) -> list[dict[str, Any]]:
        """Return the labels whose texts lie nearest to the type vector."""
        cosine_BT = self.vectors.type_BE @ self.index.text_TD.T
        has_text_T = np.any(self.index.text_TD != 0, axis=1)
        cosine_BT = np.where(has_text_T, cosine_BT, -np.inf)
        order_BT = np.argsort(-cosine_BT, axis=1, kind="stable")[:, : min(n, has_text_T.sum())]
        return [
            {
                "cell": self.names[b],
                "rank": np.arange(1, order_BT.shape[1] + 1),
                **self._named(order_BT[b]),
                "cosine": cosine_BT[b, order_BT[b]],
                "probability": self.streams["text"][b, order_BT[b]],
            }
            for b in self.filled
        ]

    def stream_rows(self, n: int, counted_BT: np.ndarray) -> list[dict[str, Any]]:
        """Return what each stream says of every label that any has among its first ``n``."""
        fusion = self.index.calibration
        names = [name for name in ALL_STREAMS if name in self.streams]
        total = sum(fusion.weight(name) for name in names)
        weights = {name: fusion.weight(name) / (total or 1.0) for name in names} | {"fused": 1.0}
        every = {**self.streams, "fused": self.fused_BT}
        rows = []
        for b in self.filled:
            ranks = {name: _ranks(every[name][b]) for name in weights}
            first = [(ranks[x] <= n) & (every[x][b] > 0) for x in weights]
            kept = np.flatnonzero(np.any(first, axis=0))
            for name, weight in weights.items():
                p_T, rank_T = every[name][b], ranks[name]
                told = kept[~np.isnan(p_T[kept])]
                if name == PAIRWISE:  # which names one label, or none
                    told = told[p_T[told] == 1]
                told = told[np.argsort(rank_T[told], kind="stable")]
                row = {"cell": self.names[b], "stream": name, "weight": weight}
                row |= {"rank": rank_T[told], **self._named(told), "probability": p_T[told]}
                rows.append(row | {"counted": counted_BT[b, told]})
        return rows

    def pair_rows(
        self,
        score_BS: np.ndarray | None,
        value_BG: sp.csr_matrix,
        measured_G: np.ndarray,
        symbol_G: np.ndarray,
    ) -> list[dict[str, Any]]:
        """Return what the pairwise stream compared; `winners_of` says what the arguments are."""
        profiles = self.index.pairwise
        if profiles is None or score_BS is None or PAIRWISE not in self.streams:
            return []
        likely_BT = likely_labels(self.index, self.vectors.cell_BE, score_BS)
        rows = []
        for b in self.filled:
            for number, found in enumerate(
                profiles.rounds(likely_BT[b], value_BG[[b]], measured_G), start=1
            ):
                row = {"cell": self.names[b], "round": number, "n_genes": found.n_genes}
                row |= {"rank": np.arange(1, len(found.label_C) + 1), **self._named(found.label_C)}
                row |= {"correlation": found.correlation_C}
                rows.append(row | {"markers": [", ".join(symbol_G[m]) for m in found.markers]})
        return rows

    def _named(self, codes: np.ndarray) -> dict[str, list[str]]:
        return {
            "label": [self.index.labels[t] for t in codes],
            "ontology_id": [self.index.label_ids[t] for t in codes],
        }


def _ranks(probability_T: np.ndarray) -> np.ndarray:
    """Return how many labels have a higher probability, and one; equal ones share a rank."""
    falling_T = np.where(np.isnan(probability_T), np.inf, -probability_T)
    return np.searchsorted(np.sort(falling_T), falling_T, side="left") + 1
