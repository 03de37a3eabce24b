"""Offers sft=standard."""

from __future__ import annotations

from collections.abc import Iterable

from alignpipe.api import Component, Port, hookimpl
from alignpipe_plugins.sft.config import SFTConfig


@hookimpl
def alignpipe_components() -> Iterable[Component]:
    """Supervised fine-tuning."""
    yield Component(
        group="sft",
        name="standard",
        config=SFTConfig,
        factory="alignpipe_plugins.sft.stage:build",
        summary="supervised fine-tuning on demonstrations; the loss counts the completion's tokens",
        needs={
            "dataset": Port("dataset", tables=(("demonstrations", "train"),)),
            "policy": Port("policy", default="base", required=False),
        },
        makes="policy",
        uses=("model",),
        parallel=True,
    )
