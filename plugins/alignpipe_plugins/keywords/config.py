"""Options of reward=keywords."""

from __future__ import annotations

from dataclasses import dataclass, field

from alignpipe.options import check_at_least


@dataclass(frozen=True)
class KeywordsConfig:
    """Which words and phrases an answer should hold, which it should not, and how long it may be."""

    wanted: list[str] = field(
        default_factory=list,
        metadata={"help": "words or phrases an answer should hold: part wanted is the share it holds"},
    )
    unwanted: list[str] = field(
        default_factory=list,
        metadata={"help": "words or phrases it should not hold: part unwanted is minus that share"},
    )
    max_words: int | None = field(
        default=None, metadata={"help": "most words of an answer: part length is minus the share it is over; null: any"}
    )
    ignore_case: bool = field(default=True, metadata={"help": "whether Refund counts as refund"})

    def __post_init__(self) -> None:
        if self.max_words is not None:
            check_at_least(self, 1, "max_words")
        if not (self.wanted or self.unwanted or self.max_words):
            raise ValueError("every answer would score the same: set wanted, unwanted or max_words")
        for key in ("wanted", "unwanted"):
            words = [self._folded(word) for word in getattr(self, key)]
            if any(not any(letter.isalnum() for letter in word) for word in words):
                raise ValueError(f"{key} holds an entry without a letter or digit: {getattr(self, key)}")
            if len(set(words)) < len(words):
                raise ValueError(f"{key} names a word twice: {getattr(self, key)}")
        both = {self._folded(word) for word in self.wanted} & {self._folded(word) for word in self.unwanted}
        if both:
            raise ValueError(f"both wanted and unwanted: {', '.join(sorted(both))}")

    def _folded(self, word: str) -> str:
        return " ".join((word.casefold() if self.ignore_case else word).split())
