"""The plots of genes, one file each: in their contexts, against their level, among cells and texts.

Owns no more than their names.
"""

from scgp.panels_contexts import gene_contexts
from scgp.panels_manifold import manifold
from scgp.panels_polyfunction import polyfunctionality

__all__ = ["gene_contexts", "manifold", "polyfunctionality"]
