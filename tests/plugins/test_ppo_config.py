"""The options: what is refused, and that every one of them is read."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import alignpipe_plugins.ppo
from alignpipe_plugins.ppo.config import PPOConfig

SOURCES = sorted(Path(alignpipe_plugins.ppo.__file__).parent.glob("*.py"))


def test_every_field_is_read_outside_of_the_config() -> None:
    text = "\n".join(path.read_text() for path in SOURCES if path.name != "config.py")
    read = set(re.findall(r"\bconfig\.(\w+)", text, flags=re.IGNORECASE))
    assert {entry.name for entry in fields(PPOConfig)} - read == set()


def test_every_field_says_what_it_means() -> None:
    assert all(len(entry.metadata["help"]) > 10 or entry.name == "max_steps" for entry in fields(PPOConfig))
    assert [entry.name for entry in fields(PPOConfig) if not entry.metadata.get("fingerprint", True)] == ["save_every"]


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"episodes": 10, "minibatches": 4}, r"episodes \(10\) must be a multiple of minibatches \(4\)"),
        ({"episodes": 4}, "whitening needs at least 8 episodes, got 4"),
        ({"episodes": 4, "whiten_advantages": False, "whiten_rewards": True}, "whitening needs at least 8"),
        ({"kl_target": 6.0, "kl_coef": 0.0}, "kl_coef must be above 0"),
        ({"kl_target": 6.0, "kl_horizon": 100}, r"kl_horizon \(100\) must not be below episodes \(512\)"),
        ({"clip_range": 1.5}, "clip_range must be at most 1"),
        ({"clip_range": 0.0}, "clip_range must be a positive number"),
        ({"clip_range_high": -0.1}, "clip_range_high must be a positive number"),
        ({"clip_range_value": 0.0}, "clip_range_value must be a positive number"),
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
    ],
)
def test_what_can_be_run_is_not(changes: dict[str, Any]) -> None:
    PPOConfig(**changes)
