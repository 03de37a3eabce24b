"""Offers reward=keywords."""

from __future__ import annotations

from collections.abc import Iterable

from alignpipe.api import Component, hookimpl
from alignpipe_plugins.keywords.config import KeywordsConfig


@hookimpl
def alignpipe_components() -> Iterable[Component]:
    """A reward that is written, not trained."""
    yield Component(
        group="reward",
        name="keywords",
        config=KeywordsConfig,
        factory="alignpipe_plugins.keywords.reward:build",
        summary="a written rule: share of wanted words, minus share of unwanted ones, minus words over a limit",
    )
