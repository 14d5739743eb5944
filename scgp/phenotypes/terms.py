"""The ontology terms that a model can read as text, with their vectors; knows no cells.

Shape suffixes: T terms, W width of the text encoder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from scgp.errors import CheckpointError, LabelError
from scgp.phenotypes.ontology import SUPPORTED, Ontology
from scgp.phenotypes.text import SentenceEncoder, term_vectors


@dataclass(frozen=True, eq=False)
class Phenotypes:
    """Text vectors of ontology terms, stored so that annotating needs no text model.

    Attributes
    ----------
    ids
        Ontology term ids (CL, UBERON, MONDO, PATO), each once.
    vector_TW
        Unit vectors, float16.
    encoder
        Name of the text encoder that made them.
    """

    ids: tuple[str, ...]
    vector_TW: np.ndarray
    encoder: str

    def __post_init__(self) -> None:
        """Refuse tables whose parts do not belong together."""
        if self.vector_TW.ndim != 2 or len(self.ids) != len(self.vector_TW):
            msg = f"{len(self.ids)} terms, but vectors of shape {self.vector_TW.shape}"
            raise CheckpointError(msg)
        if len(set(self.ids)) != len(self.ids) or not np.isfinite(self.vector_TW).all():
            msg = "text vectors hold a term twice, or values that are not finite"
            raise CheckpointError(msg)

    @cached_property
    def _row(self) -> dict[str, int]:
        return {term: row for row, term in enumerate(self.ids)}

    @property
    def width(self) -> int:
        """Width of the text encoder's vectors."""
        return int(self.vector_TW.shape[1])

    def __contains__(self, term_id: str) -> bool:
        return term_id in self._row

    def vectors(self, term_ids: Sequence[str]) -> np.ndarray:
        """Return the vectors of terms as float32; a zero row for a term that has none."""
        vector_TW = np.zeros((len(term_ids), self.width), dtype=np.float32)
        for i, term in enumerate(term_ids):
            if term in self._row:
                vector_TW[i] = self.vector_TW[self._row[term]]
        return vector_TW

    @classmethod
    def encode(
        cls, term_ids: Sequence[str], encoder: SentenceEncoder, *, name: str
    ) -> "Phenotypes":
        """Encode terms of any of the ontologies; PATO:0000461 is read as "normal, healthy".

        Parameters
        ----------
        term_ids
            Live ids; others than CL, UBERON, MONDO and PATO:0000461 are left out.
        encoder
            What turns texts into vectors.
        name
            Name of the encoder, kept in the checkpoint.

        Raises
        ------
        LabelError
            No id is left.
        """
        kept: list[str] = []
        parts: list[np.ndarray] = []
        for prefix in SUPPORTED:
            ontology = Ontology(prefix)
            ids = sorted({t for t in term_ids if t.startswith(prefix) and ontology.is_term(t)})
            if ids:
                kept += ids
                parts.append(term_vectors(ids, encoder, ontology))
        if HEALTHY in term_ids:
            kept.append(HEALTHY)
            parts.append(encoder.encode(["normal, healthy, no disease"]))
        if not kept:
            msg = f"none of {list(term_ids)[:3]} is a live term of {', '.join(SUPPORTED)}"
            raise LabelError(msg)
        return cls(tuple(kept), np.concatenate(parts).astype(np.float16), name)


#: What CELLxGENE files write in ``disease_ontology_term_id`` for healthy cells.
HEALTHY = "PATO:0000461"
