"""The stages of a run, as far as they are known before it: what fills and feeds each, what it makes and reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from alignpipe.api import Kind, Port, Selected
from alignpipe.choices import all_selected
from alignpipe.config.model import RunConfig
from alignpipe.errors import AlignpipeError, ConfigError
from alignpipe.registry import Registered, Registry
from alignpipe.store import Store


@dataclass(frozen=True)
class Source:
    """What feeds a port: an earlier stage's name, the base model, a stored object's digest or a checkpoint folder."""

    origin: Literal["stage", "base", "store", "checkpoint"]
    name: str

    def __str__(self) -> str:  # part of the run_key: another form would rename every run
        return f"store:{self.name[:12]}" if self.origin == "store" else self.name


@dataclass(frozen=True)
class StageSpec:
    """One stage of the run, as it is known before anything runs."""

    # From the config and the registry alone: `stage_specs`.
    name: str
    selected: Selected  # the choice that fills it
    registered: Registered  # that option's component, and who offers it
    needs: Mapping[str, Port]
    makes: Kind
    uses: tuple[str, ...]  # the names of the slots that its component says it reads
    # From the stages before it: `ports.resolve_ports`.
    sources: Mapping[str, Source] = field(default_factory=dict)
    """What feeds its ports, empty ones left out."""
    # From what feeds it: `with_slots`.
    keyed_slots: Mapping[str, Selected] = field(default_factory=dict)
    """The choice in every slot of `uses`, and in `model` if the base model feeds a port: part of its key. The stage may
    read these and the rewards that it is given, nothing else (`Decision.slots`)."""
    components: tuple[Registered, ...] = ()
    """Every component whose code takes part: its own, nested ones, those of the slots it reads, rewards it is given;
    of a stage that makes a report also the maker of its dataset, whose gold reward it asks."""


BASE = Source("base", "base")


def stage_specs(run: RunConfig, registry: Registry) -> tuple[StageSpec, ...]:
    """The run's stages in order, before their ports are resolved."""
    return tuple(_spec(name, run.selected[name], registry) for name in run.settings.stages)


def _spec(name: str, selected: Selected, registry: Registry) -> StageSpec:
    registered = registry.get(selected.group, selected.name)
    component = registered.component
    if component.group == "reward":
        return _reward_spec(name, selected, registered, registry)
    assert component.makes is not None, f"{registered} is not a stage, which the config's checks have not seen"
    return StageSpec(name, selected, registered, component.needs, component.makes, component.uses)


_REWARD_PORTS: Mapping[str, Port] = {
    "dataset": Port("dataset"),
    "policy": Port("policy", "nearest_or_base", required=False),
}
"""The ports of a reward component that declares none: rewards are wrapped in one reward stage, which reads these."""


def _reward_spec(name: str, selected: Selected, registered: Registered, registry: Registry) -> StageSpec:
    """The stage of a reward. One made of others trains them in its own stage, and so has their ports and slots too."""
    component = registered.component
    needs, uses = dict(component.needs or _REWARD_PORTS), list(component.uses)
    for group, member_name in _names_of(selected.config):
        if group == "reward":
            member = registry.get(group, member_name).component
            for name_of_port, port in member.needs.items():
                own = needs.get(name_of_port)
                needs[name_of_port] = port if own is None else _both(own, port)
            uses += member.uses
    return StageSpec(name, selected, registered, needs, "reward", tuple(dict.fromkeys(uses)))


def _both(own: Port, member: Port) -> Port:
    """A reward's own port, which feeds its member's port of the same name too, and so must have its tables."""
    return replace(own, tables=tuple(dict.fromkeys(own.tables + member.tables))) if own.kind == member.kind else own


def _names_of(value: object) -> list[tuple[str, str]]:
    """(group, name) of a choice and of every one nested in it, or of all those nested in a config."""
    return [(choice.group, choice.name) for choice in all_selected(value)]


def with_slots(
    spec: StageSpec, specs: Sequence[StageSpec], run: RunConfig, registry: Registry, store: Store
) -> StageSpec:
    """A stage whose sources are known, one of `specs`, with its slots and components.

    Raises `ConfigError` for a slot that nothing fills, and for a stored reward whose plugin is not there or broken.
    """
    needed = [*spec.uses, *(["model"] if BASE in spec.sources.values() else [])]
    for slot in needed:
        if slot not in run.selected:
            raise ConfigError(f"stage {spec.name!r} ({spec.registered}) uses the slot {slot!r}, but nothing fills it")
    slots = {slot: run.selected[slot] for slot in needed}
    names = _names_of([spec.selected, *slots.values()]) + _given_rewards(spec, specs, registry, store)
    return replace(spec, keyed_slots=slots, components=tuple(registry.get(*name) for name in dict.fromkeys(names)))


def _given_rewards(
    spec: StageSpec, specs: Sequence[StageSpec], registry: Registry, store: Store
) -> list[tuple[str, str]]:
    """(group, name) of what comes with a stage's inputs: rewards are run by every stage that is given one.

    A dataset's gold reward, which belongs to the plugin that made the data, is run by stages that make a report.
    """

    def is_run(kind: Kind) -> bool:
        return kind == "reward" or (kind == "dataset" and spec.makes == "report")

    given: list[tuple[str, str]] = []
    for port, source in spec.sources.items():
        if not is_run(spec.needs[port].kind):
            continue
        if source.origin == "stage":
            maker = next(each for each in specs if each.name == source.name)
            given += _names_of(maker.selected)
        elif source.origin == "store":
            try:
                given += _components_in_store(source.name, registry, store)
            except AlignpipeError as error:
                raise ConfigError(f"inputs.{spec.name}.{port}={source} cannot be used: {error}") from error
    return given


def _components_in_store(digest: str, registry: Registry, store: Store) -> list[tuple[str, str]]:
    """(group, name) of what a stored artifact was made by; raises what `registry.get` does if one is not there."""
    from alignpipe.rewarding.artifact import components_in  # for those who name one: plans read no data else

    found = store.find(digest)[:1]  # what has the same digest is the same
    names = [name for artifact in found for name in components_in(artifact)]
    for name in names:
        registry.get(*name)
    return names
