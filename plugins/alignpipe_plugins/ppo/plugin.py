"""Offers ppo=ppo."""

from __future__ import annotations

from collections.abc import Iterable

from alignpipe.api import Component, Port, hookimpl
from alignpipe_plugins.ppo.config import PPOConfig


@hookimpl
def alignpipe_components() -> Iterable[Component]:
    """PPO with a separate critic."""
    yield Component(
        group="ppo",
        name="ppo",
        config=PPOConfig,
        factory="alignpipe_plugins.ppo.stage:build",
        summary="PPO with a separate critic, GAE and a per-token KL penalty to the reference policy",
        needs={
            "dataset": Port("dataset"),
            "policy": Port("policy", default="nearest_or_base", required=False),
            "reference": Port("policy", default="policy", required=False),
            "reward": Port("reward"),
        },
        makes="policy",
        uses=("model", "rollout"),
    )
