"""Preference pairs."""

from __future__ import annotations

import math

import pytest
import torch

from alignpipe.ops.pairs import bradley_terry_loss, wins


def test_bradley_terry_hand_numbers():
    chosen, rejected = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([0.0, 3.0, 2.0])
    expected = [-math.log(1 / (1 + math.exp(-margin))) for margin in (1.0, -3.0, 0.0)]
    torch.testing.assert_close(bradley_terry_loss(chosen, rejected), torch.tensor(expected), rtol=1e-6, atol=0)


def test_bradley_terry_is_the_negative_log_likelihood_of_a_softmax():
    chosen, rejected = torch.randn(2, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = -torch.log_softmax(torch.stack([chosen, rejected], dim=1), dim=1)[:, 0]
    torch.testing.assert_close(bradley_terry_loss(chosen, rejected), expected, rtol=1e-10, atol=1e-12)


def test_bradley_terry_does_not_overflow():
    loss = bradley_terry_loss(torch.tensor([-500.0, 500.0]), torch.tensor([500.0, -500.0]))
    assert loss.tolist() == [1000.0, 0.0]


def test_outcomes_and_shares():
    first, second = torch.tensor([1.0, 2.0, 3.0, 0.0]), torch.tensor([0.0, 2.0, 4.0, -1.0])
    assert wins(first, second).tolist() == [1.0, 0.5, 0.0, 1.0]
    assert wins(second, first).tolist() == [0.0, 0.5, 1.0, 0.0]
    assert wins(torch.zeros(2), torch.zeros(2)).tolist() == [0.5, 0.5]


def test_refusals():
    for function in (bradley_terry_loss, wins):
        with pytest.raises(ValueError, match="shapes must be equal"):
            function(torch.zeros(2), torch.zeros(1))
        with pytest.raises(ValueError, match="1 dimension"):
            function(torch.zeros(2, 2), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="both sides are empty"):
        wins(torch.zeros(0), torch.zeros(0))
    with pytest.raises(ValueError, match="NaN cannot be compared"):
        wins(torch.tensor([1.0, torch.nan]), torch.zeros(2))
