"""Where each stage's inputs come from: the stages of a run and the sources of their ports, before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alignpipe.api import Artifact, Kind, Port, Selected
from alignpipe.choices import all_selected
from alignpipe.config.model import RunConfig
from alignpipe.errors import ConfigError
from alignpipe.registry import Registered, Registry
from alignpipe.registry.suggest import did_you_mean

REWARD_PORTS: Mapping[str, Port] = {
    "dataset": Port("dataset"),
    "policy": Port("policy", "nearest_or_base", required=False),
}
"""The ports of a reward component that declares none: rewards are wrapped in one reward stage, which reads these."""

FindStored = Callable[[str], Sequence[Artifact]]
"""The stored artifacts whose digest begins with a text."""


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


@dataclass(frozen=True)
class Source:
    """What feeds a port: an earlier stage's name, the base model, a stored object's digest or a checkpoint folder."""

    origin: Literal["stage", "base", "store", "checkpoint"]
    name: str

    def __str__(self) -> str:
        return {"stage": self.name, "base": "base", "store": f"store:{self.name[:12]}"}.get(self.origin, self.name)


BASE = Source("base", "base")


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


def resolve_ports(
    specs: Sequence[StageSpec],
    inputs: Mapping[str, Mapping[str, str]],
    find: FindStored,
) -> dict[str, dict[str, Source]]:
    """The source of every port of every stage, by stage and port; ports that stay empty are missing.

    Raises `ConfigError` naming `inputs.<stage>.<port>` if there is no such stage or port, if a required port has no
    source, or if a named source does not exist, runs later, or makes another kind.
    """
    stages = [spec.name for spec in specs]
    for stage in inputs:
        if stage not in stages:
            raise ConfigError(
                f"inputs.{stage}: {stage!r} is not in stages=[{','.join(stages)}]{did_you_mean(stage, stages)}"
            )
    resolved: dict[str, dict[str, Source]] = {}
    for position, spec in enumerate(specs):
        given = inputs.get(spec.name, {})
        for port in given:
            if port not in spec.needs:
                raise ConfigError(
                    f"inputs.{spec.name}.{port}: {spec.registered} has no port {port!r}{_choices(port, spec.needs)}"
                )
        resolved[spec.name] = _stage_ports(spec, given, specs, position, resolved, find)
    return resolved


def _stage_ports(
    spec: StageSpec,
    given: Mapping[str, str],
    specs: Sequence[StageSpec],
    position: int,
    resolved: Mapping[str, Mapping[str, Source]],
    find: FindStored,
) -> dict[str, Source]:
    """The ports of one stage; `policy` comes first because the defaults of others look at it."""
    sources: dict[str, Source] = {}
    for port_name in sorted(spec.needs, key=lambda name: name != "policy"):
        port, label = spec.needs[port_name], f"inputs.{spec.name}.{port_name}"
        if port_name in given:
            source = _named(given[port_name], port, label, specs, position, find)
        else:
            source = _default(port, specs[:position], resolved, sources.get("policy"))
        if source is not None:
            sources[port_name] = source
        elif port.required:
            raise ConfigError(_no_source(label, port, port_name in given))
    return sources


def _default(
    port: Port, earlier: Sequence[StageSpec], resolved: Mapping[str, Mapping[str, Source]], policy: Source | None
) -> Source | None:
    """The source a port has when the config names none."""
    makers = [spec for spec in earlier if spec.makes == port.kind]
    if port.default == "none":
        return None
    if port.default == "base":
        return BASE
    if port.default == "policy":
        return policy
    if port.default == "first":
        source = _first_policy(makers, resolved)
        return None if source == policy else source  # a policy compared with itself tells nothing
    if makers:
        return Source("stage", makers[-1].name)
    return BASE if port.default == "nearest_or_base" else None


def _first_policy(makers: Sequence[StageSpec], resolved: Mapping[str, Mapping[str, Source]]) -> Source | None:
    """The first policy of the run: that of the first stage that makes one, or the base model which that stage improved.

    A stage whose policy port is by default the base model (sft) is there to make a first policy of it; one that only
    falls back to the base model (ppo without sft) improves it, and what it is measured against is the base model:
    `sft, ppo` gives sft; `ppo` alone gives base; `sft, ppo, ppo_2` gives sft.
    """
    if not makers:
        return None
    first = makers[0]
    port = first.needs.get("policy")
    improves_base = port is not None and port.default != "base" and resolved[first.name].get("policy") == BASE
    return BASE if improves_base else Source("stage", first.name)


def _named(
    value: str, port: Port, label: str, specs: Sequence[StageSpec], position: int, find: FindStored
) -> Source | None:
    """The source the config names for a port."""
    if value == "none":
        return None
    if value == "base":
        _check_kind(label, "the base model", "policy", port.kind)
        return BASE
    if value.startswith("store:"):
        return _stored(value.removeprefix("store:"), port, label, find)
    names = [spec.name for spec in specs]
    if value in names:
        if names.index(value) >= position:
            raise ConfigError(
                f"{label}={value}: stage {value!r} does not run before {specs[position].name!r} "
                f"(stages={names}); move it to the front or name an earlier one"
            )
        _check_kind(label, f"stage {value!r}", specs[names.index(value)].makes, port.kind)
        return Source("stage", value)
    folder = Path(value).expanduser().absolute()
    if not folder.is_dir():
        raise ConfigError(
            f"{label}={value}: there is neither a stage {value!r} in this run (stages={names}) nor a folder "
            f"{folder}; allowed are an earlier stage, base, none, store:<digest> or a checkpoint folder"
        )
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{label}={value}: {folder} is no checkpoint folder, it holds no config.json")
    _check_kind(label, f"the checkpoint folder {folder}", "policy", port.kind)
    return Source("checkpoint", str(folder))


def _stored(digest: str, port: Port, label: str, find: FindStored) -> Source:
    found = list(find(digest)) if digest else []
    if not found:
        raise ConfigError(f"{label}=store:{digest}: the store has no such object; 'alignpipe store ls' lists them")
    if len({artifact.digest for artifact in found}) > 1:
        raise ConfigError(f"{label}=store:{digest} fits {len(found)} stored objects; give more digits of the digest")
    _check_kind(label, f"the stored object {digest}", found[0].kind, port.kind)
    return Source("store", found[0].digest)


def _check_kind(label: str, what: str, makes: Kind, needed: Kind) -> None:
    if makes != needed:
        raise ConfigError(f"{label}: {what} is a {makes}, but the port takes a {needed}")


def _no_source(label: str, port: Port, emptied: bool) -> str:
    if emptied:
        return f"{label}=none: this port is required and cannot stay empty"
    others = "store:<digest>, base or a checkpoint folder" if port.kind == "policy" else "store:<digest>"
    return (
        f"{label} has no source: no earlier stage of this run makes a {port.kind}; "
        f"add such a stage to stages, or set {label} to a stage's name or {others}"
    )


def _choices(name: str, choices: Iterable[str]) -> str:
    """The end of an error sentence: the nearest choice, and all of them."""
    names = list(choices)
    return f"{did_you_mean(name, names)} (there are: {', '.join(names) or 'none'})"
