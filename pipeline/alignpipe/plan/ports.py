"""Where each stage's inputs come from: the source of every port, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from alignpipe.api import Port
from alignpipe.errors import ConfigError, did_you_mean
from alignpipe.plan.sources import named_source
from alignpipe.plan.specs import BASE, Source, StageSpec
from alignpipe.store import Store


def resolve_ports(
    specs: Sequence[StageSpec], inputs: Mapping[str, Mapping[str, str]], store: Store
) -> tuple[StageSpec, ...]:
    """The stages with the source of every port.

    Raises `ConfigError` naming `inputs.<stage>.<port>` if there is no such stage or port, if a required port has no
    source, or if a named source does not exist, runs later, or makes another kind.
    """
    stages = [spec.name for spec in specs]
    for stage in inputs:
        if stage not in stages:
            raise ConfigError(
                f"inputs.{stage}: {stage!r} is not in stages=[{','.join(stages)}]{did_you_mean(stage, stages)}"
            )
    resolved: list[StageSpec] = []
    for spec in specs:
        given = inputs.get(spec.name, {})
        for name in given:
            if name not in spec.needs:
                raise ConfigError(
                    f"inputs.{spec.name}.{name}: {spec.registered} has no port {name!r}"
                    f"{did_you_mean(name, spec.needs)} (there are: {', '.join(spec.needs) or 'none'})"
                )
        sources: dict[str, Source] = {}
        for name in sorted(spec.needs, key=lambda name: name != "policy"):  # first, since other defaults look at it
            port, label = spec.needs[name], f"inputs.{spec.name}.{name}"
            if name in given:
                source = named_source(given[name], port, label, stages, resolved, store)
            else:
                source = _default(port, resolved, sources.get("policy"))
            if source is not None:
                sources[name] = source
            elif port.required:
                raise ConfigError(_no_source(label, port, name in given))
        resolved.append(replace(spec, sources=sources))
    return tuple(resolved)


def _default(port: Port, earlier: Sequence[StageSpec], policy: Source | None) -> Source | None:
    """The source a port has when the config names none; `policy` is what feeds the stage's own `policy` port."""
    makers = [spec for spec in earlier if spec.makes == port.kind]
    if port.default == "none":
        return None
    if port.default == "base":
        return BASE
    if port.default == "policy":
        return policy
    if port.default == "first":
        first = _first_policy(makers)
        return None if first == policy else first  # a policy compared with itself tells nothing
    if makers:
        return Source("stage", makers[-1].name)
    return BASE if port.default == "nearest_or_base" else _given_earlier(port, earlier)


def _given_earlier(port: Port, earlier: Sequence[StageSpec]) -> Source | None:
    """What the nearest earlier stage is given of a kind that no stage makes: `inputs.ppo.reward` serves eval too.

    Policies are left out: what a stage starts from is not what it is about.
    """
    if port.kind == "policy":
        return None
    given = [source for spec in earlier for name, source in spec.sources.items() if spec.needs[name].kind == port.kind]
    return given[-1] if given else None


def _first_policy(makers: Sequence[StageSpec]) -> Source | None:
    """The first policy of the run: `sft, ppo, ppo_2` gives sft; `ppo` alone gives base, which it improved.

    A stage whose policy port is by default the base model (sft) is there to make a first policy of it; one that only
    falls back to the base model (ppo without sft) improves it, and the base model is what it is measured against.
    """
    if not makers:
        return None
    first = makers[0]
    port = first.needs.get("policy")
    improves_base = port is not None and port.default != "base" and first.sources.get("policy") == BASE
    return BASE if improves_base else Source("stage", first.name)


def _no_source(label: str, port: Port, emptied: bool) -> str:
    if emptied:
        return f"{label}=none: this port is required and cannot stay empty"
    others = "store:<digest>, base or a checkpoint folder" if port.kind == "policy" else "store:<digest>"
    return (
        f"{label} has no source: no earlier stage of this run makes a {port.kind}; "
        f"add such a stage to stages, or set {label} to a stage's name or {others}"
    )
