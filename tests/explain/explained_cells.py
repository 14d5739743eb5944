"""What the tests of explain() share: names of its tables, and their comparison."""

import numpy as np
import pandas as pd

from scgp.explaining.explanation import COLUMNS
from scgp.phenotypes.ontology import Ontology

TABLES = list(COLUMNS)
B_CELL = "CL:0000236"


def _counted(term, index):
    below = Ontology("CL").descendants(term)
    return np.array([i in below for i in index.label_ids])


def _same_tables(found, expected):
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(found, name), getattr(expected, name), atol=1e-6)
