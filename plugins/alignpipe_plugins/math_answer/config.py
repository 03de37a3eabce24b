"""Options of reward=math_answer."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class MathAnswerConfig:
    """Where the reference stands, and how near to it is right."""

    column: str = field(
        default="answer",
        metadata={"help": "column of the prompt's row with the right number, or a solution ending in '#### 42'"},
    )
    tolerance: float = field(
        default=0.0, metadata={"help": "how far off is still right, as a share of the reference; 0: exactly right"}
    )
    marked_only: bool = field(
        default=False, metadata={"help": "count an answer only after #### or in \\boxed{}, not the last number said"}
    )

    def __post_init__(self) -> None:
        if not self.column.strip():
            raise ValueError("column is empty; name the column with the right answer")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance must lie in [0, 1), got {self.tolerance}")
