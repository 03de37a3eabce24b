"""From Hydra's composed config to a `RunConfig`: everything a user can get wrong is found here, before any work."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alignpipe.api import SLOTS
from alignpipe.config.checks import (
    check_complete,
    check_keys,
    check_scale,
    check_stable,
    missing_keys,
    stage_components,
)
from alignpipe.config.convert import choice_of, is_typed, registered_of, resolved_data
from alignpipe.config.model import RunConfig, RunSettings
from alignpipe.errors import ConfigError
from alignpipe.registry import Registry


def run_config(cfg: DictConfig, hydra: HydraConf, registry: Registry) -> RunConfig:
    """Check the composed config and turn it into plain typed data; `hydra` is Hydra's own node (`HydraConfig.get()`).

    Raises `ConfigError` naming the key for anything that cannot be run, and OmegaConf's errors (`cli/report.py`).
    """
    sources = [Path(str(source.path)) for source in hydra.runtime.config_sources if source.schema == "file"]
    check_scale(hydra.runtime.choices, sources)
    settings = run_settings(cfg, registry)
    stages = stage_components(cfg, settings.stages, registry)

    slots = _slots(cfg, stages, registry)
    trackers = _trackers(cfg)
    check_complete({**slots, **trackers})
    check_stable(slots)  # or keys would differ from run to run

    outputs = Path(os.path.abspath(Path(str(hydra.runtime.cwd)) / settings.outputs))
    return RunConfig(
        settings=settings,
        selected={key: choice_of(node, key, registry) for key, node in slots.items()},
        trackers={key.partition(".")[2]: choice_of(node, key, registry) for key, node in trackers.items()},
        resolved=resolved_data(cfg),
        outputs=outputs,
        folder=Path(str(hydra.runtime.output_dir)).absolute(),
        overrides=tuple(map(str, hydra.overrides.task)),
        sweep=Path(str(hydra.sweep.dir)).name if hydra.mode == RunMode.MULTIRUN else None,
    )


def run_settings(cfg: DictConfig, registry: Registry) -> RunSettings:
    """The run settings of a composed config in which every key is known.

    They are typed once more: a `config.yaml` of the user's own may leave out our `run_settings`, and hold anything.

    Raises `ConfigError` naming the key.
    """
    names = [entry.name for entry in fields(RunSettings)]
    given = {name: cfg[name] for name in names if name in cfg}
    try:
        settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunSettings), given))
    except ValueError as error:
        if isinstance(error, OmegaConfBaseException):
            raise  # a wrong type: a ValueError too, which `cli/report.py` puts into words
        # Only `scoring` has checks of its own.
        raise ConfigError(f"scoring.{error}") from error
    assert isinstance(settings, RunSettings)
    if not settings.outputs.strip():
        raise ConfigError("outputs is empty: name a folder, for example outputs=outputs")
    if settings.outputs.startswith("~"):
        raise ConfigError(f"outputs={settings.outputs}: nobody replaced the ~; write the folder's whole path")
    if not 0 <= settings.seed < 2**63:
        raise ConfigError(f"seed={settings.seed}: a whole number from 0 to 2**63 - 1 is wanted")
    check_keys(cfg, settings.stages, registry)
    return settings


def _slots(cfg: DictConfig, stages: dict[str, Any], registry: Registry) -> dict[str, DictConfig]:
    """The nodes of the run's stages and of all other slots, trackers aside.

    A stage slot that this run does not reach (`stages=[data,sft]`) may be unfinished; it is then left out.
    """
    slots: dict[str, DictConfig] = {}
    for key in [*stages, *SLOTS, *registry.groups()]:
        node = _node(cfg, key)
        if node is None or key == "tracker" or key in slots:
            continue
        if not is_typed(node):
            options = "|".join(registry.options(key))
            raise ConfigError(f"{key}: choose an option with {key}=<{options}>; it cannot be set key by key")
        component = registered_of(node, key, registry).component
        is_stage = component.makes is not None or component.group == "reward"
        if is_stage and key not in stages and missing_keys(key, node):
            continue
        slots[key] = node
    return slots


def _trackers(cfg: DictConfig) -> dict[str, DictConfig]:
    """The nodes of the trackers, by their full keys."""
    node = _node(cfg, "tracker")
    if node is None:
        return {}
    if not isinstance(node, DictConfig):
        raise ConfigError("tracker: choose trackers with tracker=[<option>,...]")
    trackers: dict[str, DictConfig] = {}
    for name in map(str, node):
        child = node._get_node(name)
        if not is_typed(child):
            raise ConfigError(f"tracker.{name}: {name} is not chosen as a tracker; use tracker=[...,{name}]")
        trackers[f"tracker.{name}"] = child
    return trackers


def _node(cfg: DictConfig, key: str) -> Any:
    """The node under a key, unresolved; None if it is missing or null."""
    node = cfg._get_node(key) if key in cfg else None
    return None if isinstance(node, DictConfig) and node._is_none() else node
