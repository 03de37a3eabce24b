"""Checks of a composed config: values, keys, stages and options; nothing missing; nothing that changes by itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from alignpipe.api import SLOTS
from alignpipe.choices import is_keyed
from alignpipe.config.convert import children, is_typed, registered_of
from alignpipe.config.model import RunSettings
from alignpipe.errors import ConfigError, did_you_mean
from alignpipe.registry import Registry

NOT_STAGES = ("model", "tracker", "rollout")
"""The slots that stages use and that are no stages themselves."""

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_VOLATILE = re.compile(r"\$\{\s*(now|hydra|oc\.env)\s*[:.]")


def check_settings(settings: RunSettings) -> None:
    """Raise `ConfigError` for a value that cannot be meant, wherever the run may be."""
    if not settings.outputs.strip():
        raise ConfigError("outputs is empty: name a folder, for example outputs=outputs")
    if settings.outputs.startswith("~"):
        raise ConfigError(f"outputs={settings.outputs}: nobody replaced the ~; write the folder's whole path")
    if not 0 <= settings.seed < 2**63:
        raise ConfigError(f"seed={settings.seed}: a whole number from 0 to 2**63 - 1 is wanted")
    if not _DEVICE.fullmatch(settings.device):
        why = "; Apple's GPUs lack float64, which sampling needs" if settings.device == "mps" else ""
        raise ConfigError(f"device={settings.device}: allowed are auto, cpu, cuda and cuda:<n>{why}")
    if settings.threads is not None and settings.threads < 1:
        raise ConfigError(f"threads={settings.threads}: at least 1 is needed (or leave it unset)")
    if settings.processes < 1:
        raise ConfigError(f"processes={settings.processes}: at least 1 is needed")
    if settings.lanes is not None and settings.lanes < 1:
        raise ConfigError(f"lanes={settings.lanes}: at least 1 is needed (or leave it unset)")


_PRESETS = ("experiment", "scale")
"""Groups of overlays: their files change keys of the whole config."""


def check_keys(cfg: DictConfig, stages: Sequence[str], registry: Registry) -> None:
    """Every top-level key must be a run setting, a slot, or the name of a stage of this run.

    Raises `ConfigError` with the nearest known key.
    """
    settings = [entry.name for entry in fields(RunSettings)]
    slots = [*SLOTS, *(group for group in registry.groups() if group not in SLOTS)]
    for key in map(str, cfg):
        if key in settings or key in SLOTS or key in stages:
            continue
        node = cfg._get_node(key)
        if is_typed(node) and (key not in slots or registered_of(node, key, registry).component.makes):
            raise ConfigError(
                f"{key} is configured but not in stages=[{','.join(stages)}]; add it there, or leave it out"
            )
        if key not in slots:
            if isinstance(node, DictConfig) and (unfilled := how_to_fill(key, registry)) is not None:
                raise ConfigError(f"{key}: {unfilled}")
            if key in _PRESETS:
                raise ConfigError(
                    f"{key}: a file of conf/{key} needs '# @package _global_' as its first line, or all that it holds "
                    f"stands below the key {key}"
                )
            near = did_you_mean(key, [*settings, *slots, *stages])
            raise ConfigError(f"{key}: there is no such key{near}; keys: {', '.join([*settings, *slots])}")


def check_scale(choices: Mapping[str, str | None], folders: Sequence[Path]) -> None:
    """Refuse a `scale` that is no file: the default one is optional (most models have none), and so Hydra is silent.

    `choices` are Hydra's (group -> option), `folders` the config folders on its search path.

    Raises `ConfigError` with the overlays that are there.
    """
    scale = choices.get("scale")
    if scale is None or scale == choices.get("model"):
        return
    if not any((folder / "scale" / f"{scale}.yaml").is_file() for folder in folders):
        there = sorted({path.stem for folder in folders for path in (folder / "scale").glob("*.yaml")})
        raise ConfigError(
            f"scale={scale}: there is no such overlay; there are {', '.join(there)}. Experiments ask for your model's: "
            f"write it (scale/{scale}.yaml in a folder that --config-dir names), or add ~scale and set sizes yourself"
        )


def check_stages(cfg: DictConfig, stages: Sequence[str], registry: Registry) -> None:
    """Raise `ConfigError` for an empty list, a stage named twice, one without a component, and one that is no stage."""
    if not stages:
        raise ConfigError("stages is empty: name at least one, for example stages=[data,sft]")
    for position, stage in enumerate(stages):
        if stage in stages[:position]:
            raise ConfigError(
                f"stages names {stage!r} twice; a second one needs its own name: +{stage}@{stage}_2=<option>"
            )
        node = cfg._get_node(stage) if stage in cfg else None
        if not is_typed(node):
            raise ConfigError(_no_component(stage, cfg, registry))
        registered = registered_of(node, stage, registry)
        component = registered.component
        if component.group in NOT_STAGES or (component.makes is None and component.group != "reward"):
            raise ConfigError(f"stages names {stage!r}, but {registered} is no stage: it makes no artifact")


def _no_component(stage: str, cfg: DictConfig, registry: Registry) -> str:
    """What to say of a name in `stages` that nothing fills."""
    if (unfilled := how_to_fill(stage, registry)) is not None:
        return f"stages names {stage!r}, but {unfilled}"
    known = [str(key) for key in cfg if is_typed(cfg._get_node(key))]
    groups = _stage_groups(registry)
    return f"stages names {stage!r}, which is not in the config{did_you_mean(stage, [*known, *groups])}"


def how_to_fill(stage: str, registry: Registry) -> str | None:
    """What to add for a stage that is wanted and has no component; None for a name that no stage can have."""
    groups = _stage_groups(registry)
    base = re.sub(r"_\w+$", "", stage)
    if stage in groups:
        return f"no {stage} is chosen: add +{stage}=<{'|'.join(registry.options(stage))}>"
    if base in groups:
        return f"nothing fills it: add +{base}@{stage}=<{'|'.join(registry.options(base))}>"
    return None


def _stage_groups(registry: Registry) -> list[str]:
    return [group for group in registry.groups() if group not in NOT_STAGES]


def slot_nodes(cfg: DictConfig, stages: Sequence[str], registry: Registry) -> dict[str, DictConfig]:
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


def tracker_nodes(cfg: DictConfig) -> dict[str, DictConfig]:
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


def check_complete(nodes: dict[str, Any]) -> None:
    """No mandatory value may be missing.

    Raises `ConfigError` naming all that are.
    """
    missing = [key for name, node in nodes.items() for key in missing_keys(name, node)]
    if missing:
        values = " ".join(f"{key}=<value>" for key in missing)
        raise ConfigError(f"{', '.join(missing)} must be given: add {values}")


def missing_keys(key: str, node: Any) -> list[str]:
    """The keys below `key` that have no value yet, leaving out what a dataclass computes by itself."""
    return [where for where, child in _walk(key, node) if child._is_missing()]


def check_stable(nodes: dict[str, Any]) -> None:
    """What a stage's key is made of must not differ from one run of the same config to the next.

    Raises `ConfigError` for interpolations of the time, the environment or Hydra's own state, in fields that are keyed.
    """
    for name, node in nodes.items():
        for key, child in _walk(name, node, keyed_only=True):
            text = child._value() if not OmegaConf.is_config(child) or child._is_interpolation() else None
            found = _VOLATILE.search(text) if isinstance(text, str) else None
            if found:
                raise ConfigError(
                    f"{key}={text}: ${{{found[1]}}} may change from run to run, and this value is part of the stage's "
                    "key; write the value itself"
                )


def _walk(key: str, node: Any, keyed_only: bool = False) -> Iterator[tuple[str, Any]]:
    """(key, node) of `node` and everything below it, nothing resolved."""
    yield key, node
    if not OmegaConf.is_config(node):
        return
    config = OmegaConf.get_type(node)
    left_out: set[str] = set()
    if is_dataclass(config):
        left_out = {entry.name for entry in fields(config) if not entry.init or (keyed_only and not is_keyed(entry))}
    for name, child in children(node):
        if name not in left_out and child is not None:
            yield from _walk(f"{key}.{name}", child, keyed_only)
