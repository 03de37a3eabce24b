"""Log-odds of a label."""

from __future__ import annotations

import math

import pytest
import torch

from alignpipe.ops.classification import softmax_log_odds


def test_hand_numbers():
    logits = torch.tensor([[0.0, math.log(3.0), math.log(4.0)]], dtype=torch.float64)
    assert softmax_log_odds(logits, 1).item() == pytest.approx(math.log(3 / 5))
    assert softmax_log_odds(logits[:, :2], 1).item() == pytest.approx(math.log(3))


def test_the_sigmoid_is_the_softmax():
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for label in range(4):
        assert torch.allclose(torch.sigmoid(softmax_log_odds(logits, label)), logits.softmax(-1)[:, label])


def test_certainty_stays_finite():
    assert softmax_log_odds(torch.tensor([[1000.0, -1000.0]]), 0).item() == 2000.0


@pytest.mark.parametrize(("labels", "label"), [(1, 0), (2, 2), (2, -1)])
def test_refuses_what_has_no_odds(labels, label):
    with pytest.raises(ValueError, match=f"label {label} of {labels}"):
        softmax_log_odds(torch.zeros(1, labels), label)
