"""The compiled loops of the Tokenizer; knows arrays only, checks nothing.

Shape suffixes: B cells of a batch, L tokens of a cell, G genes of the vocabulary, V columns of the
matrix, E stored entries of the matrix, N expressed genes of a cell (of all cells in the pool).
"""

# ruff: noqa: PLR0917 (compiled functions take their arrays by position)
# mypy: disable-error-code="no-untyped-def"
# numba infers the types of compiled functions, and compiles what they are called with.

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

#: Counts are scaled to this total before the logarithm (CP10k).
TARGET_TOTAL = 1e4
#: A share of counts to keep is an integer of 2**16, so that one random word thins four counts.
KEEP_ALL = 1 << 16
LOW_16 = np.uint64(KEEP_ALL - 1)
#: Step of splitmix64.
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
#: Bins in which the tokens of a cell are chosen; what scores below 1/256 of the best shares one.
N_BINS = 2048
#: Values of counts below this are computed once a cell: most counts of a cell are 1, 2 or 3.
N_TABLE = 64


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile without the interpreter lock, kept on disk where there is a place to write."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # numba finds no writable folder, as in a read-only container
        return numba.njit(nogil=True)(function)


@compiled
def _mix(state):
    """Mix 64 bits: the output of splitmix64 (doi:10.1145/2714064.2660195)."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@compiled
def _n_bits(word):
    """Count the bits that are set in 64."""
    twos = np.uint64(0x3333333333333333)
    word -= (word >> np.uint64(1)) & np.uint64(0x5555555555555555)
    word = (word & twos) + ((word >> np.uint64(2)) & twos)
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@compiled
def thin_count(count, share, state):
    """Draw from the binomial of `count` trials with probability share / `KEEP_ALL`."""
    chance = np.uint64(share)
    left = np.int64(count)
    kept = np.int64(0)
    while left >= 64:  # 64 trials at once: each bit of the word is set with the probability
        word = np.uint64(0)
        for bit in range(16):
            state += GOLDEN
            word = (word | _mix(state)) if (share >> bit) & 1 else (word & _mix(state))
        kept += _n_bits(word)
        left -= 64
    while left > 0:  # 4 trials at once, of which the last word uses as many as are left
        state += GOLDEN
        word = _mix(state)
        kept += np.int64((word & LOW_16) < chance)
        kept += np.int64(((word >> np.uint64(16)) & LOW_16) < chance) & np.int64(left > 1)
        kept += np.int64(((word >> np.uint64(32)) & LOW_16) < chance) & np.int64(left > 2)
        kept += np.int64((word >> np.uint64(48)) < chance) & np.int64(left > 3)
        left -= 4
    return kept


@compiled
def _gather(indices_E, data_E, token_V, share, state, count_G, word_G):
    """Sum the counts of one cell into `count_G`, mark its genes in `word_G`, return the total.

    A bit per gene, 64 to a word, gives the genes in order without a sort. The random numbers of a
    gene follow from `state` and the gene, so that columns may come in any order.
    """
    total = 0.0
    for e in range(indices_E.size):
        token = token_V[indices_E[e]]
        count = np.float64(data_E[e])
        if token < 0 or count == 0.0:
            continue
        if share < KEEP_ALL:
            stream = np.uint64(token) << np.uint64(24)
            count = np.float64(thin_count(count, share, state + stream * GOLDEN))
        count_G[token] += count
        total += count
        word_G[token >> 6] |= np.uint64(count > 0) << np.uint64(token & 63)
    return total


@compiled
def _pour(count_G, word_G, scale, gene_N, value_N):
    """Write the genes of one cell in order with log1p(count x scale); empty the buffers."""
    table = np.full(N_TABLE, np.float32(-1.0), dtype=np.float32)
    n = 0
    for w in range(word_G.size):
        word = word_G[w]
        if word == np.uint64(0):
            continue
        word_G[w] = np.uint64(0)
        while word != np.uint64(0):
            gene = (w << 6) + _n_bits((word & (~word + np.uint64(1))) - np.uint64(1))
            word &= word - np.uint64(1)
            count = count_G[gene]
            count_G[gene] = 0.0
            gene_N[n] = gene
            if count < N_TABLE and count == np.int64(count):
                c = np.int64(count)
                if table[c] < 0:
                    table[c] = np.float32(np.log1p(count * scale))
                value_N[n] = table[c]
            else:
                value_N[n] = np.float32(np.log1p(count * scale))
            n += 1
    return n


@compiled
def _choose(gene_N, value_N, weight_G, score_N, place_N, in_bin, gene_L, value_L):
    """Write the tokens of one cell: the best by value x weight, ties by the lower gene.

    Scores that are not negative have the order of their bits. The genes are poured into bins by
    the leading bits, from the best score down (256 bins to a factor of 2), until there are enough,
    and the few that are out of order within a bin are moved by insertion, which keeps ties.
    """
    n_tokens = min(gene_L.size, gene_N.size)
    for n in range(gene_N.size):
        score_N[n] = value_N[n] * weight_G[gene_N[n]]
    bits_N = score_N.view(np.int32)
    top = bits_N.max()
    in_bin[:] = 0
    for n in range(gene_N.size):
        in_bin[min((top - bits_N[n]) >> 15, N_BINS - 1)] += 1
    last, n_above = -1, 0
    while n_above < n_tokens:
        last += 1
        size = in_bin[last]
        in_bin[last] = n_above
        n_above += size
    for n in range(gene_N.size):
        slot = min((top - bits_N[n]) >> 15, N_BINS - 1)
        if slot <= last:
            place_N[in_bin[slot]] = n
            in_bin[slot] += 1
    for i in range(1, n_above):
        n, j = place_N[i], i
        while j > 0 and bits_N[place_N[j - 1]] < bits_N[n]:
            place_N[j] = place_N[j - 1]
            j -= 1
        place_N[j] = n
    for t in range(n_tokens):
        gene_L[t] = gene_N[place_N[t]]
        value_L[t] = value_N[place_N[t]]


@compiled
def fill_tokens(indptr_B, indices_E, data_E, token_V, share_B, seed, weight_G, batch):
    """Fill the arrays of a TokenBatch, in the order of its attributes, cell by cell."""
    gene_BL, value_BL, pool_gene_N, pool_value_N, offset_B, total_B = batch
    count_G = np.zeros(weight_G.size, dtype=np.float64)
    word_G = np.zeros((weight_G.size >> 6) + 1, dtype=np.uint64)
    score_N = np.empty(weight_G.size, dtype=np.float32)
    place_N = np.empty(weight_G.size, dtype=np.int32)
    in_bin = np.empty(N_BINS, dtype=np.int32)
    for b in range(total_B.size):
        start, stop, first = indptr_B[b], indptr_B[b + 1], offset_B[b]
        state = _mix(_mix(seed) + np.uint64(b))
        total = _gather(
            indices_E[start:stop], data_E[start:stop], token_V, share_B[b], state, count_G, word_G
        )
        total_B[b] = np.float32(total)
        offset_B[b + 1] = first
        if total == 0.0:
            continue
        n = _pour(count_G, word_G, TARGET_TOTAL / total, pool_gene_N[first:], pool_value_N[first:])
        offset_B[b + 1] = first + n
        _choose(
            pool_gene_N[first : first + n],
            pool_value_N[first : first + n],
            weight_G,
            score_N[:n],
            place_N,
            in_bin,
            gene_BL[b],
            value_BL[b],
        )
