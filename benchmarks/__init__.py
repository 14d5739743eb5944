"""The benchmark of scgp: the same cells, folds and scores for every method."""
