"""Options of training on examples, for the configs of the stages that do. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from alignpipe.options import LinearDtype, Schedule, check_at_least, check_positive


@dataclass(frozen=True)
class SupervisedConfig:
    """What sft and reward training share: to be inherited by a component's config, which may set other defaults."""

    epochs: float = field(default=1.0, metadata={"help": "passes over the examples, where max_steps is unset"})
    max_steps: int | None = field(default=None, metadata={"help": "optimiser steps; unset: from epochs"})
    batch_size: int = field(default=16, metadata={"help": "examples in one optimiser step"})
    micro_batch_size: int = field(
        default=8, metadata={"help": "examples in one forward pass; never changes the result"}
    )
    lr: float = field(default=2e-5, metadata={"help": "peak learning rate"})
    warmup_share: float = field(default=0.03, metadata={"help": "share of the steps over which the rate rises"})
    schedule: Schedule = field(
        default=Schedule.cosine, metadata={"help": "how the rate falls: linear, cosine, constant"}
    )
    max_grad_norm: float = field(default=1.0, metadata={"help": "gradient clipping"})
    weight_decay: float = field(default=0.0, metadata={"help": "AdamW's decay"})
    adam_eps: float = field(default=1e-8, metadata={"help": "AdamW's epsilon"})
    max_length: int = field(default=1024, metadata={"help": "tokens of prompt and response; longer responses are cut"})
    heldout: int = field(default=256, metadata={"help": "most held-out examples for the evaluation on the way"})
    eval_every: int = field(default=100, metadata={"help": "steps between evaluations"})
    save_every: int = field(default=100, metadata={"help": "steps between checkpoints", "fingerprint": False})
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
        check_at_least(self, 2, "max_length")
        check_positive(self, "epochs", "lr", "max_grad_norm", "adam_eps")
        if self.max_steps is not None:
            check_at_least(self, 1, "max_steps")
        if not 0 <= self.warmup_share < 1:
            raise ValueError(f"warmup_share must lie in [0, 1), got {self.warmup_share}")
        if self.eval_every % self.log_every:
            raise ValueError(f"eval_every ({self.eval_every}) must be a multiple of log_every ({self.log_every})")

    def steps(self, examples: int) -> int:
        """The optimiser steps for a training set of that many examples."""
        return self.max_steps or max(1, round(self.epochs * examples / self.batch_size))
