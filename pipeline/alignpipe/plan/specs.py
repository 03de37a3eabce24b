"""The stages of a run, as far as they are known before it: what fills and feeds each, what it makes and reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from alignpipe.api import Kind, Port, Selected
from alignpipe.choices import all_selected
from alignpipe.config.model import RunConfig
from alignpipe.errors import ConfigError
from alignpipe.registry import Registered, Registry

REWARD_PORTS: Mapping[str, Port] = {
    "dataset": Port("dataset"),
    "policy": Port("policy", "nearest_or_base", required=False),
}
"""The ports of a reward component that declares none: rewards are wrapped in one reward stage, which reads these."""


@dataclass(frozen=True)
class Source:
    """What feeds a port: an earlier stage's name, the base model, a stored object's digest or a checkpoint folder."""

    origin: Literal["stage", "base", "store", "checkpoint"]
    name: str

    def __str__(self) -> str:
        return f"store:{self.name[:12]}" if self.origin == "store" else self.name


BASE = Source("base", "base")


@dataclass(frozen=True)
class StageSpec:
    """One stage of the run: what fills it, its ports, what it makes, and the other slots it uses.

    A reward made of others has their ports and slots too.
    """

    name: str
    selected: Selected
    registered: Registered
    needs: Mapping[str, Port]
    makes: Kind
    uses: tuple[str, ...]
    sources: Mapping[str, Source] = field(default_factory=dict)
    """What feeds its ports, empty ones left out; see `plan/ports.py`."""
    slots: Mapping[str, Selected] = field(default_factory=dict)
    """The choices in the slots it reads: those it uses, and the model if the base model feeds a port."""
    components: tuple[Registered, ...] = ()
    """Every component whose code takes part: its own, nested ones, those of the slots it reads, rewards it is given;
    of a report also the maker of its dataset, for the gold reward."""


def stage_specs(run: RunConfig, registry: Registry) -> tuple[StageSpec, ...]:
    """The run's stages in order, before their ports are resolved."""
    return tuple(_spec(name, run.selected[name], registry) for name in run.settings.stages)


def _spec(name: str, selected: Selected, registry: Registry) -> StageSpec:
    registered = registry.get(selected.group, selected.name)
    component = registered.component
    if component.group != "reward":
        assert component.makes is not None, f"{registered} is not a stage, which the config's checks have not seen"
        return StageSpec(name, selected, registered, component.needs, component.makes, component.uses)
    needs, uses = dict(component.needs or REWARD_PORTS), list(component.uses)
    for choice in all_selected(selected.config):
        if choice.group == "reward":  # a reward made of others trains them in its own stage
            member = registry.get(choice.group, choice.name).component
            needs = {**member.needs, **needs}
            uses += member.uses
    return StageSpec(name, selected, registered, needs, "reward", tuple(dict.fromkeys(uses)))


def with_slots(spec: StageSpec, specs: Sequence[StageSpec], run: RunConfig, registry: Registry) -> StageSpec:
    """A stage whose sources are known, one of `specs`, with its slots and components.

    Raises `ConfigError` for a slot that nothing fills.
    """
    names = [*spec.uses, *(["model"] if BASE in spec.sources.values() else [])]
    for slot in names:
        if slot not in run.selected:
            raise ConfigError(f"stage {spec.name!r} ({spec.registered}) uses the slot {slot!r}, but nothing fills it")
    slots = {slot: run.selected[slot] for slot in names}
    chosen = [spec.selected, *slots.values()]
    # A reward is not only an artifact: whoever is given one runs its code. So is a dataset's gold reward, which comes
    # with the plugin that made the data and is read by reports.
    for maker in specs:
        given = maker.makes == "reward" or (maker.makes, spec.makes) == ("dataset", "report")
        if given and Source("stage", maker.name) in spec.sources.values():
            chosen.append(maker.selected)
    found = dict.fromkeys((entry.group, entry.name) for choice in chosen for entry in all_selected(choice))
    return replace(spec, slots=slots, components=tuple(registry.get(group, name) for group, name in found))
