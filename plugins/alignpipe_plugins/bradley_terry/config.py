"""Options of reward=bradley_terry; the defaults are those of the reference recipes (D09-D16)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from alignpipe.options import LinearDtype, Schedule, check_at_least, check_positive


class Normalise(Enum):
    """What the finished scores are measured against."""

    none = "none"
    demonstrations = "demonstrations"
    """Shift only: 0 means as good as the demonstrations (D15)."""
    samples = "samples"
    """Mean 0 and standard deviation 1 on answers the starting policy samples (D16)."""


@dataclass
class BradleyTerryConfig:
    """Hyperparameters of reward-model training."""

    epochs: float = field(default=1.0, metadata={"help": "passes over the pairs, where max_steps is unset (D13)"})
    max_steps: int | None = field(default=None, metadata={"help": "optimiser steps; unset: from epochs"})
    batch_size: int = field(default=64, metadata={"help": "pairs in one optimiser step (D14)"})
    micro_batch_size: int = field(default=8, metadata={"help": "pairs in one forward pass; never changes the result"})
    lr: float = field(default=3e-6, metadata={"help": "peak learning rate (D14)"})
    warmup_share: float = field(default=0.03, metadata={"help": "share of the steps over which the rate rises"})
    schedule: Schedule = field(
        default=Schedule.cosine, metadata={"help": "how the rate falls: linear, cosine, constant"}
    )
    max_grad_norm: float = field(default=1.0, metadata={"help": "gradient clipping"})
    weight_decay: float = field(default=0.0, metadata={"help": "AdamW's decay"})
    adam_eps: float = field(default=1e-5, metadata={"help": "AdamW's epsilon (D14)"})
    max_length: int = field(default=1024, metadata={"help": "tokens of prompt and response; longer responses are cut"})
    normalise: Normalise = field(
        default=Normalise.demonstrations,
        metadata={"help": "none, demonstrations (shift, D15), samples (shift and scale, D16)"},
    )
    normalise_samples: int = field(default=256, metadata={"help": "texts the normalisation is measured on"})
    sample_tokens: int = field(default=128, metadata={"help": "longest response sampled for normalise=samples"})
    sample_temperature: float = field(default=0.7, metadata={"help": "temperature of those samples"})
    heldout: int = field(default=256, metadata={"help": "most held-out pairs for the evaluation on the way"})
    eval_every: int = field(default=50, metadata={"help": "steps between evaluations"})
    save_every: int = field(default=50, metadata={"help": "steps between checkpoints", "fingerprint": False})
    log_every: int = field(default=10, metadata={"help": "steps between log lines"})
    linear_dtype: LinearDtype = field(
        default=LinearDtype.model,
        metadata={
            "help": "linear layers multiply in float32 or bfloat16; auto: bfloat16 on CPUs made for it; model: as the "
            "model says"
        },
    )

    def __post_init__(self) -> None:
        check_at_least(self, 1, "batch_size", "micro_batch_size", "eval_every", "save_every", "log_every", "heldout")
        check_at_least(self, 2, "max_length", "normalise_samples")
        check_at_least(self, 1, "sample_tokens")
        check_positive(self, "epochs", "lr", "max_grad_norm", "adam_eps", "sample_temperature")
        if self.max_steps is not None:
            check_at_least(self, 1, "max_steps")
        if not 0 <= self.warmup_share < 1:
            raise ValueError(f"warmup_share must lie in [0, 1), got {self.warmup_share}")
        if self.eval_every % self.log_every:
            raise ValueError(f"eval_every ({self.eval_every}) must be a multiple of log_every ({self.log_every})")
