"""Which genes of a cell are worth removing: the first-order effect of each on a label's log odds.

Owns the one differentiable copy of the streams and their fusion; what counts is still
`scgp.reference.evidence`, which a test holds it against. Knows the network, not AnnData. Cells go
through together: none has a part in another's log odds, so the gradient of their sum holds the
gradient of each.

Shapes: B cells, N expressed genes of all of them, L tokens, K neighbours, T labels, S scores of the
gene head, M streams, E width of the joint space, H genes of the gene head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from scgp.model.network import CellInput
from scgp.reference.elsewhere import ODDS
from scgp.reference.fusion import ALL_STREAMS, BACKGROUND, FLOOR
from scgp.reference.gene_head import CLIP, TEMPERATURE
from scgp.reference.kinship import DESCRIBED_TEMPERATURE

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from scgp.cells.tokens import TokenBatch
    from scgp.model.network import CellTransformer
    from scgp.reference.background import Background
    from scgp.reference.fusion import Fusion
    from scgp.reference.gene_head import GeneHead
    from scgp.reference.index import ReferenceIndex

#: What tokens are scaled to: counts per ten thousand.
_CP10K = 1e4


def removal_effects(
    network: CellTransformer,
    tokens: TokenBatch,
    index: ReferenceIndex,
    score_BS: NDArray[np.float32] | None,
    counted_BT: NDArray[np.bool_],
    *,
    rival_BT: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Estimate the change of the log odds of some labels when each gene of each cell is removed.

    The gradient of the log odds of the fused posterior, with respect to the values that the network
    and the gene head read, times the change of these values: the gene's own becomes zero, and
    those of all others rise, for counts are per ten thousand. The neighbours stay the same cells.
    The pairwise stream has no slope, and is left out.

    Parameters
    ----------
    tokens
        The cells; an empty one has no gene to remove.
    score_BS
        Their scores of the index's gene head (S alone will do for one cell), or None where there
        is no head.
    counted_BT
        Labels whose probabilities are summed: the label in question and those below it; T alone if
        they are the same for all cells.
    rival_BT
        Labels that the odds are against; None: all that do not count.

    Returns
    -------
    One number for each gene of ``tokens.pool_gene_N``, in nats; 0 where a cell's labels have no
    rival.
    """
    value_N = tokens.pool_value_N.astype(np.float64)
    shape = (tokens.n_cells, len(index.labels))
    own_BT = np.broadcast_to(counted_BT, shape)
    rival_BT = ~own_BT if rival_BT is None else np.broadcast_to(rival_BT, shape)
    rivalled_B = own_BT.any(axis=1) & rival_BT.any(axis=1)
    if not rivalled_B.any():
        return np.zeros(len(value_N))
    # a caller's inference_mode or no_grad must not switch gradients off
    with torch.inference_mode(mode=False), torch.enable_grad():
        pool_N = torch.from_numpy(tokens.pool_value_N.copy()).requires_grad_()
        value_BL = torch.from_numpy(tokens.value_BL.copy()).requires_grad_()
        fused_BT = log_posterior(network, tokens, index, score_BS, pool_N=pool_N, value_BL=value_BL)
        fused_BT = fused_BT[torch.from_numpy(rivalled_B)]
        odds_B = _log_sum(fused_BT, own_BT[rivalled_B]) - _log_sum(fused_BT, rival_BT[rivalled_B])
        by_pool_N, by_token_BL = torch.autograd.grad(
            odds_B.sum(), [pool_N, value_BL], allow_unused=True
        )
    slope_N = by_pool_N.cpu().numpy().astype(np.float64)
    if by_token_BL is not None:
        slope_N += _of_tokens(tokens, by_token_BL.cpu().numpy(), network.config.n_genes)
    scaled_N = np.expm1(value_N)  # CP10k
    cell_N = cell_of_pool(tokens)
    part_N = slope_N * scaled_N / (1 + scaled_N)
    rise_B = np.bincount(cell_N, part_N, tokens.n_cells)  # of all values, a unit of log total
    share_N = np.minimum(scaled_N / _CP10K, 0.99)
    return -slope_N * value_N - rise_B[cell_N] * np.log1p(-share_N)


def _log_sum(log_BT: Tensor, kept_BT: NDArray[np.bool_]) -> Tensor:
    """Return the log of the sum over the labels kept."""
    return log_BT.masked_fill(torch.from_numpy(~kept_BT), -torch.inf).logsumexp(1)


def cell_of_pool(tokens: TokenBatch) -> NDArray[np.int64]:
    """Return the cell of each entry of the pool."""
    return np.repeat(np.arange(tokens.n_cells), np.diff(tokens.offset_B))


def _of_tokens(
    tokens: TokenBatch, slope_BL: NDArray[np.float32], n_genes: int
) -> NDArray[np.float64]:
    """Return what the gradient of the tokens' values adds to each entry of the pool."""
    cell, at = np.nonzero(tokens.gene_BL < n_genes)  # without padding
    key_N = cell_of_pool(tokens) * n_genes + tokens.pool_gene_N  # ascending
    place = np.searchsorted(key_N, cell * n_genes + tokens.gene_BL[cell, at])
    slope_N: NDArray[np.float64] = np.bincount(place, slope_BL[cell, at], len(key_N)).astype(float)
    return slope_N


def log_posterior(
    network: CellTransformer,
    tokens: TokenBatch,
    index: ReferenceIndex,
    score_BS: NDArray[np.float32] | None,
    *,
    pool_N: Tensor,
    value_BL: Tensor,
) -> Tensor:
    """Return the log of `scgp.reference.evidence.fuse` (B x T), on the CPU.

    ``pool_N`` and ``value_BL`` stand for the values of `tokens`, so that gradients reach them.
    """
    device = network.gene.weight.device
    cells = CellInput(
        torch.from_numpy(tokens.gene_BL), value_BL, torch.from_numpy(tokens.pool_gene_N), pool_N,
        torch.from_numpy(tokens.offset_B),
    )  # fmt: skip
    out = network(cells.to(device))
    cell_BE, type_BE = out.cell_BE.cpu(), out.type_BE.cpu()
    head_TE, bias_T = torch.tensor(index.head_weight_TD), torch.tensor(index.head_bias_T)
    streams = {
        "text": _text(type_BE, index),
        "head": torch.softmax(cell_BE @ head_TE.T + bias_T, 1),
        **_genes(tokens, index, score_BS, pool_N),
    }
    if index.calibration.weight_neighbour > 0:  # else nobody hears what takes long to ask
        streams["neighbour"] = _neighbours(cell_BE, index)
    if index.background is not None:
        streams[BACKGROUND] = _background(type_BE, index.background, index.calibration)
    if index.calibration.elsewhere:
        streams = _less_likely(streams, np.isin(index.labels, index.calibration.elsewhere))
    names = [name for name in ALL_STREAMS if name in streams]
    probability_MBT = torch.stack([streams[name] for name in names]).double()
    weight_M = torch.tensor([index.calibration.weight(name) for name in names]).double()
    weight_M11 = weight_M[:, None, None]
    heard_MBT = ~probability_MBT.isnan()
    log_MBT = torch.log(torch.where(heard_MBT, probability_MBT, 1.0) + FLOOR)
    heard_BT = (weight_M11 * heard_MBT).sum(0)
    mean_BT = (weight_M11 * heard_MBT * log_MBT).sum(0) / heard_BT.clamp(min=FLOOR)
    mean_BT = torch.where(heard_BT > 0, mean_BT, float(np.log(FLOOR)))
    return torch.log_softmax(mean_BT * weight_M.sum(), 1)


def _less_likely(streams: dict[str, Tensor], elsewhere_T: NDArray[np.bool_]) -> dict[str, Tensor]:
    """Lower the odds of some labels, as `scgp.reference.elsewhere.less_likely`."""
    less_T = torch.tensor(np.where(elsewhere_T, ODDS, 1.0))
    told = {}
    for name, stream_BT in streams.items():
        heard_BT = ~stream_BT.isnan()  # a gradient must not pass through what is not a number
        less_BT = torch.where(heard_BT, stream_BT, 0.0) * less_T
        share_BT = less_BT / less_BT.sum(1, keepdim=True).clamp(min=1e-300)
        told[name] = torch.where(heard_BT, share_BT, torch.nan)
    return told


def _neighbours(cell_BE: Tensor, index: ReferenceIndex) -> Tensor:
    """Votes of the nearest reference cells, which stay the same cells."""
    fusion = index.calibration
    _, row_BK = index.search(cell_BE.detach().numpy(), fusion.k)
    near_BKE = torch.from_numpy(index.vectors_at(row_BK))
    cosine_BK = (near_BKE @ cell_BE[:, :, None])[:, :, 0]
    vote_BK = torch.softmax(cosine_BK / fusion.temperature_neighbour, 1)
    code_BK = torch.from_numpy(index.code_N[row_BK].astype(np.int64))
    return torch.zeros(len(cell_BE), len(index.labels)).scatter_add(1, code_BK, vote_BK)


def _text(type_BE: Tensor, index: ReferenceIndex) -> Tensor:
    """Softmax over the labels that have a text; NaN for the others."""
    text_TE = torch.tensor(index.text_TD)
    has_T = (text_TE != 0).any(1)
    if not has_T.any():
        return torch.full((len(type_BE), len(index.labels)), torch.nan)
    logit_BT = type_BE @ text_TE.T / index.calibration.temperature_text
    probability_BT = torch.softmax(torch.where(has_T, logit_BT, -torch.inf), 1)
    return torch.where(has_T, probability_BT, torch.nan)


def _background(type_BE: Tensor, background: Background, fusion: Fusion) -> Tensor:
    """Tell what all terms of the model say in the labels of the reference; NaN: nothing."""
    logit_BU = type_BE @ torch.tensor(background.text_UD).T / fusion.temperature_text
    share_UT = torch.tensor(background.share_UT)
    raw_BT = torch.softmax(logit_BU.double(), 1) @ share_UT
    prior_BT = raw_BT / raw_BT.sum(1, keepdim=True).clamp(min=1e-300)
    return prior_BT.masked_fill(~(share_UT != 0).any(0), torch.nan).float()


def _genes(
    tokens: TokenBatch,
    index: ReferenceIndex,
    score_BS: NDArray[np.float32] | None,
    pool_N: Tensor,
) -> dict[str, Tensor]:
    """Softmax of the gene head's scores, with the part that the expressed genes have in them."""
    n_labels = len(index.labels)
    silent_BT = torch.full((tokens.n_cells, n_labels), torch.nan)
    head = index.gene_head
    if head is None or score_BS is None:
        return {"gene": silent_BT}
    part_BS = _expressed_part(tokens, head, pool_N)
    # the scores are those of the head itself; only their slope is taken from here
    score = torch.from_numpy(np.atleast_2d(score_BS).copy()) + part_BS - part_BS.detach()
    unknown_BT = score[:, :n_labels].isnan()  # labels that the head has not seen
    gene_BT = score[:, :n_labels].masked_fill(unknown_BT, -torch.inf) / TEMPERATURE
    streams = {"gene": torch.softmax(gene_BT, 1).masked_fill(unknown_BT, torch.nan)}
    if head.described_HT is not None:
        has_T = torch.from_numpy(head.described_HT.any(axis=0))
        logit_BT = torch.where(has_T, score[:, n_labels:] / DESCRIBED_TEMPERATURE, -torch.inf)
        described_BT = torch.where(has_T, torch.softmax(logit_BT, 1), silent_BT)
        streams["described"] = described_BT if has_T.any() else silent_BT
    return streams


def _expressed_part(tokens: TokenBatch, head: GeneHead, pool_N: Tensor) -> Tensor:
    """Return what the expressed genes add to the scores (B x S)."""
    place_N = np.searchsorted(head.gene_H, tokens.pool_gene_N).clip(max=len(head.gene_H) - 1)
    known_N = head.gene_H[place_N] == tokens.pool_gene_N
    parts = [x for x in (head.weight_HT, head.described_HT) if x is not None]
    weight_HS = torch.from_numpy(np.concatenate(parts, axis=1).astype(np.float32))
    place = torch.from_numpy(place_N[known_N])
    scale = torch.from_numpy(head.scale_H)[place]
    value = torch.clamp(pool_N[torch.from_numpy(known_N)] / scale, max=CLIP)
    offset_B = np.concatenate([[0], np.cumsum(known_N)])[tokens.offset_B].astype(np.int64)
    return functional.embedding_bag(
        place, weight_HS, torch.from_numpy(offset_B), per_sample_weights=value, mode="sum",
        include_last_offset=True,
    )  # fmt: skip
