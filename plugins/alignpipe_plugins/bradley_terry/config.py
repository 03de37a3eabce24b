"""Options of reward=bradley_terry; the defaults are those of the reference recipes (D09-D16)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from alignpipe.options import check_at_least, check_positive
from alignpipe.training.supervised_config import SupervisedConfig


class Normalise(Enum):
    """What the finished scores are measured against."""

    none = "none"
    demonstrations = "demonstrations"
    """Shift only: 0 means as good as the demonstrations (D15)."""
    samples = "samples"
    """Mean 0 and standard deviation 1 on answers the starting policy samples (D16)."""


@dataclass(frozen=True)
class BradleyTerryConfig(SupervisedConfig):
    """Hyperparameters of reward-model training; an example is a pair (D12), and one epoch is the default (D13)."""

    batch_size: int = field(default=64, metadata={"help": "examples in one optimiser step (D14)"})
    lr: float = field(default=3e-6, metadata={"help": "peak learning rate (D14)"})
    adam_eps: float = field(default=1e-5, metadata={"help": "AdamW's epsilon (D14)"})
    eval_every: int = field(default=50, metadata={"help": "steps between evaluations"})
    save_every: int = field(default=50, metadata={"help": "steps between checkpoints", "fingerprint": False})
    normalise: Normalise = field(
        default=Normalise.demonstrations,
        metadata={"help": "none, demonstrations (shift, D15), samples (shift and scale, D16)"},
    )
    normalise_samples: int = field(default=256, metadata={"help": "texts the normalisation is measured on"})
    sample_tokens: int = field(default=128, metadata={"help": "longest response sampled for normalise=samples"})
    sample_temperature: float = field(default=0.7, metadata={"help": "temperature of those samples"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 2, "normalise_samples")
        check_at_least(self, 1, "sample_tokens")
        check_positive(self, "sample_temperature")
