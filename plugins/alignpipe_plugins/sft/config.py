"""Options of sft=standard; the defaults are meant for real pretrained models."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from alignpipe.training.supervised_config import SupervisedConfig


class LossOn(Enum):
    """Which tokens the loss counts (D08)."""

    completion = "completion"
    all = "all"


@dataclass(frozen=True)
class SFTConfig(SupervisedConfig):
    """Hyperparameters of supervised fine-tuning; an example is a demonstration."""

    loss_on: LossOn = field(
        default=LossOn.completion, metadata={"help": "completion: response tokens only; all: prompt too"}
    )
