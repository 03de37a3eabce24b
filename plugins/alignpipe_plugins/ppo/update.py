"""One optimiser step of PPO: the policy's clipped surrogate and the critic's clipped regression over a minibatch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from alignpipe.errors import TrainingError
from alignpipe.ops.losses import approx_kl, clipped_policy_loss, clipped_value_loss
from alignpipe.ops.masking import masked_sum
from alignpipe.training.batches import by_length, response_logprobs, state_values
from alignpipe.training.models import TokenScorer
from alignpipe_plugins.ppo.episodes import Episodes


@dataclass(frozen=True)
class Learner:
    """A network, its optimiser, and where its gradient is clipped."""

    network: nn.Module
    optimizer: Optimizer
    max_grad_norm: float

    def set_rate(self, lr: float) -> None:
        """Set the learning rate of the steps to come."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def step(self) -> float:
        """Clip, step, clear; returns the gradient's norm before clipping (D59).

        Raises `TrainingError` if the gradient is not finite; the weights are then as before.
        """
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norm = float(nn.utils.clip_grad_norm_(parameters, self.max_grad_norm))
        if not norm < float("inf"):
            raise TrainingError(
                f"the gradient of the {type(self.network).__name__} is not finite; lower the learning rate"
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def clear(self) -> None:
        """Drop the gradient without a step."""
        self.optimizer.zero_grad(set_to_none=True)


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


def backward_minibatch(
    policy: nn.Module,
    critic: TokenScorer,
    episodes: Episodes,
    advantages: Tensor,
    returns: Tensor,
    rows: Sequence[int],
    statistics: StepStatistics,
    *,
    pad_id: int,
    micro_batch_size: int,
    temperature: float,
    clip_low: float,
    clip_high: float,
    clip_value: float | None,
) -> None:
    """Accumulate the gradients of one minibatch, episodes `rows`; `advantages` and `returns` are [B, T].

    Every micro-batch is divided by the tokens of the whole minibatch before its backward pass, so that the micro size
    changes nothing (D55, D63).
    """
    tokens = int(episodes.mask[list(rows)].sum())
    lengths = episodes.lengths
    for group in by_length([lengths[row] for row in rows], micro_batch_size):
        picked = [rows[index] for index in group]
        batch = episodes.batch(picked, pad_id)
        mask = batch.response_mask
        width = mask.shape[1]

        logp, _ = response_logprobs(policy, batch, temperature)
        old_logp = episodes.logprobs[picked, :width]
        policy_loss, clipped = clipped_policy_loss(logp, old_logp, advantages[picked, :width], clip_low, clip_high)
        torch.autograd.backward(masked_sum(policy_loss, mask) / tokens)

        values = state_values(critic, batch)
        old_values = episodes.values[picked, :width]
        value_loss, value_clipped = clipped_value_loss(values, old_values, returns[picked, :width], clip_value)
        torch.autograd.backward(masked_sum(value_loss, mask) / tokens)

        with torch.no_grad():
            ratio = torch.exp(logp - old_logp)
            gap = (ratio - 1).abs()
            statistics.worst_ratio = _larger(statistics.worst_ratio, float(gap[mask].max()))
            statistics.add(
                mask,
                ratio_gap=gap,
                approxkl=approx_kl(logp, old_logp),
                clipfrac=clipped,
                policy_loss=policy_loss,
                value_loss=value_loss,
                value_clipfrac=value_clipped,
                ratio=ratio,
                ratio_squared=ratio**2,
            )
