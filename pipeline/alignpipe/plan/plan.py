"""The decision for each stage: stored already, resumed, run, or not known yet - and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from alignpipe.api import Artifact, Selected
from alignpipe.config.model import CodeChange, RunConfig
from alignpipe.digests import data_digest, folder_digest
from alignpipe.errors import ConfigError
from alignpipe.plan.code import code_hashes, compare_code
from alignpipe.plan.differences import why_missing
from alignpipe.plan.keys import Fingerprints
from alignpipe.plan.ports import resolve_ports
from alignpipe.plan.specs import Source, StageSpec, stage_specs, with_slots
from alignpipe.registry import Registry
from alignpipe.store import Fingerprint, Store
from alignpipe.store.store import Stored

Action = Literal["hit", "resume", "run", "unknown"]


@dataclass(frozen=True)
class Decision:
    """What is to be done with one stage.

    For a stage whose inputs are not known yet (`unknown`) a plan has the first three fields only.
    """

    spec: StageSpec
    action: Action
    why: tuple[str, ...]  # in words, for the user
    key: str = ""
    fingerprint: Fingerprint = field(default_factory=dict)  # what the key is the digest of
    inputs: Mapping[str, Artifact] = field(default_factory=dict)  # by port
    slots: Mapping[str, Selected] = field(default_factory=dict)  # what the stage may read of the config (`ctx.slots`)
    code: Mapping[str, str] = field(default_factory=dict)  # the hashes of the code that takes part
    artifact: Artifact | None = None  # of a hit: the stored result
    step: int | None = None  # of a resume: the step of the last checkpoint, if that is known
    restart: bool = False  # of a run: an earlier attempt's state is of other code, and is thrown away
    warning: str | None = None  # a line for the user
    damaged: Artifact | None = None  # what the store has under the key, but which cannot be used


class Planner:
    """Knows the stages (`specs`) and decides what to do with each; `alignpipe plan` and a run ask the same question.

    Raises `ConfigError` when built if the stages or their ports are wrong, or a user's files cannot be read.
    """

    def __init__(self, run: RunConfig, registry: Registry, store: Store) -> None:
        self.run = run
        self.store = store
        specs = resolve_ports(stage_specs(run, registry), run.settings.inputs, store)
        # `with_slots` adds the choices that count for the key, and whose code takes part.
        self.specs = tuple(with_slots(spec, specs, run, registry, store) for spec in specs)
        self._fingerprints = Fingerprints(run.settings.seed, registry)
        self._folder_digests: dict[str, str] = {}  # of checkpoint folders that inputs name
        self.run_key = self._run_key()

    def _run_key(self) -> str:
        """The run's name: a digest of all its stages' keys, made before there is any result.

        So in these keys an input is the name of its source (`sft`), in place of the digest of what that will make. The
        same config has the same name, and so goes on in the unfinished run that it began earlier.
        """
        keys = []
        for spec in self.specs:
            inputs = {port: str(source) for port, source in spec.sources.items()}
            keys.append(data_digest(self._fingerprints.of(spec, inputs)))
        return data_digest({"stages": keys, "sweep": self.run.command.sweep})

    def decide(self, spec: StageSpec, made: Mapping[str, Artifact]) -> Decision:
        """What to do with a stage, given the artifacts of the earlier stages that are known."""
        needed = {source.name for source in spec.sources.values() if source.origin == "stage"}
        if waiting := sorted(needed - set(made)):
            return Decision(spec, "unknown", (f"unknown until there is a result of {', '.join(waiting)}",))
        inputs = {port: self.artifact(source, made) for port, source in spec.sources.items()}
        fingerprint = self._fingerprints.of(spec, {port: _identity(artifact) for port, artifact in inputs.items()})
        # All that is known before the store is asked. `action` and `why` only hold the place: below they are replaced.
        undecided = Decision(
            spec,
            action="unknown",
            why=(),
            key=data_digest(fingerprint),
            fingerprint=fingerprint,
            inputs=inputs,
            slots=self._slots(spec, inputs),
            code=code_hashes(spec.components),
        )
        stored = self.store.lookup(spec.name, undecided.key)
        if stored is None:
            return self._resume_or_run(undecided)
        if stored.problem:
            return self._resume_or_run(replace(undecided, damaged=stored.artifact), unusable=stored.problem)
        return self._hit_unless_code_changed(undecided, stored)

    def _hit_unless_code_changed(self, undecided: Decision, stored: Stored) -> Decision:
        """A stage whose result is stored: it is used, unless the code changed and is to count."""
        parts, what_to_do = self._changed_code(stored.code, undecided)
        changed = f"the code of {parts} changed since {stored.created}"  # not said where it has not
        if what_to_do is CodeChange.rerun:
            setting = self.run.settings.code_change.name
            unusable = f"{changed} (code_change={setting}; code_change=ignore would reuse it)"
            return self._resume_or_run(undecided, unusable)
        warning = None
        if what_to_do is CodeChange.warn:
            warning = f"{changed}; its stored result is used all the same (code_change=rerun computes it again)"
        why = f"made {stored.created} by {stored.folder}"
        return replace(undecided, action="hit", why=(why,), artifact=stored.artifact, warning=warning)

    def _resume_or_run(self, undecided: Decision, unusable: str | None = None) -> Decision:
        """A stage that has to work: from its last checkpoint, unless other code wrote that one.

        `unusable` says why what is stored under its key does not count; None if nothing is.
        """
        unfinished = self.store.work(undecided.spec.name, undecided.key).unfinished()
        if unfinished is None:
            return replace(undecided, action="run", why=self._why_run(undecided, unusable))
        parts, what_to_do = self._changed_code(unfinished.code, undecided)
        if what_to_do is CodeChange.rerun:
            why = (
                *self._why_run(undecided, unusable),
                f"an unfinished attempt is not resumed: the code of {parts} changed since",
            )
            return replace(undecided, action="run", why=why, restart=True)
        warning = None
        if what_to_do is CodeChange.warn:
            warning = f"the attempt it goes on with was made by other code of {parts}"
        why = (*([unusable] if unusable else []), "an earlier attempt did not finish")
        return replace(undecided, action="resume", why=why, step=unfinished.step, warning=warning)

    def _why_run(self, undecided: Decision, unusable: str | None) -> tuple[str, ...]:
        """Why there is no result to use: the one there is does not count, or the nearest ones differ."""
        if unusable:
            return (unusable,)
        return why_missing(self.store.fingerprints(undecided.spec.name), undecided.fingerprint)

    def _changed_code(self, then: Mapping[str, str], decision: Decision) -> tuple[str, CodeChange]:
        """The parts whose code is not what it was, and what to do about it: `ignore` also if there are none."""
        return compare_code(then, decision.code, self.run.settings.code_change, decision.spec.components)

    def _slots(self, spec: StageSpec, inputs: Mapping[str, Artifact]) -> dict[str, Selected]:
        """What the stage may read of the config: its slots, and each reward that it is given, by the reward's stage.

        A reward's artifact says what it is; the config adds what no key holds, such as the number of its workers.
        """
        rewards = {artifact.stage for artifact in inputs.values() if artifact.kind == "reward"}
        given = {stage: choice for stage, choice in self.run.selected.items() if stage in rewards}
        return {**spec.keyed_slots, **given}

    def artifact(self, source: Source, made: Mapping[str, Artifact]) -> Artifact:
        """What a source gives; an earlier stage's must be among `made`."""
        if source.origin == "stage":
            return made[source.name]
        if source.origin == "base":
            # Nothing is made yet: the stage builds it from the slot `model`, whose config is part of the key.
            return Artifact("policy", "base", Path(), "base")
        if source.origin == "store":
            found = self.store.find(source.name)
            if not found:
                raise ConfigError(f"store:{source.name} is no longer in the store")
            return found[0]
        if source.name not in self._folder_digests:
            self._folder_digests[source.name] = folder_digest(Path(source.name))
        return Artifact("policy", "checkpoint", Path(source.name), self._folder_digests[source.name])

    def stored_inputs(self) -> set[str]:
        """The digests of the objects that the config names as inputs (`store:<digest>`)."""
        return {source.name for spec in self.specs for source in spec.sources.values() if source.origin == "store"}

    def check_unchanged(self, spec: StageSpec) -> None:
        """Raise `ConfigError` if the user's files that a stage is about to read are no longer those of its key.

        It may be hours since the run was planned; what the stage makes of them would be found again under that key.
        """
        if changed := self._fingerprints.changed(spec.selected):
            raise ConfigError(
                f"stage {spec.name!r} ({spec.registered}): what its options name has changed since the run was planned "
                f"({', '.join(changed)}); give the command again to run with what is there now"
            )

    def expected_keys(self) -> dict[str, str]:
        """For each stage a key that is known before its inputs are: in it an input is what *its* maker has here.

        Two runs in which a stage has the same share its result.
        """
        keys: dict[str, str] = {}
        for spec in self.specs:
            inputs = {port: keys.get(str(source), str(source)) for port, source in spec.sources.items()}
            keys[spec.name] = data_digest(self._fingerprints.of(spec, inputs))
        return keys


def make_plan(planner: Planner) -> list[Decision]:
    """The decisions for a whole run, as far as they are known before it."""
    made: dict[str, Artifact] = {}
    decisions = []
    for spec in planner.specs:
        decision = planner.decide(spec, made)
        if decision.artifact is not None:
            made[spec.name] = decision.artifact
        decisions.append(decision)
    return decisions


def _identity(artifact: Artifact) -> str:
    """An input as the key holds it: its digest, and who made it.

    The maker's name counts because reports print it; so renaming a stage (ppo -> ppo_2) recomputes what follows it.
    """
    return "base" if artifact.stage == "base" else f"{artifact.stage} {artifact.digest}"
