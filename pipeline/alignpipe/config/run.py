"""From Hydra's composed config to a `RunConfig`: what the config alone shows to be wrong is refused here.

Stages and inputs are looked at by `plan/`, the machine and the data by `runner/`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from hydra.conf import HydraConf
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alignpipe.config.checks import (
    check_complete,
    check_keys,
    check_scale,
    check_settings,
    check_stable,
    check_stages,
    slot_nodes,
    tracker_nodes,
)
from alignpipe.config.command import command_of
from alignpipe.config.convert import choice_of, resolved_data
from alignpipe.config.model import RunConfig, RunSettings
from alignpipe.errors import ConfigError
from alignpipe.registry import Registry


def run_config(cfg: DictConfig, hydra: HydraConf, registry: Registry, words: Sequence[str] = ()) -> RunConfig:
    """Check the composed config and turn it into dataclasses; `hydra` is Hydra's own node (`HydraConfig.get()`).

    `words` is the command line as it was typed (for a job of a sweep, the sweep's), empty if it is not known.

    Raises `ConfigError` naming the key for anything that cannot be run, and OmegaConf's errors (`cli/report.py`).
    """
    folders = [Path(str(source.path)) for source in hydra.runtime.config_sources if source.schema == "file"]
    check_scale(hydra.runtime.choices, folders)
    settings = run_settings(cfg, registry)
    check_stages(cfg, settings.stages, registry)

    slots = slot_nodes(cfg, settings.stages, registry)
    trackers = tracker_nodes(cfg)
    check_complete({**slots, **trackers})
    check_stable(slots)  # a value that differs from run to run: keys would too

    return RunConfig(
        settings=settings,
        selected={key: choice_of(node, key, registry) for key, node in slots.items()},
        # Keys here are `tracker.wandb` and the like, there `wandb`.
        trackers={key.partition(".")[2]: choice_of(node, key, registry) for key, node in trackers.items()},
        resolved=resolved_data(cfg),
        outputs=Path(os.path.abspath(Path(str(hydra.runtime.cwd)) / settings.outputs)),
        folder=Path(str(hydra.runtime.output_dir)).absolute(),
        command=command_of(hydra, words),
    )


def run_settings(cfg: DictConfig, registry: Registry) -> RunSettings:
    """The run settings of a composed config; besides them it may only have slots and stages as keys.

    They are merged into the typed settings once more, since a user's own `config.yaml` need not begin with ours
    (`run_settings`), and may then hold values of any type.

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
    check_settings(settings)
    check_keys(cfg, settings.stages, registry)
    return settings
