"""Offers reward=math_answer."""

from __future__ import annotations

from collections.abc import Iterable

from alignpipe.api import Component, hookimpl
from alignpipe_plugins.math_answer.config import MathAnswerConfig


@hookimpl
def alignpipe_components() -> Iterable[Component]:
    """A reward that compares numbers."""
    yield Component(
        group="reward",
        name="math_answer",
        config=MathAnswerConfig,
        factory="alignpipe_plugins.math_answer.reward:build",
        summary="1 if the answer's final number is the reference's (as in GSM8K), else 0",
    )
