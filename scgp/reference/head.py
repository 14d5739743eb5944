"""The linear head: a multinomial logistic regression fitted to the vectors of an index.

Knows vectors and label codes only. `head_evidence` of evidence.py reads what it gives.

Shapes: N reference cells, T labels, D width, E = D + 1 (weights and bias side by side).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scgp.reference.products import one_thread

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Cells of one label that are used, drawn at random where there are more.
CELLS_PER_LABEL = 200
L2 = 1e-4
MAX_STEPS = 100


@one_thread()
def fit_head(
    vector_ND: NDArray[np.float32],
    code_N: NDArray[np.integer[Any]],
    n_labels: int,
    *,
    l2: float = L2,
    seed: int = 0,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fit a multinomial logistic regression in which every label counts the same.

    Minimises the mean cross-entropy, each label's cells weighted to one in sum, plus ``l2`` / 2
    times the squared weights, by L-BFGS from 0. Labels of more than 200 cells are represented by
    200 drawn with ``seed``.

    Returns
    -------
    Weights T x D and biases T. Labels without cells are as likely as the least likely other.
    """
    from scipy.optimize import minimize  # .2 s, which only a fit needs

    kept = draw(code_N, seed)
    count_T = np.bincount(code_N[kept], minlength=n_labels)
    share_N = 1 / (count_T[code_N[kept]] * np.count_nonzero(count_T))
    width = vector_ND.shape[1]
    fitted = minimize(
        _loss,
        np.zeros(n_labels * (width + 1)),
        args=(np.ascontiguousarray(vector_ND[kept], np.float32), code_N[kept], share_N, l2),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": MAX_STEPS},
    )
    both_TE = fitted.x.reshape(n_labels, width + 1).astype(np.float32)
    weight_TD, bias_T = np.ascontiguousarray(both_TE[:, :width]), both_TE[:, width].copy()
    bias_T[count_T == 0] = bias_T[count_T > 0].min()
    return weight_TD, bias_T


def draw(code_N: NDArray[np.integer[Any]], seed: int) -> NDArray[np.intp]:
    """Return the sorted rows of at most `CELLS_PER_LABEL` cells of each label.

    The head fitted to these alone is the head fitted to all: nothing else need be read.
    """
    order = np.random.default_rng(seed).permutation(len(code_N))
    order = order[np.argsort(code_N[order], kind="stable")]
    sorted_N = code_N[order]
    place_in_label_N = np.arange(len(order)) - np.searchsorted(sorted_N, sorted_N)
    return np.sort(order[place_in_label_N < CELLS_PER_LABEL])


def _loss(
    flat: NDArray[np.float64],
    x_ND: NDArray[np.float32],
    code_N: NDArray[np.integer[Any]],
    share_N: NDArray[np.float64],
    l2: float,
) -> tuple[float, NDArray[np.float64]]:
    """Return the loss and its gradient; products in single, sums over cells in double precision."""
    n_cells, width = x_ND.shape
    both_TE = flat.reshape(-1, width + 1)
    true_N = (np.arange(n_cells), code_N)
    logit_NT = x_ND @ both_TE[:, :width].T.astype(np.float32) + both_TE[:, width].astype(np.float32)
    logit_NT -= logit_NT.max(axis=1, keepdims=True)
    own_N = logit_NT[true_N]
    slope_NT = np.exp(logit_NT, out=logit_NT)
    sum_N = slope_NT.sum(axis=1)
    slope_NT /= sum_N[:, None]
    slope_NT[true_N] -= 1
    slope_NT *= share_N[:, None].astype(np.float32)
    weight_TD = both_TE[:, :width]
    slope_TE = np.column_stack([slope_NT.T @ x_ND + l2 * weight_TD, slope_NT.sum(axis=0)])
    entropy = float(share_N @ (np.log(sum_N) - own_N))
    return entropy + l2 / 2 * float((weight_TD**2).sum()), slope_TE.ravel()
