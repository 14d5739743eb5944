"""What an index consists of, and what can be read off it. `ReferenceIndex` says what each means.

Knows no way to make, change, search or save one.

Shapes: N reference cells, T labels, D width.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from scgp.reference.contents import OBSM

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from scgp.reference.background import Background
    from scgp.reference.fusion import Fusion
    from scgp.reference.gene_head import GeneHead
    from scgp.reference.pairwise import PairwiseProfiles
    from scgp.reference.profiles import Profiles
    from scgp.reference.store import VectorStore


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class IndexParts:
    """The parts of a `scgp.ReferenceIndex`."""

    store: VectorStore
    labels: list[str]
    label_ids: list[str]
    code_N: NDArray[np.int32]
    studies: list[str]
    study_N: NDArray[np.int32]
    drawn_N: NDArray[np.bool_]
    text_TD: NDArray[np.float32]
    head_weight_TD: NDArray[np.float32]
    head_bias_T: NDArray[np.float32]
    model_fingerprint: str
    calibration: Fusion
    names_N: NDArray[np.str_] | None = None
    gene_head: GeneHead | None = None
    centre_D: NDArray[np.float32] | None = None
    profiles: Profiles | None = None
    background: Background | None = None
    pairwise: PairwiseProfiles | None = None
    opened: tuple[Path, str] | None = None

    def __repr__(self) -> str:
        drawn = int(self.drawn_N.sum())
        return (
            f"ReferenceIndex: {self.n_cells} cells ({drawn} drawn), {len(self.labels)} labels, "
            f"{len(self.studies)} studies, width {self.width}"
            + ("" if self.use_rep is None else f" (obsm[{self.use_rep!r}])")
        )

    @property
    def use_rep(self) -> str | None:
        """Key in ``obsm`` of the representation that the vectors are of; None: of a model."""
        made_by = self.model_fingerprint
        return made_by.removeprefix(OBSM) if made_by.startswith(OBSM) else None

    @property
    def n_cells(self) -> int:
        """Number of reference cells."""
        return self.store.n_cells

    @property
    def width(self) -> int:
        """Length of a vector."""
        return self.store.width

    @property
    def recall(self) -> float:
        """Share of the nearest 15 that a search finds, as measured when lists were made.

        The least over segments and two samples of 500: cells of the index, themselves left out, and
        the same moved towards others to the cosine .8. 1 where every cell is compared.
        """
        lists = [segment.lists for segment in self.store.segments]
        return min((min(x.recall) for x in lists if x is not None), default=1.0)

    @property
    def cells_per_label_T(self) -> NDArray[np.int64]:
        """Number of cells of each label."""
        return np.bincount(self.code_N, minlength=len(self.labels))

    @property
    def vectors_ND(self) -> NDArray[np.float32]:
        """All vectors, not to be written to: a copy where there are several segments."""
        return self.store.vectors_ND

    def vectors_at(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return a copy of the vectors in these rows, of any shape; reads no others."""
        return self.store.at(rows)
