"""Trackers: where a run's metrics go beside the local files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from alignpipe.api.artifacts import Artifact

Status = Literal["finished", "failed", "interrupted"]
Level = Literal["warn", "error"]
"""How bad an alert is: something looks wrong, or the stage has failed."""


@dataclass(frozen=True)
class RunInfo:
    """What a tracker is told of a run.

    `config` is the whole resolved config as plain data; `tracker_ids` holds what each tracker returned from `start` in
    an earlier attempt of the same run, by tracker name, so that a resumed run continues there; `earlier` holds the run
    folders of the attempts that logged under these ids. `components` says per stage which option of which distribution
    and version fills it. `swept` are those of the overrides in which the jobs of the sweep differ, as far as is known.
    """

    run_key: str
    attempt: int
    folder: Path
    config: Mapping[str, Any]
    overrides: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    sweep: str | None = None
    components: Mapping[str, str] = field(default_factory=dict)
    tracker_ids: Mapping[str, str] = field(default_factory=dict)
    earlier: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    swept: tuple[str, ...] = ()


class Tracker(Protocol):
    """Receives what a run logs. It can never change a result; one that raises is reported once and switched off."""

    def start(self, info: RunInfo) -> str | None:
        """Open the run; returns the tracker's own run id, which is handed back when the run is resumed."""
        ...

    def log(self, stage: str, metrics: Mapping[str, float], step: int) -> None:
        """Record the metrics of one step of one stage; names have no stage prefix.

        A run that is continued (`start` gave the id of an earlier attempt) is not told again what it was told then.
        """
        ...

    def artifact(self, artifact: Artifact) -> None:
        """Take note of a published or reused artifact."""
        ...

    def summary(self, values: Mapping[str, float]) -> None:
        """Record the run's final figures, with full names (`eval/gold/win_rate`)."""
        ...

    def finish(self, status: Status) -> str | None:
        """Close the run; returns a line for the user (where to look, how to sync), if there is one."""
        ...


@runtime_checkable
class AlertingTracker(Tracker, Protocol):
    """A tracker that can also call for attention; one without `alert` is simply not asked."""

    def alert(self, title: str, text: str, level: Level) -> None:
        """Call for attention: a mail, a message, a mark on the run. Replayed results raise none."""
        ...
