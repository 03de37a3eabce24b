"""Offers reward=stored."""

from __future__ import annotations

from collections.abc import Iterable

from alignpipe.api import Component, hookimpl
from alignpipe_plugins.stored.config import StoredConfig


@hookimpl
def alignpipe_components() -> Iterable[Component]:
    """A reward from the store."""
    yield Component(
        group="reward",
        name="stored",
        config=StoredConfig,
        factory="alignpipe_plugins.stored.reward:build",
        summary="a reward that an earlier run trained, from its folder in the store; as it is, also in a mix",
    )
