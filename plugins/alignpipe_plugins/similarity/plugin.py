"""Offers reward=similarity."""

from __future__ import annotations

from collections.abc import Iterable

from alignpipe.api import Component, hookimpl
from alignpipe_plugins.similarity.config import SimilarityConfig


@hookimpl
def alignpipe_components() -> Iterable[Component]:
    """A reward that compares texts."""
    yield Component(
        group="reward",
        name="similarity",
        config=SimilarityConfig,
        factory="alignpipe_plugins.similarity.reward:build",
        summary="BLEU, chrF, ROUGE, 1 - WER or 1 - CER against a reference text in the prompt's row",
    )
