"""Work folders: what an attempt at a key has so far; they outlive a kill, until the result is published."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass

from alignpipe.store.files import empty_folder, now_text, read_json, storing, write_json
from alignpipe.store.layout import Layout
from alignpipe.store.objects import to_trash


@dataclass(frozen=True)
class Unfinished:
    """An attempt that ended early: the step of its last checkpoint (None if unknown) and the code it ran with."""

    step: int | None
    code: Mapping[str, str]


class WorkFolder:
    """The folder of one key while it is worked on."""

    def __init__(self, layout: Layout, stage: str, key: str) -> None:
        self.path = layout.work(stage, key)
        self.payload = self.path / "payload"
        """What becomes the artifact; empty at the start of every attempt."""
        self.state = self.path / "state"
        """The stage's own folder, for checkpoints."""
        self._attempt = self.path / "attempt.json"
        self._failure = self.path / "failure.json"
        self.stage = stage
        self.key = key
        self._layout = layout

    def unfinished(self) -> Unfinished | None:
        """The earlier attempt, if it left any state to resume from: a finished checkpoint, or files of its own kind.

        Plans ask without the lock, so the folder may be going meanwhile, as its result has been published.
        """
        try:
            step = self._last_step()
            own = [path for path in self.state.iterdir() if path.name != "checkpoints"]
        except FileNotFoundError:
            return None
        if step is None and not own:
            return None
        return Unfinished(step, (read_json(self._attempt) or {}).get("code", {}))

    def _last_step(self) -> int | None:
        """The step of the newest checkpoint, which stages keep in `checkpoints/step-<n>` of their own folder.

        `training/checkpoint.py` knows it too, but imports torch, and plans ask here.
        """
        names = (path.name.removeprefix("step-") for path in (self.state / "checkpoints").glob("step-*"))
        return max((int(name) for name in names if name.isdigit()), default=None)

    def prepare(self, code: Mapping[str, str], restart: bool) -> None:
        """Make the folder ready for an attempt; `restart` throws away what an earlier one left."""
        with storing(f"preparing the work folder of stage {self.stage!r}", self.path):
            if restart and self.path.exists():
                to_trash(self._layout, self.path)
            empty_folder(self.payload)
            self.state.mkdir(parents=True, exist_ok=True)
            self._failure.unlink(missing_ok=True)
            write_json(self._attempt, {"code": dict(code), "started": now_text(), "host": socket.gethostname()})

    def note_failure(self, error: str) -> None:
        """Leave the error for the processes that wait for the key."""
        with storing(f"recording the failure of stage {self.stage!r}", self.path):
            write_json(self._failure, {"error": error, "at": now_text(), "host": socket.gethostname()})

    def failure_since(self, moment: float) -> str | None:
        """The error another process left after `moment` (seconds since the epoch)."""
        failure = read_json(self._failure)
        if not isinstance(failure, dict) or self._failure.stat().st_mtime < moment:
            return None
        return str(failure["error"])
