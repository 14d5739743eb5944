"""The losses against loops that follow their definitions word by word, and by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scgp.model.losses import cell_loss, masked_expression_loss, text_loss

# 0 > 1 > 2, 0 > 3; 4 alone
ABOVE = np.eye(5, dtype=bool)
for above, below in ((0, 1), (0, 2), (1, 2), (0, 3)):
    ABOVE[above, below] = True
ABOVE_TT = torch.from_numpy(ABOVE)


def slow_text_loss(logit, code):
    losses = []
    for row, c in zip(logit, code, strict=True):
        if c < 0:
            continue
        right = sum(math.exp(row[t]) for t in range(5) if ABOVE[c, t])
        wrong = sum(math.exp(row[t]) for t in range(5) if not ABOVE[c, t] and not ABOVE[t, c])
        losses.append(-math.log(right / (right + wrong)))
    return sum(losses) / len(losses) if losses else 0.0


def slow_cell_loss(cell, code, study, temperature, same):
    losses = []
    for i in range(len(code)):
        if code[i] < 0:
            continue
        others = [
            j for j in range(len(code))
            if j != i and code[j] >= 0
            and (code[i] == code[j] or not (ABOVE[code[i], code[j]] or ABOVE[code[j], code[i]]))
        ]  # fmt: skip
        score = {j: math.exp(float(cell[i] @ cell[j]) / temperature) for j in others}
        weight = {j: same if study[i] == study[j] else 1.0 for j in others if code[i] == code[j]}
        if sum(weight.values()) > 0:
            total = sum(score.values())
            each = [w * math.log(score[j] / total) for j, w in weight.items()]
            losses.append(-sum(each) / sum(weight.values()))
    return sum(losses) / len(losses) if losses else 0.0


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.integers(1, 9))
def test_text_loss_is_its_definition(seed, n_cells):
    rng = np.random.default_rng(seed)
    logit, code = rng.normal(0, 3, (n_cells, 5)), rng.integers(-1, 5, n_cells)
    found = text_loss(torch.from_numpy(logit), torch.from_numpy(code), ABOVE_TT)
    assert found.item() == pytest.approx(slow_text_loss(logit, code), abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.integers(1, 9), st.sampled_from([0.0, 0.3, 1.0]))
def test_cell_loss_is_its_definition(seed, n_cells, same):
    rng = np.random.default_rng(seed)
    cell = rng.normal(size=(n_cells, 4))
    cell /= np.linalg.norm(cell, axis=1, keepdims=True)
    code, study = rng.integers(-1, 5, n_cells), rng.integers(0, 3, n_cells)
    found = cell_loss(
        torch.from_numpy(cell), torch.from_numpy(code), torch.from_numpy(study), ABOVE_TT,
        temperature=0.2, same_study_weight=same,
    )  # fmt: skip
    assert found.item() == pytest.approx(slow_cell_loss(cell, code, study, 0.2, same), abs=1e-5)


def test_text_loss_by_hand():
    logit = torch.log(torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]]))

    def loss(code):
        return text_loss(logit, torch.tensor([code]), ABOVE_TT).item()

    assert loss(1) == pytest.approx(-math.log((2 + 3) / (2 + 3 + 4 + 5)))  # 0 is above: left out
    assert loss(0) == pytest.approx(-math.log(10 / 15))  # all below it are right
    assert loss(4) == pytest.approx(-math.log(5 / 15))
    assert loss(2) == pytest.approx(-math.log(3 / 12))  # 0 and 1 are left out


def test_terms_above_get_no_gradient_below_are_pulled_others_pushed():
    logit = torch.zeros(1, 5, requires_grad=True)
    text_loss(logit, torch.tensor([1]), ABOVE_TT).backward()
    slope = logit.grad[0]
    assert slope[0] == 0
    assert (slope[[1, 2]] < 0).all()
    assert (slope[[3, 4]] > 0).all()


def test_cell_loss_by_hand():
    # Cells of one term in two studies, at right angles, and a stranger on the first.
    cell = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    code, study = torch.tensor([3, 3, 4]), torch.tensor([0, 1, 0])
    found = cell_loss(cell, code, study, ABOVE_TT, temperature=1.0).item()
    of_first = -math.log(1 / (1 + math.e))
    of_second = -math.log(1 / 2)
    assert found == pytest.approx((of_first + of_second) / 2)


def test_by_default_pairs_within_a_study_weigh_a_third():
    cell = torch.nn.functional.normalize(torch.tensor([[1.0, 0.2], [0.6, 1.0], [1.0, -1.0]]), dim=1)
    code, study = np.array([3, 3, 3]), np.array([0, 1, 0])
    found = cell_loss(cell, torch.from_numpy(code), torch.from_numpy(study), ABOVE_TT).item()
    assert found == pytest.approx(slow_cell_loss(cell.numpy(), code, study, 0.1, 0.3), rel=1e-5)


def test_ancestors_neither_attract_nor_repel_a_cell():
    cell = torch.nn.functional.normalize(torch.randn(3, 4), dim=1)
    code, study = torch.tensor([2, 2, 1]), torch.tensor([0, 1, 2])
    with_ancestor = cell_loss(cell, code, study, ABOVE_TT)
    assert with_ancestor.item() == pytest.approx(0, abs=1e-6)  # one positive, nothing else


def test_unlabelled_cells_change_nothing():
    torch.manual_seed(0)
    logit, cell = torch.randn(6, 5), torch.nn.functional.normalize(torch.randn(6, 4), dim=1)
    code, study = torch.tensor([2, -1, 3, 2, -1, 3]), torch.tensor([0, 0, 1, 1, 2, 0])
    kept = code >= 0
    assert torch.equal(
        text_loss(logit, code, ABOVE_TT), text_loss(logit[kept], code[kept], ABOVE_TT)
    )
    assert torch.equal(
        cell_loss(cell, code, study, ABOVE_TT),
        cell_loss(cell[kept], code[kept], study[kept], ABOVE_TT),
    )


@pytest.mark.parametrize("code", [[-1, -1, -1], [0, 3, 4]])
def test_nothing_to_learn_is_0_with_gradients_of_0(code):
    code, study = torch.tensor(code), torch.tensor([0, 1, 2])
    cell = torch.nn.functional.normalize(torch.randn(3, 4), dim=1).requires_grad_()
    loss = cell_loss(cell, code, study, ABOVE_TT)
    loss.backward()
    assert loss.item() == 0
    assert not cell.grad.any()
    logit = torch.randn(3, 5, requires_grad=True)
    loss = text_loss(logit, torch.full((3,), -1), ABOVE_TT)
    loss.backward()
    assert loss.item() == 0
    assert not logit.grad.any()


def test_gradients_are_finite_at_the_extremes():
    cell = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    code, study = torch.tensor([3, 3, 3, 4]), torch.tensor([0, 0, 1, 1])
    cell_loss(cell, code, study, ABOVE_TT, temperature=0.01).backward()
    assert torch.isfinite(cell.grad).all()
    logit = torch.tensor([[900.0, -900.0, -900.0, 900.0, 0.0]], requires_grad=True)
    loss = text_loss(logit, torch.tensor([2]), ABOVE_TT)
    loss.backward()
    assert loss.item() == pytest.approx(1800)
    assert torch.isfinite(logit.grad).all()


def test_masked_expression_counts_hidden_tokens_only():
    predicted = torch.tensor([[1.0, 5.0], [2.0, 0.0]], requires_grad=True)
    true, hidden = (
        torch.tensor([[3.0, 0.0], [2.0, 9.0]]),
        torch.tensor([[True, False], [True, False]]),
    )
    loss = masked_expression_loss(predicted, true, hidden)
    assert loss.item() == 2  # (2**2 + 0**2) / 2
    loss.backward()
    assert predicted.grad.tolist() == [[-2.0, 0.0], [0.0, 0.0]]
    nothing = masked_expression_loss(predicted, true, torch.zeros(2, 2, dtype=torch.bool))
    assert nothing.item() == 0


def test_a_term_below_counts_with_its_weight():
    # terms: 0 above 1; a cell of term 0 with equal logits over both and one negative
    ancestor_TT = torch.tensor([[True, True, False], [False, True, False], [False, False, True]])
    logit_BT, code_B = torch.zeros(1, 3), torch.tensor([0])
    found = text_loss(logit_BT, code_B, ancestor_TT, weight_below=0.2)
    assert found.item() == pytest.approx(-math.log(1.2 / 3), rel=1e-6)
