"""The rules: each a function from an answer to a number between -1 and 1, and their weighted sum."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import regex

from alignpipe.api import BuildContext, Failure, Sample, Scores
from alignpipe.ops.text import distinct_n
from alignpipe.options import PATTERN_SECONDS
from alignpipe_plugins.rules.config import RulesConfig

Rule = Callable[[str], float]


class RulesReward:
    """Scores an answer by its text alone; never looks at the prompt."""

    def __init__(self, config: RulesConfig) -> None:
        rules = _rules(config)
        self._rules = {name: rules[name] for name in config.parts()}
        self._weights = {name: config.weights.get(name, 1.0) for name in self._rules}

    def score(self, samples: Sequence[Sample]) -> Scores:
        """The total is the weighted sum of the parts; the parts are unweighted, and only there if their rule is set.

        An answer on which a regular expression takes too long is a failure.
        """
        rows: list[dict[str, float]] = []
        failures: dict[int, Failure] = {}
        for index, sample in enumerate(samples):
            try:
                rows.append({name: rule(sample.response) for name, rule in self._rules.items()})
            except TimeoutError:
                failures[index] = Failure(
                    "timeout",
                    f"a regular expression took more than {PATTERN_SECONDS:g} s on this answer; make it simpler",
                )
                rows.append(dict.fromkeys(self._rules, float("nan")))
        return Scores(
            total=[sum(self._weights[name] * value for name, value in row.items()) for row in rows],
            parts={name: [row[name] for row in rows] for name in self._rules},
            failures=failures,
        )


def _rules(config: RulesConfig) -> dict[str, Rule]:
    """The rules of all parts that are set, by the part's name."""
    wanted = [_word(word, config.ignore_case) for word in config.wanted]
    unwanted = [_word(word, config.ignore_case) for word in config.unwanted]
    rules: dict[str, Rule] = {  # 0 - x, since -x would show zeros as -0.0
        "wanted": lambda answer: _share(wanted, answer),
        "unwanted": lambda answer: 0.0 - _share(unwanted, answer),
        "length": lambda answer: 0.0 - _outside(len(answer.split()), config.min_words, config.max_words),
        "characters": lambda answer: 0.0 - _outside(len(answer.strip()), config.min_characters, config.max_characters),
        "json": lambda answer: float(_is_json(answer)),
        "starts_with": lambda answer: float(answer.strip().startswith((config.starts_with or "").strip())),
        "ends_with": lambda answer: float(answer.strip().endswith((config.ends_with or "").strip())),
        "repetition": lambda answer: 0.0 - _repeats(answer, config.repetition or 1, config.ignore_case),
    }
    if config.matches is not None:
        whole = regex.compile(config.matches)
        rules["matches"] = lambda answer: float(whole.fullmatch(answer.strip(), timeout=PATTERN_SECONDS) is not None)
    for sign, patterns in ((1.0, config.patterns), (-1.0, config.unwanted_patterns)):
        for name, pattern in patterns.items():
            rules[name] = _finding(regex.compile(pattern), sign)
    return rules


def _finding(pattern: Any, value: float) -> Rule:
    """`value` if the pattern is found anywhere, else 0."""
    return lambda answer: value if pattern.search(answer, timeout=PATTERN_SECONDS) is not None else 0.0


def _word(word: str, ignore_case: bool) -> Any:
    """A whole word or phrase: no letter, digit or underscore may touch it; spaces in it stand for any white space."""
    text = r"\s+".join(regex.escape(piece) for piece in word.split())
    return regex.compile(rf"(?<!\w){text}(?!\w)", regex.IGNORECASE if ignore_case else 0)


def _share(patterns: Sequence[Any], answer: str) -> float:
    """Share of the patterns that occur; saying a word twice counts once."""
    return sum(pattern.search(answer) is not None for pattern in patterns) / len(patterns)


def _outside(count: int, least: int | None, most: int | None) -> float:
    """0 inside the band, then the share of the limit that is lacking or too much, at most 1."""
    if least is not None and count < least:
        return (least - count) / least
    if most is not None and count > most:
        return min((count - most) / most, 1.0)
    return 0.0


def _is_json(answer: str) -> bool:
    """Whether the whole answer is one JSON value, by the standard (no NaN)."""
    try:
        json.loads(answer, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return False
    return True


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _repeats(answer: str, n: int, ignore_case: bool) -> float:
    """Share of the n-word sequences that were there before; 0 for an answer shorter than n words."""
    words = (answer.casefold() if ignore_case else answer).split()
    return 1.0 - distinct_n([words], n) if len(words) >= n else 0.0


def build(config: RulesConfig, context: BuildContext) -> RulesReward:
    """The component's factory."""
    return RulesReward(config)
