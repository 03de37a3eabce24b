"""What the stages of one run share."""

from __future__ import annotations

from dataclasses import dataclass

from alignpipe.api import RunInfo
from alignpipe.config.model import RunConfig
from alignpipe.plan import Planner
from alignpipe.registry import Registry
from alignpipe.runner.leading import Crew
from alignpipe.runner.observers import Observers
from alignpipe.runner.recording import RunFiles
from alignpipe.runner.signals import StopSignals
from alignpipe.runner.terminal import Terminal
from alignpipe.runner.trackers import Trackers
from alignpipe.store import Store


@dataclass(frozen=True)
class Job:
    """A run that is going on; see the classes of its parts."""

    run: RunConfig
    registry: Registry
    planner: Planner
    store: Store
    info: RunInfo
    files: RunFiles
    trackers: Trackers
    observers: Observers
    terminal: Terminal
    signals: StopSignals
    crew: Crew
