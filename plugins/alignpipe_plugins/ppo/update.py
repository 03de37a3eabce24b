"""The gradients of one minibatch: the policy's clipped surrogate and, with a critic, its clipped regression."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from alignpipe.ops.losses import approx_kl, clipped_policy_loss, clipped_value_loss
from alignpipe.ops.masking import masked_row_means, masked_sum
from alignpipe.training.batches import by_length, response_logprobs, state_values
from alignpipe.training.parallel import ALONE, Team
from alignpipe_plugins.ppo.config import LoopConfig, LossAggregation
from alignpipe_plugins.ppo.episodes import Episodes
from alignpipe_plugins.ppo.learners import Critic


@dataclass
class StepStatistics:
    """Token-weighted sums over micro-batches, and the gradient norms of the steps they made."""

    tokens: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    worst_ratio: float = 0.0
    """The largest |ratio - 1| seen; NaN once a ratio was."""
    norms: dict[str, list[float]] = field(default_factory=dict)

    def add(self, mask: Tensor, **values: Tensor) -> None:
        """Add per-token values [b, T] under the mask."""
        self.tokens += int(mask.sum())
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(masked_sum(value.detach().float(), mask))

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
    policy: nn.Module,
    critic: Critic | None,
    loss: PolicyLoss,
    episodes: Episodes,
    advantages: Tensor,
    returns: Tensor,
    rows: Sequence[int],
    statistics: StepStatistics,
    pad_id: int,
    team: Team = ALONE,
) -> None:
    """Accumulate the gradients of one minibatch, episodes `rows`; `advantages` and `returns` are [B, T].

    The policy's loss is the mean over all tokens of the minibatch, or with `loss.sequence_mean` that of each response's
    own mean (D63); the critic's is the mean over tokens. Every micro-batch is divided by the tokens or responses of
    the whole minibatch before its backward pass, so that the micro size changes nothing (D55). Each process of `team`
    computes its share; gradients and statistics are those of all.
    """
    tokens = int(episodes.mask[list(rows)].sum())
    lengths = episodes.lengths
    own = [rows[index] for index in team.share([lengths[row] for row in rows])]
    seen = StepStatistics()
    for group in by_length([lengths[row] for row in own], loss.micro_batch_size):
        picked = [own[index] for index in group]
        batch = episodes.batch(picked, pad_id)
        mask = batch.response_mask
        width = mask.shape[1]

        logp, _ = response_logprobs(policy, batch, loss.temperature)
        old_logp = episodes.logprobs[picked, :width]
        policy_loss, clipped = clipped_policy_loss(
            logp, old_logp, advantages[picked, :width], loss.clip_low, loss.clip_high, loss.dual_clip
        )
        if loss.sequence_mean:
            torch.autograd.backward(masked_row_means(policy_loss, mask).sum() / len(rows))
        else:
            torch.autograd.backward(masked_sum(policy_loss, mask) / tokens)

        with torch.no_grad():
            ratio = torch.exp(logp - old_logp)
            gap = (ratio - 1).abs()
            seen.worst_ratio = _larger(seen.worst_ratio, float(gap[mask].max()))
            figures = {
                "ratio_gap": gap,
                "approxkl": approx_kl(logp, old_logp),
                "clipfrac": clipped,
                "policy_loss": policy_loss,
                "ratio": ratio,
                "ratio_squared": ratio**2,
            }

        if critic is not None:
            assert episodes.values is not None  # they are the critic's
            values = state_values(critic.scorer, batch)
            old_values = episodes.values[picked, :width]
            value_loss, value_clipped = clipped_value_loss(
                values, old_values, returns[picked, :width], critic.clip_range
            )
            torch.autograd.backward(masked_sum(value_loss, mask) / tokens)
            figures |= {"value_loss": value_loss, "value_clipfrac": value_clipped}
        seen.add(mask, **figures)
    team.sum_gradients([*policy.parameters(), *(() if critic is None else critic.scorer.parameters())])
    for share in team.gather(seen):
        statistics.merge(share)
