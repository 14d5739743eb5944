"""Which genes of a cell are worth removing: the first-order effect of each on a label's log odds.

Owns the one differentiable copy of the streams and their fusion; what counts is still
`scgp.reference.evidence`, which a test holds it against. Knows the network, not AnnData.

Shapes: N expressed genes of one cell, L its tokens, K neighbours, T labels, S streams, E width of
the joint space, H genes of the gene head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from scgp.model.network import CellInput
from scgp.reference.evidence import FLOOR, STREAMS
from scgp.reference.gene_head import CLIP, TEMPERATURE
from scgp.reference.kinship import DESCRIBED_TEMPERATURE

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from scgp.cells.tokens import TokenBatch
    from scgp.model.network import CellTransformer
    from scgp.reference.index import ReferenceIndex

#: What tokens are scaled to: counts per ten thousand.
_CP10K = 1e4


def removal_effects(
    network: CellTransformer,
    tokens: TokenBatch,
    index: ReferenceIndex,
    score_T: NDArray[np.float32] | None,
    counted_T: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Estimate the change of the log odds of some labels when each gene of one cell is removed.

    The gradient of the log odds of the fused posterior, with respect to the values that the network
    and the gene head read, times the change of these values: the gene's own becomes zero, and
    those of all others rise, for counts are per ten thousand. The neighbours stay the same cells.

    Parameters
    ----------
    tokens
        One cell, not an empty one.
    score_T
        Its scores of the index's gene head, or None where there is no head.
    counted_T
        Labels whose probabilities are summed: the label in question and those below it.

    Returns
    -------
    One number for each gene of ``tokens.pool_gene_N``; all 0 where the labels have no rival.
    """
    value_N = tokens.pool_value_N.astype(np.float64)
    if counted_T.all() or not counted_T.any():
        return np.zeros(len(value_N))
    # a caller's inference_mode or no_grad must not switch gradients off
    with torch.inference_mode(mode=False), torch.enable_grad():
        pool_N = torch.from_numpy(tokens.pool_value_N.copy()).requires_grad_()
        value_1L = torch.from_numpy(tokens.value_BL.copy()).requires_grad_()
        fused_T = log_posterior(network, tokens, index, score_T, pool_N=pool_N, value_1L=value_1L)
        own_T = torch.from_numpy(counted_T)
        odds = fused_T[own_T].logsumexp(0) - fused_T[~own_T].logsumexp(0)
        by_pool_N, by_token_1L = torch.autograd.grad(odds, [pool_N, value_1L], allow_unused=True)
    slope_N = by_pool_N.cpu().numpy().astype(np.float64)
    if by_token_1L is not None:
        place_L = np.searchsorted(tokens.pool_gene_N, tokens.gene_BL[0])
        slope_N[place_L] += by_token_1L[0].cpu().numpy()
    scaled_N = np.expm1(value_N)  # CP10k
    rise = (slope_N * scaled_N / (1 + scaled_N)).sum()  # of all values, a unit of log total
    share_N = np.minimum(scaled_N / _CP10K, 0.99)
    return -slope_N * value_N - rise * np.log1p(-share_N)


def log_posterior(
    network: CellTransformer,
    tokens: TokenBatch,
    index: ReferenceIndex,
    score_T: NDArray[np.float32] | None,
    *,
    pool_N: Tensor,
    value_1L: Tensor,
) -> Tensor:
    """Return the log of `scgp.reference.evidence.fuse` for one cell (T), on the CPU.

    ``pool_N`` and ``value_1L`` stand for the values of `tokens`, so that gradients reach them.
    """
    device = network.gene.weight.device
    cells = CellInput(
        torch.from_numpy(tokens.gene_BL), value_1L, torch.from_numpy(tokens.pool_gene_N), pool_N,
        torch.from_numpy(tokens.offset_B),
    )  # fmt: skip
    out = network(cells.to(device))
    cell_E, type_E = out.cell_BE[0].cpu(), out.type_BE[0].cpu()
    streams = {
        "neighbour": _neighbours(cell_E, index),
        "text": _text(type_E, index),
        "head": torch.softmax(
            torch.tensor(index.head_weight_TD) @ cell_E + torch.tensor(index.head_bias_T), 0
        ),
        **_genes(tokens, index, score_T, pool_N),
    }
    names = [name for name in STREAMS if name in streams]
    probability_ST = torch.stack([streams[name] for name in names]).double()
    weight_S1 = torch.tensor([[index.calibration.weight(name)] for name in names]).double()
    heard_ST = ~probability_ST.isnan()
    log_ST = torch.log(torch.where(heard_ST, probability_ST, 1.0) + FLOOR)
    heard_T = (weight_S1 * heard_ST).sum(0)
    mean_T = (weight_S1 * heard_ST * log_ST).sum(0) / heard_T.clamp(min=FLOOR)
    mean_T = torch.where(heard_T > 0, mean_T, float(np.log(FLOOR)))
    return torch.log_softmax(mean_T * weight_S1.sum(), 0)


def _neighbours(cell_E: Tensor, index: ReferenceIndex) -> Tensor:
    """Votes of the nearest reference cells, which stay the same cells."""
    fusion = index.calibration
    _, row_1K = index.search(cell_E.detach().numpy()[None], fusion.k)
    cosine_K = torch.from_numpy(index.vectors_ND[row_1K[0]]) @ cell_E
    vote_K = torch.softmax(cosine_K / fusion.temperature_neighbour, 0)
    code_K = torch.from_numpy(index.code_N[row_1K[0]].astype(np.int64))
    return torch.zeros(len(index.labels)).index_add(0, code_K, vote_K)


def _text(type_E: Tensor, index: ReferenceIndex) -> Tensor:
    """Softmax over the labels that have a text; NaN for the others."""
    text_TE = torch.tensor(index.text_TD)
    has_T = (text_TE != 0).any(1)
    if not has_T.any():
        return torch.full((len(index.labels),), torch.nan)
    logit_T = text_TE @ type_E / index.calibration.temperature_text
    probability_T = torch.softmax(torch.where(has_T, logit_T, -torch.inf), 0)
    return torch.where(has_T, probability_T, torch.nan)


def _genes(
    tokens: TokenBatch, index: ReferenceIndex, score_T: NDArray[np.float32] | None, pool_N: Tensor
) -> dict[str, Tensor]:
    """Softmax of the gene head's scores, with the part that the expressed genes have in them."""
    n_labels = len(index.labels)
    head = index.gene_head
    if head is None or score_T is None:
        return {"gene": torch.full((n_labels,), torch.nan)}
    place_N = np.searchsorted(head.gene_H, tokens.pool_gene_N).clip(max=len(head.gene_H) - 1)
    known = np.flatnonzero(head.gene_H[place_N] == tokens.pool_gene_N)
    parts = [x for x in (head.weight_HT, head.described_HT) if x is not None]
    weight_HT = torch.from_numpy(
        np.concatenate([x[place_N[known]] for x in parts], axis=1).astype(np.float32)
    )
    scale_H = torch.from_numpy(head.scale_H[place_N[known]])
    part_T = torch.clamp(pool_N[torch.from_numpy(known)] / scale_H, max=CLIP) @ weight_HT
    # the scores are those of the head itself; only their slope is taken from here
    score = torch.from_numpy(score_T.copy()) + part_T - part_T.detach()
    streams = {"gene": torch.softmax(score[:n_labels] / TEMPERATURE, 0)}
    if head.described_HT is not None:
        has_T = torch.from_numpy(head.described_HT.any(axis=0))
        logit_T = torch.where(has_T, score[n_labels:] / DESCRIBED_TEMPERATURE, -torch.inf)
        silent = torch.full((n_labels,), torch.nan)
        streams["described"] = (
            torch.where(has_T, torch.softmax(logit_T, 0), silent) if has_T.any() else silent
        )
    return streams
