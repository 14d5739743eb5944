"""The plots of genes, one file each: in their contexts, against their level, among cells and texts.

Owns no more than their names.
"""

from scgp.pictures.panels_contexts import gene_contexts
from scgp.pictures.panels_manifold import manifold
from scgp.pictures.panels_polyfunction import polyfunctionality

__all__ = ["gene_contexts", "manifold", "polyfunctionality"]
