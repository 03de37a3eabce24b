"""What the stages of one run share, and the run as plugins see it."""

from __future__ import annotations

from dataclasses import dataclass

from alignpipe.api import RunInfo
from alignpipe.config.model import RunConfig
from alignpipe.plan import Planner
from alignpipe.registry import Registry
from alignpipe.runner.leading import Crew
from alignpipe.runner.recording import RunFiles
from alignpipe.runner.signals import StopSignals
from alignpipe.runner.terminal import Terminal
from alignpipe.runner.trackers import Observers, Trackers
from alignpipe.store import Store
from alignpipe.store.runs import RunRecord


@dataclass(frozen=True)
class LiveRun:
    """A run while it goes on."""

    run: RunConfig  # what was asked for
    registry: Registry  # the plugins
    planner: Planner  # what is to be done with each stage
    store: Store  # where results lie
    info: RunInfo  # the run as plugins see it
    files: RunFiles  # metrics.jsonl and timings.jsonl of the run's folder
    trackers: Trackers  # W&B and the like
    observers: Observers  # plugins that watch the run
    terminal: Terminal
    signals: StopSignals  # whether to stop
    crew: Crew  # the other processes of the launch

    def say(self, stage: str, line: str) -> None:
        """Show one line about a stage."""
        self.terminal.say(f"{stage:<8} {line}")


def run_info(planner: Planner, record: RunRecord) -> RunInfo:
    """The run as trackers and observers see it."""
    run = planner.run
    return RunInfo(
        run_key=planner.run_key,
        attempt=record.attempt,
        folder=run.folder,
        config=run.resolved,
        overrides=run.command.overrides,
        stages=tuple(spec.name for spec in planner.specs),
        sweep=run.command.sweep,
        swept=run.command.swept,
        components={
            spec.name: ", ".join(
                str(entry) for entry in spec.components if entry.component.group == spec.selected.group
            )
            for spec in planner.specs
        },
        tracker_ids=dict(record.tracker_ids),
        earlier=record.earlier,
    )
