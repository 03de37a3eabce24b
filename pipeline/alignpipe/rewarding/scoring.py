"""Scoring a batch, with the answer checked: one finite number per sample, or the run stops and says why."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from alignpipe.api import Reward, Sample, Scores
from alignpipe.api.rewards import is_finite
from alignpipe.errors import RewardError


@dataclass(frozen=True)
class Scored:
    """Checked scores: `total` and every part hold one finite float per sample."""

    total: list[float]
    parts: Mapping[str, list[float]]


def score(reward: Reward, samples: Sequence[Sample], name: str) -> Scored:
    """Score `samples`; `name` is the reward's option name, for messages.

    Raises `RewardError` if the reward raises, returns the wrong count, a value that is not finite, or a failure.
    """
    try:
        answer = reward.score(samples)
    except RewardError:
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise RewardError(
            f"reward {name} raised {type(error).__name__}: {error} ({place.filename}:{place.lineno}); "
            "HYDRA_FULL_ERROR=1 shows the whole traceback"
        ) from error
    scores = answer if isinstance(answer, Scores) else Scores(total=answer)
    for index, failure in sorted(scores.failures.items()):
        raise RewardError(
            f"reward {name} failed on a sample ({failure.kind}: {failure.message}); {_quote(samples[index])}"
        )
    total = _checked(scores.total, samples, f"reward {name}")
    parts = {
        part: _checked(values, samples, f"part {part!r} of reward {name}") for part, values in scores.parts.items()
    }
    return Scored(total, parts)


def _checked(values: Sequence[float], samples: Sequence[Sample], what: str) -> list[float]:
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise RewardError(f"{what} gave {values!r:.80}, which are no numbers: {error}") from error
    if len(numbers) != len(samples):
        raise RewardError(
            f"{what} gave {len(numbers)} scores for {len(samples)} samples; it must give one each, in order"
        )
    for index, number in enumerate(numbers):
        if not is_finite(number):
            raise RewardError(f"{what} gave {number}, which is no finite number; {_quote(samples[index])}")
    return numbers


def _quote(sample: Sample) -> str:
    return f"the prompt ends {sample.prompt[-60:]!r}, the response begins {sample.response[:80]!r}"
