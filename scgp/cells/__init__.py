"""From an AnnData to tokens: counts, genes, tokens, data sets."""
