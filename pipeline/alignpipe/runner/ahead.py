"""What the later stages of a run need of its data, looked at before an earlier one works for hours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from alignpipe.api import Artifact, Port
from alignpipe.dataset import Dataset
from alignpipe.errors import AlignpipeError, DataError
from alignpipe.plan import StageSpec
from alignpipe.runner.context import Builder, reward_stage
from alignpipe.runner.live_run import LiveRun
from alignpipe.runner.summary import StageResult


def check_data_ahead(
    live: LiveRun, spec: StageSpec, made: Mapping[str, Artifact], results: Mapping[str, StageResult]
) -> None:
    """Refuse data that `spec`, which is about to work, or a stage behind it could not use.

    Raises `DataError`, which names that stage, where the data lacks a table that its component needs (`Port.tables`) or
    a column that its reward reads, and what a reward raises that cannot be built; the stage counts as failed in
    `results`.
    """
    specs = live.planner.specs
    for each in specs[specs.index(spec) :]:
        for port, artifact in _datasets(live, each, made):
            try:
                for table, split in port.tables:
                    Dataset(artifact.folder).require(table, split)
                if each.selected.group == "reward" and each is not spec:  # which looks at it itself, right away
                    reward = reward_stage(each.selected, each.registered)
                    reward.check(Dataset(artifact.folder), Builder(live.registry, live.run.settings))
            except AlignpipeError as error:  # of a reward that cannot be built, too
                told = error
                if isinstance(error, DataError):
                    told = DataError(f"stage {each.name!r} ({each.registered}) cannot use the data: {error}")
                results[each.name].fail(told)
                live.observers.notify("alignpipe_stage_failed", info=live.info, stage=each.name, error=told)
                if told is error:
                    raise
                raise told from error


def _datasets(live: LiveRun, spec: StageSpec, made: Mapping[str, Artifact]) -> Iterator[tuple[Port, Artifact]]:
    """The datasets that feed a stage's ports, as far as they are there, with their ports."""
    for name, source in spec.sources.items():
        port = spec.needs[name]
        if port.kind == "dataset" and (source.origin != "stage" or source.name in made):
            yield port, live.planner.artifact(source, made)
