"""The stage as one member of a mix sees it while it is trained: its own folders, seed, steps and metric names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignpipe.api import Selected, StageContext
from alignpipe.api.tracking import Level


class Log:
    """Lays the members' steps behind one another, since a stage has one axis of steps.

    After an interruption, what finished members had logged is kept. The stage's log must be told so (`rewind`) once,
    before anything else is logged: by the member that goes on at its checkpoint, or else here.
    """

    def __init__(self, ctx: StageContext) -> None:
        self._ctx = ctx
        self.first = 0
        self.last = 0
        self._pending = False

    def skip(self, last: int) -> None:
        """A member that an earlier attempt finished at step `last` of the stage."""
        self.last = last
        self.next_member()
        self._pending = True

    def next_member(self) -> None:
        """The steps of the next member begin behind the last one's."""
        self.first = self.last + 1

    def settle(self) -> None:
        """Keep what finished members had logged, if nobody has said so yet."""
        if self._pending:
            self._pending = False
            self._ctx.rewind(self.first - 1)

    def rewind(self, step: int) -> None:
        """The member goes on at its `step`."""
        self._pending = False
        self.last = self.first + step
        self._ctx.rewind(self.last)

    def at(self, step: int) -> int:
        """The stage's step for a member's."""
        self.settle()
        self.last = max(self.last, self.first + step)
        return self.first + step


class MemberContext:
    """Implements `alignpipe.api.StageContext` on top of the stage's own.

    The seed differs from member to member, so that an ensemble of the same option is not one model several times.
    """

    def __init__(self, ctx: StageContext, name: str, work: Path, log: Log) -> None:
        self.seed = int.from_bytes(hashlib.sha256(f"{ctx.seed} {name}".encode()).digest()[:4], "big")
        self.device = ctx.device
        self.lanes = ctx.lanes
        self.stage = ctx.stage
        self.payload = ctx.payload / "members" / name
        self.work = work
        self.slots: Mapping[str, Selected] = ctx.slots
        self.scoring = ctx.scoring
        self.rank = ctx.rank
        self.world_size = ctx.world_size
        self._ctx = ctx
        self._name = name
        self._log = log
        for folder in (self.payload, self.work):
            folder.mkdir(parents=True, exist_ok=True)

    def build(self, selected: Selected) -> Any:
        """Build another component."""
        return self._ctx.build(selected)

    def log(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Record metrics as `<member>/<metric>`."""
        at = max(self._log.last - self._log.first, 0) if step is None else step
        self._ctx.log({f"{self._name}/{key}": value for key, value in metrics.items()}, self._log.at(at))

    def log_timings(self, timings: Mapping[str, float], step: int) -> None:
        """Record timings as `<member>/<timing>`."""
        self._ctx.log_timings({f"{self._name}/{key}": value for key, value in timings.items()}, self._log.at(step))

    def sync_log(self) -> None:
        """Force what was logged to the disk."""
        self._ctx.sync_log()

    def rewind(self, step: int) -> None:
        """Forget what this member logged after `step`."""
        self._log.rewind(step)

    def progress(self, done: int, total: int, figures: Mapping[str, float] | None = None, unit: str = "step") -> None:
        """Show how far this member is."""
        self._ctx.progress(done, total, figures, f"{self._name} {unit}")

    def say(self, message: str) -> None:
        """Tell the user one line."""
        self._ctx.say(f"{self._name}: {message}")

    def alert(self, title: str, text: str, level: Level = "warn") -> None:
        """Call for attention."""
        self._ctx.alert(title, f"member {self._name}: {text}", level)

    def stop_requested(self) -> bool:
        """Whether to save and raise `StageInterrupted`."""
        return self._ctx.stop_requested()
