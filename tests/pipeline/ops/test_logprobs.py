"""Log-probabilities and entropy against hand numbers and torch's full log-softmax."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignpipe.ops.logprobs import entropy, tempered, token_logprobs


def test_hand_numbers():
    logits = torch.log(torch.tensor([[0.1, 0.2, 0.7], [0.25, 0.25, 0.5]])) + 3.0
    tokens = torch.tensor([2, 0])
    expected = torch.tensor([math.log(0.7), math.log(0.25)])
    torch.testing.assert_close(token_logprobs(logits, tokens), expected, rtol=1e-6, atol=0)
    nats = [-sum(p * math.log(p) for p in row) for row in ((0.1, 0.2, 0.7), (0.25, 0.25, 0.5))]
    torch.testing.assert_close(entropy(logits), torch.tensor(nats), rtol=1e-6, atol=0)


def test_temperature_hand_numbers():
    # logits 0 and log 4 at temperature 0.5: 0 and 2 log 4 = log 16, so 1/17 and 16/17
    logits = torch.tensor([[0.0, math.log(4.0)]])
    assert token_logprobs(logits, torch.tensor([1]), 0.5).item() == pytest.approx(math.log(16 / 17), rel=1e-6)
    nats = -(math.log(1 / 17) / 17 + 16 * math.log(16 / 17) / 17)
    assert entropy(logits, 0.5).item() == pytest.approx(nats, rel=1e-6)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 9), st.floats(0.05, 4.0), st.integers(0, 999))
@settings(deadline=None, max_examples=50)
def test_agrees_with_the_full_log_softmax(batch, length, vocabulary, temperature, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(batch, length, vocabulary, generator=generator, dtype=torch.float64)
    tokens = torch.randint(vocabulary, (batch, length), generator=generator)
    full = torch.log_softmax(logits / temperature, dim=-1)
    chosen = (full * torch.nn.functional.one_hot(tokens, vocabulary)).sum(-1)
    torch.testing.assert_close(token_logprobs(logits, tokens, temperature), chosen, rtol=1e-10, atol=1e-10)
    nats = -(full.exp() * full).sum(-1)
    torch.testing.assert_close(entropy(logits, temperature), nats, rtol=1e-9, atol=1e-9)


def test_gradient_is_onehot_minus_probability():
    logits = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    tokens = torch.tensor([0, 5, 2])
    token_logprobs(logits, tokens, 0.7).sum().backward()
    expected = (torch.nn.functional.one_hot(tokens, 6) - torch.softmax(logits.detach() / 0.7, -1)) / 0.7
    torch.testing.assert_close(logits.grad, expected, rtol=1e-10, atol=1e-12)


def test_half_precision_is_computed_in_float32():
    logits = torch.randn(4, 600, generator=torch.Generator().manual_seed(2)).bfloat16()
    tokens = torch.tensor([0, 1, 2, 3])
    result = token_logprobs(logits, tokens, 0.7)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, token_logprobs(logits.float(), tokens, 0.7), rtol=0, atol=0)


def test_forbidden_and_underflowing_tokens_have_no_entropy():
    assert entropy(torch.tensor([[0.0, 0.0, -torch.inf]])).item() == pytest.approx(math.log(2.0), rel=1e-6)
    logits = torch.tensor([[0.0, 0.0, -500.0]], requires_grad=True)
    entropy(logits).sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_large_logits_do_not_overflow():
    logits = torch.tensor([[1e4, 1e4 - 1.0]])
    # float32 holds 10000 to 1e-3, and so does the difference
    assert token_logprobs(logits, torch.tensor([0])).item() == pytest.approx(-math.log1p(math.exp(-1.0)), abs=1e-3)


def test_temperature_one_makes_no_copy():
    logits = torch.zeros(2, 3)
    assert tempered(logits, 1.0) is logits


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_refuses_temperatures_that_are_not_positive(temperature):
    with pytest.raises(ValueError, match="temperature must be greater than 0"):
        token_logprobs(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), temperature)
    with pytest.raises(ValueError, match="temperature must be greater than 0"):
        entropy(torch.zeros(2, 3), temperature)


def test_refuses_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="without V"):
        token_logprobs(torch.zeros(2, 4, 3), torch.zeros(2, 3, dtype=torch.long))
