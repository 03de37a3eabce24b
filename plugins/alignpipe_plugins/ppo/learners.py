"""Who learns: the policy, and the critic where the estimator has one, each with an optimiser of its own (D51)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer

from alignpipe.errors import TrainingError
from alignpipe.training.lanes import Copies
from alignpipe.training.models import TokenScorer
from alignpipe.training.parallel import ALONE, Team
from alignpipe.training.sharding import copies_of
from alignpipe_plugins.ppo.config import LoopConfig, PPOConfig


@dataclass(frozen=True)
class Learner:
    """A network, its copies for the lanes, its optimiser, its peak learning rate, and where its gradient is clipped."""

    network: nn.Module
    copies: Copies
    optimizer: Optimizer
    lr: float
    max_grad_norm: float

    def set_rate(self, factor: float) -> None:
        """Set the learning rate of the steps to come, as a factor of the peak."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * factor

    def step(self) -> float:
        """Clip, step, clear; returns the gradient's norm before clipping (D59).

        Raises `TrainingError` if the gradient is not finite; the weights are then as before.
        """
        norm = self.copies.clip(self.max_grad_norm)
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


@dataclass(frozen=True)
class Critic:
    """How the critic learns: values move within `clip_range` (D50), alone in the first `warmup` updates (D46)."""

    learner: Learner
    clip_range: float | None
    warmup: int


@dataclass(frozen=True)
class Learners:
    """Everybody who learns; `critic` is None for an estimator without one."""

    policy: Learner
    critic: Critic | None

    @property
    def named(self) -> dict[str, Learner]:
        """Each by its name in checkpoints and metrics."""
        return {"policy": self.policy} | ({} if self.critic is None else {"critic": self.critic.learner})

    def critic_alone(self, update: int) -> bool:
        """Whether the policy waits in 0-based `update` while the critic warms up (D46)."""
        return self.critic is not None and update < self.critic.warmup

    def __iter__(self) -> Iterator[Learner]:
        return iter(self.named.values())


def policy_learner(network: nn.Module, config: LoopConfig, team: Team = ALONE) -> Learner:
    """The policy's learner."""
    copies = copies_of(network, team)
    return Learner(network, copies, _adamw(copies, config), config.lr, config.max_grad_norm)


def critic_of(scorer: TokenScorer | None, config: LoopConfig, team: Team = ALONE) -> Critic | None:
    """The critic's learner; None for an estimator without a critic."""
    if scorer is None or not isinstance(config, PPOConfig):
        return None
    copies = copies_of(scorer, team)
    learner = Learner(scorer, copies, _adamw(copies, config), config.critic_lr, config.max_grad_norm)
    return Critic(learner, config.clip_range_value, config.critic_warmup)


def _adamw(copies: Copies, config: LoopConfig) -> torch.optim.AdamW:
    """AdamW in PyTorch's form, epsilon outside the bias correction's root (D56, D57); every update sets its rate."""
    return torch.optim.AdamW(copies.trained, eps=config.adam_eps, weight_decay=config.weight_decay, fused=True)
