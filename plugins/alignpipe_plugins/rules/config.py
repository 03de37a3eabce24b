"""Options of reward=rules."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from alignpipe.options import check_at_least, check_pattern

_BUILT_IN = (
    "wanted",
    "unwanted",
    "length",
    "characters",
    "json",
    "matches",
    "starts_with",
    "ends_with",
    "repetition",
)
"""The parts that are not named by the user."""


@dataclass(frozen=True)
class RulesConfig:
    """What an answer should and should not be; every rule that is set is one part of the reward."""

    wanted: list[str] = field(
        default_factory=list,
        metadata={"help": "words or phrases an answer should hold: part wanted is the share it holds"},
    )
    unwanted: list[str] = field(
        default_factory=list,
        metadata={"help": "words or phrases it should not hold: part unwanted is minus that share"},
    )
    ignore_case: bool = field(
        default=True, metadata={"help": "whether Refund counts as refund, in wanted, unwanted and repetition"}
    )
    min_words: int | None = field(
        default=None, metadata={"help": "least words of an answer: part length is minus the share that is lacking"}
    )
    max_words: int | None = field(
        default=None, metadata={"help": "most words of an answer: part length is minus the share it is over; null: any"}
    )
    min_characters: int | None = field(
        default=None, metadata={"help": "the same in characters: part characters; null: any"}
    )
    max_characters: int | None = field(
        default=None, metadata={"help": "the same in characters: part characters; null: any"}
    )
    patterns: dict[str, str] = field(
        default_factory=dict,
        metadata={"help": "part name -> regular expression that should be found: 1 if it is, 0 if not"},
    )
    unwanted_patterns: dict[str, str] = field(
        default_factory=dict,
        metadata={"help": "part name -> regular expression that should not be found: -1 if it is, 0 if not"},
    )
    json: bool = field(default=False, metadata={"help": "part json: 1 if the whole answer is JSON, 0 if not"})
    matches: str | None = field(
        default=None, metadata={"help": "part matches: 1 if this regular expression fits the whole answer, 0 if not"}
    )
    starts_with: str | None = field(default=None, metadata={"help": "part starts_with: 1 if it begins so, 0 if not"})
    ends_with: str | None = field(default=None, metadata={"help": "part ends_with: 1 if it ends so, 0 if not"})
    repetition: int | None = field(
        default=None,
        metadata={"help": "n: part repetition is minus the share of the answer's n-word sequences that are repeats"},
    )
    weights: dict[str, float] = field(
        default_factory=dict, metadata={"help": "part name -> what it counts in the total (1 where not given)"}
    )

    def __post_init__(self) -> None:
        self._check_words()
        self._check_bands()
        if self.repetition is not None:
            check_at_least(self, 1, "repetition")
        for key in ("starts_with", "ends_with"):
            text = getattr(self, key)
            if text is not None and not text.strip():
                raise ValueError(f"{key} is empty; every answer would keep it")
        for key, pattern in self._regular_expressions():
            check_pattern(key, pattern)
            if not pattern:
                raise ValueError(f"{key} is empty; it would be found in every answer")
        parts = self.parts()
        if not parts:
            raise ValueError(
                "every answer would score the same: set at least one of wanted, unwanted, min_words, max_words, "
                "min_characters, max_characters, patterns, unwanted_patterns, json, matches, starts_with, ends_with, "
                "repetition"
            )
        for name in self.weights:
            if name not in parts:
                raise ValueError(f"weights.{name}: there is no such part; the rules that are set make {_listed(parts)}")
        if not any(self.weights.get(name, 1.0) for name in parts):
            raise ValueError("weights are all 0: every answer would score the same")

    def parts(self) -> list[str]:
        """The names of the parts that the rules which are set make, in their order."""
        made = {
            "wanted": bool(self.wanted),
            "unwanted": bool(self.unwanted),
            "length": self.min_words is not None or self.max_words is not None,
            "characters": self.min_characters is not None or self.max_characters is not None,
            "json": self.json,
            "matches": self.matches is not None,
            "starts_with": self.starts_with is not None,
            "ends_with": self.ends_with is not None,
            "repetition": self.repetition is not None,
        }
        return [*(name for name in _BUILT_IN if made[name]), *self.patterns, *self.unwanted_patterns]

    def _check_words(self) -> None:
        for key in ("wanted", "unwanted"):
            words = [self._folded(word) for word in getattr(self, key)]
            if any(not any(letter.isalnum() for letter in word) for word in words):
                raise ValueError(f"{key} holds an entry without a letter or digit: {getattr(self, key)}")
            if len(set(words)) < len(words):
                raise ValueError(f"{key} names a word twice: {getattr(self, key)}")
        both = {self._folded(word) for word in self.wanted} & {self._folded(word) for word in self.unwanted}
        if both:
            raise ValueError(f"both wanted and unwanted: {_listed(both)}")

    def _check_bands(self) -> None:
        for unit in ("words", "characters"):
            least, most = f"min_{unit}", f"max_{unit}"
            check_at_least(self, 1, *(key for key in (least, most) if getattr(self, key) is not None))
            low, high = getattr(self, least), getattr(self, most)
            if low is not None and high is not None and low > high:
                raise ValueError(f"{least} ({low}) is above {most} ({high})")

    def _regular_expressions(self) -> Iterator[tuple[str, str]]:
        for key in ("patterns", "unwanted_patterns"):
            patterns: Mapping[str, str] = getattr(self, key)
            for name, pattern in patterns.items():
                if not re.fullmatch(r"\w+", name):
                    raise ValueError(f"{key}.{name}: a part's name is made of letters, digits and underscores")
                if name in _BUILT_IN:
                    raise ValueError(f"{key}.{name}: {name} is the name of a part of its own; choose another")
                yield f"{key}.{name}", pattern
        twice = self.patterns.keys() & self.unwanted_patterns.keys()
        if twice:
            raise ValueError(f"both in patterns and in unwanted_patterns: {_listed(twice)}")
        if self.matches is not None:
            yield "matches", self.matches

    def _folded(self, word: str) -> str:
        return " ".join((word.casefold() if self.ignore_case else word).split())


def _listed(names: object) -> str:
    return ", ".join(sorted(map(str, names)))  # type: ignore[call-overload]
