"""What the jobs of a sweep tell the process that started it: notes below the sweep's folder, as long as it goes on.

Jobs may run in other processes, on other machines; all that is asked of a launcher is that it shares the file system.
Hydra's own files do not say to which sweep a folder belongs, and another sweep or run may write in the same place.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from alignpipe.cli.report import message_of
from alignpipe.digests import data_digest
from alignpipe.errors import FolderInUse, StoreError
from alignpipe.store.files import read_json, storing, write_json
from alignpipe.store.locks import holder, holding_if_free

_FOLDER = ".jobs"
_NO_END = "its process ended before it could say why"
_WHAT_TO_DO = "choose another hydra.sweep.dir, or a hydra.sweep.subdir with ${hydra.job.num} in it"


class SweepJobs:
    """The notes of one sweep; `name` is that of this sweep alone."""

    def __init__(self, sweep: Path, name: str) -> None:
        self._sweep = sweep
        self._notes = sweep / _FOLDER / name

    @contextmanager
    def open(self) -> Iterator[None]:
        """Keep the notes for the duration of the block, in which other sweeps see that this one lives.

        Raises `OSError` if their folder cannot be made.
        """
        made = [path for path in (self._sweep, *self._sweep.parents) if not path.exists()]
        try:
            self._notes.mkdir(parents=True)
            with holding_if_free(_life(self._notes), f"the sweep in {self._sweep}"):
                yield
        finally:
            try:
                with storing("clearing away the notes of a sweep's jobs", self._notes):
                    if self._notes.exists():
                        shutil.rmtree(self._notes)
                    for path in (self._notes.parent, *made):  # a sweep without jobs leaves nothing behind
                        if path.is_dir() and not any(path.iterdir()):
                            path.rmdir()
            except StoreError as error:  # the sweep's own end matters more
                sys.stderr.write(f"{error}\n")

    @contextmanager
    def job(self, number: int, folder: Path, overrides: Sequence[str]) -> Iterator[None]:
        """Note that a job begins in `folder`, and how the block ends: its summary, its error.

        Raises `FolderInUse` if another job of this sweep has had the folder, or one of another sweep that lives.
        """
        note = {"number": number, "folder": str(folder), "overrides": list(overrides), "summary": None}
        note["refused"] = False
        summary = folder / "summary.json"
        before = _written(summary)
        self._write(number, {**note, "error": _NO_END})
        error = None
        try:
            self._claim(number, folder)
            yield
        except BaseException as failure:
            error = failure
            raise
        finally:
            # Of a folder that another one is using the summary is not this job's.
            note["refused"] = isinstance(error, FolderInUse)
            if not note["refused"] and _written(summary) != before:
                note["summary"] = read_json(summary)
            self._write(number, {**note, "error": None if error is None else _reason(error)})

    def read(self) -> list[dict[str, Any]]:
        """The notes of all jobs that were begun, in their order."""
        notes = (read_json(path) for path in self._notes.glob("*.json"))
        return sorted((note for note in notes if note is not None), key=lambda note: int(note["number"]))

    def _write(self, number: int, note: dict[str, Any]) -> None:
        with storing("noting a job of the sweep", self._notes):
            write_json(self._notes / f"{number}.json", note, durable=False)

    def _claim(self, number: int, folder: Path) -> None:
        """Make the folder this job's; only one job can create the file that says so."""
        claim = self._notes / f"{data_digest(os.path.realpath(folder))}.claim"
        with storing("noting a job of the sweep", claim):
            try:
                with claim.open("x") as file:
                    file.write(str(number))
            except FileExistsError:
                if (owner := claim.read_text()) != str(number):  # else a scheduler has queued this very job again
                    raise FolderInUse(
                        f"{folder}: job {owner or 'another'} of this sweep has had this run folder; {_WHAT_TO_DO}"
                    ) from None
        for other in self._notes.parent.glob(f"*/{claim.name}"):
            if other != claim and (who := _living(other.parent)):
                claim.unlink()
                raise FolderInUse(f"{folder}: {who} has had this run folder, and goes on; {_WHAT_TO_DO}")


def _life(notes: Path) -> Path:
    """The lock that a sweep holds as long as it lives."""
    return notes / "alive.lock"


def _living(notes: Path) -> str:
    """Who the sweep with these notes is, if it still goes on."""
    who = holder(_life(notes))
    with holding_if_free(_life(notes), "a look") as held:
        return who if held is None else ""


def _written(path: Path) -> int | None:
    """When a file was last written; None if it is not there."""
    with suppress(FileNotFoundError):
        return path.stat().st_mtime_ns
    return None


def _reason(error: BaseException) -> str:
    return message_of(error) or f"{type(error).__name__}: {error}"
