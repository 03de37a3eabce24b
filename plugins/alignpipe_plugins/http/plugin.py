"""Offers reward=http."""

from __future__ import annotations

from collections.abc import Iterable

from alignpipe.api import Component, hookimpl
from alignpipe_plugins.http.config import HttpConfig


@hookimpl
def alignpipe_components() -> Iterable[Component]:
    """A reward that asks somebody else."""
    yield Component(
        group="reward",
        name="http",
        config=HttpConfig,
        factory="alignpipe_plugins.http.reward:build",
        summary="any scoring service by its URL: batches of samples as JSON there, scores back",
        requires=("network",),
    )
