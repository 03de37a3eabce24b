"""Options of rollout=local."""

from __future__ import annotations

from dataclasses import dataclass, field

from alignpipe.options import check_at_least


@dataclass
class LocalRolloutConfig:
    """How responses are sampled."""

    batch_size: int = field(default=64, metadata={"help": "responses sampled side by side"})

    def __post_init__(self) -> None:
        check_at_least(self, 1, "batch_size")
