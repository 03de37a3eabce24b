"""Asking one member about a batch: what goes wrong stays with the samples at fault, and with this member."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from alignpipe.api import Failure, Reward, Sample, Scores
from alignpipe.errors import AlignpipeError, RewardError
from alignpipe.rewarding.tally import Tally, failure_of, faults

_HOPELESS = 0.5
"""The share of a batch from which on nobody looks any further for the samples at fault."""


async def ask(name: str, reward: Reward, samples: Sequence[Sample]) -> Tally:
    """The member's scores, its failures naming it.

    A batch on which it raises is halved until the samples at fault are found, here and not by whoever asked the mix:
    the other members need not be asked again.

    Raises `RewardError` if the member says itself that it cannot work.
    """
    tally = Tally(samples)
    batches = [list(range(len(samples)))] if samples else []
    while batches:
        batch = batches.pop()
        try:
            # A tuple, as the judge gives: no member may change its order in place.
            tally.take(batch, await _answer(reward, tuple(samples[row] for row in batch)))
        except AlignpipeError as error:
            raise RewardError(f"member {name}: {error}") from error
        except (Exception, SystemExit) as error:
            if len(batch) == 1 or faults(tally.failures) > _HOPELESS * len(samples):
                tally.fail(batch, failure_of(error))
            else:
                batches += [batch[len(batch) // 2 :], batch[: len(batch) // 2]]
    for row, failure in tally.failures.items():
        tally.failures[row] = Failure(failure.kind, f"member {name}: {failure.message}")
    return tally


async def _answer(reward: Reward, samples: Sequence[Sample]) -> Scores:
    answer = reward.score(samples)
    if inspect.isawaitable(answer):
        answer = await answer
    return answer if isinstance(answer, Scores) else Scores(total=answer)
