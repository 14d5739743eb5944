"""Three phenotypes of blood, and one of them asked of an index."""

from scgp.what_if.asked import asked_of

B_CELL, NK, DENDRITIC = "CL:0000236", "CL:0000623", "CL:0000451"


def _asked(adata, index, name=B_CELL, rivals="phenotypes"):
    phenotypes = sorted(adata.obs["cell_type"].unique())
    asked = asked_of({"a": [name]}, {"a": index}, phenotypes=phenotypes, rivals=rivals)
    return asked["a"][name]
