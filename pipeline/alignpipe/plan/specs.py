"""The stages of a run: what fills each, what it needs, makes and reads, and what feeds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from alignpipe.api import Kind, Port, Selected
from alignpipe.choices import all_selected
from alignpipe.config.model import RunConfig
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
    """One stage of the run: what fills it, its ports, what it makes, the other slots it reads, what feeds its ports.

    A reward made of others has their ports and slots too. `sources` is filled by `plan/ports.py`; a port that stays
    empty is missing there.
    """

    name: str
    selected: Selected
    registered: Registered
    needs: Mapping[str, Port]
    makes: Kind
    uses: tuple[str, ...]
    sources: Mapping[str, Source] = field(default_factory=dict)


def stage_specs(run: RunConfig, registry: Registry) -> tuple[StageSpec, ...]:
    """The run's stages in order, their sources not yet known."""
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
