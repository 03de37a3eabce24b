"""Options of data=support and reward=support_gold."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class SupportConfig:
    """How much data to generate, and how noisy the preferences are."""

    demonstrations: int = field(default=7680, metadata={"help": "answers to imitate, of mixed quality"})
    preferences: int = field(default=12288, metadata={"help": "pairs of answers with a preference"})
    prompts: int = field(default=4096, metadata={"help": "prompts for PPO"})
    heldout: int = field(default=256, metadata={"help": "held-out rows of each table, on prompts of their own"})
    label_noise: float = field(default=0.1, metadata={"help": "share of training pairs whose preference is flipped"})

    def __post_init__(self) -> None:
        for name in ("demonstrations", "preferences", "prompts", "heldout"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.label_noise < 0.5:
            raise ValueError(f"label_noise must lie in [0, 0.5), got {self.label_noise}")


@dataclass
class SupportGoldConfig:
    """The gold reward has no options."""
