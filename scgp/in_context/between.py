"""How much of the spread of vectors lies between contexts: the statistic of polyfunctionality.

Pure functions of arrays; knows neither genes nor networks.

Shape suffixes: M cells of one gene, sorted by stratum (donor); D dimensions; K contexts; S strata;
P permutations; C covariates; Q sets of vectors.
"""

# mypy: disable-error-code="no-untyped-def"
# numba infers the types of compiled functions, and compiles what they are called with.

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from scgp.cells.kernels import compiled

#: A mean square below this is rounding.
TINY = 1e-10
#: Ways in which strata are halved.
N_HALVINGS = 10


@dataclass(frozen=True)
class Design:
    """Which context and stratum each cell of a gene is of.

    Attributes
    ----------
    code_M
        Context, 0 to ``n_contexts - 1``; cells are sorted by stratum.
    start_S
        First cell of each stratum, and the number of cells at the end (S + 1 values).
    n_contexts
        Number of contexts (K).
    """

    code_M: np.ndarray
    start_S: np.ndarray
    n_contexts: int


def comparable(group_M: np.ndarray, donor_M: np.ndarray, min_cells: int) -> np.ndarray:
    """Return which cells can be compared within donors.

    Those of contexts with ``min_cells`` such cells, and of donors with such cells of two contexts.
    One depends on the other: a context may be large enough with donors that are left out alone.
    """
    if not len(group_M):
        return np.zeros(0, bool)
    n_SK = np.zeros((int(donor_M.max()) + 1, int(group_M.max()) + 1), np.int64)
    np.add.at(n_SK, (donor_M, group_M), 1)
    n_cells = -1
    while n_cells != n_SK.sum():
        n_cells = n_SK.sum()
        n_SK[:, n_SK.sum(axis=0) < min_cells] = 0
        n_SK[(n_SK > 0).sum(axis=1) < 2] = 0
    kept_M: np.ndarray = n_SK[donor_M, group_M] > 0
    return kept_M


def centred(vector_MD: np.ndarray, design: Design) -> np.ndarray:
    """Take the mean of each stratum from its cells."""
    size_S = np.diff(design.start_S)
    sum_SD = np.add.reduceat(vector_MD, design.start_S[:-1], axis=0)
    return vector_MD - np.repeat(sum_SD / size_S[:, None], size_S, axis=0)


def adjusted(vector_MD: np.ndarray, covariate_MC: np.ndarray, design: Design) -> np.ndarray:
    """Return what a linear regression on covariates leaves, within strata; centred."""
    covariate_MC = centred(covariate_MC.astype(np.float64), design)
    vector_MD = centred(vector_MD.astype(np.float64), design)
    fitted = np.linalg.lstsq(covariate_MC, vector_MD, rcond=1e-8)[0]
    left: np.ndarray = (vector_MD - covariate_MC @ fitted).astype(np.float32)
    return left


def context_means(vector_MD: np.ndarray, code_M: np.ndarray, n_contexts: int) -> np.ndarray:
    """Return the mean of each context (K x D); NaN for one without a cell."""
    size_K = np.bincount(code_M, minlength=n_contexts)
    order = np.argsort(code_M, kind="stable")
    first_K = np.concatenate([[0], np.cumsum(size_K)])[:-1]
    mean_KD = np.full((n_contexts, vector_MD.shape[1]), np.nan)
    there = np.flatnonzero(size_K)
    sums = np.add.reduceat(vector_MD[order].astype(np.float64), first_K[there], axis=0)
    mean_KD[there] = sums / size_K[there, None]
    return mean_KD


def apart(vector_MD: np.ndarray, design: Design) -> np.ndarray:
    """Return how far each context is from the unweighted mean of all (K x D), strata taken out.

    Least squares of stratum + context. The means of centred vectors will not do: where strata have
    contexts in unequal shares, their means hold part of what differs between contexts. NaN where no
    chain of strata joins all contexts, which then cannot be compared.

    Parameters
    ----------
    vector_MD
        Centred within strata (`centred`).
    design
        Contexts and strata.
    """
    size_S = np.diff(design.start_S)
    n_SK = np.zeros((len(size_S), design.n_contexts))
    np.add.at(n_SK, (np.repeat(np.arange(len(size_S)), size_S), design.code_M), 1)
    normal_KK = np.diag(n_SK.sum(axis=0)) - n_SK.T @ (n_SK / size_S[:, None])
    if np.linalg.matrix_rank(normal_KK) < design.n_contexts - 1:
        return np.full((design.n_contexts, vector_MD.shape[1]), np.nan)
    sum_KD = np.zeros((design.n_contexts, vector_MD.shape[1]))
    np.add.at(sum_KD, design.code_M, vector_MD)
    # constants are all that the normal equations do not see, so the shortest solution sums to 0
    found: np.ndarray = np.linalg.lstsq(normal_KK, sum_KD, rcond=None)[0]
    return found


def replication(vector_MD: np.ndarray, design: Design, seed: int) -> float:
    """Return the cosine between halves of the strata of how far contexts are apart.

    Mean over up to `N_HALVINGS` ways to halve them. Each half is fitted by itself (`apart`), and
    the contexts that both have are compared, less their mean: strata that lack contexts, or have
    them in unequal shares, are no disagreement. A way that leaves a half in which no chain of
    strata joins all contexts, or two halves without two contexts in common, does not count; NaN
    where none is left, or with fewer than two strata.

    Parameters
    ----------
    vector_MD
        Centred within strata (`centred`).
    design
        Contexts and strata.
    seed
        Of the halving.
    """
    n_strata = len(design.start_S) - 1
    if n_strata < 2:
        return float("nan")
    rng = np.random.default_rng([seed, n_strata])
    found = []
    for _ in range(N_HALVINGS):
        first_S = np.zeros(n_strata, bool)
        first_S[rng.permutation(n_strata)[: n_strata // 2]] = True
        halves = [_apart_in(vector_MD, design, half_S) for half_S in (first_S, ~first_S)]
        shared_K = np.isfinite(halves).all(axis=(0, 2))
        if shared_K.sum() < 2:
            continue
        a, b = (half_KD[shared_K] - half_KD[shared_K].mean(axis=0) for half_KD in halves)
        length = np.linalg.norm(a) * np.linalg.norm(b)
        found.append(float((a * b).sum() / length) if length > 0 else 0.0)
    return float(np.mean(found)) if found else float("nan")


def _apart_in(vector_MD: np.ndarray, design: Design, chosen_S: np.ndarray) -> np.ndarray:
    """Return `apart` of the cells of some strata (K x D); NaN for contexts that they lack."""
    size_S = np.diff(design.start_S)
    row_M = np.repeat(chosen_S, size_S)
    there, code_M = np.unique(design.code_M[row_M], return_inverse=True)
    part = Design(code_M, np.cumsum([0, *size_S[chosen_S]]), len(there))
    found_KD = np.full((design.n_contexts, vector_MD.shape[1]), np.nan)
    found_KD[there] = apart(vector_MD[row_M], part)
    return found_KD


def between(vector_MD: np.ndarray, code_M: np.ndarray, n_contexts: int) -> float:
    """Return the sum of squares between contexts of centred vectors."""
    mean_KD = context_means(vector_MD, code_M, n_contexts)
    size_K = np.bincount(code_M, minlength=n_contexts)
    return float((size_K[:, None] * np.nan_to_num(mean_KD) ** 2).sum())


def permuted_between(
    vector_MD: np.ndarray, design: Design, n: int, seed: int | list[int]
) -> np.ndarray:
    """Return the sum of squares between contexts for labels dealt anew within strata (P)."""
    vector_MD = np.ascontiguousarray(vector_MD, dtype=np.float32)
    code_M = np.ascontiguousarray(design.code_M, dtype=np.int64)
    start_S = np.ascontiguousarray(design.start_S, dtype=np.int64)
    size_K = np.bincount(code_M, minlength=design.n_contexts)
    rng = np.random.default_rng(seed)
    return np.asarray(_permute(vector_MD, code_M, start_S, size_K, np.empty(n), rng))


@compiled
def _permute(vector_MD, code_M, start_S, size_K, found_P, rng):  # noqa: PLR0917 (numba's way)
    """Shuffle labels within strata (Fisher and Yates) and sum up; fills `found_P`."""
    n_cells, width = vector_MD.shape
    n_contexts = size_K.size
    label_M = code_M.copy()
    sum_KD = np.empty((n_contexts, width), dtype=np.float32)
    for p in range(found_P.size):
        for s in range(start_S.size - 1):
            for m in range(start_S[s + 1] - 1, start_S[s], -1):
                other = start_S[s] + int(rng.random() * (m - start_S[s] + 1))
                label_M[m], label_M[other] = label_M[other], label_M[m]
        sum_KD[:] = 0
        for m in range(n_cells):
            k = label_M[m]
            for d in range(width):
                sum_KD[k, d] += vector_MD[m, d]
        total = 0.0
        for k in range(n_contexts):
            if size_K[k] > 0:
                square = 0.0
                for d in range(width):
                    square += np.float64(sum_KD[k, d]) ** 2
                total += square / size_K[k]
        found_P[p] = total
    return found_P


def effects(vector_MQD: np.ndarray, design: Design) -> np.ndarray:
    """Return the share of the spread that lies between contexts, for Q sets of vectors at once.

    (between - expected) / (total - expected): 0 where contexts differ no more than labels dealt
    anew, 1 where they explain everything; may be negative. It is the adjusted R2 of Peres-Neto et
    al. 2006 (doi:10.1890/0012-9658(2006)87[2614:VPOSDM]2.0.CO;2), whose expectation over
    permutations has a closed form here. 0 where nothing varies.

    The labels of a stratum are dealt to its cells: the sum of a context over a stratum has mean 0
    (vectors are centred) and, being drawn without replacement, a hypergeometric variance.

    Parameters
    ----------
    vector_MQD
        Centred within strata (`centred`).
    design
        Contexts and strata.
    """
    n_cells, n_sets, _ = vector_MQD.shape
    square_MQ = np.einsum("mqd,mqd->mq", vector_MQD, vector_MQD).astype(np.float64)
    size_S = np.diff(design.start_S)
    stratum_M = np.repeat(np.arange(len(size_S)), size_S)
    n_SK = np.zeros((len(size_S), design.n_contexts))
    np.add.at(n_SK, (stratum_M, design.code_M), 1)
    size_K = n_SK.sum(axis=0)
    share_SK = np.divide(
        n_SK * (size_S[:, None] - n_SK), size_S[:, None] * size_K,
        out=np.zeros_like(n_SK), where=size_K > 0,
    )  # fmt: skip
    spread_SQ = np.add.reduceat(square_MQ, design.start_S[:-1], axis=0)
    spread_SQ /= np.maximum(size_S - 1, 1)[:, None]
    expected_Q = share_SK.sum(axis=1) @ spread_SQ
    to_context_KM = sp.csr_matrix(
        (np.ones(n_cells, vector_MQD.dtype), (design.code_M, np.arange(n_cells))),
        shape=(design.n_contexts, n_cells),
    )
    sum_KQD = (to_context_KM @ vector_MQD.reshape(n_cells, -1)).reshape(
        -1, n_sets, vector_MQD.shape[2]
    )
    square_KQ = np.einsum("kqd,kqd->kq", sum_KQD, sum_KQD).astype(np.float64)
    found_Q = (square_KQ / np.maximum(size_K, 1)[:, None]).sum(axis=0)
    left_Q = square_MQ.sum(axis=0) - expected_Q
    varies_Q = left_Q > TINY * n_cells
    return np.where(varies_Q, (found_Q - expected_Q) / np.where(varies_Q, left_Q, 1.0), 0.0)


def effect(vector_MD: np.ndarray, design: Design) -> float:
    """Return `effects` of one set of vectors."""
    return float(effects(vector_MD[:, None], design)[0])
