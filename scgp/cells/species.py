"""How names of genes tell a species: what the names of mice look like.

Must not know which names a model has: an alias of a human gene can look like one of a mouse.
"""

import re

#: Genes of the mouse's MHC (H2-Aa, H2-K1), which difflib takes for HAAO and H2AX.
MOUSE_MHC = re.compile(r"H2-[A-Z][A-Za-z0-9-]*")
#: Any symbol of a mouse: title case, or a RIKEN clone.
MOUSE_SYMBOL = re.compile(rf"[A-Z][a-z]+[A-Za-z0-9.-]*|\d+[A-Z]\d+Rik|{MOUSE_MHC.pattern}")
#: Ensembl ids of species other than human.
OTHER_SPECIES_ID = re.compile(r"ENS(?:[A-Z]{3,4})G\d{11}(?:\.\d+)?")
