"""Offers reward=exact_match."""

from __future__ import annotations

from collections.abc import Iterable

from alignpipe.api import Component, hookimpl
from alignpipe_plugins.exact_match.config import ExactMatchConfig


@hookimpl
def alignpipe_components() -> Iterable[Component]:
    """A reward that compares with a reference."""
    yield Component(
        group="reward",
        name="exact_match",
        config=ExactMatchConfig,
        factory="alignpipe_plugins.exact_match.reward:build",
        summary="1 if the answer is the reference in a column of the prompt's row, else 0",
    )
