"""Rewards: anything that scores (prompt, response). This module never imports torch."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, Protocol, get_args, runtime_checkable

from alignpipe.api.artifacts import Artifact
from alignpipe.api.stages import StageContext

Message = Mapping[str, str]
FailureKind = Literal["timeout", "exception", "nan", "count", "refused", "not_applicable"]
"""Why a sample has no score: nothing came in time; the reward raised; a score was no finite number; scores and samples
did not match in number; the reward (a sandbox, a service) would not score it; the reward has nothing to say about
samples of this kind, which is no fault and does not count towards `scoring.failure_budget`."""
FAILURE_KINDS: tuple[str, ...] = get_args(FailureKind)


class _Row(dict[str, Any]):
    """A dictionary that stays as it is: several rewards may read the same sample, one after the other."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("the row of a sample is for others to read too: change a copy of it, dict(sample.row)")

    __setitem__ = __delitem__ = __ior__ = update = pop = popitem = clear = setdefault = _refuse

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (dict(self),)  # a copy is the copier's own


class Sample:
    """One prompt with one response, as a reward sees it.

    `messages` is the conversation before the response (empty for plain prompts), `row` the prompt row's other columns
    (a reference answer, unit tests ...; it cannot be changed), `ended` whether the response ended by itself.
    `prompt_ids` and `response_ids` are the policy's token ids, the end-of-sequence token included, and `vocabulary` is
    the fingerprint of the tokenizer they belong to; all three are None for text that no policy sampled. A reward that
    reads tokens with the very same tokenizer should score the ids, since decoding and encoding again is not an
    identity.
    The text of `response` is decoded on first use.
    """

    __slots__ = (
        "_decode",
        "_response",
        "ended",
        "messages",
        "prompt",
        "prompt_ids",
        "response_ids",
        "row",
        "vocabulary",
    )

    def __init__(
        self,
        prompt: str,
        response: str | None = None,
        *,
        messages: Sequence[Message] = (),
        row: Mapping[str, Any] | None = None,
        prompt_ids: Sequence[int] | None = None,
        response_ids: Sequence[int] | None = None,
        vocabulary: str | None = None,
        ended: bool = True,
        decode: Callable[[Sequence[int]], str] | None = None,
    ) -> None:
        if response is None and (response_ids is None or decode is None):
            raise ValueError("a sample needs its response as text, or as response_ids with decode")
        self.prompt = prompt
        self.messages = tuple(messages)
        self.row: Mapping[str, Any] = _Row(row or {})
        self.prompt_ids = prompt_ids
        self.response_ids = response_ids
        self.vocabulary = vocabulary
        self.ended = ended
        self._response = response
        self._decode = decode

    @property
    def response(self) -> str:
        """The response as text, without special tokens."""
        if self._response is None:
            assert self._decode is not None
            assert self.response_ids is not None
            self._response = self._decode(self.response_ids)
        return self._response

    def __repr__(self) -> str:
        return f"Sample(prompt={self.prompt!r}, response={self.response!r}, ended={self.ended})"


@dataclass(frozen=True)
class Failure:
    """Why one sample has no score."""

    kind: FailureKind
    message: str


@dataclass(frozen=True)
class Scores:
    """What a reward says of a batch: one number per sample, and per sample the named parts it was made of.

    None as a total says that the reward does not apply to this sample (a failure of the kind `not_applicable`), None in
    a part that the sample does not have this part.

    `per_token` splits each total over the tokens of the response (`response_ids`): every row adds up to its total, and
    PPO places it token by token instead of on the last one. A sample listed in `failures` (by its index in the batch)
    has no score: its entries elsewhere are ignored, and it is never counted as 0.
    """

    total: Sequence[float | None]
    parts: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    per_token: Sequence[Sequence[float]] | None = None
    failures: Mapping[int, Failure] = field(default_factory=dict)


Answer = Scores | Sequence[float | None]
"""What `score` gives."""


@runtime_checkable
class Reward(Protocol):
    """Scores a batch of samples: one finite float per sample (None where it does not apply), or :class:`Scores`.

    An attribute `columns`, if there is one, names the columns of the prompt row that it reads; a mapping gives an
    example of what stands in each as well, for `plugins check`. `save(folder)` and `load(folder)`, if there are both,
    keep something in the artifact, from which later stages open the reward.
    """

    def score(self, samples: Sequence[Sample]) -> Answer | Awaitable[Answer]:
        """Score `samples`, a tuple, in their order; may be `async def`."""
        ...


@runtime_checkable
class Kept(Protocol):
    """What keeps something in its artifact: what it was trained to, or a file it was made of."""

    def save(self, folder: Path) -> None:
        """Write everything `load` needs into `folder`."""
        ...

    def load(self, folder: Path) -> None:
        """Read what `save` wrote; after it, `score` works."""
        ...


@runtime_checkable
class TrainableReward(Reward, Kept, Protocol):
    """A reward that is trained by the reward stage, saved into the artifact and loaded from it."""

    def fit(self, inputs: Mapping[str, Artifact], ctx: StageContext) -> None:
        """Train on the artifacts; after it, `score` works."""
        ...
