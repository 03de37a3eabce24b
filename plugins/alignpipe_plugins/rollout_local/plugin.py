"""Offers rollout=local."""

from __future__ import annotations

from collections.abc import Iterable

from alignpipe.api import Component, hookimpl
from alignpipe_plugins.rollout_local.config import LocalRolloutConfig


@hookimpl
def alignpipe_components() -> Iterable[Component]:
    """Sampling with the model at hand."""
    yield Component(
        group="rollout",
        name="local",
        config=LocalRolloutConfig,
        factory="alignpipe_plugins.rollout_local.sampler:build",
        summary="samples responses with the model in this process, any causal LM",
    )
