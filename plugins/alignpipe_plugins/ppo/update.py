"""The gradients of one minibatch: the policy's clipped surrogate and, with a critic, its clipped regression."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from alignpipe.ops.losses import approx_kl, clipped_policy_loss, clipped_value_loss
from alignpipe.ops.masking import masked_row_means, masked_sum
from alignpipe.training.batches import TokenBatch, response_logprobs, shared_prompt_groups, state_values
from alignpipe.training.learner import by_micro_batches
from alignpipe.training.models import TokenScorer
from alignpipe.training.parallel import Team
from alignpipe_plugins.ppo.advantages import Targets
from alignpipe_plugins.ppo.config import LoopConfig, LossAggregation
from alignpipe_plugins.ppo.episodes import Episodes
from alignpipe_plugins.ppo.learners import Learners


@dataclass
class StepStatistics:
    """Token-weighted sums over micro-batches, and the gradient norms of the steps they made."""

    tokens: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    worst_ratio: float = 0.0
    """The largest |ratio - 1| seen; NaN once a ratio was."""
    norms: dict[str, list[float]] = field(default_factory=dict)

    def add(self, mask: Tensor, *, ratio_gap: Tensor, **values: Tensor) -> None:
        """Add per-token values [b, T] under the mask."""
        self.tokens += int(mask.sum())
        for name, value in (("ratio_gap", ratio_gap), *values.items()):
            self.sums[name] = self.sums.get(name, 0.0) + float(masked_sum(value.detach().float(), mask))
        self.worst_ratio = _larger(self.worst_ratio, float(ratio_gap[mask].max()))

    def add_norm(self, name: str, norm: float) -> None:
        """Note the gradient norm of one step."""
        self.norms.setdefault(name, []).append(norm)

    def merge(self, other: StepStatistics) -> None:
        """Take in what another one has seen."""
        self.tokens += other.tokens
        for name, value in other.sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        for name, norms in other.norms.items():
            self.norms.setdefault(name, []).extend(norms)
        self.worst_ratio = _larger(self.worst_ratio, other.worst_ratio)

    def mean(self, name: str) -> float:
        """The mean over all tokens added."""
        return self.sums[name] / self.tokens


def _all_of(parts: Iterable[StepStatistics]) -> StepStatistics:
    """What all of them have seen, in their order."""
    whole = StepStatistics()
    for part in parts:
        whole.merge(part)
    return whole


def _larger(first: float, second: float) -> float:
    """The larger one, or NaN if one is: Python's own `max` may drop it."""
    return first if first >= second or math.isnan(first) else second


@dataclass(frozen=True)
class PolicyLoss:
    """What the policy's loss is (D21, D48, D49, D63), and how many episodes go through the networks at once."""

    temperature: float
    clip_low: float
    clip_high: float
    dual_clip: float | None
    sequence_mean: bool
    micro_batch_size: int

    @staticmethod
    def of(config: LoopConfig, temperature: float) -> PolicyLoss:
        """As the options say; `temperature` is the one that samples."""
        high = config.clip_range if config.clip_range_high is None else config.clip_range_high
        whole = config.loss_aggregation is LossAggregation.sequence_mean
        return PolicyLoss(temperature, config.clip_range, high, config.dual_clip, whole, config.micro_batch_size)


def backward_minibatch(
    learners: Learners,
    loss: PolicyLoss,
    episodes: Episodes,
    targets: Targets,
    rows: Sequence[int],
    statistics: StepStatistics,
    pad_id: int,
    team: Team,
) -> None:
    """Accumulate the gradients of one minibatch, episodes `rows`.

    The policy's loss is the mean over all tokens of the minibatch, or with `loss.sequence_mean` that of each response's
    own mean (D63); the critic's is the mean over tokens. Every micro-batch is divided by the tokens or responses of
    the whole minibatch before its backward pass, so that the micro size changes nothing (D55). Each process of `team`
    computes its share in its lanes; gradients and statistics are those of all.
    """
    policy, critic = learners.policy, learners.critic
    tokens = int(episodes.mask[list(rows)].sum())
    divisor = len(rows) if loss.sequence_mean else tokens

    def backward(lane: int, picked: list[int], more: float) -> StepStatistics:
        batch, seen = episodes.batch(picked, pad_id), StepStatistics()
        figures = _backward_policy(
            policy.copies[lane], loss, episodes, targets.advantages, picked, batch, divisor * more
        )
        if critic is not None:
            scorer = cast(TokenScorer, critic.learner.copies[lane])
            over = tokens * more
            figures |= _backward_critic(scorer, critic.clip_range, episodes, targets.returns, picked, batch, over)
        seen.add(batch.response_mask, **figures)
        return seen

    groups = shared_prompt_groups(policy.copies[0], episodes.prompt_groups)
    by_lane = by_micro_batches(
        policy.copies, team, episodes.lengths, loss.micro_batch_size, backward, rows=rows, groups=groups
    )
    shared = _all_of(_all_of(parts) for parts in by_lane)
    for learner in learners:
        learner.copies.sum_lanes()
    team.sum_gradients([parameter for learner in learners for parameter in learner.copies.trained])
    statistics.merge(_all_of(team.gather(shared)))


def _backward_policy(
    policy: nn.Module,
    loss: PolicyLoss,
    episodes: Episodes,
    advantages: Tensor,
    rows: Sequence[int],
    batch: TokenBatch,
    divisor: float,
) -> dict[str, Tensor]:
    """Accumulate the policy's gradients of one micro-batch; gives figures per token [b, T]."""
    mask = batch.response_mask
    logp, _ = response_logprobs(policy, batch, loss.temperature)
    old_logp = episodes.logprobs[rows, : mask.shape[1]]
    policy_loss, clipped = clipped_policy_loss(
        logp, old_logp, advantages[rows, : mask.shape[1]], loss.clip_low, loss.clip_high, loss.dual_clip
    )
    summed = masked_row_means(policy_loss, mask).sum() if loss.sequence_mean else masked_sum(policy_loss, mask)
    torch.autograd.backward(summed / divisor)
    with torch.no_grad():
        # What the ratio is above 1: its own squares would leave no digits for a variance of 1e-8.
        above = torch.expm1(logp - old_logp)
        return {
            "ratio_gap": above.abs(),
            "approxkl": approx_kl(logp, old_logp),
            "clipfrac": clipped,
            "policy_loss": policy_loss,
            "ratio_above": above,
            "ratio_above_squared": above**2,
        }


def _backward_critic(
    critic: TokenScorer,
    clip_range: float | None,
    episodes: Episodes,
    returns: Tensor,
    rows: Sequence[int],
    batch: TokenBatch,
    tokens: float,
) -> dict[str, Tensor]:
    """Accumulate the critic's gradients of one micro-batch; gives figures per token [b, T]."""
    assert episodes.values is not None  # they are the critic's
    mask = batch.response_mask
    values, old_values = state_values(critic, batch), episodes.values[rows, : mask.shape[1]]
    value_loss, clipped = clipped_value_loss(values, old_values, returns[rows, : mask.shape[1]], clip_range)
    torch.autograd.backward(masked_sum(value_loss, mask) / tokens)
    return {"value_loss": value_loss, "value_clipfrac": clipped}
