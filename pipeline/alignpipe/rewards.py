"""What an author of rewards needs; light to import, stable within a major version of the plugin API.

The simplest reward is a function, and the entry point names it (`acme = "acme_reward:polite"`):

    from alignpipe.rewards import reward

    @reward("polite")
    def polite(samples):
        \"\"\"Answers that say please.\"\"\"
        return [float("please" in sample.response.lower()) for sample in samples]

With options, which become `reward.<field>`: `@reward("polite", Options)` and `def polite(samples, options)`.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from alignpipe.api import BuildContext, Component, Failure, Reward, Sample, Scores, TrainableReward, hookimpl
from alignpipe.api.components import Requirement
from alignpipe.api.rewards import Answer, FailureKind, Message
from alignpipe.functions import FunctionReward

__all__ = [
    "Answer",
    "BuildContext",
    "Failure",
    "FailureKind",
    "Message",
    "Reward",
    "RewardPlugin",
    "Sample",
    "Scores",
    "TrainableReward",
    "ask_function",
    "reward",
    "score_each",
]


@dataclass(frozen=True)
class NoOptions:
    """Nothing can be set."""


class RewardPlugin:
    """A plugin that offers one reward: what `@reward` makes of a function or a class, and what entry points name.

    Calling it with (options, context) builds the reward, as the factory of a component does.
    """

    def __init__(self, target: Callable[..., Any], component: Component, columns: Sequence[str] = ()) -> None:
        self.target = target
        self.component = component
        self.columns = tuple(columns)
        self.__doc__ = target.__doc__

    def __call__(self, options: Any, context: BuildContext) -> Reward:
        """Build the reward."""
        if isinstance(self.target, type):
            given = (options, context)[: _positional(self.target)]
            built: Reward = self.target(*given)
            return built
        return _FunctionReward(self.target, options, self.columns)

    @hookimpl
    def alignpipe_components(self) -> Iterable[Component]:
        """The one component."""
        yield self.component


class _FunctionReward:
    """A function as a reward."""

    def __init__(self, function: Callable[..., Any], options: Any, columns: tuple[str, ...]) -> None:
        self.columns = columns
        self._function = function
        self._given = (options,)[: _positional(function) - 1]

    def score(self, samples: Sequence[Sample]) -> Answer | Awaitable[Answer]:
        answer: Answer | Awaitable[Answer] = self._function(samples, *self._given)
        return answer


def reward(
    name: str,
    options: type[Any] = NoOptions,
    *,
    summary: str | None = None,
    version: int = 1,
    columns: Sequence[str] = (),
    requires: tuple[Requirement, ...] = (),
) -> Callable[[Callable[..., Any]], RewardPlugin]:
    """Decorate a function or a class so that it is a plugin which offers `reward=<name>`.

    A function is called as `f(samples)` or `f(samples, options)` and may be `async`; a class is built with `()`,
    `(options)` or `(options, context)` and has `score(samples)`, and `fit`, `save` and `load` if it is trained.
    `options` is a dataclass, every field with a default or required; `summary` is by default the first line of the
    docstring; raise `version` when the scores for the same options change; `columns` are the columns of the prompt row
    that a function reads (a class has an attribute of that name); `requires` names what the machine must have: `gpu`,
    `network`, `sandbox`.

    Raises `TypeError` for something that takes other arguments, `ValueError` for a name that cannot be an option.
    """

    def decorate(target: Callable[..., Any]) -> RewardPlugin:
        least, most = (0, 2) if isinstance(target, type) else (1, 2)
        if not least <= _positional(target) <= most:
            wanted = (
                "(), (options) or (options, context)" if isinstance(target, type) else "(samples) or (samples, options)"
            )
            raise TypeError(f"@reward({name!r}): {target.__qualname__} must take {wanted}")
        told = summary or (inspect.getdoc(target) or "").partition("\n")[0] or f"offered by {target.__module__}"
        factory = f"{target.__module__}:{target.__qualname__}"
        component = Component("reward", name, options, factory, told, version, requires=requires)
        return RewardPlugin(target, component, columns)

    return decorate


def _positional(target: Callable[..., Any]) -> int:
    """How many arguments a function, or a class's constructor, takes by position."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(entry.kind in kinds for entry in inspect.signature(target).parameters.values())


def ask_function(function: Callable[..., Any], samples: Sequence[Sample], **options: Any) -> Answer | Awaitable[Answer]:
    """What a plain function says of `samples`: `f(samples, **options)`, or one with TRL's signature.

    Raises `ValueError` for a function that takes neither.
    """
    return FunctionReward(function, options).score(samples)


async def score_each(
    samples: Sequence[Sample],
    score_one: Callable[[Sample], Awaitable[float]],
    *,
    concurrency: int = 16,
    timeout: float | None = None,
) -> Scores:
    """Score samples one by one, `concurrency` at a time: what goes wrong with one is that sample's failure alone.

    `timeout` are the seconds one sample may take. A cancellation from outside is passed on.
    """
    import asyncio  # as much work as all else that this module imports, and few rewards need it

    gate = asyncio.Semaphore(concurrency)
    failures: dict[int, Failure] = {}

    async def one(index: int, sample: Sample) -> float:
        async with gate:
            try:
                async with asyncio.timeout(timeout):
                    return await score_one(sample)
            except TimeoutError:
                failures[index] = Failure("timeout", f"no score within {timeout:g} s" if timeout else "timed out")
            except Exception as error:
                failures[index] = Failure("exception", f"{type(error).__name__}: {error}")
        return float("nan")

    total = await asyncio.gather(*(one(index, sample) for index, sample in enumerate(samples)))
    return Scores(total=total, failures=failures)
