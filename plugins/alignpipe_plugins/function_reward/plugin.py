"""Offers reward=function."""

from __future__ import annotations

from collections.abc import Iterable

from alignpipe.api import Component, hookimpl
from alignpipe_plugins.function_reward.config import FunctionConfig


@hookimpl
def alignpipe_components() -> Iterable[Component]:
    """A reward without a package."""
    yield Component(
        group="reward",
        name="function",
        config=FunctionConfig,
        factory="alignpipe_plugins.function_reward.reward:build",
        summary="a plain function in a Python file, also one with TRL's signature",
    )
