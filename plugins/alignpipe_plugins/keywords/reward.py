"""The keyword rule: three parts between -1 and 1, and their sum."""

from __future__ import annotations

import re
from collections.abc import Sequence

from alignpipe.api import BuildContext, Sample, Scores
from alignpipe_plugins.keywords.config import KeywordsConfig


class KeywordsReward:
    """Scores an answer by the words in it; never looks at the prompt."""

    def __init__(self, config: KeywordsConfig) -> None:
        self._wanted = [_pattern(word, config.ignore_case) for word in config.wanted]
        self._unwanted = [_pattern(word, config.ignore_case) for word in config.unwanted]
        self._max_words = config.max_words

    def score(self, samples: Sequence[Sample]) -> Scores:
        """The total is wanted + unwanted + length, in [-2, 1]; parts whose option is not set are left out."""
        answers = [sample.response for sample in samples]
        parts: dict[str, list[float]] = {}
        if self._wanted:
            parts["wanted"] = [_share(self._wanted, answer) for answer in answers]
        if self._unwanted:
            parts["unwanted"] = [-_share(self._unwanted, answer) for answer in answers]
        if self._max_words is not None:
            parts["length"] = [-_excess(len(answer.split()), self._max_words) for answer in answers]
        return Scores(total=[sum(values) for values in zip(*parts.values(), strict=True)], parts=parts)


def _pattern(word: str, ignore_case: bool) -> re.Pattern[str]:
    """A whole word or phrase: no letter, digit or underscore may touch it; spaces in it stand for any white space."""
    text = r"\s+".join(re.escape(piece) for piece in word.split())
    return re.compile(rf"(?<!\w){text}(?!\w)", re.IGNORECASE if ignore_case else 0)


def _share(patterns: Sequence[re.Pattern[str]], answer: str) -> float:
    """Share of the patterns that occur; saying a word twice counts once."""
    return sum(pattern.search(answer) is not None for pattern in patterns) / len(patterns)


def _excess(words: int, most: int) -> float:
    """0 up to the limit, then the share of it that is too much, 1 from twice the limit on."""
    return min(max(words - most, 0) / most, 1.0)


def build(config: KeywordsConfig, context: BuildContext) -> KeywordsReward:
    """The component's factory."""
    return KeywordsReward(config)
