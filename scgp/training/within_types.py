"""In what cells of one type and study differ: the components that a reader of genes starts with.

Owns which cells are held against each other, and the decomposition. Knows no network.

Shape suffixes: N cells, R cells that are read, B of a block, L groups, S sources, G genes, C
components, D directions, K covariates.
"""

import numpy as np
import scipy.sparse as sp

from scgp.cells.corpus import Corpus

#: Cells of a type and study that are held against each other, at least and at most; all of them.
FEWEST, MOST, MOST_CELLS = 20, 200, 20_000
#: Sources that measure less than this share of the genes of the widest have no part in it.
WIDE = 0.5
#: Further directions and rounds of the randomised method (Halko et al. 2011).
_BESIDE, _ROUNDS = 10, 5
#: Axes along which cells differ less than this share of what they do along the first are rounding.
LEAST_LENGTH = 1e-5


def components_within_types(
    corpus: Corpus, class_N: np.ndarray, n_components: int, *, seed: int
) -> np.ndarray:
    """Return the leading axes in which cells of one type, study and source differ.

    Principal components of log1p(CP10k), each cell scaled to unit length, with the means of the
    groups and the log of the cells' counts regressed out.

    Parameters
    ----------
    corpus, class_N
        Real and drawn cells, and the class of each, -1 for none. Drawn cells have no part in it.
    n_components
        Axes at most; fewer where cells differ in fewer.
    seed
        Seed of the cells that are taken, and of the method.

    Returns
    -------
    Orthonormal columns, G x C float32.
    """
    rng = np.random.default_rng([seed, 5])
    group_R, row_R = _groups(corpus, class_N, rng)
    n_genes = corpus.count_NG.shape[1]
    n_components = min(n_components, max(len(row_R) - len(np.unique(group_R)) - 1, 0), n_genes)
    if not n_components:
        return np.zeros((n_genes, 0), np.float32)
    blocks, totals = [], []
    for _, count_BG in corpus.blocks(row_R):
        total_B = np.asarray(count_BG.sum(axis=1, dtype=np.float64)).ravel()
        blocks.append(_unit_values(count_BG, total_B))
        totals.append(total_B)
    value_RG = sp.vstack(blocks, format="csr")
    basis_RK = _covariates(group_R, np.log1p(np.concatenate(totals)))
    axis_GD = rng.normal(size=(n_genes, n_components + _BESIDE)).astype(np.float32)
    for _ in range(_ROUNDS):
        left_RD = value_RG @ axis_GD
        left_RD -= basis_RK @ (basis_RK.T @ left_RD)
        axis_GD = np.linalg.qr(value_RG.T @ left_RD)[0]
    left_RD = value_RG @ axis_GD
    left_RD -= basis_RK @ (basis_RK.T @ left_RD)
    length_D, turn_DD = np.linalg.svd(left_RD, full_matrices=False)[1:]
    there_C = length_D[:n_components] > LEAST_LENGTH * length_D.max(initial=0)
    return np.asarray(axis_GD @ turn_DD[:n_components][there_C].T, np.float32)


def _groups(
    corpus: Corpus, class_N: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the group of each row, from 0 on, and the rows, rising."""
    n_measured_S = corpus.measured_SG.sum(axis=1)
    wide_S = n_measured_S >= WIDE * n_measured_S.max(initial=0)
    row_N = np.flatnonzero((class_N >= 0) & ~corpus.drawn_N)
    row_N = row_N[wide_S[corpus.source_N[row_N]]]
    key = np.stack([class_N[row_N], corpus.study_N[row_N], corpus.source_N[row_N]])
    group_N = np.unique(key, axis=1, return_inverse=True)[1].ravel()
    group_L = rng.permutation(np.flatnonzero(np.bincount(group_N) >= FEWEST))
    group_L = np.sort(group_L[: MOST_CELLS // FEWEST])
    most = min(MOST, MOST_CELLS // max(len(group_L), 1))
    order = rng.permutation(len(row_N))
    order = order[np.argsort(group_N[order], kind="stable")]
    place_N = np.arange(len(order)) - np.searchsorted(group_N[order], group_N[order])
    taken = np.sort(order[(place_N < most) & np.isin(group_N[order], group_L)])  # as stored
    return np.searchsorted(group_L, group_N[taken]), row_N[taken]


def _unit_values(count_BG: sp.csr_matrix, total_B: np.ndarray) -> sp.csr_matrix:
    """Return log1p(CP10k) of cells, each scaled to length 1; empty cells stay empty."""
    scale_B = 1e4 / np.maximum(total_B, 1)
    value = np.log1p(count_BG.data * np.repeat(scale_B, np.diff(count_BG.indptr)))
    value_BG = sp.csr_matrix((value, count_BG.indices, count_BG.indptr), shape=count_BG.shape)
    length_B = np.sqrt(np.asarray(value_BG.multiply(value_BG).sum(axis=1)).ravel())
    value_BG.data /= np.repeat(np.maximum(length_B, 1e-9), np.diff(value_BG.indptr))
    return value_BG.astype(np.float32)


def _covariates(group_R: np.ndarray, depth_R: np.ndarray) -> sp.csr_matrix:
    """Return orthonormal columns: the groups, and the depth within them."""
    n_cells = np.bincount(group_R)
    depth_R = depth_R - (np.bincount(group_R, depth_R) / n_cells)[group_R]
    depth_R /= max(float(np.linalg.norm(depth_R)), 1e-9)
    group_RK = sp.csr_matrix((1 / np.sqrt(n_cells[group_R]), (np.arange(len(group_R)), group_R)))
    return sp.hstack([group_RK, depth_R[:, None]], format="csr").astype(np.float32)
