"""Stage keys: the sha256 of a fingerprint, all that is meant to change a stage's result but for code, readable."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from alignpipe.api import Selected
from alignpipe.choices import all_selected, entries, plain, revision_of
from alignpipe.errors import ConfigError
from alignpipe.plan.specs import StageSpec
from alignpipe.registry import Registry
from alignpipe.store import Fingerprint

KEY_SCHEMA = 1
"""To be raised when keys are made otherwise."""


class Fingerprints:
    """Makes the fingerprints of a run's stages.

    Of a field of the type `Path` the file's content counts too. A config dataclass may offer `revision() ->
    Mapping[str, str]`, the state of what else lies outside the config (hashes of data files, a hub revision, the digest
    of a local checkpoint). Both are looked at here only: once a run, and once more
    before the stage that reads it works.
    """

    def __init__(self, seed: int, registry: Registry) -> None:
        self._seed = seed
        self._registry = registry
        self._revisions: dict[int, dict[str, str]] = {}

    def of(self, spec: StageSpec, inputs: Mapping[str, str]) -> Fingerprint:
        """The fingerprint of a stage; `inputs` says what feeds each port (`sft <digest>`)."""
        return {
            "schema": KEY_SCHEMA,
            "stage": spec.name,  # objects are stored by stage, so ppo and ppo_2 share none
            "component": self._describe(spec.selected, spec.name),  # its config, version and the state of its files
            "seed": self._seed,
            "uses": {slot: self._describe(choice, slot) for slot, choice in spec.keyed_slots.items()},
            "inputs": dict(inputs),
            "distributions": {entry.distribution: entry.version for entry in spec.components if not entry.built_in},
        }

    def changed(self, selected: Selected) -> list[str]:
        """What an option, or one in it, names outside the config and is not what it was when its key was made."""
        now = {id(choice.config): revision_of(choice.config) for choice in all_selected(selected)}
        return sorted(
            name
            for number, state in now.items()
            for name, was in self._revisions.get(number, state).items()
            if state.get(name) != was
        )

    def _describe(self, selected: Selected, where: str) -> dict[str, Any]:
        component = self._registry.get(selected.group, selected.name).component
        described: dict[str, Any] = {
            "group": selected.group,
            "name": selected.name,
            "version": component.version,
            "config": self._keyed(selected.config, where),
        }
        if revision := self._revision(selected.config):
            described["revision"] = revision
        return described

    def _revision(self, config: Any) -> dict[str, str]:
        """The state of what an option names outside the config, as it was when it was first asked for."""
        number = id(config)  # configs need not be hashable, and live as long as the run
        if number not in self._revisions:
            self._revisions[number] = revision_of(config)
        return self._revisions[number]

    def _keyed(self, value: Any, where: str) -> Any:
        """Plain data of a config value, without the fields that are marked `"fingerprint": False`."""
        if isinstance(value, Selected):
            return self._describe(value, where)
        if isinstance(value, list | tuple):
            return [self._keyed(entry, f"{where}[{position}]") for position, entry in enumerate(value)]
        inner = entries(value, keyed_only=True)
        if inner is not None:
            return {name: self._keyed(entry, f"{where}.{name}") for name, entry in inner.items()}
        scalar = plain(value)
        if isinstance(scalar, float) and not math.isfinite(scalar):
            raise ConfigError(f"{where}={scalar} is no finite number, and cannot be part of a stage's key")
        if scalar is None or isinstance(scalar, bool | int | float | str):
            return scalar
        raise ConfigError(f"{where}={value!r}: a value of type {type(value).__name__} cannot be part of a stage's key")
