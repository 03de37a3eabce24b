"""What the user sees while a run goes on: bars at a terminal, plain lines elsewhere; everything on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress

_PLAIN_SECONDS = 10.0
_PLAIN_SHARE = 0.1
_PLAIN_PAUSE = 1.0


class Bar(Protocol):
    """How far a stage is."""

    def update(self, done: int, total: int, figures: Mapping[str, float], unit: str) -> None:
        """Show the newest state."""
        ...


class Terminal:
    """Lines and bars on stderr; rich is used, and imported, only where stderr is a terminal."""

    def __init__(self) -> None:
        self.interactive = sys.stderr.isatty()
        self._progress: Progress | None = None

    def say(self, line: str) -> None:
        """Show one line, above the bar if there is one."""
        if self._progress is not None:
            self._progress.console.print(line, markup=False, highlight=False)
        else:
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()

    @contextmanager
    def bar(self, stage: str) -> Iterator[Bar]:
        """Show the progress of one stage as long as the block runs."""
        if not self.interactive:
            yield _PlainBar(stage, self)
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns: list[Any] = [
            TextColumn(f"{stage:<8}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
        ]
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            self._progress = progress
            try:
                yield _RichBar(progress)
            finally:
                self._progress = None


class _RichBar:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None, unit="", figures="")

    def update(self, done: int, total: int, figures: Mapping[str, float], unit: str) -> None:
        self._progress.update(self._task, completed=done, total=total, unit=unit, figures=in_words(figures))


class _PlainBar:
    """A line when a tenth more is done, or every ten seconds; never more than one a second."""

    def __init__(self, stage: str, terminal: Terminal) -> None:
        self._stage = stage
        self._terminal = terminal
        self._start = self._told = time.monotonic()
        self._share = 0.0

    def update(self, done: int, total: int, figures: Mapping[str, float], unit: str) -> None:
        now = time.monotonic()
        share = done / total if total else 1.0
        waited = now - self._told
        due = waited >= _PLAIN_SECONDS or (share - self._share >= _PLAIN_SHARE and waited >= _PLAIN_PAUSE)
        if due or (done == total and self._share > 0):
            self._told, self._share = now, share
            end = f"  {in_words(figures)}" if figures else ""
            self._terminal.say(f"{self._stage:<8} {done}/{total} {unit}s  {now - self._start:.0f} s{end}")


def in_words(figures: Mapping[str, float]) -> str:
    """Figures as a short text: `loss 1.234  kl 0.12`."""
    return "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
