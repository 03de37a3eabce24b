"""PPO's losses: hand numbers, the clip's gradient, and the invariance of gradients under padding and micro-batches."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignpipe.ops.logprobs import token_logprobs
from alignpipe.ops.losses import approx_kl, clipped_policy_loss, clipped_value_loss, explained_variance
from alignpipe.ops.masking import masked_mean, masked_sum


def policy_loss(ratios, advantages, clip_low=0.2, clip_high=0.2, dual_clip=None):
    logp = torch.log(torch.tensor([ratios], dtype=torch.float64)).requires_grad_()
    advantage = torch.tensor([advantages], dtype=torch.float64)
    loss, clipped = clipped_policy_loss(logp, torch.zeros_like(logp), advantage, clip_low, clip_high, dual_clip)
    loss.sum().backward()
    return loss.detach()[0].tolist(), clipped[0].tolist(), logp.grad[0].tolist()


def test_policy_loss_hand_numbers_in_all_six_cases():
    loss, clipped, gradient = policy_loss([1.5, 0.5, 1.1, 1.5, 0.5, 1.1], [2.0, 2.0, 2.0, -2.0, -2.0, -2.0])
    # good token: may not gain from rising above 1.2; bad token: may not gain from falling below 0.8
    assert loss == pytest.approx([-2.4, -1.0, -2.2, 3.0, 1.6, 2.2], rel=1e-6)
    assert clipped == [True, False, False, False, True, False]
    # d loss / d logp = -A * ratio, and exactly 0 where clipped
    assert gradient == pytest.approx([0.0, -1.0, -2.2, 3.0, 0.0, 2.2], rel=1e-6)
    assert gradient[0] == 0.0
    assert gradient[4] == 0.0


def test_policy_clip_is_asymmetric():
    loss, clipped, _ = policy_loss([1.25, 1.4, 0.85, 0.95], [1.0, 1.0, -1.0, -1.0], clip_low=0.1, clip_high=0.3)
    assert loss == pytest.approx([-1.25, -1.3, 0.9, 0.95], rel=1e-6)
    assert clipped == [False, True, True, False]


def test_dual_clip_hand_numbers():
    # Bad tokens: 2.9 is left alone, 4 counts as 3 and has no gradient. Good ones are not its business.
    loss, clipped, gradient = policy_loss([2.9, 4.0, 4.0, 0.5], [-2.0, -2.0, 2.0, -2.0], dual_clip=3.0)
    assert loss == pytest.approx([5.8, 6.0, -2.4, 1.6], rel=1e-6)
    assert clipped == [False, True, True, True]
    assert gradient == pytest.approx([5.8, 0.0, 0.0, 0.0], rel=1e-6)
    assert policy_loss([4.0], [-2.0])[0] == pytest.approx([8.0])


@given(st.floats(0.05, 9.0), st.floats(-3, 3), st.floats(1.01, 5))
def test_dual_clip_bounds_the_loss_and_never_raises_it(ratio, advantage, dual_clip):
    (plain,), _, _ = policy_loss([ratio], [advantage])
    (bounded,), _, (gradient,) = policy_loss([ratio], [advantage], dual_clip=dual_clip)
    assert bounded == pytest.approx(min(plain, dual_clip * abs(advantage)) if advantage < 0 else plain, rel=1e-9)
    assert abs(gradient) <= max(dual_clip, 1.2) * abs(advantage) + 1e-9


def test_ratio_one_gives_the_policy_gradient():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    tokens = torch.randint(5, (3, 4), generator=generator)
    advantages = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    logp = token_logprobs(logits, tokens)
    loss, clipped = clipped_policy_loss(logp, logp.detach(), advantages, 0.2, 0.2)
    assert torch.equal(loss, -advantages)
    assert not clipped.any()
    (gradient,) = torch.autograd.grad(loss.sum(), logits, retain_graph=True)
    (reinforce,) = torch.autograd.grad(
        -(advantages * torch.log_softmax(logits, -1).gather(-1, tokens[..., None])[..., 0]).sum(), logits
    )
    torch.testing.assert_close(gradient, reinforce, rtol=1e-10, atol=1e-12)


@given(st.floats(0.05, 4.0), st.floats(-3, 3), st.floats(0, 0.9), st.floats(0, 2))
def test_policy_loss_agrees_with_case_by_case(ratio, advantage, clip_low, clip_high):
    (loss,), (clipped,), _ = policy_loss([ratio], [advantage], clip_low, clip_high)
    bounded = ratio
    if advantage > 0 and ratio > 1 + clip_high:
        bounded = 1 + clip_high
    if advantage < 0 and ratio < 1 - clip_low:
        bounded = 1 - clip_low
    assert loss == pytest.approx(-advantage * bounded, rel=1e-9, abs=1e-12)
    if abs(ratio - bounded) > 1e-9 and abs(advantage) > 1e-9:
        assert clipped


def value_loss(values, old_values, returns, clip):
    moving = torch.tensor([values], dtype=torch.float64, requires_grad=True)
    others = (torch.tensor([tensor], dtype=torch.float64) for tensor in (old_values, returns))
    loss, clipped = clipped_value_loss(moving, *others, clip)
    loss.sum().backward()
    return loss.detach()[0].tolist(), clipped[0].tolist(), moving.grad[0].tolist()


def test_value_loss_hand_numbers():
    # old 0, clip 0.2. Towards the target beyond the clip: counts as 0.2. Away from it: the plain square. Inside: plain.
    loss, clipped, gradient = value_loss([0.5, 0.5, 0.1], [0.0, 0.0, 0.0], [1.0, -1.0, 1.0], 0.2)
    assert loss == pytest.approx([0.5 * 0.8**2, 0.5 * 1.5**2, 0.5 * 0.9**2], rel=1e-6)
    assert clipped == [True, False, False]
    assert gradient == pytest.approx([0.0, 1.5, -0.9], rel=1e-6)
    assert gradient[0] == 0.0


def test_value_loss_without_a_clip_has_the_same_scale():
    loss, clipped, gradient = value_loss([0.5, 0.1], [0.0, 0.0], [1.0, 1.0], None)
    assert loss == pytest.approx([0.125, 0.405], rel=1e-6)
    assert clipped == [False, False]
    assert gradient == pytest.approx([-0.5, -0.9], rel=1e-6)
    assert value_loss([0.5, 0.1], [0.0, 0.0], [1.0, 1.0], 9.0)[0] == loss


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(-3, 3), st.floats(0.01, 2))
def test_value_loss_agrees_with_case_by_case(value, old_value, target, clip):
    (loss,), _, _ = value_loss([value], [old_value], [target], clip)
    kept = min(max(value, old_value - clip), old_value + clip)
    assert loss == pytest.approx(max((value - target) ** 2, (kept - target) ** 2) / 2, rel=1e-9, abs=1e-12)


def test_approx_kl_hand_numbers():
    logp, old_logp = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -1.0]])
    torch.testing.assert_close(approx_kl(logp, old_logp), torch.tensor([[0.125, 0.5]]), rtol=1e-6, atol=0)


def test_approx_kl_is_near_the_divergence_after_a_small_step():
    generator = torch.Generator().manual_seed(3)
    old = torch.log_softmax(torch.randn(50, generator=generator, dtype=torch.float64), 0)
    new = torch.log_softmax(old + 0.05 * torch.randn(50, generator=generator, dtype=torch.float64), 0)
    estimate = (old.exp() * approx_kl(new[None], old[None])[0]).sum()
    assert estimate.item() == pytest.approx((old.exp() * (old - new)).sum().item(), rel=0.1)


def test_explained_variance():
    returns = torch.tensor([[1.0, 2.0, 3.0, 99.0]])
    mask = torch.tensor([[True, True, True, False]])
    # perfect; perfect but for a constant; a constant; and errors 0, -1, 0 with variance 2/9 of 2/3
    for values, expected in (([1, 2, 3, 0], 1.0), ([6, 7, 8, 0], 1.0), ([5, 5, 5, 0], 0.0), ([1, 3, 3, 0], 2 / 3)):
        result = explained_variance(torch.tensor([values], dtype=torch.float32), returns, mask)
        assert result.item() == pytest.approx(expected, abs=1e-6)
    assert explained_variance(-returns, returns, mask).item() == pytest.approx(-3.0, rel=1e-6)  # 1 - 4
    assert math.isnan(explained_variance(returns, torch.ones(1, 4), mask).item())


class Minibatch:
    """Random episodes and a linear policy and critic: enough for a gradient that runs through every op."""

    def __init__(self, rows, columns, seed):
        generator = torch.Generator().manual_seed(seed)
        draw = {"generator": generator, "dtype": torch.float64}
        self.features = torch.randn(rows, columns, 3, **draw)
        self.tokens = torch.randint(6, (rows, columns), generator=generator)
        self.mask = torch.rand(rows, columns, generator=generator) < 0.6
        self.mask[:, 0] = True
        self.advantages, self.returns = (torch.randn(rows, columns, **draw) for _ in range(2))
        self.old_logp = -1.8 + 0.4 * torch.randn(rows, columns, **draw)
        self.old_values = 0.3 * torch.randn(rows, columns, **draw)
        self.head, self.value_head = torch.randn(3, 6, **draw), torch.randn(3, **draw)

    def losses(self, rows, pads=0):
        def padded(tensor, fill=7.0):
            shape = (len(rows), pads, *tensor.shape[2:])
            return torch.cat([tensor[rows], torch.full(shape, fill).to(tensor.dtype)], dim=1)

        features, tokens, mask = padded(self.features), padded(self.tokens, 1), padded(self.mask, 0)
        logp = token_logprobs(features @ self.head, tokens, 0.7)
        policy, _ = clipped_policy_loss(logp, padded(self.old_logp), padded(self.advantages), 0.2, 0.2)
        value, _ = clipped_value_loss(features @ self.value_head, padded(self.old_values), padded(self.returns), 0.2)
        return policy + 0.1 * value, mask

    def gradients(self, micro_batches, pads=0):
        for parameter in (self.head, self.value_head):
            parameter.requires_grad_().grad = None
        count = self.mask.sum()
        for rows in micro_batches:
            loss, mask = self.losses(rows, pads)
            (masked_sum(loss, mask) / count).backward()
        return self.head.grad, self.value_head.grad


@given(st.integers(2, 6), st.integers(1, 5), st.integers(0, 999), st.integers(0, 3))
@settings(deadline=None, max_examples=30)
def test_gradients_do_not_depend_on_padding_order_or_micro_batches(rows, columns, seed, pads):
    batch = Minibatch(rows, columns, seed)
    for parameter in (batch.head, batch.value_head):
        parameter.requires_grad_()
    masked_mean(*batch.losses(list(range(rows)))).backward()
    whole = batch.head.grad, batch.value_head.grad
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed)).tolist()
    for split in ([order], [[row] for row in order], [order[:1], order[1:]]):
        for gradient, expected in zip(batch.gradients(split, pads), whole, strict=True):
            torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)


def test_refusals():
    two, one = torch.zeros(2, 2), torch.zeros(2, 1)
    with pytest.raises(ValueError, match=r"logp \(2, 2\), old_logp \(2, 1\)"):
        clipped_policy_loss(two, one, two, 0.2, 0.2)
    with pytest.raises(ValueError, match=r"clip_low must be in \[0, 1\]"):
        clipped_policy_loss(two, two, two, 1.2, 0.2)
    with pytest.raises(ValueError, match="dual_clip must be greater than 1, or None"):
        clipped_policy_loss(two, two, two, 0.2, 0.2, 1.0)
    with pytest.raises(ValueError, match="clip_high at least 0"):
        clipped_policy_loss(two, two, two, 0.2, -0.1)
    with pytest.raises(ValueError, match="shapes must be equal"):
        clipped_value_loss(two, two, one, 0.2)
    with pytest.raises(ValueError, match="clip must be greater than 0, or None"):
        clipped_value_loss(two, two, two, 0.0)
    with pytest.raises(ValueError, match="shapes must be equal"):
        approx_kl(two, one)
    with pytest.raises(ValueError, match="shapes must be equal"):
        explained_variance(two, one, torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="keeps 0 of 4"):
        explained_variance(two, two, torch.zeros(2, 2, dtype=torch.bool))
