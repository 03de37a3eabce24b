"""What an author of rewards needs; light to import, stable within a major version of the plugin API.

The simplest reward is a function, and the entry point names it (`acme = "acme_reward:polite"`):

    from alignpipe.rewards import reward

    @reward("polite")
    def polite(samples):
        \"\"\"Answers that say please.\"\"\"
        return [float("please" in sample.response.lower()) for sample in samples]

One that is trained is a class with `fit(inputs, ctx)`, `save` and `load` (`TrainableReward`); it reads the data with
`alignpipe.dataset.Dataset(inputs["dataset"].folder)`, imported where it is used. What `ctx` can do: `StageContext`.

With options, which become `reward.<field>`: `@reward("polite", Options)` and `def polite(samples, options)`.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alignpipe.api import (
    Artifact,
    BuildContext,
    Component,
    Failure,
    Port,
    Reward,
    Sample,
    Scores,
    StageContext,
    TrainableReward,
    hookimpl,
)
from alignpipe.api.components import Requirement
from alignpipe.api.rewards import Answer, FailureKind, Message
from alignpipe.errors import StageInterrupted
from alignpipe.functions import FunctionReward

__all__ = [
    "Answer",
    "Artifact",
    "BuildContext",
    "Columns",
    "Failure",
    "FailureKind",
    "Message",
    "Port",
    "Requirement",
    "Reward",
    "RewardPlugin",
    "Sample",
    "Scores",
    "StageContext",
    "StageInterrupted",
    "TrainableReward",
    "ask_function",
    "reward",
    "score_each",
]

Columns = Sequence[str] | Mapping[str, Any]
"""Names of columns of the prompt row; or by name an example of what stands there, for `plugins check`."""


@dataclass(frozen=True)
class NoOptions:
    """Nothing can be set."""


class RewardPlugin:
    """A plugin that offers one reward: what `@reward` makes of a function or a class, and what entry points name.

    Calling it with (options, context) builds the reward, as the factory of a component does.
    """

    def __init__(self, target: Callable[..., Any], component: Component, columns: Columns = ()) -> None:
        self.target = target
        self.component = component
        self.columns = columns
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

    def __init__(self, function: Callable[..., Any], options: Any, columns: Columns) -> None:
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
    columns: Columns = (),
    requires: Sequence[Requirement] = (),
    needs: Mapping[str, Port] | None = None,
    uses: Sequence[str] = (),
    parallel: bool = False,
    api: tuple[int, int] = Component.api,
) -> Callable[[Callable[..., Any]], RewardPlugin]:
    """Decorate a function or a class so that it is a plugin which offers `reward=<name>`.

    A function is called as `f(samples)` or `f(samples, options)` and may be `async`; a class is built with `()`,
    `(options)` or `(options, context)` and has `score(samples)`, and `fit`, `save` and `load` if it is trained.
    `options` is a dataclass, every field with a default or required; `summary` is by default the first line of the
    docstring; raise `version` when the scores for the same options change; `api` is the version of alignpipe's contract
    that it was written for; `columns` are the columns of the prompt row
    that a function reads (a class has an attribute of that name); `requires` names what the machine must have: `gpu`,
    `network`, `sandbox`. What is trained (has `fit`) may say further what :class:`~alignpipe.api.Component` takes:
    `needs`, other input ports than the dataset and the policy so far; `uses`, the slots that it reads in `ctx.slots`;
    `parallel`, that all processes of a launch fit it together.

    Raises `TypeError` for something that takes other arguments, for text in place of a list, and for what only a
    trained reward can say, `ValueError` for a name that cannot be an option and for a requirement that is not known.
    """
    for key, value in (("columns", columns), ("requires", requires), ("uses", uses)):
        if isinstance(value, str):
            raise TypeError(f"@reward({name!r}): {key} must be a list of names, such as {key}=[{value!r}]")

    def decorate(target: Callable[..., Any]) -> RewardPlugin:
        least, most = (0, 2) if isinstance(target, type) else (1, 2)
        if not least <= _positional(target) <= most:
            wanted = (
                "(), (options) or (options, context)" if isinstance(target, type) else "(samples) or (samples, options)"
            )
            raise TypeError(f"@reward({name!r}): {target.__qualname__} must take {wanted}")
        if "<locals>" in target.__qualname__:
            raise TypeError(f"@reward({name!r}): {target.__qualname__} must stand at the top level of its module")
        if isinstance(target, type) and columns:
            raise TypeError(f"@reward({name!r}): a class names its columns by an attribute: columns = {columns!r}")
        if (needs or uses or parallel) and not hasattr(target, "fit"):
            raise TypeError(
                f"@reward({name!r}): needs, uses and parallel are for a class with fit(inputs, ctx); "
                f"{target.__qualname__} has none"
            )
        told = summary or (inspect.getdoc(target) or "").partition("\n")[0] or f"offered by {target.__module__}"
        component = Component(
            "reward",
            name,
            options,
            f"{target.__module__}:{target.__qualname__}",
            told,
            version,
            api,
            needs=needs or {},
            uses=tuple(uses),
            parallel=parallel,
            requires=tuple(requires),
        )
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
    score_one: Callable[[Sample], Awaitable[float | None]],
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

    async def one(index: int, sample: Sample) -> float | None:
        async with gate:
            try:
                async with asyncio.timeout(timeout):
                    return await score_one(sample)
            except TimeoutError:
                failures[index] = Failure("timeout", f"no score within {timeout:g} s" if timeout else "timed out")
            except (Exception, SystemExit) as error:
                failures[index] = Failure("exception", f"{type(error).__name__}: {error}")
        return float("nan")

    total = await asyncio.gather(*(one(index, sample) for index, sample in enumerate(samples)))
    return Scores(total=total, failures=failures)
