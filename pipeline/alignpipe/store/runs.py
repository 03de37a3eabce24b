"""Run records: a run's attempts, their folders and the trackers' ids, so that the same command resumes the run.

Also the lock on a run's folder.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignpipe.digests import data_digest
from alignpipe.errors import FolderInUse, StoreError
from alignpipe.store.files import now_text, read_json, storing, write_json
from alignpipe.store.layout import Layout
from alignpipe.store.locks import HeldLock, holder, holding_if_free


@dataclass
class RunRecord:
    """One attempt of a run, kept up to date on disk."""

    path: Path
    run_key: str
    attempt: int
    tracker_ids: dict[str, str]
    _lock: HeldLock | None
    """None if another process is running the same run: the record on disk is that one's."""
    _attempts: list[dict[str, Any]] = field(default_factory=list)

    @property
    def earlier(self) -> dict[str, tuple[Path, ...]]:
        """By tracker, the folders of the earlier attempts that logged under the id it has, oldest first."""
        return {
            name: tuple(
                Path(attempt["folder"])
                for attempt in self._attempts[:-1]
                if attempt.get("tracker_ids", {}).get(name) == run_id
            )
            for name, run_id in self.tracker_ids.items()
        }

    def note_trackers(self, ids: Mapping[str, str]) -> None:
        """Remember the ids that the trackers returned."""
        self.tracker_ids.update(ids)
        self._attempts[-1]["tracker_ids"] = dict(ids)
        self._write()

    def note_stage(self, stage: str, digest: str) -> None:
        """Remember that this run uses an object: gc keeps it as long as the run's folder is there."""
        self._attempts[-1]["stages"][stage] = digest
        self._write()

    def note_inputs(self, digests: Collection[str]) -> None:
        """Remember the objects of other runs that this one reads, which gc keeps too."""
        self._attempts[-1]["inputs"] = sorted(digests)
        self._write()

    def end(self, status: str) -> None:
        """Remember how the attempt ended."""
        self._attempts[-1]["status"] = status
        self._write()

    def _write(self) -> None:
        if self._lock is None:
            return
        self._lock.check()
        content = {
            "schema": 1,
            "run_key": self.run_key,
            "tracker_ids": self.tracker_ids,
            "attempts": self._attempts,
        }
        with storing("writing the run's record", self.path):
            write_json(self.path, content)


class RunRecords:
    """The run records of a store."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    @contextmanager
    def attempt(
        self,
        run_key: str,
        folder: Path,
        say: Callable[[str], None] = lambda line: None,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> Iterator[RunRecord]:
        """Begin an attempt: the next one of a run that did not finish, else the first of a new run.

        If another process is running the same run, nobody waits: the record stays that one's, and this attempt is not
        recorded.

        Raises `StageInterrupted` if a stop is requested while it is not yet known whether the other one lives,
        which takes a while on a network file system.
        """
        path = self._layout.run(run_key)
        lock = self._layout.lock(f"run-{run_key}")
        with holding_if_free(lock, str(folder), say, stop_requested, "the record of this run") as held:
            if held is None:
                say(f"{holder(lock)} is at work on the same run: this one is a run of its own, without a record here")
            known = read_json(path) if held else None
            attempts: list[dict[str, Any]] = list(known["attempts"]) if isinstance(known, dict) else []
            again = bool(attempts) and attempts[-1]["status"] != "finished"
            number = attempts[-1]["number"] + 1 if again else 1
            attempts.append(
                {
                    "number": number,
                    "folder": str(folder),
                    "started": now_text(),
                    "host": socket.gethostname(),
                    "pid": os.getpid(),
                    "status": "running",
                    "stages": {},
                }
            )
            ids = dict(known["tracker_ids"]) if again and isinstance(known, dict) else {}
            record = RunRecord(path, run_key, number, ids, held, attempts)
            record.note_trackers({})
            try:
                yield record
            except BaseException:
                if attempts[-1]["status"] == "running":  # it ended before it could say how
                    with suppress(StoreError):  # what ended it is reported
                        record.end("failed")
                raise

    def used_digests(self) -> set[str]:
        """The digests used by runs whose folder is still there."""
        used: set[str] = set()
        for path in (self._layout.root / "runs").glob("*.json"):
            content = read_json(path)
            if isinstance(content, dict):
                for attempt in content["attempts"]:
                    if Path(attempt["folder"]).exists():
                        used.update(attempt["stages"].values(), attempt.get("inputs", ()))
        return used


@contextmanager
def hold_folder(
    layout: Layout, folder: Path, say: Callable[[str], None], stop_requested: Callable[[], bool]
) -> Iterator[None]:
    """Make a run's folder, and hold it: two runs at once would write over each other's files.

    Raises `FolderInUse` if another run that lives has it, and `StageInterrupted` as `RunRecords.attempt` does.
    """
    lock = layout.lock(f"folder-{data_digest(os.path.realpath(folder))}")
    with holding_if_free(lock, str(folder), say, stop_requested, "the run's folder") as held:
        if held is None:
            raise FolderInUse(
                f"{folder}: {holder(lock)} is writing its run there; choose another folder: hydra.run.dir, or for "
                "a sweep another hydra.sweep.dir, or a hydra.sweep.subdir with ${hydra.job.num} in it"
            )
        with storing("opening the run's folder", folder):
            folder.mkdir(parents=True, exist_ok=True)
        yield
