"""The metrics a run logs: written to the stage's work folder and the run's folder, and passed on to the trackers."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

from alignpipe.store.files import storing, write_atomically
from alignpipe.store.layout import METRICS, TIMINGS
from alignpipe.syncing import sync

LogCallback = Callable[[str, Mapping[str, float], int], None]
"""Called with (stage, metrics without the stage's prefix, step)."""


_TOLD = "told.jsonl"
"""What earlier attempts in a run folder logged, for trackers alone."""


class RunFiles:
    """The run folder's metrics.jsonl and timings.jsonl, and the last value of every metric.

    An attempt writes both from the start: what earlier attempts logged is replayed from the store. `goes_on` says that
    a tracker goes on: what an attempt in this same folder told it is then kept aside, as this one may end earlier.
    """

    def __init__(self, folder: Path, *, goes_on: bool = False) -> None:
        self._folder = folder
        self.last: dict[str, float] = {}
        with storing("opening the run's metrics", folder):
            if not goes_on:
                (folder / _TOLD).unlink(missing_ok=True)
            for path in (folder / METRICS, folder / TIMINGS):
                if goes_on and path.exists():
                    with (folder / _TOLD).open("a") as told:
                        told.write(path.read_text() + "\n")  # a kill may have cut the last line short
                path.write_text("")

    def append(self, name: str, line: Mapping[str, Any]) -> None:
        """Add one line to one of the files."""
        _append(self._folder / name, line)
        if name == METRICS:
            self.last.update({key: float(value) for key, value in _values(line)})

    def rewind(self, stage: str, step: int) -> None:
        """Drop what this run wrote of a stage after `step`."""
        for name in (METRICS, TIMINGS):
            path = self._folder / name
            lines = read_lines(path)
            kept = [line for line in lines if line["stage"] != stage or line["step"] <= step]
            if len(kept) != len(lines):
                write_lines(path, kept)


class StageLog:
    """The metrics and timings of one stage while it runs.

    What an earlier attempt logged is kept up to the step at which the stage resumes, all dropped if it does not resume.
    `check` is called before the work folder is written, and raises if it is another process's by now.
    """

    def __init__(
        self,
        stage: str,
        work: Path,
        check: Callable[[], None],
        run_files: RunFiles,
        log: LogCallback,
        observe: LogCallback,
    ) -> None:
        self._stage = stage
        self._work = work
        self._check = check
        self._run_files = run_files
        self._log = log
        self._observe = observe
        self._truncated = False
        """Whether what an earlier attempt logged has been cut off at the step where this one begins."""
        self.resumed = False
        """Whether the stage went on at a checkpoint of an earlier attempt."""
        self._last = 0
        self._again: list[dict[str, Any]] = []
        """Metrics of the very step where the stage resumes: kept, since some were logged before the checkpoint was
        written. The others will be logged again, and must not be written twice."""

    def metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Record deterministic metrics; without a step at the one last logged, 0 if none was."""
        step = self._last if step is None else self._checked_step(step)
        values = self._checked(metrics)
        self._write(METRICS, values, step)
        self._last = step
        self._observe(self._stage, values, step)

    def timings(self, timings: Mapping[str, float], step: int) -> None:
        """Record machine-dependent figures."""
        self._write(TIMINGS, self._checked(timings), self._checked_step(step))

    def sync(self) -> None:
        """Force what the work folder has to the disk; see `StageContext.sync_log`."""
        self._check()
        for path in (self._work / METRICS, self._work / TIMINGS):
            if path.exists():
                with storing("writing metrics", path):
                    sync(path)

    def rewind(self, step: int) -> None:
        """Keep what was logged up to `step`, and replay it into this run as if it had just been logged."""
        first = not self._truncated
        self._truncate(step)
        if first:
            self.resumed = step > 0
            replay(self._stage, self._work, self._run_files, self._log)
        else:
            self._run_files.rewind(self._stage, step)

    def drop_earlier_if_begun_anew(self) -> None:
        """Drop what an earlier attempt logged, if this one, at its end, has logged nothing and resumed nowhere."""
        if not self._truncated:
            self._truncate(None)

    def _checked(self, values: Mapping[str, Any]) -> dict[str, float]:
        """The values as numbers of Python's own; raises `ValueError`, which names one that is no number."""
        numbers = {}
        for name, value in values.items():
            try:
                numbers[name] = value if type(value) is int else float(value)
            except (TypeError, ValueError) as error:
                raise ValueError(f"stage {self._stage!r} logs {name}={value!r:.80}, which is no number") from error
        return numbers

    def _checked_step(self, step: Any) -> int:
        """A step as a whole number (numpy's too); raises `ValueError` for anything else."""
        try:
            return operator.index(step)
        except TypeError as error:
            raise ValueError(
                f"stage {self._stage!r} logs at the step {step!r:.80}, which is no whole number"
            ) from error

    def _write(self, name: str, values: Mapping[str, float], step: int) -> None:
        if not self._truncated:  # no `rewind` came before: begun anew, so what an earlier attempt logged is dropped
            self._truncate(None)
        line = {"stage": self._stage, "step": step}
        line.update({f"{self._stage}/{key}": _number(value) for key, value in values.items()})
        if line in self._again:  # `rewind` has kept it, and replayed it into this run
            self._again.remove(line)
            return
        self._check()
        _append(self._work / name, line)
        self._run_files.append(name, line)
        self._log(self._stage, values, step)

    def _truncate(self, step: int | None) -> None:
        """Drop what was logged after `step`; without a step, everything."""
        self._check()
        for name in (METRICS, TIMINGS):
            path = self._work / name
            kept = [line for line in read_lines(path) if step is not None and line["step"] <= step]
            if path.exists():
                write_lines(path, kept)
            if name == METRICS and kept:
                self._last = kept[-1]["step"]
                self._again = [line for line in kept if line["step"] == step]
        self._truncated = True


def replay(stage: str, folder: Path, run_files: RunFiles, log: LogCallback) -> None:
    """Copy the recorded metrics and timings of a stage to this run's files, and step by step to its trackers."""
    lines = []
    for name in (METRICS, TIMINGS):
        for line in read_lines(folder / name):
            run_files.append(name, line)
            lines.append(line)
    for line in sorted(lines, key=lambda line: int(line["step"])):
        values = {key.removeprefix(f"{stage}/"): float(value) for key, value in _values(line)}
        log(stage, values, line["step"])


Logged = tuple[str, int, float | int | str]
"""One logged value: full name, step, value as it is written in the file."""


def logged_values(folders: Iterable[Path]) -> set[Logged]:
    """Everything in the files of run folders; nothing for a folder that is gone."""
    files = (folder / name for folder in folders for name in (METRICS, TIMINGS, _TOLD))
    lines = (line for file in files for line in read_lines(file))
    return {(key, line["step"], value) for line in lines for key, value in _values(line)}


def new_values(stage: str, metrics: Mapping[str, float], step: int, known: Set[Logged]) -> dict[str, float]:
    """The metrics without those that are in `known` with the same value at the same step."""
    return {name: value for name, value in metrics.items() if (f"{stage}/{name}", step, _number(value)) not in known}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file; one cut short by a kill is left out."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        lines.append(line)
    return lines


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Replace a file's lines."""
    with storing("writing metrics", path):
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines))


def _values(line: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The metrics of a line, by full name."""
    return ((key, value) for key, value in line.items() if key not in ("stage", "step"))


def _append(path: Path, line: Mapping[str, Any]) -> None:
    with storing("writing metrics", path), path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _number(value: Any) -> float | int | str:
    """A number for JSON; what is not finite becomes a text that `float` reads back, since JSON has no NaN."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    number = float(value)
    return number if math.isfinite(number) else str(number)
