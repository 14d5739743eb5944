"""What explain() returns: the tables behind an answer, and how they read as text.

Must not know how they are made (`explain`, `occlusion`) or drawn (`panels`).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Columns of the tables, with their types.
COLUMNS: Mapping[str, Mapping[str, str]] = {
    "answer": {
        "cell": "str", "label": "object", "ontology_id": "str", "confidence": "float32",
        "status": "str", "leaf": "str", "leaf_confidence": "float32", "doubt": "str",
        "nearest_cosine": "float32", "explained": "str", "probability": "float64",
        "n_genes": "int64",
    },
    "neighbours": {
        "cell": "str", "rank": "int64", "label": "str", "ontology_id": "str", "study": "str",
        "drawn": "bool", "name": "str", "cosine": "float32",
    },
    "texts": {
        "cell": "str", "rank": "int64", "label": "str", "ontology_id": "str", "cosine": "float32",
        "probability": "float64",
    },
    "streams": {
        "cell": "str", "stream": "str", "weight": "float64", "rank": "int64", "label": "str",
        "ontology_id": "str", "probability": "float64", "counted": "bool",
    },
    "pairs": {
        "cell": "str", "round": "int64", "rank": "int64", "label": "str", "ontology_id": "str",
        "correlation": "float64", "n_genes": "int64", "markers": "str",
    },
    "genes": {
        "cell": "str", "gene": "str", "ensembl_id": "str", "count": "float32", "value": "float32",
        "probability": "float64", "probability_without": "float64", "difference": "float64",
        "confidence": "float32", "confidence_without": "float32", "label_without": "object",
    },
}  # fmt: skip
#: Cells that the text shows, and genes of each direction.
_CELLS, _GENES = 5, 4
#: Why the best label is not the answer, in words.
_DOUBTS: Mapping[str, str] = {
    "unsure": "not sure enough",
    "unlike": "the cell is unlike the reference",
    "outside": "the cell is rather of a type that the reference lacks",
}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """What :func:`scgp.explain` found, in six tables; ``cell`` is the name of the cell in all.

    Attributes
    ----------
    answer
        One row a cell: ``label``, ``ontology_id``, ``confidence`` and ``status`` as
        :func:`scgp.annotate` gives them (``label`` is None for an empty cell); ``leaf``, the best
        label of the reference whatever became of it, and ``leaf_confidence`` in it; ``doubt``, why
        the cell got a broader term or "unknown" instead: "unlike" (below a bound of likeness to the
        reference, and then no confidence is enough), "outside" (read as a type that your own
        reference lacks), "unsure" (not confident enough) or "" (it did get a label, or is empty);
        ``nearest_cosine`` to the nearest reference cell; ``explained``, the label that the table
        ``genes`` speaks of (the answer, or the leaf of a cell that is "unknown"); ``probability``,
        its fused probability with that of all labels below it; ``n_genes``, the expressed genes
        that the model knows.
    neighbours
        The nearest reference cells by ``rank``: ``label``, ``ontology_id``, ``study``, whether the
        cell was ``drawn`` from a mean profile, its ``name`` ("" where the index has none) and
        ``cosine``.
    texts
        The labels whose texts lie nearest by ``rank``: ``label``, ``ontology_id``, ``cosine`` of
        the text and the cell's type vector, ``probability`` of the text stream.
    streams
        ``stream`` is "neighbour", "text", "head", "gene", "described" (not in indexes made before
        0.5.0), "background" (of a reference of your own), "pairwise" (not in indexes made before
        0.15.0; it names one label, which has a row of probability 1) or "fused" (all together);
        ``weight`` is its share in the fusion (0: it has no part
        in the choice of the label). For every label that is among the first `n` of any of them: its
        ``probability`` in this stream, and its ``rank`` there among all labels (equal probabilities
        share one), and whether it is ``counted`` for the explained label, being that or below it. A
        stream that knows nothing of a label has no row.
    pairs
        What the pairwise stream compared, by ``round`` and ``rank``: ``label``, ``ontology_id``,
        ``correlation`` of the cell with the label's nearest mean profile over the ``n_genes``
        markers of all pairs of the labels of that round, and ``markers``, the genes in which the
        label's profile is most above that of the first label (for the first: above the second's),
        with commas between. The first label of the last round has the vote. Without rows for an
        index that has no such stream.
    genes
        The genes whose removal lowers the probability of the explained label most, and those whose
        removal raises it most: ``gene`` (the model's symbol), ``ensembl_id``, ``count``, ``value``
        (log1p of counts per 10,000), ``probability`` and ``probability_without`` the gene,
        ``difference`` of the two (positive: the gene speaks for the label; rows are in falling
        order), the calibrated ``confidence`` in the explained label and ``confidence_without``, and
        ``label_without``, what annotate would answer without the gene.
    facts
        Model, index, counts and genes that were used, as in ``uns["scgp"]``.
    """

    answer: pd.DataFrame
    neighbours: pd.DataFrame
    texts: pd.DataFrame
    streams: pd.DataFrame
    pairs: pd.DataFrame
    genes: pd.DataFrame
    facts: dict[str, object]

    def __repr__(self) -> str:
        shown = [self._told(row) for _, row in self.answer.head(_CELLS).iterrows()]
        more = len(self.answer) - _CELLS
        return "\n".join([*shown, *([f"... and {more} more cells"] if more > 0 else [])])

    def _told(self, row: pd.Series[Any]) -> str:
        """Tell one cell in a few lines."""
        if row["status"] == "empty":
            return f"{row['cell']}: empty, no count in the genes of the model"
        own = [table[table["cell"] == row["cell"]] for table in (self.neighbours, self.streams)]
        term = f" ({row['ontology_id']})" if row["ontology_id"] else ""
        near = own[0]["label"].value_counts(sort=False)
        first = own[1][own[1]["rank"] == 1]
        lines = [
            f"{row['cell']}: {row['label']}{term}, {row['status']}, "
            f"confidence {row['confidence']:.2f}",
            *([f"  {leaf}"] if (leaf := leaf_told(row)) else []),
            f"  nearest cells (cosine {row['nearest_cosine']:.2f}): "
            + ", ".join(f"{n} {label}" for label, n in near.items()),
            "  streams: "
            + "; ".join(
                f"{stream} {label} {p:.2f}"
                for stream, label, p in first[["stream", "label", "probability"]].to_numpy()
            ),
            *self._pairs_told(row),
            *self._genes_told(row),
        ]
        return "\n".join(lines)

    def _pairs_told(self, row: pd.Series[Any]) -> list[str]:
        """Tell the first two labels of the last comparison, with their markers."""
        own = self.pairs[self.pairs["cell"] == row["cell"]]
        last = own[own["round"] == own["round"].max()].head(2)
        told = [
            f"{label} {r:.2f} ({', '.join(markers.split(', ')[:_GENES])})"
            for label, r, markers in last[["label", "correlation", "markers"]].to_numpy()
        ]
        return [f"  likest over their markers: {', '.join(told)}"] if told else []

    def _genes_told(self, row: pd.Series[Any]) -> list[str]:
        """Tell the strongest genes for and against."""
        own = self.genes[self.genes["cell"] == row["cell"]]
        speaking = (
            ("for", own[own["difference"] > 0].head(_GENES)),
            ("against", own[own["difference"] < 0].tail(_GENES).iloc[::-1]),
        )
        told = [
            f"{word} it " + ", ".join(f"{g} {d:+.2g}" for g, d in part.to_numpy())
            for word, table in speaking
            if len(part := table[["gene", "difference"]])
        ]
        of = f"  genes of {row['explained']} (probability {row['probability']:.2f}): "
        return [of + "; ".join(told)] if told else []


def leaf_told(row: pd.Series[Any]) -> str:
    """Tell the best label of a row of ``answer`` that has another answer, and why; "" if none."""
    if row["label"] == row["leaf"] or row["status"] == "empty":
        return ""
    why = f": {_DOUBTS[row['doubt']]}" if row["doubt"] else ""
    return f"best label: {row['leaf']}, confidence {row['leaf_confidence']:.2f}{why}"


def make_table(name: str, parts: list[dict[str, Any]]) -> pd.DataFrame:
    """Join parts (a value or one array a column) to one of the tables, with its types."""
    types = COLUMNS[name]
    frames = [pd.DataFrame(part, columns=list(types)) for part in parts]
    if not (frames := [frame for frame in frames if len(frame)]):
        return pd.DataFrame({c: pd.Series(dtype=_dtype(kind)) for c, kind in types.items()})
    whole = pd.concat(frames, ignore_index=True)
    return whole.astype({column: _dtype(kind) for column, kind in types.items()})


def _dtype(kind: str) -> str:
    return "object" if kind == "str" else kind
