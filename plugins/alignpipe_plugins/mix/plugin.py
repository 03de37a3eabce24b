"""Offers reward=mix."""

from __future__ import annotations

from collections.abc import Iterable

from alignpipe.api import Component, hookimpl
from alignpipe_plugins.mix.config import MixConfig


@hookimpl
def alignpipe_components() -> Iterable[Component]:
    """Several rewards as one."""
    yield Component(
        group="reward",
        name="mix",
        config=MixConfig,
        factory="alignpipe_plugins.mix.reward:build",
        summary="several rewards as one: weighted sum, lowest, or mean minus spread of an ensemble",
    )
