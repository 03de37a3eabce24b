"""One reward, chosen and configured as in a run, and built without running anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from alignpipe.api import Reward, Selected
from alignpipe.api.tracking import Level
from alignpipe.config.model import RunSettings
from alignpipe.config.paths import conf_dir
from alignpipe.config.run import chosen_reward, run_settings
from alignpipe.config.source import register
from alignpipe.errors import PluginError
from alignpipe.registry import Registered, registry
from alignpipe.rewarding.artifact import label
from alignpipe.runner.context import Builder
from alignpipe.runner.devices import check_machine_settings, prepare_device


@dataclass(frozen=True)
class Chosen:
    """An option of the reward slot with its options set, and the settings of the run it would be part of."""

    registered: Registered
    selected: Selected
    settings: RunSettings

    @property
    def label(self) -> str:
        """How messages name it."""
        return label(self.selected.name, f"{self.registered.distribution} {self.registered.version}")

    def build(self) -> Reward:
        """Build it.

        Raises `PluginError` if the factory makes something that cannot score.
        """
        reward = builder(self.settings).build(self.selected)
        if not isinstance(reward, Reward):
            raise PluginError(f"{self.registered}: its factory built a {type(reward).__name__}, without score(samples)")
        return reward


def choose(option: str, overrides: Sequence[str]) -> Chosen:
    """The reward `option`, with overrides as on the command line of a run (`reward.<key>=<value>`, `seed=1` ...).

    Raises `PluginError` and `ConfigError` as a run does.
    """
    registered = registry().get("reward", option)
    with composing():
        cfg = compose("config", [f"reward={option}", *overrides])
        settings = run_settings(cfg, registry())
        selected = chosen_reward(cfg, registry())
    check_machine_settings(settings)
    return Chosen(registered, selected, settings)


def chosen_settings(overrides: Sequence[str]) -> RunSettings:
    """The run settings alone, for a reward that brings its options with it.

    Raises `ConfigError` as a run does.
    """
    with composing():
        settings = run_settings(compose("config", list(overrides)), registry())
    check_machine_settings(settings)
    return settings


@contextmanager
def composing() -> Iterator[None]:
    """Hydra over our config, with the plugins as config source, for the time of a block."""
    register()
    GlobalHydra.instance().clear()
    version: dict[str, Any] = {"version_base": "1.3"} if hydra.__version__.startswith("1.3") else {}
    with initialize_config_dir(str(conf_dir()), job_name="alignpipe", **version):
        yield


def builder(settings: RunSettings) -> Builder:
    """What builds components under these settings."""
    return Builder(registry(), settings.seed, prepare_device(settings))


class Bench(Builder):
    """A stage context for a reward that is trained outside of a run; what it logs is dropped."""

    def __init__(self, settings: RunSettings, folder: Path, slots: Mapping[str, Selected]) -> None:
        super().__init__(registry(), settings.seed, prepare_device(settings))
        self.stage = "reward"
        self.payload, self.work = folder / "payload", folder / "work"
        for place in (self.payload, self.work):
            place.mkdir(parents=True, exist_ok=True)
        self.slots = slots
        self.scoring = settings.scoring
        self.rank, self.world_size = 0, 1

    def log(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Drop them."""

    def log_timings(self, timings: Mapping[str, float], step: int) -> None:
        """Drop them."""

    def rewind(self, step: int) -> None:
        """Nothing was kept."""

    def progress(self, done: int, total: int, figures: Mapping[str, float] | None = None, unit: str = "step") -> None:
        """Show nothing."""

    def say(self, message: str) -> None:
        """Say nothing."""

    def alert(self, title: str, text: str, level: Level = "warn") -> None:
        """Say nothing."""

    def stop_requested(self) -> bool:
        """It goes on to the end."""
        return False
