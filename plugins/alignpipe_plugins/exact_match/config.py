"""Options of reward=exact_match."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ExactMatchConfig:
    """Where the reference stands, and which differences do not count."""

    column: str = field(
        default="answer", metadata={"help": "column of the prompt's row with the right answer, or a list of them"}
    )
    ignore_case: bool = field(default=True, metadata={"help": "whether Paris is paris"})
    ignore_white_space: bool = field(
        default=True, metadata={"help": "whether spaces and line ends at the ends, or more than one, do not count"}
    )
    ignore_punctuation: bool = field(default=False, metadata={"help": "whether Paris! is Paris"})

    def __post_init__(self) -> None:
        if not self.column.strip():
            raise ValueError("column is empty; name the column with the right answer")
