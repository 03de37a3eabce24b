"""What an update logs: TRL's names where TRL has one; the README's table says what each means."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from alignpipe.ops.losses import explained_variance
from alignpipe.ops.masking import masked_mean, masked_var
from alignpipe_plugins.ppo.advantages import group_size, groups_of
from alignpipe_plugins.ppo.config import LoopConfig
from alignpipe_plugins.ppo.episodes import Episodes
from alignpipe_plugins.ppo.update import StepStatistics


def update_metrics(
    episodes: Episodes,
    sequence_kl: Tensor,
    penalty_kl: Tensor,
    returns: Tensor,
    statistics: StepStatistics,
    kl_coef: float,
    config: LoopConfig,
) -> dict[str, float]:
    """The figures of one update.

    `sequence_kl` [B] in nats by k1, `penalty_kl` [B] by the estimator the penalty uses, `returns` [B, T]. A figure that
    is not defined is left out: what belongs to a critic where there is none, the explained variance of returns that do
    not vary, the norm of a gradient not taken.
    """
    mask = episodes.mask
    lengths = mask.sum(1).float()
    scores = float(episodes.scores.mean())
    non_score_reward = -kl_coef * float(penalty_kl.mean())
    above = statistics.mean("ratio_above")
    return {
        "objective/kl": float(sequence_kl.mean()),
        "objective/entropy": float(-episodes.logprobs.sum(1).mean()),
        "objective/non_score_reward": non_score_reward,
        "objective/rlhf_reward": scores + non_score_reward,
        "objective/scores": scores,
        "policy/approxkl_avg": statistics.mean("approxkl"),
        "policy/clipfrac_avg": statistics.mean("clipfrac"),
        "policy/entropy_avg": float(masked_mean(episodes.entropies, mask)),
        "loss/policy_avg": statistics.mean("policy_loss"),
        **_of_missing_ends(episodes, config.missing_eos_score),
        **_of_the_critic(episodes, returns, statistics),
        "val/ratio": 1.0 + above,
        "val/ratio_var": max(0.0, statistics.mean("ratio_above_squared") - above**2),
        "val/sampling_z": episodes.sampling_z,
        "val/num_eos_tokens": float(episodes.ended.sum()),
        "val/returns_mean": float(masked_mean(returns, mask)),
        "val/returns_var": float(masked_var(returns, mask)),
        "response_length/mean": float(lengths.mean()),
        "response_length/max": float(lengths.max()),
        "response_length/truncated_frac": 1.0 - float(episodes.ended.float().mean()),
        **_of_groups(episodes, group_size(config)),
        "reward/std": float(episodes.scores.std(correction=0)),
        **{f"reward/part/{name}": float(values.nanmean()) for name, values in episodes.parts.items()},
        **failure_metrics(episodes.failures),
        **{f"grad_norm/{name}": sum(norms) / len(norms) for name, norms in statistics.norms.items()},
        "kl_coef": kl_coef,
    }


def failure_metrics(failures: Mapping[str, int]) -> dict[str, float]:
    """How many episodes of an update the reward failed on, by kind."""
    return {f"reward_failures/{kind}": float(count) for kind, count in failures.items()}


def _of_groups(episodes: Episodes, size: int) -> dict[str, float]:
    """The share of groups of `size` whose scores are all the same, so that only the penalty teaches them anything."""
    if size == 1:
        return {}
    groups = groups_of(episodes, size).tolist()
    scores: dict[int, set[float]] = {}
    for group, score in zip(groups, episodes.scores.tolist(), strict=True):
        scores.setdefault(group, set()).add(score)
    return {"frac_reward_zero_std": sum(len(found) == 1 for found in scores.values()) / len(scores)}


def _of_missing_ends(episodes: Episodes, missing_eos_score: float | None) -> dict[str, float]:
    """Where the score of responses that did not end is replaced: their share, and what not ending would gain."""
    if missing_eos_score is None:
        return {}
    share = {"val/missing_eos_frac": 1.0 - float(episodes.ended.float().mean())}
    if not bool(episodes.ended.any()):
        return share
    return {**share, "val/missing_eos_gain": missing_eos_score - float(episodes.scores[episodes.ended].mean())}


def _of_the_critic(episodes: Episodes, returns: Tensor, statistics: StepStatistics) -> dict[str, float]:
    if episodes.values is None:
        return {}
    explained = float(explained_variance(episodes.values, returns, episodes.mask))
    return {
        "loss/value_avg": statistics.mean("value_loss"),
        "val/error": float(masked_mean((episodes.values - returns) ** 2, episodes.mask)),
        "val/clipfrac_avg": statistics.mean("value_clipfrac"),
        **({} if math.isnan(explained) else {"val/explained_variance": explained}),
    }
