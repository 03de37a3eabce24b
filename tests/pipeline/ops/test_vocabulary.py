"""Log-probabilities straight from hidden states: what the head and `token_logprobs` say, gradients too."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from alignpipe.ops import vocabulary
from alignpipe.ops.logprobs import entropy, token_logprobs
from alignpipe.ops.vocabulary import is_large, linear_logprobs


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch):
    """Blocks of so many tokens of the vocabulary."""

    def set_width(width: int) -> None:
        monkeypatch.setattr(vocabulary, "_BLOCK", 0)
        monkeypatch.setattr(vocabulary, "_NARROWEST", width)

    return set_width


def example(rows: int, size: int, words: int, seed: int, dtype: torch.dtype = torch.float64, scale: float = 1.0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, size, generator=generator, dtype=torch.float64) * scale
    weight = torch.randn(words, size, generator=generator, dtype=torch.float64)
    bias = torch.randn(words, generator=generator, dtype=torch.float64)
    tokens = torch.randint(words, (rows,), generator=generator)
    leaves = [tensor.to(dtype).requires_grad_() for tensor in (hidden, weight, bias)]
    return leaves, tokens


@given(
    rows=st.integers(1, 5),
    words=st.integers(1, 9),
    width=st.integers(1, 10),
    temperature=st.floats(0.3, 3.0),
    seed=st.integers(0, 999),
    scale=st.sampled_from([0.1, 1.0, 300.0]),
)
@settings(deadline=None, max_examples=60)
def test_agrees_with_the_whole_logits(rows, words, width, temperature, seed, scale):
    (hidden, weight, bias), tokens = example(rows, 4, words, seed, scale=scale)
    slope = torch.randn(rows, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary, "_BLOCK", 0)
        patch.setattr(vocabulary, "_NARROWEST", width)
        found, nats = linear_logprobs(hidden, weight, bias, tokens, temperature, with_entropy=True)
        gradients = torch.autograd.grad((found * slope).sum(), (hidden, weight, bias))
    logits = F.linear(hidden, weight, bias)
    expected = token_logprobs(logits, tokens, temperature)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(nats, entropy(logits, temperature).detach(), rtol=1e-6, atol=1e-6)
    for ours, theirs in zip(
        gradients, torch.autograd.grad((expected * slope).sum(), (hidden, weight, bias)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_gradients_against_differences(narrow):
    narrow(3)
    (hidden, weight, bias), tokens = example(4, 3, 8, 0)
    assert torch.autograd.gradcheck(
        lambda *leaves: linear_logprobs(*leaves, tokens, 0.7)[0], (hidden, weight, bias), atol=1e-7
    )


def test_float32_gradients_agree_to_a_millionth(narrow):
    narrow(100)
    (hidden, weight, _), tokens = example(40, 32, 1000, 1, torch.float32)
    found, _ = linear_logprobs(hidden, weight, None, tokens)
    ours = torch.autograd.grad(found.mean(), (hidden, weight))
    theirs = torch.autograd.grad(token_logprobs(F.linear(hidden, weight), tokens).mean(), (hidden, weight))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_with_and_without_gradients_it_is_the_same_to_the_bit(narrow):
    narrow(7)
    (hidden, weight, _), tokens = example(5, 4, 30, 2, torch.float32)
    with torch.no_grad():
        alone, nothing = linear_logprobs(hidden, weight, None, tokens)
    assert nothing is None
    assert torch.equal(alone, linear_logprobs(hidden, weight, None, tokens, with_entropy=True)[0])


def test_half_precision_multiplies_as_it_is_and_adds_up_in_float32(narrow):
    narrow(16)
    (hidden, weight, _), tokens = example(6, 8, 64, 3, torch.bfloat16)
    found, nats = linear_logprobs(hidden, weight, None, tokens, with_entropy=True)
    logits = F.linear(hidden, weight)
    assert (found.dtype, nats.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(found, token_logprobs(logits, tokens), rtol=1e-5, atol=1e-5)
    found.sum().backward()
    assert (hidden.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.bfloat16)
    whole = torch.autograd.grad(token_logprobs(F.linear(hidden, weight), tokens).sum(), (hidden, weight))
    for ours, theirs in zip((hidden.grad, weight.grad), whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05)


def test_gradients_of_likely_and_frequent_tokens_in_half_precision(narrow):
    """p = 0.999 is 1 in bfloat16, and a thousandth added to a sum in it is lost: differences come before rounding."""
    narrow(16)
    generator = torch.Generator().manual_seed(7)
    weight = torch.randn(64, 16, generator=generator)
    hidden = weight[5] * 1.1 + 0.05 * torch.randn(1000, 16, generator=generator)
    tokens = torch.full((1000,), 5)
    exact = [tensor.bfloat16().double().requires_grad_() for tensor in (hidden, weight)]
    logp = token_logprobs(F.linear(*exact), tokens)
    assert 0.99 < float(logp.detach().mean().exp()) < 1
    expected = torch.autograd.grad(logp.sum(), exact)
    halves = [tensor.bfloat16().requires_grad_() for tensor in (hidden, weight)]
    found = torch.autograd.grad(linear_logprobs(*halves, None, tokens)[0].sum(), halves)
    whole = torch.autograd.grad(token_logprobs(F.linear(*halves), tokens).sum(), halves)
    for ours, theirs, right in zip(found, whole, expected, strict=True):
        off, usual = (float((grad.double() - right).norm() / right.norm()) for grad in (ours, theirs))
        assert off < 1.2 * usual + 1e-3


def test_what_is_frozen_gets_no_gradient(narrow):
    narrow(5)
    (hidden, weight, bias), tokens = example(3, 4, 12, 4)
    found, _ = linear_logprobs(hidden, weight.detach(), bias.detach(), tokens)
    (gradient,) = torch.autograd.grad(found.sum(), (hidden,))
    expected = torch.autograd.grad(token_logprobs(F.linear(hidden, weight, bias), tokens).sum(), (hidden,))[0]
    torch.testing.assert_close(gradient, expected)


def test_an_entropy_has_no_gradient():
    (hidden, weight, _), tokens = example(3, 4, 12, 5)
    _, nats = linear_logprobs(hidden, weight, None, tokens, with_entropy=True)
    assert not nats.requires_grad


def test_a_gradient_of_its_gradient_is_refused_and_not_left_out():
    (hidden, weight, _), tokens = example(3, 4, 12, 5)
    logp, _ = linear_logprobs(hidden, weight, None, tokens)
    with pytest.raises(RuntimeError, match="create_graph=True"):
        torch.autograd.grad(logp.sum(), hidden, create_graph=True)


def test_no_block_of_logits_is_wider_than_said(monkeypatch):
    seen: list[int] = []
    (hidden, weight, _), tokens = example(300, 4, 9000, 6, torch.float32)
    monkeypatch.setattr(vocabulary, "F", _Watched(seen))
    found, _ = linear_logprobs(hidden, weight, None, tokens)
    found.sum().backward()
    assert max(seen) <= 1 << 19
    assert sum(seen) == 2 * 300 * 9000


class _Watched:
    def __init__(self, seen: list[int]) -> None:
        self._seen = seen

    def linear(self, hidden, weight, bias):
        self._seen.append(len(hidden) * len(weight))
        return F.linear(hidden, weight, bias)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_is_large(device):
    bound = 1 << 23 if device == "cpu" else 1 << 28
    assert not is_large(bound // 1024, 1024, torch.device(device))
    assert is_large(bound // 1024 + 1, 1024, torch.device(device))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 3), (5, 4), (2,)), r"\(2, 3\), weight \(5, 4\)"),
        (((2, 3), (5, 3), (3,)), r"tokens \(3,\)"),
        (((2, 2, 3), (5, 3), (2,)), r"\(2, 2, 3\)"),
    ],
)
def test_shapes_that_do_not_fit(shapes, message):
    hidden, weight, tokens = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        linear_logprobs(hidden, weight, None, tokens.long())


def test_a_temperature_that_cannot_be():
    with pytest.raises(ValueError, match="temperature"):
        linear_logprobs(torch.zeros(1, 2), torch.zeros(3, 2), None, torch.zeros(1, dtype=torch.long), 0.0)
