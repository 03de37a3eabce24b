"""One optimiser step: clipped, counted, and refused where the gradient is not finite."""

from __future__ import annotations

import pytest
import torch

from alignpipe.errors import TrainingError
from alignpipe.training.lanes import ONE_LANE, Copies
from alignpipe.training.learner import Learner


def learner(rate: float = 0.1, norm: float = 1.0) -> tuple[torch.nn.Linear, Learner]:
    layer = torch.nn.Linear(2, 1, bias=False)
    made = Learner(layer, Copies(layer, ONE_LANE), torch.optim.SGD(layer.parameters(), lr=0.0), 2 * rate, norm)
    made.set_rate(0.5)
    return layer, made


def test_a_step_clips_and_tells_the_norm_before() -> None:
    layer, made = learner()
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.tensor([[3.0, 4.0]])
    assert made.step("update 7") == pytest.approx(5.0)
    torch.testing.assert_close(layer.weight.detach(), before - 0.1 * torch.tensor([[0.6, 0.8]]))
    assert layer.weight.grad is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_never_reaches_the_weights(bad: float) -> None:
    layer, made = learner()
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.tensor([[1.0, bad]])
    told = r"gradient of the Linear is not finite at update 7: lower the learning rate \(0\.2\)"
    with pytest.raises(TrainingError, match=told):
        made.step("update 7")
    assert torch.equal(layer.weight, before)


def test_a_weight_that_is_not_finite_is_told_as_such() -> None:
    layer, made = learner()
    with torch.no_grad():
        layer.weight[0, 1] = float("nan")
    layer.weight.grad = torch.tensor([[1.0, float("nan")]])
    told = r"not finite at update 7: its weight weight is not either: the checkpoint that it began with is damaged"
    with pytest.raises(TrainingError, match=told):
        made.step("update 7")
