"""Offers reward=rules."""

from __future__ import annotations

from collections.abc import Iterable

from alignpipe.api import Component, hookimpl
from alignpipe_plugins.rules.config import RulesConfig


@hookimpl
def alignpipe_components() -> Iterable[Component]:
    """A reward that is written, not trained."""
    yield Component(
        group="reward",
        name="rules",
        config=RulesConfig,
        factory="alignpipe_plugins.rules.reward:build",
        summary="written rules: wanted and unwanted words and patterns, length, form, repetition",
    )
