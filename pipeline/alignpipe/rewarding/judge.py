"""Asking a reward for scores: checked, within a deadline, and with every sample that got none accounted for."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from alignpipe.api import Failure, Reward, Sample, Scores, Scoring
from alignpipe.errors import AlignpipeError, DataError, RewardError
from alignpipe.rewarding.tally import Tally, WrongAnswer, costly, failure_of, faults
from alignpipe.rewarding.worker import Overdue, Worker

_BATCH = 512
"""Samples a reward is given at once, at most: the deadline is theirs."""
_REMEMBERED = 100
"""Samples over which failures are told to be rare or frequent, where there are fewer in a batch."""
_TRIED_AGAIN = ("timeout", "exception", "nan", "count")
"""What may go well the next time; who refused will refuse again."""


class TooFewScores(RewardError):
    """Of some samples none has a score, since the reward applies to none that did not fail, or too few to learn from.

    `failures` says how many have none, by kind.
    """

    def __init__(self, message: str, failures: Mapping[str, int]) -> None:
        super().__init__(message)
        self.failures = failures


@dataclass(frozen=True)
class Scored:
    """What a reward says of some samples.

    `total` and every part hold one number per sample, NaN for those in `failures`; `per_token` holds each total split
    over the response's tokens (nothing for a failed one), where the reward gives that.
    """

    total: list[float]
    parts: Mapping[str, list[float]] = field(default_factory=dict)
    per_token: list[list[float]] | None = None
    failures: Mapping[int, Failure] = field(default_factory=dict)

    @property
    def kept(self) -> list[int]:
        """The samples that have a score."""
        return [index for index in range(len(self.total)) if index not in self.failures]

    def failure_counts(self) -> dict[str, int]:
        """How many samples failed, by kind."""
        return _by_kind(self.failures)


class Judge:
    """A reward as the stages ask it.

    `label` names it in messages: its option, distribution and version. What goes wrong with a batch is traced to the
    samples at fault by halving it; they are asked about again (`scoring.retries`), then listed as failures.
    """

    def __init__(self, reward: Reward, label: str, scoring: Scoring | None = None) -> None:
        self.reward = reward
        self.label = label
        self._scoring = scoring or Scoring()
        self._worker: Worker | None = None
        self.earlier: deque[tuple[int, int]] = deque()
        """Faults and samples of the questions before, which belong into a stage's checkpoint."""

    def check_columns(
        self, rows: Sequence[Mapping[str, Any]], what: str, hint: str = "data.columns renames columns"
    ) -> None:
        """Raise `DataError` if `rows` (of the table `what`) lack a column the reward says it reads (`columns`).

        `hint` says what to do about it.
        """
        for column in self._columns:
            lacking = sum(row.get(column) is None for row in rows)
            if lacking:
                known = ("prompt", "messages", column)
                others = ", ".join(sorted(name for name in rows[0] if name not in known)) or "none"
                raise DataError(
                    f"{self.label} reads the column {column!r}, which {lacking} of {len(rows)} {what} do not have "
                    f"(their other columns: {others}); {hint}"
                )

    def can_read(self, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Whether every row has all columns that the reward says it reads."""
        return all(row.get(column) is not None for column in self._columns for row in rows)

    @property
    def _columns(self) -> Iterable[str]:
        columns: Iterable[str] = getattr(self.reward, "columns", ())
        return columns

    def score(self, samples: Sequence[Sample], spared: Collection[int] = ()) -> Scored:
        """Scores of `samples`, in their order; to fail on those `spared`, by their indices, costs nothing.

        Raises `RewardError` if more samples fail than `scoring.failure_budget` allows, `TooFewScores` if it applies to
        none.
        """
        scored = self.score_share(samples, len(samples), spared)
        self.check_failures(scored.failures, samples, spared)
        return scored

    def score_share(self, samples: Sequence[Sample], of: int, spared: Collection[int] = ()) -> Scored:
        """Scores of one process's share of a question of `of` samples; who knows all failures calls `check_failures`.

        Raises `RewardError` if more samples fail than `scoring.failure_budget` allows of all of them.
        """
        tally = Tally(samples, spared)
        for batch in _batches(len(samples)):
            self._settle(batch, tally, self._budget(of))
            self._stop_past_budget(tally.costly, samples, of)
        return _scored(tally)

    def score_all(self, samples: Sequence[Sample]) -> Scored:
        """Scores of `samples`, in their order, however many fail."""
        tally = Tally(samples)
        for batch in _batches(len(samples)):
            self._settle(batch, tally, math.inf)
        return _scored(tally)

    def check_failures(
        self, failures: Mapping[int, Failure], samples: Sequence[Sample], spared: Collection[int] = ()
    ) -> None:
        """Judge a whole question by its failures, once all of them are known, and remember them.

        Raises `RewardError` if more failed than `scoring.failure_budget` allows. Samples that the reward does not apply
        to are no failures in this; there must be one that it applies to, else `TooFewScores`.
        """
        count, failures = len(samples), costly(failures, spared)
        self._stop_past_budget(failures, samples, count)
        if count and len(failures) == count:
            index, first = min(failures.items())
            raise TooFewScores(
                f"{self.label} applies to none of the {count} samples, so there is nothing to go by. The first, where "
                f"the prompt ends {samples[index].prompt[-60:]!r}: {first.message}",
                _by_kind(failures),
            )
        self.earlier.append((faults(failures), count))
        while sum(size for _, size in self.earlier) - self.earlier[0][1] >= _REMEMBERED:
            self.earlier.popleft()

    def _stop_past_budget(self, failures: Mapping[int, Failure], samples: Sequence[Sample], count: int) -> None:
        if faults(failures) > self._budget(count):
            raise RewardError(self._over_budget(failures, samples, count))

    def _settle(self, batch: Sequence[int], tally: Tally, budget: float) -> None:
        """Ask about one batch, and again about what failed, until the deadline."""
        deadline = self._scoring.deadline
        ends = None if deadline is None else time.monotonic() + deadline
        rows = list(batch)
        for _ in range(1 + self._scoring.retries):
            self._ask(rows, tally, ends, budget)
            rows = [row for row in rows if row in tally.failures and tally.failures[row].kind in _TRIED_AGAIN]
            if not rows or _left(ends) == 0:
                break

    def _ask(self, rows: Sequence[int], tally: Tally, ends: float | None, budget: float) -> None:
        """Ask about some samples; a batch that goes wrong is halved until the samples at fault are found.

        If a batch got the wrong number of scores, yet every sample gets one when asked about alone, nothing shows which
        score is whose (the reward may always give one number): then all of them fail.
        """
        batches = [list(rows)] if rows else []
        miscounted: WrongAnswer | None = None
        while batches:
            batch = batches.pop()
            try:
                # A tuple: scores and samples belong together by their order, which no reward may change in place.
                tally.take(batch, self._call(tuple(tally.samples[row] for row in batch), ends))
            except AlignpipeError:
                raise  # the reward says itself, in words, that it cannot work
            except Overdue as error:
                tally.fail(batch, Failure("timeout", str(error)))
            except (Exception, SystemExit) as error:
                miscounted = miscounted or (error if isinstance(error, WrongAnswer) else None)
                # Past the budget the run is lost unless another try mends it all: no need to know who it was.
                if len(batch) == 1 or faults(tally.costly) > budget:
                    tally.fail(batch, failure_of(error))
                else:
                    batches += [batch[len(batch) // 2 :], batch[: len(batch) // 2]]
        if miscounted is not None and not any(row in tally.failures for row in rows):
            tally.fail(rows, failure_of(miscounted))

    def _call(self, samples: Sequence[Sample], ends: float | None) -> Scores:
        seconds = _left(ends)
        if seconds == 0:
            raise Overdue(f"not asked any more: scoring.deadline={self._scoring.deadline:g} s is over")
        if self._worker is None or not self._worker.idle:
            self._worker = Worker()
        answer = self._worker.call(lambda: self.reward.score(samples), seconds)
        return answer if isinstance(answer, Scores) else Scores(total=answer)

    def _budget(self, count: int) -> float:
        """How many of `count` samples may fail: `failure_budget` times as many, from 100 samples on.

        A smaller question is seen together with those before it, so that two rare failures in it stop nothing; but
        never may all of it fail.
        """
        share = self._scoring.failure_budget
        if count >= _REMEMBERED:
            return share * count
        wrong, asked = self._before()
        return max(share * count, min(share * (asked + count) - wrong, count - 1))

    def _before(self) -> tuple[int, int]:
        """Faults and samples of the questions remembered."""
        return sum(wrong for wrong, _ in self.earlier), sum(count for _, count in self.earlier)

    def _over_budget(self, failures: Mapping[int, Failure], samples: Sequence[Sample], count: int) -> str:
        wrong = {index: failure for index, failure in failures.items() if failure.kind != "not_applicable"}
        index, first = min(wrong.items())
        budget = self._scoring.failure_budget
        listed = ", ".join(f"{kind}: {count}" for kind, count in _by_kind(wrong).items())
        sample = samples[index]
        before, asked = self._before()
        earlier = f", and on {before} of the {asked} before them" if count < _REMEMBERED and asked else ""
        return (
            f"{self.label} failed on {len(wrong)} of {count} samples ({listed}){earlier}, more than "
            f"scoring.failure_budget={budget:g} allows. The first ({first.kind}), where the prompt "
            f"ends {sample.prompt[-60:]!r} and the response begins {sample.response[:80]!r}: {first.message}"
        )


def _by_kind(failures: Mapping[int, Failure]) -> dict[str, int]:
    return dict(sorted(Counter(failure.kind for failure in failures.values()).items()))


def _batches(count: int) -> Iterator[range]:
    return (range(start, min(start + _BATCH, count)) for start in range(0, count, _BATCH))


def _scored(tally: Tally) -> Scored:
    return Scored(tally.total, tally.parts, tally.per_token, dict(sorted(tally.failures.items())))


def _left(ends: float | None) -> float | None:
    """Seconds until a moment of the monotonic clock, 0 if it is past; None if there is none."""
    return None if ends is None else max(0.0, ends - time.monotonic())
