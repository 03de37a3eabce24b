"""Choosing and configuring one reward by Hydra as a run does, without a run: for `score` and `plugins check`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from alignpipe.api import Reward, Selected
from alignpipe.config.checks import check_complete
from alignpipe.config.convert import choice_of
from alignpipe.config.model import RunSettings
from alignpipe.config.run import run_settings
from alignpipe.config.search_path import conf_dir, register
from alignpipe.errors import ConfigError
from alignpipe.registry import Registered, registry
from alignpipe.rewarding.artifact import label
from alignpipe.runner.context import Builder
from alignpipe.runner.requirements import check_machine

_USED = ("scoring", "seed", "device", "threads", "lanes", "outputs")
"""The run settings that matter where a reward is asked outside of a run."""


@dataclass(frozen=True)
class Chosen:
    """An option of the reward slot with its options set, and the settings of the run it would be part of."""

    registered: Registered
    selected: Selected
    settings: RunSettings
    overrides: Sequence[str] = ()
    """What was set on the command line."""

    @property
    def label(self) -> str:
        """How messages name it."""
        return label(self.selected.name, self.registered.provider)

    def build(self) -> Reward:
        """Build it; raises `PluginError` if its factory makes something that cannot score."""
        reward: Reward = Builder(registry(), self.settings).build(self.selected)
        return reward


def choose(option: str, overrides: Sequence[str]) -> Chosen:
    """The reward `option`, with overrides as on the command line of a run (`reward.<key>=<value>`, `seed=1` ...).

    Raises `PluginError` and `ConfigError` as a run does.
    """
    registered = registry().get("reward", option)
    _check_overrides(overrides)
    with composing():
        cfg = compose("config", [f"reward={option}", *overrides])
        settings = run_settings(cfg, registry())
        check_complete({"reward": cfg.reward})
        selected = choice_of(cfg.reward, "reward", registry())
    check_machine(selected)
    return Chosen(registered, selected, settings, tuple(overrides))


def chosen_settings(overrides: Sequence[str]) -> RunSettings:
    """The run settings alone, for a reward that brings its options with it.

    Raises `ConfigError` as a run does.
    """
    _check_overrides(overrides)
    with composing():
        return run_settings(compose("config", list(overrides)), registry())


def _check_overrides(overrides: Sequence[str]) -> None:
    """Raise `ConfigError` for an override of a setting that only a run uses."""
    for text in overrides:
        if re.split(r"[=.@]", text.lstrip("+~"))[0] not in ("reward", *_USED):
            raise ConfigError(
                f"{text}: no run is made here, so this would change nothing; what counts beside reward.<key>: "
                f"{', '.join(_USED)}"
            )


@contextmanager
def composing() -> Iterator[None]:
    """Hydra over our config, with the plugins as config source, for the time of a block."""
    register()
    GlobalHydra.instance().clear()
    version: dict[str, Any] = {"version_base": "1.3"} if hydra.__version__.startswith("1.3") else {}
    with initialize_config_dir(str(conf_dir()), job_name="alignpipe", **version):
        yield
