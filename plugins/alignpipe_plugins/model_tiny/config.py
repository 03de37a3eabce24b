"""Options of model=tiny."""

from __future__ import annotations

from dataclasses import dataclass, field

from alignpipe.options import Forward, ModelLinearDtype, check_at_least


@dataclass
class TinyConfig:
    """The size of the model and of its vocabulary."""

    hidden_size: int = field(default=128, metadata={"help": "width of the model"})
    layers: int = field(default=3, metadata={"help": "number of blocks"})
    heads: int = field(default=4, metadata={"help": "attention heads; must divide hidden_size"})
    intermediate_size: int = field(default=256, metadata={"help": "width of the feed-forward part"})
    vocabulary: int = field(default=640, metadata={"help": "most tokens of the tokenizer trained on the data"})
    context: int = field(default=1024, metadata={"help": "most tokens of prompt and response together"})
    forward: Forward = field(
        default=Forward.auto,
        metadata={"help": "auto (without padding where the family is known) or general (transformers' own forward)"},
    )
    linear_dtype: ModelLinearDtype | None = field(
        default=None,
        metadata={
            "help": "bfloat16: linear layers multiply in it, weights and all else stay float32; unset: as weights"
        },
    )
    shard: bool = field(
        default=False,
        metadata={
            "help": "several processes split what they train (FSDP2): weights, gradients and optimiser states",
            "fingerprint": False,
        },
    )

    def __post_init__(self) -> None:
        check_at_least(self, 1, "hidden_size", "layers", "heads", "intermediate_size", "context")
        if self.hidden_size % (2 * self.heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of twice the number of heads, {self.heads}"
            )
        if self.vocabulary < 300:
            raise ValueError(
                f"vocabulary must be at least 300 (256 bytes, special tokens, some merges), got {self.vocabulary}"
            )
