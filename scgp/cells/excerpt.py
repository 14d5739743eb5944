"""Which cells of a large corpus stand for all of it, where all of them would be read once.

Shape suffixes: N cells of the corpus, M cells of the tiles chosen.
"""

import numpy as np

from scgp.cells.corpus import Corpus
from scgp.cells.sampling import at_most
from scgp.cells.soma import TILE_ROWS

#: A corpus of more cells is described by an excerpt of so many; and tiles that are read for it.
MOST_CELLS, MOST_TILES = 300_000, 1000
#: Cells of each class that an excerpt has at least, if the corpus has them and the tiles suffice.
FEWEST_OF_CLASS = 150


def excerpt(
    corpus: Corpus,
    class_N: np.ndarray,
    *,
    seed: int,
    most: int = MOST_CELLS,
    most_tiles: int = MOST_TILES,
) -> np.ndarray | None:
    """Choose cells that stand for a corpus, from few tiles, so that they are read in bounded time.

    Tiles are drawn at random: first those that have cells of classes of which too few were drawn,
    then others. Of their cells, as many of each class and study are kept as `most` allows. Drawn
    cells are all kept, since they are few and in memory. Stored or in memory, the same corpus and
    seed give the same cells.

    Parameters
    ----------
    corpus, class_N
        Cells, and the class of each, -1 for none.
    seed
        Seed of the choice.
    most, most_tiles
        Cells and tiles at most; drawn cells come on top.

    Returns
    -------
    Positions, rising; None where the corpus has `most` cells or fewer: all of them.
    """
    if corpus.n_cells <= most:
        return None
    rng = np.random.default_rng([seed, 4])
    tile_N = np.arange(corpus.n_cells) // TILE_ROWS if corpus.tile_N is None else corpus.tile_N
    kept = _tiles(tile_N, np.where(corpus.drawn_N, -1, class_N), most_tiles, rng)
    row_M = np.flatnonzero(kept[tile_N] & ~corpus.drawn_N)
    class_M, study_M = class_N[row_M], corpus.study_N[row_M]
    pair_M = np.unique(np.stack([class_M, study_M]), axis=1, return_inverse=True)[1].ravel()
    share = _largest_share(np.bincount(pair_M), most)
    chosen = row_M[at_most(share, class_M, study_M, rng)]
    return np.sort(np.concatenate([chosen, np.flatnonzero(corpus.drawn_N)]))


def _tiles(
    tile_N: np.ndarray, class_N: np.ndarray, most: int, rng: np.random.Generator
) -> np.ndarray:
    """Tell which tiles are kept: those with cells of rare classes first, then any."""
    labelled = class_N >= 0
    n_tiles, n_classes = int(tile_N.max()) + 1, int(class_N.max(initial=0)) + 1
    key_N = tile_N[labelled].astype(np.int64) * n_classes + class_N[labelled]
    key_P, size_P = np.unique(key_N, return_counts=True)  # pairs of a tile and a class in it
    tile_P, class_P = np.divmod(key_P, n_classes)
    first = np.searchsorted(tile_P, np.arange(n_tiles + 1))
    # tiles with the rarest class first: what is common comes with them
    rarest = np.full(n_tiles, np.iinfo(np.int64).max)
    np.minimum.at(rarest, tile_P, np.bincount(class_P, size_P)[class_P].astype(np.int64))
    order = rng.permutation(n_tiles)
    kept, got = np.zeros(n_tiles, bool), np.zeros(n_classes, np.int64)
    for tile in order[np.argsort(rarest[order], kind="stable")]:
        here = slice(first[tile], first[tile + 1])
        if kept.sum() < most and (got[class_P[here]] < FEWEST_OF_CLASS).any():
            kept[tile] = True
            got[class_P[here]] += size_P[here]
    for tile in order:
        if kept.sum() >= most:
            break
        kept[tile] = True
    return kept


def _largest_share(size: np.ndarray, most: int) -> int:
    """Return the largest bound on groups of these sizes that keeps `most` cells or fewer."""
    low, high = 1, int(size.max(initial=1))
    while low < high:
        middle = (low + high + 1) // 2
        if np.minimum(size, middle).sum() <= most:
            low = middle
        else:
            high = middle - 1
    return low
