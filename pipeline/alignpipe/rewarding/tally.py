"""The scores of a batch as they come in, checked: numbers where they are numbers, failures where they are not."""

from __future__ import annotations

import math
import traceback
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from typing import Any

from alignpipe.api import Failure, Sample, Scores
from alignpipe.api.rewards import FAILURE_KINDS

_NOT_APPLICABLE = Failure("not_applicable", "the reward gave None: it does not apply to this sample")
_SPLIT_TOLERANCE = 1e-3
"""How far the tokens' scores may be from the total they add up to, in units of it (of 1, if it is smaller)."""


class WrongAnswer(Exception):
    """An answer that cannot be matched with the samples asked about."""


def failure_of(error: BaseException) -> Failure:
    """What an exception means for the sample that was asked about alone."""
    if isinstance(error, WrongAnswer):
        return Failure("count", str(error))
    lines = traceback.format_exception(error)
    return Failure("exception", f"{type(error).__name__}: {error}\n{''.join(lines).rstrip()}")


class Tally:
    """One entry per sample; a sample that is asked about again is entered anew.

    The samples `spared` need no score: see `costly`.
    """

    def __init__(self, samples: Sequence[Sample], spared: Collection[int] = ()) -> None:
        self.samples = samples
        self.spared = spared
        self.total = [math.nan] * len(samples)
        self.parts: dict[str, list[float]] = {}
        self.per_token: list[list[float]] | None = None
        self.failures: dict[int, Failure] = {}

    def take(self, rows: Sequence[int], scores: Scores) -> None:
        """Enter what the reward said of the samples `rows`.

        Raises `WrongAnswer`, before anything is entered, if there is not one number per sample.
        """
        _check_names(scores, len(rows))
        total = _numbers(scores.total, len(rows), "total")
        parts = {name: _numbers(values, len(rows), f"part {name!r}") for name, values in scores.parts.items()}
        split = scores.per_token
        if split is not None and len(split) != len(rows):
            raise WrongAnswer(f"per_token has {len(split)} rows for {len(rows)} samples; there must be one each")
        for index, row in enumerate(rows):
            score, failure = total[index], scores.failures.get(index)
            if failure is not None or score is None:
                self.fail([row], failure or _NOT_APPLICABLE)
                continue
            own = {name: value for name, values in parts.items() if (value := values[index]) is not None}
            tokens = None if split is None else [float(value) for value in split[index]]
            wrong = _unusable(score, own) or _unlike(tokens, score, self.samples[row])
            if wrong is not None:
                self.fail([row], wrong)
                continue
            self.failures.pop(row, None)
            self.total[row] = score
            for name, value in own.items():
                self.parts.setdefault(name, [math.nan] * len(self.samples))[row] = value
            if tokens is not None:
                self.per_token = self.per_token or [[] for _ in self.samples]
                self.per_token[row] = tokens

    def fail(self, rows: Iterable[int], failure: Failure) -> None:
        """Enter the same failure for several samples, in place of any score that they had."""
        for row in rows:
            self.failures[row] = failure
            self.total[row] = math.nan
            for values in self.parts.values():
                values[row] = math.nan
            if self.per_token is not None:
                self.per_token[row] = []

    @property
    def costly(self) -> dict[int, Failure]:
        """The failures that cost a score."""
        return costly(self.failures, self.spared)


def costly(failures: Mapping[int, Failure], spared: Collection[int]) -> dict[int, Failure]:
    """The failures that cost a score: of the samples `spared`, only that the reward does not apply to them."""
    return {row: each for row, each in failures.items() if row not in spared or each.kind == "not_applicable"}


def faults(failures: Mapping[int, Failure]) -> int:
    """How many samples failed; those that the reward does not apply to are not among them."""
    return sum(failure.kind != "not_applicable" for failure in failures.values())


def _check_names(scores: Scores, count: int) -> None:
    """Raise `WrongAnswer` for parts and failures that are not by name, and by sample."""
    if not isinstance(scores.parts, Mapping) or not all(isinstance(name, str) and name for name in scores.parts):
        raise WrongAnswer(f"its parts must be numbers by the name of the part, got {scores.parts!r:.80}")
    if not isinstance(scores.failures, Mapping):
        raise WrongAnswer(f"its failures must be a Failure by the index of the sample, got {scores.failures!r:.80}")
    for index, failure in scores.failures.items():
        if index not in range(count):
            raise WrongAnswer(f"its failures name sample {index!r}; the {count} samples are 0 to {count - 1}")
        if not isinstance(failure, Failure) or failure.kind not in FAILURE_KINDS:
            kinds = ", ".join(FAILURE_KINDS)
            raise WrongAnswer(
                f"its failure of sample {index} is {failure!r:.80}; it must be Failure(kind, message), "
                f"with one of the kinds {kinds}"
            )


def _numbers(values: Sequence[float | None], count: int, what: str) -> list[float | None]:
    if isinstance(values, Mapping | Set | str | bytes):  # of which `float` could make numbers that are none
        kind = type(values).__name__
        raise WrongAnswer(f"its {what} is of type {kind}; it must be a list of numbers, got {values!r:.80}")
    try:
        numbers = [None if value is None else _number(value) for value in values]
    except (TypeError, ValueError) as error:
        raise WrongAnswer(f"its {what} is {values!r:.80}, which are no numbers: {error}") from error
    if len(numbers) != count:
        raise WrongAnswer(f"its {what} has {len(numbers)} scores for {count} samples; it must give one each, in order")
    return numbers


def _number(value: Any) -> float:
    if isinstance(value, str | bytes):  # `float` would read it, and http's answers may not be such
        raise TypeError("text among them")
    return float(value)


def _unusable(total: float, parts: Mapping[str, float]) -> Failure | None:
    for what, number in [("the total", total), *((f"part {name!r}", value) for name, value in parts.items())]:
        if not math.isfinite(number):
            return Failure("nan", f"{what} is {number}, which is no finite number")
    return None


def _unlike(tokens: Sequence[float] | None, total: float, sample: Sample) -> Failure | None:
    """A split over tokens that are not the response's, or that does not add up."""
    if tokens is None:
        return None
    if sample.response_ids is not None and len(tokens) != len(sample.response_ids):
        return Failure("count", f"per_token has {len(tokens)} entries for {len(sample.response_ids)} response tokens")
    if not abs(sum(tokens) - total) <= _SPLIT_TOLERANCE * max(1.0, abs(total)):
        return Failure("nan", f"per_token adds up to {sum(tokens):g}, not to the total {total:g}")
    return None
