"""What a judge is asked, and how its answer is read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import regex
from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from alignpipe.api import Sample
from alignpipe.api.rewards import FailureKind
from alignpipe.errors import ConfigError
from alignpipe.options import PATTERN_SECONDS
from alignpipe_plugins.llm_judge.config import LlmJudgeConfig

_QUOTED = 200


class Unreadable(Exception):
    """An answer of the judge without a verdict in it; `kind` says why none was found."""

    def __init__(self, message: str, kind: FailureKind = "exception") -> None:
        super().__init__(message)
        self.kind: FailureKind = kind


class Question:
    """The template, ready to be filled in."""

    def __init__(self, config: LlmJudgeConfig) -> None:
        self._config = config
        try:
            environment = SandboxedEnvironment(undefined=StrictUndefined, trim_blocks=False, autoescape=False)
            self._template = environment.from_string(config.template_text())
        except TemplateError as error:
            raise ConfigError(f"reward.template={config.template} is no Jinja template: {error}") from error

    def messages(self, sample: Sample, answers: Mapping[str, str]) -> list[dict[str, str]]:
        """The messages to send; `answers` are first and second of a comparison, empty for a grade.

        Raises `ConfigError` for a template that uses what there is not.
        """
        config = self._config
        try:
            text = self._template.render(
                prompt=sample.prompt,
                response=sample.response,
                messages=[dict(message) for message in sample.messages],
                row=dict(sample.row),
                reference=sample.row.get(config.reference) if config.reference else None,
                low=f"{config.low:g}",
                high=f"{config.high:g}",
                parts=list(config.parts),
                **answers,
            )
        except TemplateError as error:
            raise ConfigError(f"reward.template={config.template} cannot be filled in: {error}") from error
        system = [] if config.system is None else [{"role": "system", "content": config.system}]
        return [*system, {"role": "user", "content": text.strip()}]


def read_grades(answer: str, config: LlmJudgeConfig) -> dict[str, float]:
    """The grades in an answer, moved to [0, 1]: `score`, and one for each of `parts`.

    Raises `Unreadable` for an answer without them, or with one off the scale.
    """
    if config.pattern is not None:
        found: Mapping[str, Any] = {"score": _last_match(answer, config.pattern)}
    else:
        found = _last_object(answer, "score")
    return {name: _grade(found.get(name), name, config) for name in ("score", *config.parts)}


def read_winner(answer: str, config: LlmJudgeConfig) -> float:
    """1 if an answer says A, 0 if it says B, 1/2 for a tie.

    Raises `Unreadable` for an answer that says none of them.
    """
    if config.pattern is not None:
        said = _last_match(answer, config.pattern)
    else:
        said = str(_last_object(answer, "winner")["winner"])
    values = {"a": 1.0, "b": 0.0, "tie": 0.5}
    if said.strip().lower() not in values:
        raise Unreadable(f"the judge named {said!r:.40} as the winner, which is none of A, B and tie")
    return values[said.strip().lower()]


def _grade(value: Any, name: str, config: LlmJudgeConfig) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not config.low <= number <= config.high:
        raise Unreadable(f"the judge's {name} is {value!r:.40}, no number from {config.low:g} to {config.high:g}")
    return (number - config.low) / (config.high - config.low)


def _last_match(answer: str, pattern: str) -> str:
    try:
        matches = list(regex.finditer(pattern, answer, timeout=PATTERN_SECONDS))
    except TimeoutError as error:
        raise Unreadable(
            f"reward.pattern={pattern!r} took more than {PATTERN_SECONDS:g} s on the judge's answer; make it simpler",
            "timeout",
        ) from error
    if not matches or matches[-1][1] is None:
        raise Unreadable(f"reward.pattern={pattern!r} is not in the judge's answer, which ends {answer[-_QUOTED:]!r}")
    return str(matches[-1][1])


def _last_object(answer: str, key: str) -> dict[str, Any]:
    """The last JSON object in a text that holds a key: models reason first, and quote."""
    found = [entry for entry in _objects(answer) if key in entry]
    if not found:
        raise Unreadable(f"there is no JSON with {key!r} in the judge's answer, which ends {answer[-_QUOTED:]!r}")
    return found[-1]


def _objects(text: str) -> Iterator[dict[str, Any]]:
    decoder, position = json.JSONDecoder(), text.find("{")
    while position >= 0:
        try:
            entry, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            end = position + 1
        else:
            yield entry
        position = text.find("{", end)
