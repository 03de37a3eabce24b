"""What the later stages of a run need, looked at before an earlier one works for hours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from alignpipe.api import Artifact, CheckedStage, Split
from alignpipe.dataset import Dataset
from alignpipe.errors import INTERRUPTIONS, DataError
from alignpipe.plan import StageSpec
from alignpipe.plan.specs import BASE
from alignpipe.runner.context import LookingAhead, build_stage
from alignpipe.runner.failures import in_words
from alignpipe.runner.live_run import LiveRun
from alignpipe.runner.summary import StageResult


def check_data_ahead(
    live: LiveRun, spec: StageSpec, made: Mapping[str, Artifact], results: Mapping[str, StageResult]
) -> None:
    """Refuse data that `spec`, which is about to work, or a stage behind it could not use.

    Raises `DataError`, which names that stage, where the data lacks a table that its component needs (`Port.tables`),
    what a later stage's own check raises, and what is raised where one cannot be built; the stage counts as failed in
    `results`.
    """
    specs = live.planner.specs
    for each in specs[specs.index(spec) :]:
        try:
            _check(live, each, made, ahead=each is not spec)
        except INTERRUPTIONS:
            raise
        except (Exception, SystemExit) as error:
            told = in_words(error, each.name, live.store.root)
            if isinstance(error, DataError):
                told = DataError(f"stage {each.name!r} ({each.registered}) cannot use the data: {error}")
            results[each.name].fail(told)
            live.observers.notify("alignpipe_stage_failed", info=live.info, stage=each.name, error=told)
            if told is error:
                raise
            raise told from error


def _check(live: LiveRun, spec: StageSpec, made: Mapping[str, Artifact], *, ahead: bool) -> None:
    """Look at the datasets that are there; where all are, the stage looks too, unless it is about to work anyway."""
    inputs = {port: artifact for port in spec.sources if (artifact := _known(live, spec, port, made)) is not None}
    kinds = {port: spec.needs[port].kind for port in spec.sources}
    for port, kind in kinds.items():
        if kind == "dataset" and port in inputs:
            for table, split in spec.needs[port].tables:
                Dataset(inputs[port].folder).require(table, split)
    # A reward that is missing is still to be made; a policy that is missing would look like an empty port.
    seen = all(port in inputs for port, kind in kinds.items() if kind in ("dataset", "policy"))
    asked = asked_about(live.planner.specs, spec)  # when the stage works it does not know of these prompts
    if (ahead or asked) and seen and "dataset" in kinds.values():
        ctx = LookingAhead(live, spec, asked)
        stage = build_stage(spec.selected, spec.registered, ctx)
        if isinstance(stage, CheckedStage):
            stage.check_ahead(inputs, ctx)


def asked_about(specs: Sequence[StageSpec], spec: StageSpec) -> Sequence[Split]:
    """The splits whose prompts later stages have the reward score that `spec` makes; () for any other stage."""
    users = (
        each
        for each in specs
        for port, source in each.sources.items()
        if each.needs[port].kind == "reward" and source.origin == "stage" and source.name == spec.name
    )
    read = {
        split for each in users for port in each.needs.values() for table, split in port.tables if table == "prompts"
    }
    return ("train", "heldout") if "train" in read else tuple(read)  # who practises is tried on held-out ones too


def _known(live: LiveRun, spec: StageSpec, port: str, made: Mapping[str, Artifact]) -> Artifact | None:
    """What feeds a port, as far as it is there; in place of a policy that is not, what its maker begins with."""
    source, kind = spec.sources[port], spec.needs[port].kind
    while source.origin == "stage" and source.name not in made:
        maker = next(each for each in live.planner.specs if each.name == source.name)
        if kind != "policy" or "policy" not in maker.needs:
            return None
        source = maker.sources.get("policy", BASE)
    if source.origin == "checkpoint":  # its digest is taken when it is read: it may change until then
        return Artifact("policy", "checkpoint", Path(source.name), "")
    return live.planner.artifact(source, made)
