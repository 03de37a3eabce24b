"""Sends samples to a service and reads its scores."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

from alignpipe.api import BuildContext, Failure, Sample, Scores
from alignpipe.api.rewards import FailureKind
from alignpipe.rewarding.remote import Rejected, Unanswered, open_client, post_json, together
from alignpipe_plugins.http.config import HttpConfig

if TYPE_CHECKING:
    import httpx


@dataclass(frozen=True)
class Verdict:
    """What the service says of one sample."""

    score: float = 0.0
    parts: Mapping[str, float] = field(default_factory=dict)
    failure: Failure | None = None


class HttpReward:
    """Scores by asking a service, several batches at a time."""

    def __init__(self, config: HttpConfig) -> None:
        self._config = config
        self._headers = config.secrets()
        self.columns = tuple(config.columns or ())

    async def score(self, samples: Sequence[Sample]) -> Scores:
        """What the service answers; a request that fails is a failure of its samples."""
        size = self._config.batch_size
        batches = [samples[start : start + size] for start in range(0, len(samples), size)]
        gate = asyncio.Semaphore(self._config.concurrency)
        headers = dict(self._headers.items())
        async with open_client(headers, self._config.concurrency) as client:
            answered = await together(self._ask(client, gate, batch) for batch in batches)
        return _scores([verdict for batch in answered for verdict in batch])

    async def _ask(self, client: httpx.AsyncClient, gate: asyncio.Semaphore, batch: Sequence[Sample]) -> list[Verdict]:
        """One verdict per sample; a batch that is rejected is halved to find the samples that are meant."""
        body = {"samples": [self._described(sample) for sample in batch]}
        try:
            async with gate:
                answer = await post_json(client, self._config.url, body, self._config, self._headers)
        except Rejected as error:
            if len(batch) == 1:
                return [Verdict(failure=Failure("refused", str(error)))]
            half = len(batch) // 2
            first, second = batch[:half], batch[half:]
            return [*await self._ask(client, gate, first), *await self._ask(client, gate, second)]
        except Unanswered as error:
            return [Verdict(failure=Failure(error.kind, str(error)))] * len(batch)
        try:
            return read_answer(answer, len(batch))
        except ValueError as error:
            message = f"the answer of {self._config.url} does not keep to the protocol: {error}"
            return [Verdict(failure=Failure("count", message))] * len(batch)

    def _described(self, sample: Sample) -> dict[str, Any]:
        """A sample as the protocol has it; what JSON does not know (a date, NaN) is sent as text."""
        wanted = self._config.columns
        row = dict(sample.row) if wanted is None else {name: sample.row.get(name) for name in wanted}
        described = {
            "prompt": sample.prompt,
            "response": sample.response,
            "messages": [dict(message) for message in sample.messages],
            "row": row,
            "ended": sample.ended,
        }
        plain: dict[str, Any] = json.loads(json.dumps(described, default=str), parse_constant=str)
        return plain


def read_answer(answer: Any, count: int) -> list[Verdict]:
    """What an answer says of each of `count` samples.

    Raises `ValueError` if it is not `{"scores": [...], "parts": {name: [...]}, "failures": {"place": ...}}`.
    """
    if not isinstance(answer, dict) or "scores" not in answer:
        raise ValueError(f"it must be an object with scores, got {answer!r:.100}")
    failures = _failures(answer.get("failures") or {}, count)
    scores = _column(answer["scores"], "scores", count)
    parts = answer.get("parts") or {}
    if not isinstance(parts, dict):
        raise ValueError(f"parts must be an object, got {parts!r:.100}")
    columns = {str(name): _column(values, f"part {name!r}", count) for name, values in parts.items()}
    verdicts = []
    for index in range(count):
        own = {name: values[index] for name, values in columns.items()}
        numbers = {"the score": scores[index], **{f"part {name!r}": value for name, value in own.items()}}
        bad = [f"{what} is {value!r:.60}, which is no number" for what, value in numbers.items() if not _number(value)]
        failure = failures.get(index) or (Failure("nan", bad[0]) if bad else None)
        verdicts.append(Verdict(failure=failure) if failure else Verdict(float(scores[index]), own))
    return verdicts


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _column(values: Any, what: str, count: int) -> list[Any]:
    if not isinstance(values, list) or len(values) != count:
        got = f"{len(values)} entries" if isinstance(values, list) else repr(values)[:60]
        raise ValueError(f"{what} must be a list with one entry for each of the {count} samples, got {got}")
    return values


def _failures(told: Any, count: int) -> dict[int, Failure]:
    """Failures by index: each a text, or an object with kind and message."""
    if not isinstance(told, dict):
        raise ValueError(f"failures must be an object from places to reasons, got {told!r:.100}")
    failures = {}
    for index, reason in told.items():
        if not str(index).isdigit() or int(index) >= count:
            raise ValueError(f"failures names the place {index!r}; places are 0 to {count - 1}")
        given = reason if isinstance(reason, dict) else {"message": reason}
        kind: FailureKind = given["kind"] if given.get("kind") in get_args(FailureKind) else "exception"
        failures[int(index)] = Failure(kind, f"the service says: {given.get('message', 'no reason')}")
    return failures


def _scores(verdicts: Sequence[Verdict]) -> Scores:
    """Verdicts as the reward API has them; a sample that lacks a part the others have is a failure."""
    names = sorted({name for verdict in verdicts for name in verdict.parts})
    failures = {}
    for index, verdict in enumerate(verdicts):
        lacking = [name for name in names if name not in verdict.parts]
        if verdict.failure is not None:
            failures[index] = verdict.failure
        elif lacking:
            failures[index] = Failure("count", f"the service gave other samples the part {lacking[0]!r}, not this one")
    return Scores(
        total=[verdict.score for verdict in verdicts],
        parts={name: [float(verdict.parts.get(name, 0.0)) for verdict in verdicts] for name in names},
        failures=failures,
    )


def build(config: HttpConfig, context: BuildContext) -> HttpReward:
    """The component's factory.

    Raises `RewardError` without httpx, and for a header whose environment variable is not set.
    """
    config.check_machine()
    return HttpReward(config)
