"""Options of ppo=ppo; the defaults are the reference recipe's (D-numbers: see the README)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

from alignpipe.options import Schedule, check_at_least, check_positive, check_share


class KLEstimator(Enum):
    """How the KL penalty is estimated per token (D32)."""

    k1 = "k1"
    k2 = "k2"
    k3 = "k3"


class Select(Enum):
    """Which policy is the stage's result."""

    last = "last"
    best = "best"
    """The one with the best held-out reward minus kl_coef times KL."""


@dataclass
class PPOConfig:
    """Hyperparameters of PPO."""

    max_steps: int = field(default=1000, metadata={"help": "updates"})
    episodes: int = field(default=512, metadata={"help": "prompts sampled for one update (D53)"})
    epochs: int = field(default=4, metadata={"help": "passes over an update's episodes (D53)"})
    minibatches: int = field(default=1, metadata={"help": "optimiser steps in one pass; must divide episodes (D54)"})
    micro_batch_size: int = field(
        default=16, metadata={"help": "episodes in one forward pass; never changes the result"}
    )
    max_response_tokens: int = field(default=128, metadata={"help": "longest response sampled"})
    temperature: float = field(
        default=0.7, metadata={"help": "sampling temperature, in every log-probability too (D21)"}
    )
    lr: float = field(default=3e-6, metadata={"help": "the policy's peak learning rate (D58)"})
    critic_lr: float = field(default=1e-5, metadata={"help": "the critic's peak learning rate (D51)"})
    warmup_steps: int = field(default=0, metadata={"help": "updates over which both rates rise"})
    schedule: Schedule = field(default=Schedule.linear, metadata={"help": "how the rates fall over the updates (D58)"})
    adam_eps: float = field(default=1e-5, metadata={"help": "AdamW's epsilon (D56)"})
    weight_decay: float = field(default=0.0, metadata={"help": "AdamW's decay"})
    max_grad_norm: float = field(default=1.0, metadata={"help": "gradient clipping, policy and critic apart (D59)"})
    kl_coef: float = field(default=0.05, metadata={"help": "weight of the per-token KL penalty (D35)"})
    kl_estimator: KLEstimator = field(default=KLEstimator.k1, metadata={"help": "k1, k2, or k3 clamped (D32, D34)"})
    kl_target: float | None = field(
        default=None, metadata={"help": "nats per sequence; set: kl_coef adapts to it (D36)"}
    )
    kl_horizon: int = field(default=10_000, metadata={"help": "episodes over which kl_coef adapts (D36)"})
    gamma: float = field(default=1.0, metadata={"help": "discount (D40)"})
    lam: float = field(default=0.95, metadata={"help": "GAE's lambda (D40)"})
    clip_range: float = field(default=0.2, metadata={"help": "how far the ratio may move (D48)"})
    clip_range_high: float | None = field(
        default=None, metadata={"help": "upper side of clip_range, where it differs (D49)"}
    )
    clip_range_value: float | None = field(default=0.2, metadata={"help": "how far values may move; null: free (D50)"})
    whiten_advantages: bool = field(default=True, metadata={"help": "mean 0 and variance 1 over the update (D42)"})
    whiten_rewards: bool = field(default=False, metadata={"help": "scale rewards to variance 1, mean kept (D38)"})
    missing_eos_score: float | None = field(
        default=-1.0, metadata={"help": "score of a response that never ended; null: the reward's own (D25)"}
    )
    critic_warmup: int = field(default=0, metadata={"help": "first updates that train the critic alone (D46)"})
    target_kl: float | None = field(
        default=None, metadata={"help": "approximate KL that ends an update's epochs (D62)"}
    )
    eval_every: int = field(default=10, metadata={"help": "updates between held-out evaluations"})
    eval_prompts: int = field(default=128, metadata={"help": "held-out prompts of those evaluations"})
    select: Select = field(
        default=Select.last, metadata={"help": "which policy is the result: last, or best on held-out prompts"}
    )
    save_every: int = field(default=10, metadata={"help": "updates between checkpoints", "fingerprint": False})

    def __post_init__(self) -> None:
        check_at_least(
            self, 1, "max_steps", "episodes", "epochs", "minibatches", "micro_batch_size", "max_response_tokens"
        )
        check_at_least(self, 1, "kl_horizon", "eval_every", "eval_prompts", "save_every")
        check_at_least(self, 0, "warmup_steps", "critic_warmup", "kl_coef", "weight_decay")
        check_positive(self, "temperature", "lr", "critic_lr", "adam_eps", "max_grad_norm", "clip_range")
        check_positive(self, *(key for key in _OPTIONAL if getattr(self, key) is not None))
        check_share(self, "gamma", "lam")
        if self.episodes % self.minibatches:
            raise ValueError(f"episodes ({self.episodes}) must be a multiple of minibatches ({self.minibatches}) (D54)")
        if self.clip_range > 1:
            raise ValueError(f"clip_range must be at most 1, or no ratio could be too low; got {self.clip_range}")
        if (self.whiten_advantages or self.whiten_rewards) and self.episodes < _FEWEST_WHITENED:
            raise ValueError(f"whitening needs at least {_FEWEST_WHITENED} episodes, got {self.episodes} (D44)")
        if self.missing_eos_score is not None and not math.isfinite(self.missing_eos_score):
            raise ValueError(f"missing_eos_score must be a finite number or null, got {self.missing_eos_score}")
        if self.kl_target is not None and self.kl_coef == 0:
            raise ValueError("kl_coef must be above 0 for kl_target: it adapts by factors (D36)")
        if self.kl_target is not None and self.kl_horizon < self.episodes:
            raise ValueError(f"kl_horizon ({self.kl_horizon}) must not be below episodes ({self.episodes}) (D36)")


_FEWEST_WHITENED = 8
_OPTIONAL = ("kl_target", "clip_range_high", "clip_range_value", "target_kl")
