"""Advantage estimators against hand numbers, double sums written only here, and identities."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from alignpipe.ops.advantages import (
    gae,
    grpo,
    grpo_batch_scaled,
    grpo_unscaled,
    over_tokens,
    reinforce_pp,
    rloo,
)

UNIT = st.floats(0, 1)
SIZES = (st.integers(1, 4), st.integers(1, 8), st.integers(0, 999))


def rollout(rows, columns, seed, keep=0.7):
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    values = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return rewards, values, torch.rand(rows, columns, generator=generator) < keep


def gae_double_sum(rewards, values, mask, gamma, lam):
    """A_k = sum over l of (gamma lam)^l delta_{k+l}, over each row's kept steps cut out of the sequence."""
    advantages, returns = torch.zeros_like(rewards), torch.zeros_like(rewards)
    for row in range(len(rewards)):
        steps = [t for t in range(rewards.shape[1]) if mask[row, t]]
        r, v = [rewards[row, t].item() for t in steps], [values[row, t].item() for t in steps] + [0.0]
        for k, t in enumerate(steps):
            advantages[row, t] = sum(
                (gamma * lam) ** (j - k) * (r[j] + gamma * v[j + 1] - v[j]) for j in range(k, len(steps))
            )
            returns[row, t] = advantages[row, t] + v[k]
    return advantages, returns


def test_gae_hand_numbers():
    rewards = torch.tensor([[1.0, 0.0, 2.0]])
    values = torch.tensor([[0.5, 1.0, 0.25]])
    # gamma 0.9, lambda 0.5: deltas 1.4, -0.775, 1.75; A_3 = 1.75; A_2 = -0.775 + 0.45 * 1.75; A_1 = 1.4 + 0.45 * A_2
    advantages, returns = gae(rewards, values, torch.ones(1, 3, dtype=torch.bool), 0.9, 0.5)
    torch.testing.assert_close(advantages, torch.tensor([[1.405625, 0.0125, 1.75]]), rtol=1e-6, atol=0)
    torch.testing.assert_close(returns, torch.tensor([[1.905625, 1.0125, 2.0]]), rtol=1e-6, atol=0)


def test_gae_skips_masked_steps_with_hand_numbers():
    # The middle step belongs to somebody else: the first step's next value is the third's, discounted once.
    rewards, values = torch.tensor([[1.0, 50.0, 2.0]]), torch.tensor([[0.5, -70.0, 0.25]])
    advantages, returns = gae(rewards, values, torch.tensor([[True, False, True]]), 0.9, 0.5)
    first = 1.0 + 0.9 * 0.25 - 0.5 + 0.45 * 1.75
    torch.testing.assert_close(advantages, torch.tensor([[first, 0.0, 1.75]]), rtol=1e-6, atol=0)
    torch.testing.assert_close(returns, torch.tensor([[first + 0.5, 0.0, 2.0]]), rtol=1e-6, atol=0)


@given(*SIZES, UNIT, UNIT)
@settings(deadline=None, max_examples=80)
def test_gae_agrees_with_the_double_sum(rows, columns, seed, gamma, lam):
    rewards, values, mask = rollout(rows, columns, seed)
    expected_advantages, expected_returns = gae_double_sum(rewards, values, mask, gamma, lam)
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    torch.testing.assert_close(advantages, expected_advantages, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(returns, expected_returns, rtol=1e-9, atol=1e-9)


@given(*SIZES)
@settings(deadline=None, max_examples=30)
def test_gamma_and_lambda_one_give_reward_to_go_minus_value(rows, columns, seed):
    rewards, values, mask = rollout(rows, columns, seed)
    to_go = (rewards * mask).flip(1).cumsum(1).flip(1)
    advantages, returns = gae(rewards, values, mask, 1.0, 1.0)
    torch.testing.assert_close(advantages, (to_go - values) * mask, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(returns, to_go * mask, rtol=1e-9, atol=1e-9)


@given(*SIZES, UNIT)
@settings(deadline=None, max_examples=30)
def test_lambda_zero_gives_the_one_step_error(rows, columns, seed, gamma):
    rewards, values, _ = rollout(rows, columns, seed)
    next_values = torch.cat([values[:, 1:], torch.zeros(rows, 1, dtype=torch.float64)], dim=1)
    advantages, _ = gae(rewards, values, torch.ones_like(values, dtype=torch.bool), gamma, 0.0)
    torch.testing.assert_close(advantages, rewards + gamma * next_values - values, rtol=1e-9, atol=1e-9)


def test_perfect_critic_leaves_no_advantage():
    rewards, _, mask = rollout(3, 6, 5)
    to_go = (rewards * mask).flip(1).cumsum(1).flip(1)
    advantages, _ = gae(rewards, to_go, mask, 1.0, 0.95)
    torch.testing.assert_close(advantages, torch.zeros_like(advantages), rtol=0, atol=1e-12)


@given(*SIZES, st.integers(0, 3), st.integers(0, 3))
@settings(deadline=None, max_examples=40)
def test_gae_ignores_padding_on_both_sides_and_batch_order(rows, columns, seed, left, right):
    rewards, values, mask = rollout(rows, columns, seed)
    plain = gae(rewards, values, mask, 0.98, 0.9)

    def padded(tensor, fill):
        return torch.nn.functional.pad(tensor, (left, right), value=fill)

    wide = gae(padded(rewards, torch.nan), padded(values, torch.nan), padded(mask, False), 0.98, 0.9)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    permuted = gae(rewards[order], values[order], mask[order], 0.98, 0.9)
    for before, with_pads, in_order in zip(plain, wide, permuted, strict=True):
        assert torch.equal(with_pads[:, left : left + columns], before)
        assert torch.equal(in_order, before[order])


def test_gae_of_a_row_without_tokens_is_zero():
    advantages, returns = gae(torch.ones(1, 3), torch.ones(1, 3), torch.zeros(1, 3, dtype=torch.bool), 1.0, 0.95)
    assert not advantages.any()
    assert not returns.any()


def test_reinforce_pp_hand_numbers():
    rewards, mask = torch.tensor([[1.0, 9.0, -1.0, 4.0]]), torch.tensor([[True, False, True, True]])
    expected = torch.tensor([[1.0 + 0.5 * (-1.0 + 0.5 * 4.0), 0.0, -1.0 + 0.5 * 4.0, 4.0]])
    torch.testing.assert_close(reinforce_pp(rewards, mask, 0.5), expected, rtol=1e-6, atol=0)


def even(size, count):
    """Which group each of `count` samples belongs to, `size` standing next to each other."""
    return torch.arange(count) // size


def test_grpo_hand_numbers():
    # group 1: mean 2, sample std sqrt((1 + 0 + 1) / 2) = 1; group 2: mean 0, std 3
    advantages = grpo(torch.tensor([1.0, 2.0, 3.0, -3.0, 0.0, 3.0]), even(3, 6))
    one, three = 1 / (1 + 1e-4), 3 / (3 + 1e-4)
    torch.testing.assert_close(advantages, torch.tensor([-one, 0.0, one, -three, 0.0, three]), rtol=1e-6, atol=0)


def test_grpo_scales_hand_numbers():
    scores = torch.tensor([1.0, 2.0, 3.0, -3.0, 0.0, 3.0])  # all six: mean 1, sample std sqrt(26 / 5)
    assert grpo_unscaled(scores, even(3, 6)).tolist() == [-1.0, 0.0, 1.0, -3.0, 0.0, 3.0]
    spread = 5.2**0.5 + 1e-4
    expected = torch.tensor([-1.0, 0.0, 1.0, -3.0, 0.0, 3.0]) / spread
    torch.testing.assert_close(grpo_batch_scaled(scores, even(3, 6)), expected, rtol=1e-6, atol=0)


def test_rloo_hand_numbers():
    # each score minus the mean of the other two
    advantages = rloo(torch.tensor([1.0, 2.0, 6.0, 5.0, 5.0, 5.0]), even(3, 6))
    torch.testing.assert_close(advantages, torch.tensor([-3.0, -1.5, 4.5, 0.0, 0.0, 0.0]), rtol=1e-6, atol=1e-7)


@given(st.integers(1, 4), st.integers(2, 6), st.integers(0, 999))
@settings(deadline=None, max_examples=40)
def test_groups_agree_with_loops(groups, size, seed):
    scores = torch.randn(groups * size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    listed, which = scores.tolist(), even(size, groups * size)
    for index, (relative, left_out) in enumerate(
        zip(grpo(scores, which).tolist(), rloo(scores, which).tolist(), strict=True)
    ):
        start = index // size * size
        group = listed[start : start + size]
        mean = sum(group) / size
        std = (sum((s - mean) ** 2 for s in group) / (size - 1)) ** 0.5
        others = [s for other, s in enumerate(listed) if start <= other < start + size and other != index]
        assert relative == pytest.approx((listed[index] - mean) / (std + 1e-4), abs=1e-9)
        assert left_out == pytest.approx(listed[index] - sum(others) / len(others), abs=1e-9)


@pytest.mark.parametrize("estimator", [grpo, grpo_unscaled, grpo_batch_scaled, rloo])
@given(st.integers(1, 4), st.integers(2, 6), st.integers(0, 999), st.floats(-5, 5))
@settings(deadline=None, max_examples=25)
def test_group_estimators_are_fair(estimator, groups, size, seed, shift):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(groups, size, generator=generator, dtype=torch.float64)
    which = even(size, groups * size)
    advantages = estimator(scores.flatten(), which).reshape(groups, size)
    # nothing is given to a group as a whole, the order of scores is kept, and what all of them get does not count
    torch.testing.assert_close(advantages.sum(1), torch.zeros(groups, dtype=torch.float64), rtol=0, atol=1e-9)
    assert torch.equal(advantages.argsort(1), scores.argsort(1))
    moved = estimator((scores + shift).flatten(), which).reshape(groups, size)
    torch.testing.assert_close(moved, advantages, rtol=1e-6, atol=1e-9)
    order, groups_order = (torch.randperm(count, generator=generator) for count in (size, groups))
    shuffled = estimator(scores[groups_order][:, order].flatten(), which).reshape(groups, size)
    torch.testing.assert_close(shuffled, advantages[groups_order][:, order], rtol=1e-6, atol=1e-9)


@given(*SIZES, UNIT, st.integers(0, 3), st.integers(0, 3))
@settings(deadline=None, max_examples=40)
def test_reinforce_pp_is_the_sum_of_what_comes_whatever_the_padding(rows, columns, seed, gamma, left, right):
    rewards, _, mask = rollout(rows, columns, seed)
    returns = reinforce_pp(rewards, mask, gamma)
    for row in range(rows):
        steps = [t for t in range(columns) if mask[row, t]]
        for place, t in enumerate(steps):
            expected = sum(gamma**ahead * float(rewards[row, later]) for ahead, later in enumerate(steps[place:]))
            assert float(returns[row, t]) == pytest.approx(expected, abs=1e-9)
    assert returns[~mask].eq(0).all()
    padded = reinforce_pp(
        torch.nn.functional.pad(rewards, (left, right), value=9.0), torch.nn.functional.pad(mask, (left, right)), gamma
    )
    assert torch.equal(padded[:, left : left + columns], returns)


@given(*SIZES)
@settings(deadline=None, max_examples=30)
def test_over_tokens_gives_kept_tokens_their_row_and_others_nothing(rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    advantages = torch.randn(rows, generator=generator)
    mask = torch.rand(rows, columns, generator=generator) < 0.6
    spread = over_tokens(advantages, mask)
    assert spread.shape == mask.shape
    assert torch.equal(spread, advantages[:, None] * mask)


@pytest.mark.parametrize("estimator", [grpo, grpo_unscaled, grpo_batch_scaled, rloo])
@given(st.floats(-1e5, 1e5, width=32), st.integers(1, 12))
@settings(deadline=None, max_examples=50)
@example(1000.1, 3)
def test_equal_scores_give_no_group_advantage(estimator, score, size):
    """None at all: what rounding leaves of it grpo would scale up, with one sign for the whole group."""
    assert not estimator(torch.full((size,), score), even(size, size)).any()


@pytest.mark.parametrize("estimator", [grpo, grpo_unscaled, grpo_batch_scaled, rloo])
def test_a_response_left_alone_gets_nothing(estimator):
    assert estimator(torch.tensor([7.0]), torch.tensor([0])).tolist() == [0.0]


def test_groups_may_have_lost_members_and_stand_in_any_order():
    # group 0: 1, 3; group 1: 7 alone; group 2: 0, 2, 4
    scores = torch.tensor([0.0, 1.0, 7.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    groups = torch.tensor([2, 0, 1, 2, 0, 2])
    assert grpo_unscaled(scores, groups).tolist() == [-2.0, -1.0, 0.0, 0.0, 1.0, 2.0]
    assert rloo(scores, groups).tolist() == [-3.0, -2.0, 0.0, 0.0, 2.0, 3.0]
    two = 2**0.5
    expected = [-2 / (2 + 1e-4), -1 / (two + 1e-4), 0.0, 0.0, 1 / (two + 1e-4), 2 / (2 + 1e-4)]
    torch.testing.assert_close(grpo(scores, groups).tolist(), expected)


def test_over_tokens():
    mask = torch.tensor([[True, True, False], [False, True, True]])
    assert over_tokens(torch.tensor([2.0, -1.0]), mask).tolist() == [[2.0, 2.0, 0.0], [0.0, -1.0, -1.0]]


def test_refusals():
    ones, mask = torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="shapes must be equal"):
        gae(ones, torch.ones(2, 1), mask, 1.0, 1.0)
    with pytest.raises(ValueError, match="boolean"):
        gae(ones, ones, torch.ones(2, 3), 1.0, 1.0)
    with pytest.raises(ValueError, match="2 dimension"):
        gae(ones[0], ones[0], mask[0], 1.0, 1.0)
    with pytest.raises(ValueError, match="at least one position"):
        gae(ones[:, :0], ones[:, :0], mask[:, :0], 1.0, 1.0)
    with pytest.raises(ValueError, match=r"gamma must be in \[0, 1\], got 1.5"):
        gae(ones, ones, mask, 1.5, 1.0)
    with pytest.raises(ValueError, match=r"lam must be in \[0, 1\], got -0.1"):
        gae(ones, ones, mask, 1.0, -0.1)
    for estimator in (grpo, grpo_unscaled, grpo_batch_scaled, rloo):
        with pytest.raises(ValueError, match="must be int64"):
            estimator(torch.ones(4), torch.zeros(4))
        with pytest.raises(ValueError, match="not empty"):
            estimator(torch.ones(0), even(2, 0))
        with pytest.raises(ValueError, match="1 dimension"):
            estimator(torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.int64))
        with pytest.raises(ValueError, match="shapes must be equal"):
            estimator(torch.ones(3), even(2, 4))
    with pytest.raises(ValueError, match="3 advantages for 2 rows"):
        over_tokens(torch.ones(3), mask)
