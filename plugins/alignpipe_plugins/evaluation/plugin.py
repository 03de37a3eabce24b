"""Offers eval=standard."""

from __future__ import annotations

from collections.abc import Iterable

from alignpipe.api import Component, Port, hookimpl
from alignpipe_plugins.evaluation.config import EvalConfig


@hookimpl
def alignpipe_components() -> Iterable[Component]:
    """The comparison on held-out prompts."""
    yield Component(
        group="eval",
        name="standard",
        config=EvalConfig,
        factory="alignpipe_plugins.evaluation.stage:build",
        summary="policy against the run's first policy on held-out prompts: reward, gold, win rate, KL, perplexity",
        needs={
            "dataset": Port("dataset", tables=(("prompts", "heldout"),)),
            "policy": Port("policy"),
            "baseline": Port("policy", default="first", required=False),
            "reward": Port("reward", required=False),
        },
        makes="report",
        uses=("model", "rollout"),
    )
