"""One reward, chosen and configured as in a run, and built without running anything."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Quote, QuotedString

from alignpipe.api import Reward, Selected
from alignpipe.config.checks import check_complete
from alignpipe.config.convert import choice_of
from alignpipe.config.model import RunSettings
from alignpipe.config.run import run_settings
from alignpipe.config.source import conf_dir, register
from alignpipe.errors import ConfigError
from alignpipe.registry import Registered, registry
from alignpipe.rewarding.artifact import label
from alignpipe.runner.context import Builder
from alignpipe.runner.devices import check_machine_settings
from alignpipe.runner.requirements import check_machine

_HEEDED = ("scoring", "seed", "device", "threads", "lanes", "outputs")
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
    _check_heeded(overrides)
    with composing():
        cfg = compose("config", [f"reward={option}", *overrides])
        settings = run_settings(cfg, registry())
        check_complete({"reward": cfg.reward})
        selected = choice_of(cfg.reward, "reward", registry())
    check_machine_settings(settings)
    check_machine(selected)
    return Chosen(registered, selected, settings, tuple(overrides))


def as_overrides(config: Any) -> dict[str, list[str]]:
    """A reward's options as overrides of the command line, by field; the inverse of `choose`.

    Fields that hold what Hydra's grammar has no word for are left out.
    """
    found = {}
    for entry in fields(config):
        if entry.init:
            with suppress(_Unsayable):
                found[entry.name] = list(_overrides(f"reward.{entry.name}", getattr(config, entry.name)))
    return found


def chosen_settings(overrides: Sequence[str]) -> RunSettings:
    """The run settings alone, for a reward that brings its options with it.

    Raises `ConfigError` as a run does.
    """
    _check_heeded(overrides)
    with composing():
        settings = run_settings(compose("config", list(overrides)), registry())
    check_machine_settings(settings)
    return settings


def _check_heeded(overrides: Sequence[str]) -> None:
    """Raise `ConfigError` for an override of what only a run has."""
    for text in overrides:
        if re.split(r"[=.@]", text.lstrip("+~"))[0] not in ("reward", *_HEEDED):
            raise ConfigError(
                f"{text}: no run is made here, so this would change nothing; what counts beside reward.<key>: "
                f"{', '.join(_HEEDED)}"
            )


class _Unsayable(Exception):
    """A value that Hydra's grammar has no word for."""


def _overrides(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, Selected):
        yield f"+{value.group}@{key}={value.name}"
        value = value.config
    if is_dataclass(value):
        nested = {entry.name: getattr(value, entry.name) for entry in fields(value) if entry.init}
    elif isinstance(value, Mapping) and any(isinstance(item, Selected) for item in value.values()):
        nested = dict(value)
    else:
        yield f"{key}={_word(value)}"
        return
    for name, item in nested.items():
        yield from _overrides(f"{key}.{name}", item)


def _word(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, int | float):
        return repr(value)
    value = str(value) if isinstance(value, PurePath) else value
    if isinstance(value, str) and "${" not in value:
        return QuotedString(value, Quote.double).with_quotes()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_word, value))}]"
    if isinstance(value, Mapping) and all(re.fullmatch(r"[A-Za-z_]\w*", str(name)) for name in value):
        return "{" + ",".join(f"{name}:{_word(item)}" for name, item in value.items()) + "}"
    raise _Unsayable


@contextmanager
def composing() -> Iterator[None]:
    """Hydra over our config, with the plugins as config source, for the time of a block."""
    register()
    GlobalHydra.instance().clear()
    version: dict[str, Any] = {"version_base": "1.3"} if hydra.__version__.startswith("1.3") else {}
    with initialize_config_dir(str(conf_dir()), job_name="alignpipe", **version):
        yield
