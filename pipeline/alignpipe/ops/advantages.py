"""Advantage estimators: gae (with a critic), grpo and rloo (groups per prompt), reinforce_pp (neither).

None of them whitens: that is a visible step of its own (`masking.whiten`, D42). Steps at masked
positions are skipped, as if they were cut out of the sequence: the next *kept* token follows directly, with its value
and undiscounted by the gap (D47; tokens of a tool or a user in between are no decisions of the policy).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from alignpipe.ops.shapes import require_dims, require_mask, require_same_shape

STD_EPS = 1e-4
"""Added to the standard deviation of scores, as in TRL's GRPOTrainer: differences below it hardly count."""


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (D40), and the critic's targets from it (D41).

        delta_t = r_t + gamma * V_{t+1} - V_t              A_t = delta_t + gamma * lam * A_{t+1}
        return_t = A_t + V_t

    t + 1 is the next kept position; after the last one V = 0 and A = 0 (the episode has ended).

    Args:
        rewards: Shape [B, T]; what stands at masked positions does not count.
        values: Shape [B, T], the critic's values when the rollout was made.
        mask: Shape [B, T], boolean; a row without kept positions gives zeros.
        gamma: discount, in [0, 1].
        lam: lambda, in [0, 1].

    Returns:
        advantages and returns, both of shape [B, T], not whitened, 0 at masked positions.

    Raises:
        ValueError: the shapes differ, the mask is not boolean, or gamma or lam is outside [0, 1].

    References:
        Schulman et al., arXiv 1506.02438, eq. 11 and 16; N+ `ppo.py`; masked steps as in verl (`core_algos.py`).
    """
    _require_trajectories(rewards=rewards, values=values, mask=mask)
    _require_unit_interval(gamma=gamma, lam=lam)
    advantage = rewards.new_zeros(rewards.shape[0])
    next_value = values.new_zeros(values.shape[0])
    columns: list[Tensor] = []
    for t in reversed(range(rewards.shape[1])):
        kept = mask[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = torch.where(kept, delta + gamma * lam * advantage, advantage)
        next_value = torch.where(kept, values[:, t], next_value)
        columns.append(advantage)
    advantages = torch.where(mask, torch.stack(columns[::-1], dim=1), 0.0)
    returns = torch.where(mask, advantages + values, 0.0)
    return advantages, returns


def reinforce_pp(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """REINFORCE++ before its whitening: the discounted reward-to-go, G_t = r_t + gamma * G_{t+1}.

    The method is this *and* whitening over the global batch, which is a step of its own (`masking.whiten`).

    Args:
        rewards: Shape [B, T], KL penalty and score; what stands at masked positions does not count.
        mask: Shape [B, T], boolean.
        gamma: discount, in [0, 1]; the method's default is 1.

    Returns:
        Shape [B, T], 0 at masked positions.

    Raises:
        ValueError: the shapes differ, the mask is not boolean, or gamma is outside [0, 1].

    References:
        Hu et al., arXiv 2501.03262; OpenRLHF `experience_maker.py: get_cumulative_returns`; verl `core_algos.py`.
    """
    # Without a critic and with lambda 1 the recursion of gae is the reward-to-go: one copy of the recursion.
    returns, _ = gae(rewards, torch.zeros_like(rewards), mask, gamma, lam=1.0)
    return returns


def grpo(scores: Tensor, groups: Tensor) -> Tensor:
    """Group-relative advantage: (s_i - mean of the group) / (std of the group + 1e-4).

    The standard deviation is Bessel-corrected, as in TRL and verl.

    Args:
        scores: Shape [B]. Without a KL penalty, whose spread would become the scale where the scores of a group tie;
            `grpo_unscaled` of the penalties can be added.
        groups: Shape [B], int64: which group (0, 1, ...) a sample belongs to. One that is alone gets 0.

    Returns:
        Shape [B], one advantage per sequence; `over_tokens` spreads it.

    Raises:
        ValueError: scores or groups are not flat, or differ in length, or groups are not int64.

    References:
        Shao et al. (DeepSeekMath), arXiv 2402.03300, section 4.1.2; TRL `grpo_trainer.py`, `scale_rewards=group`.
    """
    centred, count = _centred(scores, groups)
    spread = (_group_sums(centred**2, groups) / (count - 1).clamp(min=1)).sqrt()
    return centred / (spread + STD_EPS)


def grpo_batch_scaled(scores: Tensor, groups: Tensor) -> Tensor:
    """Group-relative advantage in units of the whole batch: (s_i - mean of the group) / (std of all scores + 1e-4).

    A prompt whose answers score alike keeps its small advantages, which the group's own deviation would blow up.

    Args, Returns and Raises are those of `grpo`.

    References:
        Liu et al., arXiv 2508.08221; TRL `grpo_trainer.py`, `scale_rewards=batch`.
    """
    centred, _ = _centred(scores, groups)
    spread = scores.std(correction=1) if len(scores) > 1 else 0.0  # of one score there is none
    return centred / (spread + STD_EPS)


def grpo_unscaled(scores: Tensor, groups: Tensor) -> Tensor:
    """Group-relative advantage without a scale: s_i - mean of the group; rloo times (G - 1) / G.

    Args, Returns and Raises are those of `grpo`, but that a KL penalty may be part of the scores.

    References:
        Liu et al. (Dr. GRPO), arXiv 2503.20783; TRL `grpo_trainer.py`, `scale_rewards=none`.
    """
    return _centred(scores, groups)[0]


def rloo(scores: Tensor, groups: Tensor) -> Tensor:
    """Leave-one-out advantage: s_i minus the mean of the group's other scores = (s_i - mean) * G / (G - 1).

    Args:
        scores: Shape [B]. With a KL penalty in the reward it belongs in here: the sum of the sequence's rewards.
        groups: Shape [B], int64: which group (0, 1, ...) a sample belongs to. One that is alone gets 0.

    Returns:
        Shape [B], one advantage per sequence; `over_tokens` spreads it.

    Raises:
        ValueError: scores or groups are not flat, or differ in length, or groups are not int64.

    References:
        Ahmadian et al., arXiv 2402.14740, eq. 8 (from Kool et al. 2019); TRL `rloo_trainer.py`.
    """
    centred, count = _centred(scores, groups)
    return centred * count / (count - 1).clamp(min=1)


def over_tokens(advantages: Tensor, mask: Tensor) -> Tensor:
    """Give every kept token the advantage of its sequence: A_{i,t} = A_i.

    Args:
        advantages: Shape [B].
        mask: Shape [B, T], boolean.

    Returns:
        Shape [B, T], 0 at masked positions.

    Raises:
        ValueError: shapes that do not fit or a mask that is not boolean.
    """
    require_mask(mask)
    require_dims(1, advantages=advantages)
    require_dims(2, mask=mask)
    if advantages.shape[0] != mask.shape[0]:
        raise ValueError(f"{advantages.shape[0]} advantages for {mask.shape[0]} rows of the mask")
    return torch.where(mask, advantages.unsqueeze(1), 0.0)


def _centred(scores: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """s_i minus the mean of its group, and the size of that group, both [B]."""
    require_dims(1, scores=scores)
    require_same_shape(scores=scores, groups=groups)
    if groups.dtype != torch.int64 or groups.numel() == 0:
        raise ValueError(f"groups must be int64 and not empty, got {groups.dtype} of shape {tuple(groups.shape)}")
    # In float64, where the mean of equal scores is that score: `grpo` would scale up what rounding leaves.
    wide = scores.double()
    count = _group_sums(torch.ones_like(wide), groups)
    centred = wide - _group_sums(wide, groups) / count
    return centred.to(scores.dtype), count.to(scores.dtype)


def _group_sums(values: Tensor, groups: Tensor) -> Tensor:
    """The sum over each entry's group [B]; as a product of matrices, since GPUs add by index in no fixed order."""
    member = one_hot(groups).double()
    return (member @ (member.T @ values.double())).to(values.dtype)


def _require_trajectories(*, mask: Tensor, **tensors: Tensor) -> None:
    require_mask(mask)
    require_dims(2, mask=mask)
    require_same_shape(mask=mask, **tensors)
    if mask.shape[1] == 0:
        raise ValueError(f"trajectories need at least one position, got shape {tuple(mask.shape)}")


def _require_unit_interval(**numbers: float) -> None:
    for name, number in numbers.items():
        if not 0.0 <= number <= 1.0:
            raise ValueError(f"{name} must be in [0, 1], got {number}")
