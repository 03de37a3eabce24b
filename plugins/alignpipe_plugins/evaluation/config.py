"""Options of eval=standard."""

from __future__ import annotations

from dataclasses import dataclass, field

from alignpipe.options import check_at_least, check_positive


@dataclass
class EvalConfig:
    """How many prompts, and how they are answered."""

    prompts: int = field(default=256, metadata={"help": "most held-out prompts"})
    temperature: float = field(default=0.7, metadata={"help": "sampling temperature; that of the training"})
    max_response_tokens: int = field(default=128, metadata={"help": "longest response sampled"})
    perplexity_rows: int = field(default=256, metadata={"help": "most held-out demonstrations for the perplexity"})
    confidence: float = field(default=0.95, metadata={"help": "of the intervals"})
    resamples: int = field(default=10_000, metadata={"help": "bootstrap resamples of the prompts"})
    samples: int = field(default=3, metadata={"help": "pairs shown at the end of a run; the file holds all"})

    def __post_init__(self) -> None:
        check_at_least(self, 1, "prompts", "max_response_tokens", "perplexity_rows", "resamples")
        check_at_least(self, 0, "samples")
        check_positive(self, "temperature")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must lie between 0 and 1, got {self.confidence}")
