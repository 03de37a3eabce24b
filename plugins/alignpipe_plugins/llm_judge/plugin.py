"""Offers reward=llm_judge."""

from __future__ import annotations

from collections.abc import Iterable

from alignpipe.api import Component, hookimpl
from alignpipe_plugins.llm_judge.config import LlmJudgeConfig


@hookimpl
def alignpipe_components() -> Iterable[Component]:
    """A reward that asks a language model."""
    yield Component(
        group="reward",
        name="llm_judge",
        config=LlmJudgeConfig,
        factory="alignpipe_plugins.llm_judge.reward:build",
        summary="a language model as judge (OpenAI-compatible endpoint): a grade, or a comparison with a reference",
        requires=("network",),
    )
