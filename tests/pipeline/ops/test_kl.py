"""The KL estimators against hand numbers, the exact divergence, and each other."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignpipe.ops.kl import kl_k1, kl_k2, kl_k3, kl_k3_clamped, sequence_kl
from alignpipe.ops.logprobs import token_logprobs

LOGP = torch.tensor([[-1.0, -2.0]])
REF_LOGP = torch.tensor([[-1.5, -1.0]])


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (kl_k1, [0.5, -1.0]),
        (kl_k2, [0.125, 0.5]),
        (kl_k3, [math.exp(-0.5) - 1 + 0.5, math.exp(1.0) - 1 - 1.0]),
        (kl_k3_clamped, [math.exp(-0.5) - 1 + 0.5, math.exp(1.0) - 1 - 1.0]),
    ],
)
def test_hand_numbers(estimator, expected):
    torch.testing.assert_close(estimator(LOGP, REF_LOGP), torch.tensor([expected]), rtol=1e-6, atol=0)


def test_means_over_samples_agree_with_the_exact_divergence():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, generator=generator, dtype=torch.float64)
    ref_logits = logits + 0.15 * torch.randn(12, generator=generator, dtype=torch.float64)
    p, q = torch.log_softmax(logits, 0), torch.log_softmax(ref_logits, 0)
    exact = (p.exp() * (p - q)).sum()
    tokens = torch.multinomial(p.exp(), 400_000, replacement=True, generator=generator)
    logp = token_logprobs(logits.expand(400_000, 12), tokens)
    ref_logp = token_logprobs(ref_logits.expand(400_000, 12), tokens)
    assert kl_k1(logp, ref_logp).mean().item() == pytest.approx(exact.item(), rel=0.05)
    assert kl_k3(logp, ref_logp).mean().item() == pytest.approx(exact.item(), rel=0.02)
    assert kl_k2(logp, ref_logp).mean().item() == pytest.approx(
        exact.item(), rel=0.10
    )  # biased, but near for a small d
    assert kl_k3(logp, ref_logp).var() < kl_k1(logp, ref_logp).var()


def test_only_k2_has_the_gradient_of_the_divergence():
    logits = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64, requires_grad=True)
    q = torch.log_softmax(torch.tensor([0.0, 0.5, -0.5], dtype=torch.float64), 0)
    p = torch.log_softmax(logits, 0)
    (exact,) = torch.autograd.grad((p.exp() * (p - q)).sum(), logits, retain_graph=True)
    weights = p.detach().exp()  # the expectation over samples: probabilities that carry no gradient
    gradients = [
        torch.autograd.grad((weights * estimator(p, q)).sum(), logits, retain_graph=True)[0]
        for estimator in (kl_k1, kl_k2, kl_k3)
    ]
    torch.testing.assert_close(gradients[1], exact, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(gradients[0], exact, atol=1e-2)
    assert not torch.allclose(gradients[2], exact, atol=1e-2)


def test_as_a_reward_only_k1_has_the_gradient_of_the_divergence():
    """A reward k gives sum_v p_v k_v grad log p_v. Near the reference k2 and k3 give next to nothing."""
    ref_logits = torch.tensor([0.0, 0.5, -0.5], dtype=torch.float64)
    away = torch.tensor([0.3, -0.7, 1.4], dtype=torch.float64)
    sizes = []
    for distance in (1.0, 0.01):
        logits = (ref_logits + distance * away).requires_grad_()
        p, q = torch.log_softmax(logits, 0), torch.log_softmax(ref_logits, 0)
        (exact,) = torch.autograd.grad((p.exp() * (p - q)).sum(), logits, retain_graph=True)
        gradients = [
            torch.autograd.grad((p.exp() * estimator(p, q)).detach() @ p, logits, retain_graph=True)[0]
            for estimator in (kl_k1, kl_k2, kl_k3)
        ]
        torch.testing.assert_close(gradients[0], exact, rtol=1e-9, atol=1e-12)
        sizes.append([float(gradient.norm() / exact.norm()) for gradient in gradients[1:]])
        assert not any(torch.allclose(gradient, exact, rtol=0.1) for gradient in gradients[1:])
    assert max(sizes[1]) < 0.02 < 0.2 < min(sizes[0])


@given(st.floats(-30, 0), st.floats(-30, 0))
def test_k2_and_k3_are_never_negative(logp, ref_logp):
    policy, reference = torch.tensor([[logp]], dtype=torch.float64), torch.tensor([[ref_logp]], dtype=torch.float64)
    assert kl_k2(policy, reference).item() >= 0
    assert kl_k3(policy, reference).item() >= 0
    assert 0 <= kl_k3_clamped(policy, reference).item() <= 10


def test_clamp_keeps_k3_finite_where_it_overflows():
    policy, reference = torch.tensor([[-200.0, -20.0, -1.0]]), torch.tensor([[-1.0, -1.0, -40.0]])
    assert torch.isinf(kl_k3(policy, reference)[0, 0])
    # d = -199 and -19 reach the bound of 10; d = 39 is cut to 20, k3 = exp(-20) + 19, and then to 10
    assert kl_k3_clamped(policy, reference).tolist() == [[10.0, 10.0, 10.0]]


def test_clamp_keeps_the_gradient_finite():
    policy = torch.tensor([[-200.0, -1.5]], requires_grad=True)
    kl_k3_clamped(policy, torch.tensor([[-1.0, -1.0]])).sum().backward()
    assert policy.grad[0].tolist() == pytest.approx([0.0, 1.0 - math.exp(0.5)], rel=1e-6)


def test_equal_policies_give_exactly_zero():
    for estimator in (kl_k1, kl_k2, kl_k3, kl_k3_clamped):
        assert estimator(LOGP, LOGP.clone()).tolist() == [[0.0, 0.0]]


def test_sequence_kl_sums_the_kept_tokens():
    kl = torch.tensor([[0.5, -0.25, 1.0], [2.0, torch.nan, 8.0], [1.0, 1.0, 1.0]])
    mask = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    torch.testing.assert_close(sequence_kl(kl, mask), torch.tensor([1.25, 2.0, 0.0]), rtol=1e-6, atol=0)


@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 999), st.integers(0, 3))
def test_sequence_kl_minds_neither_padding_nor_order(rows, columns, seed, pads):
    generator = torch.Generator().manual_seed(seed)
    kl = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    mask = torch.rand(rows, columns, generator=generator) < 0.6
    expected = [sum(kl[row][mask[row]].tolist()) for row in range(rows)]
    order = torch.randperm(rows, generator=generator)
    padded = torch.nn.functional.pad(kl, (0, pads), value=torch.nan), torch.nn.functional.pad(mask, (0, pads))
    found = sequence_kl(padded[0][order], padded[1][order])
    assert found.tolist() == pytest.approx([expected[row] for row in order], abs=1e-9)


def test_refuses_shapes_that_do_not_fit():
    for estimator in (kl_k1, kl_k2, kl_k3, kl_k3_clamped):
        with pytest.raises(ValueError, match=r"logp \(2, 1\), ref_logp \(1, 2\)"):
            estimator(torch.zeros(2, 1), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="boolean"):
        sequence_kl(torch.zeros(1, 2), torch.ones(1, 2))
    with pytest.raises(ValueError, match="shapes must be equal"):
        sequence_kl(torch.zeros(1, 2), torch.ones(1, 1, dtype=torch.bool))
