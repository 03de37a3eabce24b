"""From Hydra's composed config to a `RunConfig`: everything a user can get wrong is found here, before any work."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from hydra.conf import HydraConf
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alignpipe.config.checks import (
    check_complete,
    check_keys,
    check_scale,
    check_stable,
    check_stages,
    slot_nodes,
    tracker_nodes,
)
from alignpipe.config.command import as_typed, job_alone, sweep_again, swept
from alignpipe.config.convert import choice_of, resolved_data
from alignpipe.config.model import RunConfig, RunSettings
from alignpipe.errors import ConfigError
from alignpipe.registry import Registry


def run_config(cfg: DictConfig, hydra: HydraConf, registry: Registry, words: Sequence[str] = ()) -> RunConfig:
    """Check the composed config and turn it into dataclasses; `hydra` is Hydra's own node (`HydraConfig.get()`).

    `words` is the command line as it was typed (for a job of a sweep, the sweep's), empty if it is not known.

    Raises `ConfigError` naming the key for anything that cannot be run, and OmegaConf's errors (`cli/report.py`).
    """
    sources = [Path(str(source.path)) for source in hydra.runtime.config_sources if source.schema == "file"]
    check_scale(hydra.runtime.choices, sources)
    settings = run_settings(cfg, registry)
    check_stages(cfg, settings.stages, registry)

    slots = slot_nodes(cfg, settings.stages, registry)
    trackers = tracker_nodes(cfg)
    check_complete({**slots, **trackers})
    check_stable(slots)  # or keys would differ from run to run

    overrides = overrides_of(hydra)
    sweep = _sweep_folder(hydra) if hydra.mode == RunMode.MULTIRUN else None
    outputs = Path(os.path.abspath(Path(str(hydra.runtime.cwd)) / settings.outputs))
    return RunConfig(
        settings=settings,
        selected={key: choice_of(node, key, registry) for key, node in slots.items()},
        # Keys here are `tracker.wandb` and the like, there `wandb`.
        trackers={key.partition(".")[2]: choice_of(node, key, registry) for key, node in trackers.items()},
        resolved=resolved_data(cfg),
        outputs=outputs,
        folder=Path(str(hydra.runtime.output_dir)).absolute(),
        overrides=overrides,
        sweep=sweep.name if sweep else None,
        swept=swept(words, OmegaConf.select(hydra.sweeper, "params") or (), overrides) if sweep else (),
        again=sweep_again(words or ("-m", *overrides), sweep) if sweep else tuple(words) or overrides,
        alone=job_alone(words, overrides) if sweep else tuple(words) or overrides,
    )


def overrides_of(hydra: HydraConf) -> tuple[str, ...]:
    """The overrides of a job as they were typed: `${...}` in them is not looked up, and Hydra's escapes are gone."""
    given = OmegaConf.to_container(OmegaConf.create(hydra.overrides.task), resolve=False)
    assert isinstance(given, list)
    return tuple(as_typed(str(override)) for override in given)


def _sweep_folder(hydra: HydraConf) -> Path:
    """The sweep's folder, absolute: `.` has no name."""
    return Path(os.path.abspath(Path(str(hydra.runtime.cwd)) / str(hydra.sweep.dir)))


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
    if not settings.outputs.strip():
        raise ConfigError("outputs is empty: name a folder, for example outputs=outputs")
    if settings.outputs.startswith("~"):
        raise ConfigError(f"outputs={settings.outputs}: nobody replaced the ~; write the folder's whole path")
    if not 0 <= settings.seed < 2**63:
        raise ConfigError(f"seed={settings.seed}: a whole number from 0 to 2**63 - 1 is wanted")
    check_keys(cfg, settings.stages, registry)
    return settings
