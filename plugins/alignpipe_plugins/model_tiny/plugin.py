"""Offers model=tiny."""

from __future__ import annotations

from collections.abc import Iterable

from alignpipe.api import Component, hookimpl
from alignpipe_plugins.model_tiny.config import TinyConfig


@hookimpl
def alignpipe_components() -> Iterable[Component]:
    """The model trained from scratch."""
    yield Component(
        group="model",
        name="tiny",
        config=TinyConfig,
        factory="alignpipe_plugins.model_tiny.source:build",
        summary="a Llama-style model from scratch with a tokenizer trained on the data; no download",
    )
