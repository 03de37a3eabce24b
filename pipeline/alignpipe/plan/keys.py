"""Stage keys: the sha256 of a fingerprint, which is everything a stage's result depends on, in readable form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alignpipe.api import Selected
from alignpipe.choices import all_selected, entries, plain, revision_of
from alignpipe.config.model import RunConfig
from alignpipe.digests import data_digest
from alignpipe.errors import ConfigError
from alignpipe.plan.specs import BASE, StageSpec
from alignpipe.registry import Registered, Registry
from alignpipe.store import Fingerprint

KEY_SCHEMA = 1


class Fingerprints:
    """Makes the fingerprints of a run's stages.

    A config dataclass may offer `revision() -> Mapping[str, str]`, the state of what lies outside the config (hashes of
    data files, a hub revision, the digest of a local checkpoint). It is called here only, and once a run.
    """

    def __init__(self, run: RunConfig, registry: Registry, specs: Sequence[StageSpec]) -> None:
        self._run = run
        self._registry = registry
        self._specs = {spec.name: spec for spec in specs}
        self._revisions: dict[int, dict[str, str]] = {}

    def of(self, spec: StageSpec, inputs: Mapping[str, str]) -> Fingerprint:
        """The fingerprint of a stage; `inputs` says what feeds each port (`sft <digest>`)."""
        return {
            "schema": KEY_SCHEMA,
            "stage": spec.name,  # objects are stored by stage, so ppo and ppo_2 share none
            "component": self._describe(spec.selected, spec.name),
            "seed": self._run.settings.seed,
            "uses": {slot: self._describe(choice, slot) for slot, choice in self.slots(spec).items()},
            "inputs": dict(inputs),
            "distributions": {
                entry.distribution: entry.version for entry in self.components(spec) if not entry.built_in
            },
        }

    def slots(self, spec: StageSpec) -> dict[str, Selected]:
        """The choices in the slots the stage reads: those it uses, and the model if the base model feeds a port.

        Raises `ConfigError` for one that nothing fills.
        """
        slots = [*spec.uses, *(["model"] if BASE in spec.sources.values() else [])]
        for slot in slots:
            if slot not in self._run.selected:
                raise ConfigError(
                    f"stage {spec.name!r} ({spec.registered}) uses the slot {slot!r}, but nothing fills it"
                )
        return {slot: self._run.selected[slot] for slot in slots}

    def components(self, spec: StageSpec) -> tuple[Registered, ...]:
        """Every component whose code takes part in the stage: its own, nested ones, those of the slots it uses.

        A reward is not only an artifact: whoever is given one runs its code. So is a dataset's gold reward, which comes
        with the plugin that made the data and is read by reports.
        """
        chosen = [spec.selected, *self.slots(spec).values()]
        for source in spec.sources.values():
            upstream = self._specs.get(source.name) if source.origin == "stage" else None
            if upstream and (upstream.makes == "reward" or (upstream.makes, spec.makes) == ("dataset", "report")):
                chosen.append(upstream.selected)
        found = {(entry.group, entry.name): entry for choice in chosen for entry in all_selected(choice)}
        return tuple(self._registry.get(group, name) for group, name in found)

    def _describe(self, selected: Selected, where: str) -> dict[str, Any]:
        component = self._registry.get(selected.group, selected.name).component
        described: dict[str, Any] = {
            "group": selected.group,
            "name": selected.name,
            "version": component.version,
            "config": self._keyed(selected.config, where),
        }
        number = id(selected.config)
        if number not in self._revisions:
            self._revisions[number] = revision_of(selected.config)
        if self._revisions[number]:
            described["revision"] = self._revisions[number]
        return described

    def _keyed(self, value: Any, where: str) -> Any:
        """Plain data of a config value, without the fields that are not keyed."""
        if isinstance(value, Selected):
            return self._describe(value, where)
        if isinstance(value, list | tuple):
            return [self._keyed(entry, f"{where}[{position}]") for position, entry in enumerate(value)]
        inner = entries(value, keyed_only=True)
        if inner is not None:
            return {name: self._keyed(entry, f"{where}.{name}") for name, entry in inner.items()}
        scalar = plain(value)
        if scalar is None or isinstance(scalar, bool | int | float | str):
            return scalar
        raise ConfigError(f"{where}={value!r}: a value of type {type(value).__name__} cannot be part of a stage's key")


def key_of(fingerprint: Fingerprint) -> str:
    """The key: 64 hex digits."""
    try:
        return data_digest(fingerprint)
    except ValueError as error:
        stage = fingerprint["stage"]
        raise ConfigError(f"the config of stage {stage!r} holds NaN or an infinity, which cannot be keyed") from error
