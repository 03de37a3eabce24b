"""Offers reward=pretrained_classifier."""

from __future__ import annotations

from collections.abc import Iterable

from alignpipe.api import Component, hookimpl
from alignpipe_plugins.pretrained_classifier.config import PretrainedClassifierConfig


@hookimpl
def alignpipe_components() -> Iterable[Component]:
    """A reward that somebody else has trained."""
    yield Component(
        group="reward",
        name="pretrained_classifier",
        config=PretrainedClassifierConfig,
        factory="alignpipe_plugins.pretrained_classifier.reward:build",
        summary="any sequence classifier by hub name or local folder, with its own tokenizer",
    )
