"""Options of ppo=ppo|grpo|rloo|reinforce_pp: what the loop needs, and what each estimator adds (D-numbers: README)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

from alignpipe.options import LinearDtype, Schedule, check_at_least, check_positive, check_share


class KLEstimator(Enum):
    """How the KL penalty is estimated per token (D32)."""

    k1 = "k1"
    k2 = "k2"
    k3 = "k3"


class LossAggregation(Enum):
    """What the policy's loss is a mean of (D63)."""

    token_mean = "token_mean"
    """All tokens of a minibatch alike."""
    sequence_mean = "sequence_mean"
    """The mean over each response's tokens, then over the responses."""


class ScaleRewards(Enum):
    """What a group's centred rewards are divided by."""

    group = "group"
    batch = "batch"
    none = "none"


class Select(Enum):
    """Which policy is the stage's result."""

    last = "last"
    best = "best"
    """The one with the best held-out reward minus kl_coef times KL."""


class OnAlarm(Enum):
    """What an alarm does beside being told (D66)."""

    warn = "warn"
    stop = "stop"


@dataclass
class LoopConfig:
    """Hyperparameters of the loop, whatever estimates the advantages."""

    max_steps: int = field(default=1000, metadata={"help": "updates"})
    episodes: int = field(default=512, metadata={"help": "responses sampled for one update (D53)"})
    epochs: int = field(default=1, metadata={"help": "passes over an update's episodes"})
    minibatches: int = field(default=1, metadata={"help": "optimiser steps in one pass; must divide episodes (D54)"})
    micro_batch_size: int = field(
        default=16, metadata={"help": "episodes in one forward pass; never changes the result"}
    )
    max_response_tokens: int = field(default=128, metadata={"help": "longest response sampled"})
    temperature: float = field(
        default=0.7, metadata={"help": "sampling temperature, in every log-probability too (D21)"}
    )
    lr: float = field(default=3e-6, metadata={"help": "the policy's peak learning rate (D58)"})
    warmup_steps: int = field(default=0, metadata={"help": "updates over which the learning rate rises"})
    schedule: Schedule = field(default=Schedule.linear, metadata={"help": "how the rate falls over the updates (D58)"})
    adam_eps: float = field(default=1e-5, metadata={"help": "AdamW's epsilon (D56)"})
    weight_decay: float = field(default=0.0, metadata={"help": "AdamW's decay"})
    max_grad_norm: float = field(default=1.0, metadata={"help": "gradient clipping, of each network apart (D59)"})
    kl_coef: float = field(default=0.05, metadata={"help": "weight of the KL penalty in the reward (D33, D35)"})
    kl_estimator: KLEstimator = field(
        default=KLEstimator.k1, metadata={"help": "k1, or k2 or k3 (clamped), which hold the policy less (D32, D34)"}
    )
    kl_target: float | None = field(
        default=None, metadata={"help": "nats per sequence; set: kl_coef adapts to it (D36)"}
    )
    kl_horizon: int = field(default=10_000, metadata={"help": "episodes over which kl_coef adapts (D36)"})
    clip_range: float = field(default=0.2, metadata={"help": "how far the ratio may move (D48)"})
    clip_range_high: float | None = field(
        default=None, metadata={"help": "upper side of clip_range, where it differs (D49)"}
    )
    dual_clip: float | None = field(
        default=None, metadata={"help": "bounds the loss of bad tokens that became likelier; 3 is usual (D49)"}
    )
    loss_aggregation: LossAggregation = field(
        default=LossAggregation.token_mean, metadata={"help": "mean over all tokens, or of each response's mean (D63)"}
    )
    score_clip: float | None = field(default=None, metadata={"help": "keeps scores within +- this (D39)"})
    missing_eos_score: float | None = field(
        default=-1.0,
        metadata={
            "help": "score of a response that never ended, to lie below the reward's usual ones; null: the "
            "reward's own (D25)"
        },
    )
    target_kl: float | None = field(
        default=None, metadata={"help": "approximate KL that ends an update's epochs (D62)"}
    )
    eval_every: int = field(default=10, metadata={"help": "updates between held-out evaluations"})
    eval_prompts: int = field(default=128, metadata={"help": "held-out prompts of those evaluations"})
    select: Select = field(
        default=Select.last, metadata={"help": "which policy is the result: last, or best on held-out prompts"}
    )
    linear_dtype: LinearDtype = field(
        default=LinearDtype.model,
        metadata={
            "help": "linear layers of policy, reference and critic multiply in float32 or bfloat16; auto: bfloat16 on "
            "CPUs made for it; model: as the model says"
        },
    )
    # Neither changes a result: a run that an alarm stops has none.
    on_alarm: OnAlarm = field(
        default=OnAlarm.warn, metadata={"help": "what an alarm does beside warning (D66)", "fingerprint": False}
    )
    save_every: int = field(default=10, metadata={"help": "updates between checkpoints", "fingerprint": False})

    def __post_init__(self) -> None:
        check_at_least(
            self, 1, "max_steps", "episodes", "epochs", "minibatches", "micro_batch_size", "max_response_tokens"
        )
        check_at_least(self, 1, "kl_horizon", "eval_every", "eval_prompts", "save_every")
        check_at_least(self, 0, "warmup_steps", "kl_coef", "weight_decay")
        check_positive(self, "temperature", "lr", "adam_eps", "max_grad_norm", "clip_range")
        check_positive(self, *(key for key in _OPTIONAL if getattr(self, key) is not None))
        if self.episodes % self.minibatches:
            raise ValueError(f"episodes ({self.episodes}) must be a multiple of minibatches ({self.minibatches}) (D54)")
        if self.clip_range > 1:
            raise ValueError(f"clip_range must be at most 1, or no ratio could be too low; got {self.clip_range}")
        if self.dual_clip is not None and self.dual_clip <= 1:
            raise ValueError(
                f"dual_clip must be above 1, or it would bound tokens that did not move; got {self.dual_clip}"
            )
        if self.missing_eos_score is not None and not math.isfinite(self.missing_eos_score):
            raise ValueError(f"missing_eos_score must be a finite number or null, got {self.missing_eos_score}")
        if self.target_kl is not None and (self.epochs == 1 or (self.epochs == 2 and self.minibatches == 1)):
            raise ValueError(
                f"target_kl can end nothing with epochs={self.epochs} and minibatches={self.minibatches}: it is looked "
                "at between epochs, and is 0 after the first step; set more epochs, or null (D62)"
            )
        if self.kl_target is not None and self.kl_coef == 0:
            raise ValueError("kl_coef must be above 0 for kl_target: it adapts by factors (D36)")
        if self.kl_target is not None and self.kl_horizon < self.episodes:
            raise ValueError(f"kl_horizon ({self.kl_horizon}) must not be below episodes ({self.episodes}) (D36)")


@dataclass
class PPOConfig(LoopConfig):
    """Hyperparameters of PPO: generalised advantage estimation with a critic."""

    epochs: int = field(default=4, metadata={"help": "passes over an update's episodes (D53)"})
    critic_lr: float = field(default=1e-5, metadata={"help": "the critic's peak learning rate (D51)"})
    gamma: float = field(default=1.0, metadata={"help": "discount (D40)"})
    lam: float = field(default=0.95, metadata={"help": "GAE's lambda (D40)"})
    clip_range_value: float | None = field(
        default=0.2, metadata={"help": "how far values may move in an update, in the reward's units; null: free (D50)"}
    )
    whiten_advantages: bool = field(default=True, metadata={"help": "mean 0 and variance 1 over the update (D42)"})
    whiten_rewards: bool = field(default=False, metadata={"help": "scale rewards to variance 1, mean kept (D38)"})
    critic_warmup: int = field(default=0, metadata={"help": "first updates that train the critic alone (D46)"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 0, "critic_warmup")
        if self.critic_warmup >= self.max_steps:
            raise ValueError(
                f"critic_warmup ({self.critic_warmup}) must be below max_steps ({self.max_steps}), or the policy never "
                "learns (D46)"
            )
        check_positive(self, "critic_lr", *(["clip_range_value"] if self.clip_range_value is not None else []))
        check_share(self, "gamma", "lam")
        if self.whiten_advantages or self.whiten_rewards:
            _check_whitening(self)


@dataclass
class GroupedConfig(LoopConfig):
    """Hyperparameters of the estimators that compare the responses to one prompt."""

    group_size: int = field(default=8, metadata={"help": "responses to each prompt; must divide episodes"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 2, "group_size")
        if self.episodes % self.group_size:
            raise ValueError(f"episodes ({self.episodes}) must be a multiple of group_size ({self.group_size})")


@dataclass
class GRPOConfig(GroupedConfig):
    """Hyperparameters of GRPO: a response's reward relative to its group."""

    scale_rewards: ScaleRewards = field(
        default=ScaleRewards.group, metadata={"help": "divide by the deviation of the group, of the batch, or by none"}
    )


@dataclass
class RLOOConfig(GroupedConfig):
    """Hyperparameters of RLOO: a response's reward minus the mean of its group's other ones."""

    group_size: int = field(default=4, metadata={"help": "responses to each prompt; must divide episodes"})


@dataclass
class ReinforcePPConfig(LoopConfig):
    """Hyperparameters of REINFORCE++: whitened rewards-to-go, neither critic nor groups."""

    gamma: float = field(default=1.0, metadata={"help": "discount (D40)"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self, "gamma")
        _check_whitening(self)


def _check_whitening(config: LoopConfig) -> None:
    if config.episodes < _FEWEST_WHITENED:
        raise ValueError(f"whitening needs at least {_FEWEST_WHITENED} episodes, got {config.episodes} (D44)")


_FEWEST_WHITENED = 8
_OPTIONAL = ("kl_target", "clip_range_high", "dual_clip", "score_clip", "target_kl")
