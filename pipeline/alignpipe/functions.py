"""A plain function as a reward: ours, `f(samples)`, or with TRL's signature, `f(prompts, completions, **columns)`.

TRL's is what its GRPOTrainer asks of reward functions (TRL 1.x, "Using a custom reward function"): everything comes by
keyword, prompts and completions are text for plain prompts and lists of messages for conversations, every other column
of the prompts is a list, and None in place of a number means that the function does not apply to that sample.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, Literal

from alignpipe.api import Failure, Sample, Scores
from alignpipe.api.rewards import Answer

Style = Literal["samples", "trl"]

_IDS = ("completion_ids", "completions_ids")
"""TRL's code gives the first name, its documentation the second."""
_SAMPLED = ("prompts", "completions", *_IDS)
_IGNORED = ("log_extra", "log_metric")
_ABSENT = ("trainer_state", "environments")
_RESERVED = (*_SAMPLED, *_IGNORED, *_ABSENT)
WANTED = "(samples), (samples, <options>), or TRL's (prompts, completions, **columns)"
"""What a function may take, for messages."""


class Form(Enum):
    """How a function with TRL's signature is given prompts and completions."""

    auto = "auto"
    """Lists of messages where the prompt is a conversation, else text."""
    messages = "messages"
    text = "text"


def style_of(signature: inspect.Signature) -> Style:
    """Which of the two signatures it is.

    Raises `ValueError` if it is neither.
    """
    parameters = signature.parameters.values()
    by_position = [entry for entry in parameters if entry.kind in (entry.POSITIONAL_ONLY, entry.POSITIONAL_OR_KEYWORD)]
    if any(entry.name in _SAMPLED for entry in parameters):
        return "trl"
    if by_position:
        return "samples"
    if any(entry.kind is entry.VAR_KEYWORD for entry in parameters):
        return "trl"
    raise ValueError(f"it takes {signature}, and must take {WANTED}")


def columns_of(signature: inspect.Signature, options: Iterable[str] = ()) -> tuple[str, ...]:
    """The columns of the prompts that a function with TRL's signature cannot do without."""
    return tuple(name for name in _required(signature) if name not in {*_RESERVED, *options})


class FunctionReward:
    """A function as a reward; `options` are further keyword arguments of every call.

    Raises `ValueError` for a function that cannot be called so.
    """

    def __init__(
        self, function: Callable[..., Any], options: Mapping[str, Any] | None = None, form: Form = Form.auto
    ) -> None:
        self._function = function
        self._options = dict(options or {})
        self._form = form
        self._signature = inspect.signature(function)
        self._style = style_of(self._signature)
        check_options(self._signature, self._style, self._options)
        self.columns = columns_of(self._signature, self._options) if self._style == "trl" else ()

    def score(self, samples: Sequence[Sample]) -> Answer | Awaitable[Answer]:
        """What the function gives; an awaitable if it is `async`."""
        if self._style == "samples":
            answer: Answer | Awaitable[Answer] = self._function(samples, **self._options)
            return answer
        chats = [index for index, sample in enumerate(samples) if self._chats(sample)]
        plain = [index for index in range(len(samples)) if index not in set(chats)]
        groups = [group for group in (chats, plain) if group]
        answers = [self._ask_trl([samples[index] for index in group]) for group in groups]
        return _together(groups, answers)

    def _chats(self, sample: Sample) -> bool:
        return bool(sample.messages) if self._form is Form.auto else self._form is Form.messages

    def _ask_trl(self, samples: Sequence[Sample]) -> Any:
        """Ask about samples that are all given as messages, or all as text."""
        seen = [index for index, sample in enumerate(samples) if sample.response_ids is not None]
        if len(seen) < len(samples) and any(name in _IDS for name in _required(self._signature)):
            blind = [index for index in range(len(samples)) if index not in set(seen)]
            reason = Failure("refused", "the function reads completion_ids, and no policy sampled this text")
            nothing = Scores([math.nan] * len(blind), failures=dict.fromkeys(range(len(blind)), reason))
            if not seen:
                return nothing
            return _together([blind, seen], [nothing, self._ask_trl([samples[index] for index in seen])])
        return self._function(**self._arguments(samples, len(seen) == len(samples)))

    def _arguments(self, samples: Sequence[Sample], with_ids: bool) -> dict[str, Any]:
        names = dict.fromkeys(name for sample in samples for name in sample.row if name not in _RESERVED)
        given: dict[str, Any] = {name: [sample.row.get(name) for sample in samples] for name in names}
        chats = self._chats(samples[0])
        given["prompts"] = [_messages(sample) if chats else sample.prompt for sample in samples]
        given["completions"] = [_completion(sample) if chats else sample.response for sample in samples]
        if with_ids:
            given[_IDS[0]] = [list(sample.response_ids or ()) for sample in samples]
            if _IDS[1] in self._signature.parameters:
                given[_IDS[1]] = given[_IDS[0]]
        given.update(dict.fromkeys(_IGNORED, _ignore))
        given.update(self._options)
        if any(entry.kind is entry.VAR_KEYWORD for entry in self._signature.parameters.values()):
            return given
        return {name: value for name, value in given.items() if name in self._signature.parameters}


def check_options(signature: inspect.Signature, style: Style, options: Mapping[str, Any]) -> None:
    """Raise `ValueError` for options that the function does not take, and for what it needs and does not get."""
    parameters = list(signature.parameters.values())
    open_ended = any(entry.kind is entry.VAR_KEYWORD for entry in parameters)
    first = parameters[0].name if style == "samples" else None
    takes = [
        entry.name
        for entry in parameters
        if entry.kind in (entry.POSITIONAL_OR_KEYWORD, entry.KEYWORD_ONLY) and entry.name not in (first, *_RESERVED)
    ]
    for name in options:
        if name in _RESERVED or name == first or not (open_ended or name in takes):
            raise ValueError(f"options.{name}: it takes no such argument; it takes {signature}")
    positional_only = [
        entry.name for entry in parameters if entry.kind is entry.POSITIONAL_ONLY and entry.name != first
    ]
    if positional_only:
        raise ValueError(f"it takes {', '.join(positional_only)} by position only; it must take {WANTED}")
    missing = [name for name in _required(signature) if name not in options and name != first]
    if style == "samples" and missing:
        wanted = " and ".join(f"options.{name}" for name in missing)
        raise ValueError(f"it takes {signature}: set {wanted}, or write {WANTED}")
    for name in missing:
        if name in _ABSENT:
            raise ValueError(f"it needs {name}, which is not there: a score must depend on the sample alone")


def _required(signature: inspect.Signature) -> list[str]:
    return [
        entry.name
        for entry in signature.parameters.values()
        if entry.default is entry.empty and entry.kind not in (entry.VAR_KEYWORD, entry.VAR_POSITIONAL)
    ]


def _messages(sample: Sample) -> list[dict[str, str]]:
    return [dict(message) for message in sample.messages] or [{"role": "user", "content": sample.prompt}]


def _completion(sample: Sample) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": sample.response}]


def _ignore(*_: Any, **__: Any) -> None:
    """In place of TRL's `log_extra` and `log_metric`; alignpipe's rewards name their parts instead."""


def _together(groups: Sequence[Sequence[int]], answers: Sequence[Any]) -> Answer | Awaitable[Answer]:
    """The answers about groups of samples as one."""
    if len(answers) == 1:
        only: Answer | Awaitable[Answer] = answers[0]
        return only
    if any(inspect.isawaitable(answer) for answer in answers):
        return _gathered(groups, answers)
    return _merged(groups, answers)


async def _gathered(groups: Sequence[Sequence[int]], answers: Sequence[Any]) -> Answer:
    return _merged(groups, [await answer if inspect.isawaitable(answer) else answer for answer in answers])


def _merged(groups: Sequence[Sequence[int]], answers: Sequence[Answer]) -> Scores:
    """The answers about groups of samples as one; what does not fit its group stays without a score.

    Raises `TypeError` for parts, which a function with TRL's signature cannot name.
    """
    total: list[float | None] = [None] * sum(map(len, groups))
    failures: dict[int, Failure] = {}
    for group, answer in zip(groups, answers, strict=True):
        scores = answer if isinstance(answer, Scores) else Scores(answer)
        if scores.parts or scores.per_token:
            raise TypeError("a function with TRL's signature gives a list of numbers, no parts")
        values = list(scores.total)
        if len(values) != len(group):
            raise TypeError(f"{len(values)} scores for {len(group)} samples; there must be one each")
        for index, value in zip(group, values, strict=True):
            total[index] = value
        failures.update({group[index]: failure for index, failure in scores.failures.items()})
    return Scores(total, failures=failures)
