"""The report of a sweep: a table with one line a job, and sweep.json beside Hydra's multirun.yaml.

Everything is read from what the jobs noted (`cli/sweep_jobs.py`), so that it works with every launcher that shares a
file system with us.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from hydra.conf import HydraConf
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from alignpipe.cli.objective import searches
from alignpipe.cli.report import RunFailed
from alignpipe.cli.run_table import Line, show_runs
from alignpipe.cli.sweep_jobs import SweepJobs
from alignpipe.config.command import overrides_of, read_override
from alignpipe.errors import ConfigError, StoreError
from alignpipe.store.files import storing, write_json
from alignpipe.tables import printable


class SweepCallback(Callback):
    """Called by Hydra in the process that starts the jobs, before the first one, and in that of each job.

    Hydra calls back at the end too, but only if no job failed; so `sweep_report` does the rest.
    """

    current: SweepCallback | None = None
    """The sweep that this process is running, or of which it runs a job: launchers send the callback along."""
    until_the_end = ExitStack()
    """What is left again when the sweep ends; `sweep_report` sees to it."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        """None in a single run."""
        self.words: tuple[str, ...] = ()
        """The command line."""
        self.process = 0
        """The process that started the sweep."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Open the notes of this sweep's jobs.

        Raises `RunFailed`, which Hydra lets pass, if nothing can be written in the sweep's folder, or the sweeper
        searches and nobody said for what.
        """
        if searches(config.hydra) and not config.get("objective", []):
            raise RunFailed(
                ConfigError(
                    "this sweeper (hydra/sweeper) judges jobs by a figure: name a final metric, such as "
                    "objective=[eval/gold/mean], and with hydra.sweeper.direction what is better"
                )
            )
        self.folder = Path(os.path.abspath(str(config.hydra.sweep.dir)))
        self.words = _words()
        self.process = os.getpid()
        self.notes = SweepJobs(self.folder, uuid4().hex)
        try:
            SweepCallback.until_the_end.enter_context(self.notes.open())
        except (OSError, StoreError) as error:
            raise RunFailed(error) from error
        SweepCallback.current = self

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Make the sweep known in a process that a launcher started."""
        if self.folder is not None:
            SweepCallback.current = self

    def jobs(self) -> list[dict[str, Any]]:
        """The jobs that were begun, in their order, as they are written to sweep.json."""
        return [self._job(note) for note in self.notes.read()]

    def write_file(self) -> None:
        """Write sweep.json, from the jobs so far; not over that of a sweep all of whose jobs were refused a folder."""
        jobs = self.jobs()
        if self.folder is None or all(note["refused"] for note in self.notes.read()):
            return
        try:
            with storing("writing sweep.json", self.folder):
                write_json(self.folder / "sweep.json", {"schema": 1, "jobs": jobs})
        except StoreError as error:  # the sweep's own end matters more
            sys.stderr.write(f"sweep.json could not be written: {error}\n")

    def _job(self, note: Mapping[str, Any]) -> dict[str, Any]:
        # Without a summary it ended before its first stage; without an error too somebody stopped it there.
        status = "failed" if note["error"] else "interrupted"
        summary = note["summary"] or {"status": status, "run_key": None, "stages": {}, "metrics": {}}
        failed = {name: stage["error"] for name, stage in summary["stages"].items() if stage["status"] == "failed"}
        return {
            "job": os.path.relpath(note["folder"], self.folder),
            "overrides": note["overrides"],
            "params": _params(note["overrides"]),
            "status": summary["status"],
            "failed_stage": next(iter(failed), None),
            "error": next(iter(failed.values()), note["error"]),
            "run_key": summary["run_key"],
            "folder": note["folder"],
            "stages": list(summary["stages"]),
            "metrics": summary["metrics"],
        }


def _params(overrides: Sequence[str]) -> dict[str, Any]:
    """The overrides as values by their keys, for those who read sweep.json; what Hydra looks up later stays text."""
    read = {word: read_override(word) for word in overrides}
    return {
        override.key_or_group if override is not None else word.partition("=")[0]: (
            _plain(override.value()) if override is not None else word.partition("=")[2]
        )
        for word, override in read.items()
    }


def _plain(value: Any) -> Any:
    """A value of Hydra's grammar, whose quoted texts are of a kind of their own, as JSON has it."""
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(getattr(value, "text", value))


def command_line(hydra: HydraConf) -> tuple[str, ...]:
    """The words behind `alignpipe`, of a job of a sweep those of the sweep; none if this process does not know them."""
    if hydra.mode != RunMode.MULTIRUN:
        return _words()
    return SweepCallback.current.words if SweepCallback.current is not None else ()


def _words() -> tuple[str, ...]:
    """What stands behind `alignpipe`, without the `--` that `words.in_order` puts in."""
    return tuple(word for word in sys.argv[1:] if word != "--")


@contextmanager
def noted_job(hydra: HydraConf) -> Iterator[None]:
    """Let the process that started the sweep know of the job that the block runs; nothing for a single run.

    Raises `FolderInUse` if the job would write over another one's results.
    """
    sweep = SweepCallback.current
    if hydra.mode != RunMode.MULTIRUN or sweep is None:  # a config.yaml of the user's own may leave out the callback
        yield
        return
    try:
        with sweep.notes.job(int(hydra.job.num), Path(str(hydra.runtime.output_dir)), overrides_of(hydra)):
            yield
    finally:
        if sweep.process == os.getpid():  # a sweep that is killed leaves the file of the jobs before
            sweep.write_file()


@contextmanager
def sweep_report() -> Iterator[None]:
    """Print the table of the sweep that the block runs, if it runs one, and write sweep.json, however it ends."""
    with ExitStack() as SweepCallback.until_the_end:
        try:
            yield
        finally:
            sweep, SweepCallback.current = SweepCallback.current, None
            jobs = sweep.jobs() if sweep is not None else []
            if sweep is not None and sweep.folder is not None and jobs:
                _show(sweep.folder, jobs)
                sweep.write_file()


def _show(folder: Path, jobs: Sequence[Mapping[str, Any]]) -> None:
    """The table, and why jobs failed."""
    lines = [
        Line(
            job["job"],
            job["overrides"],
            f"{job['status']} in {job['failed_stage']}" if job["failed_stage"] else job["status"],
            job["stages"],
            job["metrics"],
        )
        for job in jobs
    ]
    finished = sum(job["status"] == "finished" for job in jobs)
    stopped = any(job["status"] == "interrupted" for job in jobs)  # then there are jobs that nobody began
    sys.stdout.write("\n")
    show_runs(lines, "job", f"{finished} of {len(jobs)} jobs {'that were begun ' if stopped else ''}finished")
    sys.stdout.write("\n")
    for job in jobs:
        if job["status"] == "failed":
            sys.stdout.write(f"{'failed':<12}{job['job']}: {printable(' '.join(str(job['error']).split()))}\n")
    sys.stdout.write(f"{'jobs':<12}{folder}/<job>\n{'figures':<12}{folder / 'sweep.json'}\n")
    sys.stdout.flush()
