"""The compiled loops of `pairwise`; knows arrays only, checks nothing.

Shape suffixes: B cells, C candidates, E entries of the cells, G genes of the vocabulary, H genes
with levels, L labels with a profile, M markers of a pair, P mean profiles (those of a label side by
side), Q pairs.
"""

# ruff: noqa: PLR0917 (compiled functions take their arrays by position)
# mypy: disable-error-code="no-untyped-def"
# numba infers the types of compiled functions, and compiles what they are called with.

import numpy as np

from scgp.cells.kernels import compiled


@compiled
def fill_markers(centre_LH, measured_H, high_Q, low_Q, gene_LLM):
    """Write the genes that one label of each pair is most above the other in, highest first.

    Ties go to the lower gene; -1 stands where no further gene is above. A pair is written when all
    of it is found: where two threads find the same, the one that is later changes nothing, which
    the other may be reading.
    """
    n_markers = gene_LLM.shape[2]
    above_M, found_M = np.empty(n_markers, np.float32), np.empty(n_markers, np.int32)
    for q in range(high_Q.size):
        high_H, low_H = centre_LH[high_Q[q]], centre_LH[low_Q[q]]
        found_M[:] = -1
        n = 0
        for h in range(measured_H.size):
            above = high_H[h] - low_H[h]
            full = n == n_markers
            if not measured_H[h] or above <= 0 or (full and above <= above_M[n_markers - 1]):
                continue
            n = min(n + 1, n_markers)
            m = n - 1
            while m > 0 and above_M[m - 1] < above:
                above_M[m], found_M[m] = above_M[m - 1], found_M[m - 1]
                m -= 1
            above_M[m], found_M[m] = above, h
        gene_LLM[high_Q[q], low_Q[q]] = found_M


@compiled
def _gather(candidate_C, n_left, gene_LLM, is_in_H, found_H):
    """Write the markers of all pairs of the candidates, each once; return how many they are."""
    n = 0
    for i in range(n_left):
        for j in range(n_left):
            if i == j:
                continue
            found_M = gene_LLM[candidate_C[i], candidate_C[j]]
            for m in range(found_M.size):
                h = found_M[m]
                if h < 0:
                    break
                if not is_in_H[h]:
                    is_in_H[h] = True
                    found_H[n] = h
                    n += 1
    for i in range(n):
        is_in_H[found_H[i]] = False
    return n


@compiled
def _centred(x_H, gene_H, out_H):
    """Write values of some genes less their mean; return the root of the sum of their squares."""
    mean, square = 0.0, 0.0
    for i in range(gene_H.size):
        mean += x_H[gene_H[i]]
    mean /= gene_H.size
    for i in range(gene_H.size):
        out_H[i] = x_H[gene_H[i]] - mean
        square += out_H[i] * out_H[i]
    return np.sqrt(square)


@compiled
def _correlation(x_H, x_norm, y_H, gene_H):
    """Return Pearson's correlation with centred values; 0 where `y_H` has one level."""
    total, square, product = 0.0, 0.0, 0.0
    for i in range(gene_H.size):
        y = np.float64(y_H[gene_H[i]])
        total += y
        square += y * y
        product += y * x_H[i]
    norm = x_norm * np.sqrt(max(square - total * total / gene_H.size, 0.0))
    return product / norm if norm > 0.0 else 0.0


@compiled
def _winner(x_H, candidate_C, profile_PH, start_L, gene_LLM, margin, fewest, room):
    """Return the best of the candidates (-1: cannot tell), which are overwritten."""
    is_in_H, found_H, centred_H, score_C = room
    n_left, winner = candidate_C.size, -1
    while n_left > 1:
        n_genes = _gather(candidate_C, n_left, gene_LLM, is_in_H, found_H)
        gene_H = found_H[:n_genes]
        if n_genes < fewest:
            break
        norm = _centred(x_H, gene_H, centred_H)
        if norm == 0.0:
            break
        best = -2.0
        for c in range(n_left):
            score_C[c] = -2.0
            for p in range(start_L[candidate_C[c]], start_L[candidate_C[c] + 1]):
                found = _correlation(centred_H, norm, profile_PH[p], gene_H)
                score_C[c] = max(score_C[c], found)
            if score_C[c] > best:
                best, winner = score_C[c], candidate_C[c]
        n_before, n_left = n_left, 0
        for c in range(n_before):
            if score_C[c] >= best - margin:
                candidate_C[n_left] = candidate_C[c]
                n_left += 1
        if n_left == n_before:
            break
    return winner


@compiled
def find_winners(
    cells, place_G, candidate_BC, profile_PH, start_L, gene_LLM, margin, fewest, winner_B
):
    """Write the best of the candidates of each cell; `cells` are the arrays of a CSR matrix."""
    indptr_B, indices_E, data_E = cells
    n_genes = profile_PH.shape[1]
    x_H = np.zeros(n_genes, np.float32)
    room = (
        np.zeros(n_genes, np.bool_),
        np.empty(n_genes, np.int64),
        np.empty(n_genes, np.float64),
        np.empty(candidate_BC.shape[1], np.float64),
    )
    for b in range(winner_B.size):
        for e in range(indptr_B[b], indptr_B[b + 1]):
            h = place_G[indices_E[e]]
            if h >= 0:
                x_H[h] = data_E[e]
        winner_B[b] = _winner(
            x_H, candidate_BC[b], profile_PH, start_L, gene_LLM, margin, fewest, room
        )
        for e in range(indptr_B[b], indptr_B[b + 1]):
            h = place_G[indices_E[e]]
            if h >= 0:
                x_H[h] = 0.0
