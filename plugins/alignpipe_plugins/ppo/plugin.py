"""Offers ppo=ppo|grpo|rloo|reinforce_pp: one loop, four estimators of the advantage."""

from __future__ import annotations

from collections.abc import Iterable

from alignpipe.api import Component, Port, hookimpl
from alignpipe_plugins.ppo.config import GRPOConfig, LoopConfig, PPOConfig, ReinforcePPConfig, RLOOConfig

_OPTIONS: dict[str, tuple[type[LoopConfig], str]] = {
    "ppo": (PPOConfig, "PPO with a separate critic, GAE and a per-token KL penalty to the reference policy"),
    "grpo": (GRPOConfig, "GRPO: several responses to a prompt, each one's reward relative to its group; no critic"),
    "rloo": (RLOOConfig, "RLOO: each response's reward minus the mean of its group's other ones; no critic"),
    "reinforce_pp": (ReinforcePPConfig, "REINFORCE++: whitened rewards-to-go with a per-token KL penalty; no critic"),
}


@hookimpl
def alignpipe_components() -> Iterable[Component]:
    """One component per estimator."""
    for name, (config, summary) in _OPTIONS.items():
        yield Component(
            group="ppo",
            name=name,
            config=config,
            factory="alignpipe_plugins.ppo.stage:build",
            summary=summary,
            needs={
                "dataset": Port("dataset", tables=(("prompts", "train"),)),
                "policy": Port("policy", default="nearest_or_base", required=False),
                "reference": Port("policy", default="policy", required=False),
                "reward": Port("reward"),
            },
            makes="policy",
            uses=("model", "rollout"),
            parallel=True,
        )
