"""From episodes to rewards, the same for every estimator (D33), and from rewards to advantages, where they differ.

The formulas are in `alignpipe/ops`; here each is fed from an update's episodes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from alignpipe.ops.advantages import gae, grpo, grpo_batch_scaled, grpo_unscaled, over_tokens, reinforce_pp, rloo
from alignpipe.ops.kl import kl_k1, kl_k2, kl_k3_clamped
from alignpipe.ops.masking import MIN_WHITENED, scale_only, whiten
from alignpipe.ops.shaping import add_score_to_kl_penalty
from alignpipe.rewarding.judge import TooFewScores
from alignpipe_plugins.ppo.config import (
    GroupedConfig,
    GRPOConfig,
    KLEstimator,
    LoopConfig,
    PPOConfig,
    ReinforcePPConfig,
    RLOOConfig,
    ScaleRewards,
)
from alignpipe_plugins.ppo.episodes import Episodes

_KL = {KLEstimator.k1: kl_k1, KLEstimator.k2: kl_k2, KLEstimator.k3: kl_k3_clamped}
_SCALED = {ScaleRewards.group: grpo, ScaleRewards.batch: grpo_batch_scaled, ScaleRewards.none: grpo_unscaled}


class Targets(NamedTuple):
    """What an update learns from its rewards, both [B, T] and 0 off the mask."""

    advantages: Tensor
    returns: Tensor
    """What a token is credited with before anything is subtracted: the critic's target where there is one."""


def group_size(config: LoopConfig) -> int:
    """How many responses a prompt gets in one update; they stand next to each other."""
    return config.group_size if isinstance(config, GroupedConfig) else 1


def token_kl(episodes: Episodes, estimator: KLEstimator) -> Tensor:
    """What the penalty goes by: the estimate [B, T] of the KL to the reference at each sampled token (D32, D34)."""
    return _KL[estimator](episodes.logprobs, episodes.ref_logprobs)


def token_rewards(episodes: Episodes, kl: Tensor, kl_coef: float) -> Tensor:
    """Rewards [B, T]: minus `kl_coef` times `kl` on every token, the score on the last or where the reward puts it."""
    if episodes.token_scores is None:
        return add_score_to_kl_penalty(episodes.scores, kl, episodes.mask, kl_coef)
    return episodes.token_scores - kl_coef * kl


def estimate(config: LoopConfig, episodes: Episodes, rewards: Tensor, penalties: Tensor) -> Targets:
    """Advantages and returns by the estimator that the type of `config` stands for.

    `rewards` is [B, T], and so are `penalties`, the part of them that is not the score.

    Raises `TooFewScores` if there are too few tokens to whiten.
    """
    if isinstance(config, PPOConfig):
        return ppo_advantages(episodes, rewards, config)
    if isinstance(config, GRPOConfig):
        return grpo_advantages(episodes, rewards, penalties, config)
    if isinstance(config, RLOOConfig):
        return rloo_advantages(episodes, rewards, config)
    if isinstance(config, ReinforcePPConfig):
        return reinforce_pp_advantages(episodes, rewards, config)
    raise TypeError(f"there is no estimator for a {type(config).__name__}")


def groups_of(episodes: Episodes, size: int) -> Tensor:
    """The group of each episode, 0, 1, ...: what the reward failed on is missing from its group."""
    numbers = torch.tensor(list(episodes.numbers), device=episodes.mask.device)
    groups: Tensor = torch.unique(numbers // size, return_inverse=True)[1]
    return groups


def check_enough(episodes: Episodes) -> None:
    """Refuse to whiten fewer than 8 tokens (D44): the config asks for 8 episodes, of which failures may leave less.

    Raises `TooFewScores` with what the reward failed on.
    """
    tokens = int(episodes.mask.sum())
    if tokens < MIN_WHITENED:
        failed = ", ".join(f"{kind} {count}" for kind, count in episodes.failures.items())
        stop_early = "; a lower scoring.failure_budget stops at the first failures and quotes one"
        raise TooFewScores(
            f"the episodes of an update that have a score hold {tokens} tokens, too few to whiten (at least "
            f"{MIN_WHITENED}); the others have none ({failed})"
            f"{stop_early if episodes.failures.keys() - {'not_applicable'} else ''}",
            episodes.failures,
        )


def ppo_advantages(episodes: Episodes, rewards: Tensor, config: PPOConfig) -> Targets:
    """GAE with the critic's values, whitened over the whole update; returns are taken before that (D41, D42)."""
    assert episodes.values is not None  # ppo has a critic
    if config.whiten_rewards or config.whiten_advantages:
        check_enough(episodes)
    if config.whiten_rewards:
        rewards = scale_only(rewards, episodes.mask)
    advantages, returns = gae(rewards, episodes.values, episodes.mask, config.gamma, config.lam)
    if config.whiten_advantages:
        advantages = whiten(advantages, episodes.mask)
    return Targets(advantages, returns)


def grpo_advantages(episodes: Episodes, rewards: Tensor, penalties: Tensor, config: GRPOConfig) -> Targets:
    """A response's score relative to its group's, scaled, plus its KL penalty relative to its group's, not scaled.

    The scale is that of the scores alone: where a group's scores tie, the spread of the rewards is that of the penalty,
    and dividing by it would turn the weakest penalty into advantages of full size. The penalty is summed by itself: in
    a sum with a score of a million there is little left of it.
    """
    groups = groups_of(episodes, config.group_size)
    advantages = _SCALED[config.scale_rewards](episodes.scores, groups) + grpo_unscaled(penalties.sum(1), groups)
    return Targets(over_tokens(advantages, episodes.mask), over_tokens(rewards.sum(1), episodes.mask))


def rloo_advantages(episodes: Episodes, rewards: Tensor, config: RLOOConfig) -> Targets:
    """A response's whole reward, KL penalty included, minus the mean of its group's other ones."""
    whole = rewards.sum(1)
    advantages = rloo(whole, groups_of(episodes, config.group_size))
    return Targets(over_tokens(advantages, episodes.mask), over_tokens(whole, episodes.mask))


def reinforce_pp_advantages(episodes: Episodes, rewards: Tensor, config: ReinforcePPConfig) -> Targets:
    """The reward from each token on, whitened over the whole update (D42), which is the method's baseline and scale."""
    check_enough(episodes)
    returns = reinforce_pp(rewards, episodes.mask, config.gamma)
    return Targets(whiten(returns, episodes.mask), returns)
