"""Offers reward=bradley_terry."""

from __future__ import annotations

from collections.abc import Iterable

from alignpipe.api import Component, Port, hookimpl
from alignpipe_plugins.bradley_terry.config import BradleyTerryConfig


@hookimpl
def alignpipe_components() -> Iterable[Component]:
    """The trained reward model."""
    yield Component(
        group="reward",
        name="bradley_terry",
        config=BradleyTerryConfig,
        factory="alignpipe_plugins.bradley_terry.reward:build",
        summary="a reward model trained on preference pairs, started from the nearest policy",
        needs={
            "dataset": Port("dataset", tables=(("preferences", "train"),)),
            "policy": Port("policy", default="nearest_or_base", required=False),
        },
        makes="reward",
        uses=("model", "rollout"),
        parallel=True,
    )
