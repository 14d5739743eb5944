"""The training objectives: pure functions of tensors.

Shape suffixes: B cells of a batch, T texts, E width of the joint space, L gene tokens.
"""

import math

import torch
from torch import Tensor

#: Stands for minus infinity where a term must not count; finite, so that its gradient is 0.
_NEVER = -1e4


def text_loss(
    logit_BT: Tensor, code_B: Tensor, ancestor_TT: Tensor, *, weight_below: float = 1.0
) -> Tensor:
    """Contrast a slot with the texts of all ontology terms, along the ontology.

    A cell's own term and the terms below it are positives (a coarse label may hide a finer truth):
    their probabilities are summed, as in marginal likelihood, those below with `weight_below`, so
    that a weight below 1 keeps a cell from being driven deeper than its label. Terms above it are
    neither positives nor negatives. All other terms are negatives.

    Parameters
    ----------
    logit_BT
        Scaled similarities.
    code_B
        Column of each cell's term; -1 for cells without one, which do not count.
    ancestor_TT
        ``[i, j]`` is True where term i is an ancestor of term j, or j itself.
    weight_below
        Weight, above 0 and up to 1, of a probability below the cell's term.

    Returns
    -------
    Mean negative log-likelihood; 0 if no cell has a term.
    """
    known_B = code_B >= 0
    if not bool(known_B.any()):
        return logit_BT.sum() * 0.0
    logit_BT, code_B = logit_BT[known_B], code_B[known_B]
    below_BT = ancestor_TT[code_B]
    above_BT = ancestor_TT[:, code_B].T & ~below_BT
    everything_B = torch.logsumexp(logit_BT.masked_fill(above_BT, _NEVER), dim=1)
    own_BT = torch.nn.functional.one_hot(code_B, logit_BT.shape[1]).bool()
    credit_BT = logit_BT + torch.where(own_BT, 0.0, math.log(weight_below))
    right_B = torch.logsumexp(credit_BT.masked_fill(~below_BT, _NEVER), dim=1)
    return (everything_B - right_B).mean()


def cell_loss(
    cell_BE: Tensor,
    code_B: Tensor,
    study_B: Tensor,
    ancestor_TT: Tensor,
    *,
    temperature: float = 0.1,
    same_study_weight: float = 0.3,
) -> Tensor:
    """Supervised contrast between cells (Khosla et al. 2020), across studies first.

    Cells of one term attract each other, those of one study with less weight, so that
    what unites a type across studies is learnt before what unites a study. Pairs in an ancestor
    relation are left out; all others repel.

    Parameters
    ----------
    cell_BE
        Unit vectors.
    code_B
        Term of each cell; -1 for none.
    study_B
        Study of each cell, any integers.
    ancestor_TT
        As in `text_loss`.
    temperature
        Divides the cosine.
    same_study_weight
        Weight of a positive pair from one study; pairs across studies have 1.

    Returns
    -------
    Mean loss over the cells that have a positive; 0 if none has.
    """
    known_B = code_B >= 0
    cell_BE, code_B, study_B = cell_BE[known_B], code_B[known_B], study_B[known_B]
    itself_BB = torch.eye(len(code_B), dtype=torch.bool, device=cell_BE.device)
    equal_BB = code_B[:, None] == code_B[None]
    related_BB = ancestor_TT[code_B][:, code_B]
    ignored_BB = ((related_BB | related_BB.T) & ~equal_BB) | itself_BB
    positive_BB = (equal_BB & ~itself_BB).float()
    positive_BB = torch.where(
        study_B[:, None] == study_B[None], same_study_weight * positive_BB, positive_BB
    )
    has_B = positive_BB.sum(1) > 0
    if not bool(has_B.any()):
        return cell_BE.sum() * 0.0
    logit_BB = (cell_BE @ cell_BE.T / temperature).masked_fill(ignored_BB, _NEVER)
    log_prob_BB = logit_BB - torch.logsumexp(logit_BB, dim=1, keepdim=True)
    share_BB = positive_BB[has_B] / positive_BB[has_B].sum(1, keepdim=True)
    return -(share_BB * log_prob_BB[has_B]).sum(1).mean()


def masked_expression_loss(predicted_BL: Tensor, true_BL: Tensor, hidden_BL: Tensor) -> Tensor:
    """Mean squared error of log1p(CP10k) at the hidden tokens; 0 if none is hidden."""
    count = hidden_BL.sum().clamp(min=1)
    return ((predicted_BL - true_BL).square() * hidden_BL).sum() / count
