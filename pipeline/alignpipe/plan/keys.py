"""Stage keys: the sha256 of everything a stage's result depends on, kept readable so that a miss can be explained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any

from alignpipe.api import Selected
from alignpipe.config.model import RunConfig
from alignpipe.errors import ConfigError
from alignpipe.plan.digests import data_digest
from alignpipe.plan.ports import BASE, Source, StageSpec, all_selected
from alignpipe.registry import Registered, Registry

KEY_SCHEMA = 1

Explained = dict[str, Any]
"""What went into a key, as plain data."""


class Explainer:
    """Describes stages as plain data; remembers file revisions, so that a user's files are hashed once a run.

    A config dataclass may offer `revision() -> Mapping[str, str]`, which names the state of what lies outside the
    config (hashes of data files, a hub revision, the digest of a local checkpoint). It is called here only, when
    planning.
    """

    def __init__(
        self,
        run: RunConfig,
        registry: Registry,
        specs: Sequence[StageSpec],
        sources: Mapping[str, Mapping[str, Source]],
    ) -> None:
        self._run = run
        self._registry = registry
        self._specs = {spec.name: spec for spec in specs}
        self._sources = sources
        self._revisions: dict[int, dict[str, str]] = {}

    def explain(self, spec: StageSpec, inputs: Mapping[str, str]) -> Explained:
        """Everything the stage's result depends on; `inputs` says what feeds each port (`sft <digest>`)."""
        used = self.components(spec)
        explained: Explained = {
            "schema": KEY_SCHEMA,
            "stage": spec.name,
            "component": self._describe(spec.selected, spec.name),
            "seed": self._run.settings.seed,
            "uses": {slot: self._describe(self._slot(spec, slot), slot) for slot in self.uses(spec)},
            "inputs": dict(inputs),
            "distributions": {entry.distribution: entry.version for entry in used if not entry.built_in},
        }
        return explained

    def uses(self, spec: StageSpec) -> tuple[str, ...]:
        """The slots the stage reads: what its component lists, and the model if the base model feeds a port."""
        base = BASE in self._sources[spec.name].values()
        return tuple(dict.fromkeys((*spec.uses, *(("model",) if base else ()))))

    def components(self, spec: StageSpec) -> tuple[Registered, ...]:
        """Every component whose code takes part in the stage: its own, nested ones, those of the slots it uses.

        A reward is not only an artifact: whoever is given one runs its code. So is a dataset's gold reward, which comes
        with the plugin that made the data and is read by reports.
        """
        chosen = [spec.selected, *(self._slot(spec, slot) for slot in self.uses(spec))]
        for source in self._sources[spec.name].values():
            upstream = self._specs.get(source.name) if source.origin == "stage" else None
            if upstream and (upstream.makes == "reward" or (upstream.makes, spec.makes) == ("dataset", "report")):
                chosen.append(upstream.selected)
        found = {(entry.group, entry.name): entry for choice in chosen for entry in all_selected(choice)}
        return tuple(self._registry.get(group, name) for group, name in found)

    def _slot(self, spec: StageSpec, slot: str) -> Selected:
        selected = self._run.selected.get(slot)
        if selected is None:
            raise ConfigError(f"stage {spec.name!r} ({spec.registered}) uses the slot {slot!r}, but nothing fills it")
        return selected

    def _describe(self, selected: Selected, where: str) -> dict[str, Any]:
        component = self._registry.get(selected.group, selected.name).component
        described: dict[str, Any] = {
            "group": selected.group,
            "name": selected.name,
            "version": component.version,
            "config": self._keyed(selected.config, where),
        }
        revision = self._revision(selected)
        if revision:
            described["revision"] = revision
        return described

    def _revision(self, selected: Selected) -> dict[str, str]:
        ask = getattr(selected.config, "revision", None)
        if not callable(ask):
            return {}
        known = self._revisions.get(id(selected.config))
        if known is None:
            known = self._revisions[id(selected.config)] = {str(name): str(value) for name, value in ask().items()}
        return known

    def _keyed(self, value: Any, where: str) -> Any:
        """Plain data of a config value, without the fields that say `fingerprint: False`."""
        if isinstance(value, Selected):
            return self._describe(value, where)
        if is_dataclass(value) and not isinstance(value, type):
            kept = [entry.name for entry in fields(value) if entry.metadata.get("fingerprint", True)]
            return {name: self._keyed(getattr(value, name), f"{where}.{name}") for name in kept}
        if isinstance(value, Mapping):
            return {str(key): self._keyed(entry, f"{where}.{key}") for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [self._keyed(entry, f"{where}[{position}]") for position, entry in enumerate(value)]
        return _scalar(value, where)


def key_of(explained: Explained) -> str:
    """The key: 64 hex digits."""
    try:
        return data_digest(explained)
    except ValueError as error:
        stage = explained["stage"]
        raise ConfigError(f"the config of stage {stage!r} holds NaN or an infinity, which cannot be keyed") from error


def _scalar(value: Any, where: str) -> Any:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, PurePath):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(f"{where}={value!r}: a value of type {type(value).__name__} cannot be part of a stage's key")
