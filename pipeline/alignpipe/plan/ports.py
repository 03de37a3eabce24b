"""Where each stage's inputs come from: the source of every port, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from alignpipe.api import Port
from alignpipe.errors import ConfigError, did_you_mean
from alignpipe.plan.sources import BASE, FindStored, Source, named_source
from alignpipe.plan.specs import StageSpec


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
                    f"inputs.{spec.name}.{port}: {spec.registered} has no port {port!r}"
                    f"{did_you_mean(port, spec.needs)} (there are: {', '.join(spec.needs) or 'none'})"
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
    """The ports of one stage; `policy` comes first because the defaults of others look at it.

    `resolved` holds the stages before this one.
    """
    sources: dict[str, Source] = {}
    for port_name in sorted(spec.needs, key=lambda name: name != "policy"):
        port, label = spec.needs[port_name], f"inputs.{spec.name}.{port_name}"
        if port_name in given:
            source = named_source(given[port_name], port, label, specs, position, find)
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


def _no_source(label: str, port: Port, emptied: bool) -> str:
    if emptied:
        return f"{label}=none: this port is required and cannot stay empty"
    others = "store:<digest>, base or a checkpoint folder" if port.kind == "policy" else "store:<digest>"
    return (
        f"{label} has no source: no earlier stage of this run makes a {port.kind}; "
        f"add such a stage to stages, or set {label} to a stage's name or {others}"
    )
