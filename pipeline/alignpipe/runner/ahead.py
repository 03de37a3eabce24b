"""What the later stages of a run need, looked at before an earlier one works for hours."""

from __future__ import annotations

from collections.abc import Mapping

from alignpipe.api import Artifact, CheckedStage
from alignpipe.dataset import Dataset
from alignpipe.errors import AlignpipeError, DataError
from alignpipe.plan import StageSpec
from alignpipe.plan.specs import Source
from alignpipe.runner.context import LookingAhead, build_stage
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
        inputs = {port: artifact for port in each.sources if (artifact := _known(live, each, port, made)) is not None}
        try:
            _check(live, each, inputs, ahead=each is not spec)
        except AlignpipeError as error:
            told = error
            if isinstance(error, DataError):
                told = DataError(f"stage {each.name!r} ({each.registered}) cannot use the data: {error}")
            results[each.name].fail(told)
            live.observers.notify("alignpipe_stage_failed", info=live.info, stage=each.name, error=told)
            if told is error:
                raise
            raise told from error


def _check(live: LiveRun, spec: StageSpec, inputs: Mapping[str, Artifact], *, ahead: bool) -> None:
    """Look at the datasets that are there; where all are, the stage looks too, unless it is about to work anyway."""
    datasets = [port for port in spec.sources if spec.needs[port].kind == "dataset"]
    for port in datasets:
        for table, split in spec.needs[port].tables if port in inputs else ():
            Dataset(inputs[port].folder).require(table, split)
    if ahead and datasets and all(port in inputs for port in datasets):
        ctx = LookingAhead(live, spec)
        stage = build_stage(spec.selected, spec.registered, ctx)
        if isinstance(stage, CheckedStage):
            stage.check(inputs, ctx)


def _known(live: LiveRun, spec: StageSpec, port: str, made: Mapping[str, Artifact]) -> Artifact | None:
    """What will feed a port, as far as it is there; of a policy that is still to be trained, what that begins with."""
    source: Source | None = spec.sources[port]
    while source is not None and source.origin == "stage" and source.name not in made:
        if spec.needs[port].kind != "policy":
            return None
        maker = next(each for each in live.planner.specs if each.name == source.name)
        source = maker.sources.get("policy")
    return None if source is None else live.planner.artifact(source, made)
