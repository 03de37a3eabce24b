"""The stages of a run: what fills each, what it needs, makes and reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
class StageSpec:
    """One stage of the run: what fills it, what it needs, what it makes, and which other slots it reads.

    What the members of a reward made of others need and read is among it.
    """

    name: str
    selected: Selected
    registered: Registered
    needs: Mapping[str, Port]
    makes: Kind
    uses: tuple[str, ...]


def stage_specs(run: RunConfig, registry: Registry) -> tuple[StageSpec, ...]:
    """The run's stages in order."""
    return tuple(_spec(name, run, registry) for name in run.settings.stages)


def _spec(name: str, run: RunConfig, registry: Registry) -> StageSpec:
    selected = run.selected[name]
    registered = registry.get(selected.group, selected.name)
    component = registered.component
    is_reward = component.group == "reward"
    makes: Kind | None = "reward" if is_reward else component.makes
    assert makes is not None, f"{registered} is not a stage, which the config's checks have not seen"
    needs = dict(component.needs) or (dict(REWARD_PORTS) if is_reward else {})
    uses = list(component.uses)
    for choice in all_selected(selected.config):
        nested = registry.get(choice.group, choice.name).component
        if is_reward and nested.group == "reward":  # a reward made of others trains them in its own stage
            needs = {**nested.needs, **needs}
            uses += nested.uses
    return StageSpec(name, selected, registered, needs, makes, tuple(dict.fromkeys(uses)))
