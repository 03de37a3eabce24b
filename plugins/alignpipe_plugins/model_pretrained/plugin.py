"""Offers model=pretrained."""

from __future__ import annotations

from collections.abc import Iterable

from alignpipe.api import Component, hookimpl
from alignpipe_plugins.model_pretrained.config import PretrainedConfig


@hookimpl
def alignpipe_components() -> Iterable[Component]:
    """Models somebody else has trained."""
    yield Component(
        group="model",
        name="pretrained",
        config=PretrainedConfig,
        factory="alignpipe_plugins.model_pretrained.source:build",
        summary="any causal language model by hub name or local folder, with LoRA if wanted",
    )
