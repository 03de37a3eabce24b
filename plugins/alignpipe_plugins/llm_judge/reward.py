"""Scores by asking a language model for a grade or a comparison."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from alignpipe.api import BuildContext, Failure, Sample, Scores
from alignpipe.rewarding.remote import Rejected, Unanswered, open_client, together
from alignpipe_plugins.llm_judge.config import KEY, LlmJudgeConfig, Mode
from alignpipe_plugins.llm_judge.judge import Conversation
from alignpipe_plugins.llm_judge.questions import Question, Unreadable, read_grades, read_winner

_log = logging.getLogger(__name__)


class LlmJudgeReward:
    """A judge behind an endpoint; each sample is asked about by itself."""

    def __init__(self, config: LlmJudgeConfig) -> None:
        self._config = config
        self._question = Question(config)
        self._key = config.secrets()
        self.columns = (config.reference,) if config.reference else ()

    async def score(self, samples: Sequence[Sample]) -> Scores:
        """The grade moved to [0, 1], or how often the response was preferred; a client lives as long as its batch."""
        headers = {"Authorization": f"Bearer {self._key[KEY]}"} if KEY in self._key else {}
        async with open_client(headers, self._config.concurrency) as client:
            conversation = Conversation(self._config, self._key, client)
            try:
                verdicts = await together(self._judged(sample, conversation) for sample in samples)
            finally:
                _log.info("reward=llm_judge: %s", conversation.close())
        failures = {index: verdict for index, verdict in enumerate(verdicts) if isinstance(verdict, Failure)}
        grades = [{} if isinstance(verdict, Failure) else verdict for verdict in verdicts]
        names = sorted({name for grade in grades for name in grade} - {"score"})
        return Scores(
            total=[grade.get("score", 0.0) for grade in grades],
            parts={name: [grade.get(name, 0.0) for grade in grades] for name in names},
            failures=failures,
        )

    async def _judged(self, sample: Sample, conversation: Conversation) -> Mapping[str, float] | Failure:
        try:
            if self._config.mode is Mode.pairwise:
                return await self._compared(sample, conversation)
            messages = self._question.messages(sample, {})
            return await conversation.ask(messages, lambda answer: read_grades(answer, self._config))
        except (Unanswered, Unreadable) as error:
            return Failure(error.kind, str(error))
        except Rejected as error:
            return Failure("refused", str(error))

    async def _compared(self, sample: Sample, conversation: Conversation) -> dict[str, float]:
        """How the response does against the reference as answer A and, with `swap`, as answer B."""
        response, reference = sample.response, str(sample.row[self._config.reference or ""])

        async def first_wins(first: str, second: str) -> float:
            messages = self._question.messages(sample, {"first": first, "second": second})
            return await conversation.ask(messages, lambda answer: read_winner(answer, self._config))

        if not self._config.swap:
            return {"score": await first_wins(response, reference)}
        in_front, behind = await together((first_wins(response, reference), first_wins(reference, response)))
        as_second = 1.0 - behind
        return {
            "score": (in_front + as_second) / 2,
            "as_first": in_front,
            "as_second": as_second,
            "consistent": float(in_front == as_second),
        }


def build(config: LlmJudgeConfig, context: BuildContext) -> LlmJudgeReward:
    """The component's factory.

    Raises `RewardError` without httpx or without the key, `ConfigError` for a template that cannot be used.
    """
    config.check_machine()
    return LlmJudgeReward(config)
