"""The run folder's summary.json: how the run ended, stage by stage, and its final figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from alignpipe.api.tracking import Status
from alignpipe.config.model import RunConfig
from alignpipe.errors import INTERRUPTIONS, FolderInUse
from alignpipe.store.files import read_json, storing, write_json

StageStatus = Literal["ran", "resumed", "cached", "failed", "skipped"]


@dataclass
class StageResult:
    """How one stage went; `artifact` is the payload's folder."""

    status: StageStatus = "skipped"
    key: str | None = None
    digest: str | None = None
    artifact: str | None = None
    seconds: float = 0.0
    error: str | None = None

    def fail(self, error: BaseException) -> None:
        """Note that the stage did not get to its end, and why; an interruption has no status of its own."""
        what = "interrupted" if isinstance(error, INTERRUPTIONS) else type(error).__name__
        self.status, self.error = "failed", f"{what}: {error}"


@dataclass
class Summary:
    """The content of summary.json; a run that is not over counts as failed."""

    run_key: str
    attempt: int
    stages: dict[str, StageResult]
    status: Status = "failed"
    metrics: Mapping[str, float] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As plain data; a figure that is not finite becomes None, since JSON has no NaN."""
        return {
            "schema": 1,
            "status": self.status,
            "run_key": self.run_key,
            "attempt": self.attempt,
            "stages": {name: asdict(result) for name, result in self.stages.items()},
            "metrics": {name: value if math.isfinite(value) else None for name, value in self.metrics.items()},
        }

    def write(self, folder: Path) -> None:
        """Write summary.json, all of it or nothing."""
        with storing("writing summary.json", folder):
            write_json(folder / "summary.json", self.plain())


def check_earlier_run(run: RunConfig, run_key: str, say: Callable[[str], None]) -> None:
    """Look at what an earlier run left in the run's folder; the same one may have it again.

    Raises `FolderInUse` for a job of a sweep whose folder holds a finished run of another config: who starts a sweep
    again in its folder, with another grid by mistake, would lose the figures of the first. A single run, whose folder
    was named for it, says that it writes over them.
    """
    earlier = read_json(run.folder / "summary.json") or {}
    if earlier.get("status") != "finished" or earlier.get("run_key") == run_key:
        return
    what = f"{run.folder} holds a finished run of another config"
    if run.command.sweep is not None:
        raise FolderInUse(f"{what} (its config.yaml says which); choose another hydra.sweep.dir, or remove the folder")
    say(f"{what}, whose summary and figures this one writes over (results stay in the store)")
