"""Comparing the final number of a response with that of the reference."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from alignpipe.api import BuildContext, Failure, Sample, Scores
from alignpipe_plugins.math_answer.config import MathAnswerConfig
from alignpipe_plugins.math_answer.numbers import Found, equal, final_number


class MathAnswerReward:
    """1 for the right number, 0 for a wrong one or none."""

    def __init__(self, config: MathAnswerConfig) -> None:
        self._config = config
        self.columns = {config.column: "12 * 7 = 84\n#### 84"}

    def score(self, samples: Sequence[Sample]) -> Scores:
        """1 or 0 per sample; part `answered` is 1 if there is a number at all.

        A row whose reference holds no number is a failure of kind `refused`.
        """
        config = self._config
        total: list[float] = []
        answered: list[float] = []
        failures: dict[int, Failure] = {}
        for index, sample in enumerate(samples):
            reference = _reference(sample.row.get(config.column))
            found = final_number(sample.response, marked_only=config.marked_only)
            if reference is None:
                given = repr(sample.row.get(config.column))
                failures[index] = Failure("refused", f"no number in the row's column {config.column!r}: {given:.80}")
            right = found is not None and reference is not None and equal(found, reference, config.tolerance)
            total.append(float(right))
            answered.append(float(found is not None))
        return Scores(total, parts={"answered": answered}, failures=failures)


def _reference(value: Any) -> Found | None:
    """The right number: one itself, or the end of a worked solution."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return Found(Fraction(str(value)))
        except ValueError:  # NaN and infinities
            return None
    return final_number(value) if isinstance(value, str) else None


def build(config: MathAnswerConfig, context: BuildContext) -> MathAnswerReward:
    """The component's factory."""
    return MathAnswerReward(config)
