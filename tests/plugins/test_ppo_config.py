"""The options: what is refused, and that every one of them is read."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import alignpipe_plugins.ppo
from alignpipe.training import learner
from alignpipe_plugins.ppo.config import GRPOConfig, LoopConfig, PPOConfig, ReinforcePPConfig, RLOOConfig
from alignpipe_plugins.ppo.plugin import alignpipe_components

SOURCES = [*sorted(Path(alignpipe_plugins.ppo.__file__).parent.glob("*.py")), Path(learner.__file__)]


OPTIONS: list[type[LoopConfig]] = [PPOConfig, GRPOConfig, RLOOConfig, ReinforcePPConfig]


def test_four_options_of_one_stage() -> None:
    components = {component.name: component for component in alignpipe_components()}
    assert [components[name].config for name in ("ppo", "grpo", "rloo", "reinforce_pp")] == OPTIONS
    assert {component.factory for component in components.values()} == {"alignpipe_plugins.ppo.stage:build"}
    assert len({component.summary for component in components.values()}) == 4


@pytest.mark.parametrize(
    ("config", "own"),
    [
        (
            PPOConfig,
            {"critic_lr", "gamma", "lam", "clip_range_value", "whiten_advantages", "whiten_rewards", "critic_warmup"},
        ),
        (GRPOConfig, {"group_size", "scale_rewards"}),
        (RLOOConfig, {"group_size"}),
        (ReinforcePPConfig, {"gamma"}),
    ],
)
def test_an_option_that_does_nothing_does_not_exist(config: type[LoopConfig], own: set[str]) -> None:
    assert {entry.name for entry in fields(config)} - {entry.name for entry in fields(LoopConfig)} == own


@pytest.mark.parametrize("config", OPTIONS)
def test_every_field_is_read_outside_of_the_config(config: type[LoopConfig]) -> None:
    text = "\n".join(path.read_text() for path in SOURCES if path.name != "config.py")
    read = set(re.findall(r"\b(?:config|options)\.(\w+)", text, flags=re.IGNORECASE))
    assert {entry.name for entry in fields(config)} - read == set()


@pytest.mark.parametrize("config", OPTIONS)
def test_every_field_says_what_it_means(config: type[LoopConfig]) -> None:
    assert all(len(entry.metadata["help"]) > 10 or entry.name == "max_steps" for entry in fields(config))
    unkeyed = [entry.name for entry in fields(config) if not entry.metadata.get("fingerprint", True)]
    assert unkeyed == ["on_alarm", "save_every"]


def test_the_defaults_are_the_references() -> None:
    config = PPOConfig()
    assert (config.temperature, config.kl_coef, config.gamma, config.lam) == (0.7, 0.05, 1.0, 0.95)  # D21 D35 D40
    assert (config.clip_range, config.clip_range_value, config.epochs, config.minibatches) == (
        0.2,
        0.2,
        4,
        1,
    )  # D48 D50 D53
    assert (config.lr, config.adam_eps, config.max_grad_norm, config.missing_eos_score) == (3e-6, 1e-5, 1.0, -1.0)
    assert (config.whiten_advantages, config.whiten_rewards, config.critic_warmup) == (True, False, 0)
    assert (config.max_steps, config.episodes, config.critic_lr) == (1000, 512, 1e-5)  # D51 D53
    assert (config.schedule.name, config.warmup_steps) == ("linear", 0)  # D58
    assert (config.kl_estimator.name, config.kl_target, config.kl_horizon) == ("k1", None, 10_000)  # D32 D36
    assert (config.score_clip, config.target_kl, config.clip_range_high, config.dual_clip) == (None, None, None, None)
    assert config.loss_aggregation.name == "token_mean"  # D63


def test_the_defaults_of_the_others() -> None:
    assert (GRPOConfig().group_size, GRPOConfig().scale_rewards.name, RLOOConfig().group_size) == (8, "group", 4)
    for made in (GRPOConfig(), RLOOConfig(), ReinforcePPConfig()):
        assert (made.epochs, made.minibatches, made.kl_coef, made.clip_range) == (1, 1, 0.05, 0.2)
        assert (made.dual_clip, made.score_clip, made.loss_aggregation.name) == (None, None, "token_mean")


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (GRPOConfig, {"episodes": 20}, r"episodes \(20\) must be a multiple of group_size \(8\)"),
        (RLOOConfig, {"episodes": 8, "group_size": 1}, "group_size must be at least 2, got 1"),
        (RLOOConfig, {"episodes": 8, "minibatches": 3}, "must be a multiple of minibatches"),
        (ReinforcePPConfig, {"episodes": 4}, "whitening needs at least 8 episodes, got 4"),
        (ReinforcePPConfig, {"gamma": 2.0}, r"gamma must lie in \[0, 1\]"),
        (GRPOConfig, {"lr": 0.0}, "lr must be a positive number"),
    ],
)
def test_what_the_others_cannot_run(config: type[LoopConfig], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dual_clip": 1.0}, "dual_clip must be above 1"),
        ({"score_clip": 0.0}, "score_clip must be a positive number"),
        ({"critic_lr": 0.0}, "critic_lr must be a positive number"),
        ({"episodes": 10, "minibatches": 4}, r"episodes \(10\) must be a multiple of minibatches \(4\)"),
        ({"episodes": 4}, "whitening needs at least 8 episodes, got 4"),
        ({"episodes": 4, "whiten_advantages": False, "whiten_rewards": True}, "whitening needs at least 8"),
        ({"kl_target": 6.0, "kl_coef": 0.0}, "kl_coef must be above 0"),
        ({"kl_target": 6.0, "kl_horizon": 100}, r"kl_horizon \(100\) must not be below episodes \(512\)"),
        ({"clip_range": 1.5}, "clip_range must be at most 1"),
        ({"clip_range": 0.0}, "clip_range must be a positive number"),
        ({"clip_range_high": -0.1}, "clip_range_high must be a positive number"),
        ({"clip_range_value": 0.0}, "clip_range_value must be a positive number"),
        ({"target_kl": 0.01, "epochs": 1}, "target_kl can end nothing with epochs=1"),
        (
            {"target_kl": 0.01, "epochs": 2, "minibatches": 1},
            "target_kl can end nothing with epochs=2 and mini",
        ),
        ({"target_kl": 0.0}, "target_kl must be a positive number"),
        ({"kl_target": float("inf")}, "kl_target must be a positive number"),
        ({"missing_eos_score": float("nan")}, "missing_eos_score must be a finite number"),
        ({"temperature": 0.0}, "temperature must be a positive number"),
        ({"lr": float("nan")}, "lr must be a positive number"),
        ({"kl_coef": -0.1}, "kl_coef must be at least 0"),
        ({"gamma": 1.1}, r"gamma must lie in \[0, 1\]"),
        ({"lam": -0.1}, r"lam must lie in \[0, 1\]"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"eval_every": 0}, "eval_every must be at least 1"),
        ({"critic_warmup": -1}, "critic_warmup must be at least 0"),
        ({"critic_warmup": 5, "max_steps": 5}, r"critic_warmup \(5\) must be below max_steps \(5\)"),
    ],
)
def test_what_cannot_be_run_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PPOConfig(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"episodes": 4, "whiten_advantages": False},
        {"kl_target": 6.0},
        {"clip_range_value": None, "clip_range_high": 0.28, "missing_eos_score": None},
        {"kl_coef": 0.0},
        {"dual_clip": 3.0, "score_clip": 5.0},
    ],
)
def test_what_can_be_run_is_not(changes: dict[str, Any]) -> None:
    PPOConfig(**changes)
