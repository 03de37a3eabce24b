"""Comparing a response with the reference answer of its prompt's row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alignpipe.api import BuildContext, Failure, Sample, Scores
from alignpipe.ops.text import folded
from alignpipe_plugins.exact_match.config import ExactMatchConfig


class ExactMatchReward:
    """1 for the right answer, 0 for a wrong one."""

    def __init__(self, config: ExactMatchConfig) -> None:
        self._config = config
        self.columns = (config.column,)

    def score(self, samples: Sequence[Sample]) -> Scores:
        """1 or 0 per sample; a row without a reference is a failure of kind `refused`."""
        total: list[float] = []
        failures: dict[int, Failure] = {}
        for index, sample in enumerate(samples):
            references = _references(sample.row.get(self._config.column))
            if not references:
                failures[index] = Failure("refused", f"the row has no reference in its column {self._config.column!r}")
            response = self._folded(sample.response)
            total.append(float(any(self._folded(reference) == response for reference in references)))
        return Scores(total, failures=failures)

    def _folded(self, text: str) -> str:
        config = self._config
        return folded(
            text,
            case=config.ignore_case,
            white_space=config.ignore_white_space,
            punctuation=config.ignore_punctuation,
        )


def _references(value: Any) -> list[str]:
    """The right answers: a text or a number, or several in a list."""
    values = value if isinstance(value, list | tuple) else [value]
    return [str(entry) for entry in values if entry is not None]


def build(config: ExactMatchConfig, context: BuildContext) -> ExactMatchReward:
    """The component's factory."""
    return ExactMatchReward(config)
