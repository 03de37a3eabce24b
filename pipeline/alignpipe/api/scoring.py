"""How a run asks its rewards."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Scoring:
    """How rewards are asked (`scoring.<key>` of a run's config): what may go wrong, and for how long."""

    deadline: float | None = field(
        default=600.0, metadata={"help": "seconds one batch may take to be scored; null: as long as it takes"}
    )
    retries: int = field(default=1, metadata={"help": "how often samples without a score are asked about again"})
    failure_budget: float = field(
        default=0.1,
        metadata={
            "help": "share of a batch (if it has fewer than 100 samples: with those before it) that may stay without a "
            "score; more stops the run"
        },
    )

    def __post_init__(self) -> None:
        if self.deadline is not None and not self.deadline > 0:
            raise ValueError(f"deadline must be above 0 seconds, or null; got {self.deadline}")
        if self.retries < 0:
            raise ValueError(f"retries must not be negative; got {self.retries}")
        if not 0 <= self.failure_budget < 1:
            raise ValueError(f"failure_budget must be a share from 0 to below 1; got {self.failure_budget}")
