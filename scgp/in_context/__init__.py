"""How genes are read in their contexts, and contexts compared."""
