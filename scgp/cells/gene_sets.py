"""Which genes each cell's source measures; a zero of another gene is unknown, not zero.

Shape suffixes: N cells, P sets, G genes of a vocabulary.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class GeneSets:
    """Sets of genes, and which of them each cell has.

    Attributes
    ----------
    set_N
        Set of each cell, 0 to P - 1.
    measured_PG
        Genes of each set (bool).
    """

    set_N: np.ndarray
    measured_PG: np.ndarray

    def take(self, rows: np.ndarray) -> "GeneSets":
        """Return the sets of some cells."""
        return GeneSets(self.set_N[rows], self.measured_PG)
