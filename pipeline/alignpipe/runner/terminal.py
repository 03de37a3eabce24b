"""What the user sees while a run goes on: bars at a terminal, plain lines elsewhere; everything on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

from alignpipe.tables import printable

if TYPE_CHECKING:
    from rich.progress import Progress

_PLAIN_SECONDS = 10.0
_PLAIN_SHARE = 0.1
_PLAIN_PAUSE = 1.0
_BAR = 12


class Bar(Protocol):
    """How far a stage is; `figures` are the newest ones in words."""

    figures: str

    def update(self, done: int, total: int, figures: Mapping[str, float], unit: str) -> None:
        """Show the newest state."""
        ...


class Terminal:
    """Lines and bars on stderr; rich is used, and imported, only where stderr is a terminal."""

    def __init__(self) -> None:
        self.interactive = sys.stderr.isatty()
        self._progress: Progress | None = None

    def say(self, line: str) -> None:
        """Show one line, above the bar if there is one; it may quote what a model or a reward wrote.

        A line that cannot be shown ends no run: `| tee` and its like may be gone before the stage has saved its state.
        """
        line = printable(line)
        if self._progress is not None:
            # soft_wrap: a path that is longer than the line stays in one piece for who copies it
            self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            _STDERR.write(f"{line}\n")
            _STDERR.flush()

    @contextmanager
    def bar(self, stage: str) -> Iterator[Bar]:
        """Show the progress of one stage as long as the block runs."""
        if not self.interactive:
            yield _PlainBar(stage, self)
            return
        with _progress(stage) as progress:
            self._progress = progress
            try:
                yield _RichBar(progress)
            finally:
                self._progress = None


def _progress(stage: str) -> Progress:
    """A bar that is one line of text, so that a narrow terminal cuts it at its end: the last figures give way first."""
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, Task
    from rich.table import Column
    from rich.text import Text

    class Line(ProgressColumn):
        def render(self, task: Task) -> Text:
            full = int(_BAR * task.percentage / 100)
            clock = _clock(task.elapsed) if task.time_remaining is None else f"{_clock(task.time_remaining)} left"
            text = "  ".join([f" {task.fields['state']}", clock, task.fields["figures"]])
            return Text.assemble(f"{stage:<8} ", ("━" * full, "cyan"), ("─" * (_BAR - full), "bright_black"), text)

    line = Line(table_column=Column(no_wrap=True, overflow="ellipsis"))
    return Progress(line, console=Console(file=cast(IO[str], _STDERR)), transient=True)


class _Stderr:
    """The present `sys.stderr`, but for what it no longer takes: that is dropped, and fails no stage."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


_STDERR = _Stderr()


def _clock(seconds: float | None) -> str:
    whole = int(seconds or 0)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


class _RichBar:
    def __init__(self, progress: Progress) -> None:
        self.figures = ""
        self._progress = progress
        self._task = progress.add_task("", total=None, state="starting", figures="")

    def update(self, done: int, total: int, figures: Mapping[str, float], unit: str) -> None:
        self.figures = in_words(figures)
        state = f"{done}/{total} {unit}s"
        self._progress.update(self._task, completed=done, total=total, state=state, figures=self.figures)


class _PlainBar:
    """A line when a tenth more is done, or every ten seconds; never more than one a second, and none for the end."""

    def __init__(self, stage: str, terminal: Terminal) -> None:
        self.figures = ""
        self._stage = stage
        self._terminal = terminal
        self._start = self._told = time.monotonic()
        self._share = 0.0

    def update(self, done: int, total: int, figures: Mapping[str, float], unit: str) -> None:
        self.figures = in_words(figures)
        now = time.monotonic()
        share = done / total if total else 1.0
        waited = now - self._told
        due = waited >= _PLAIN_SECONDS or (share - self._share >= _PLAIN_SHARE and waited >= _PLAIN_PAUSE)
        if due and done < total:
            self._told, self._share = now, share
            end = f"  {self.figures}" if figures else ""
            self._terminal.say(f"{self._stage:<8} {done}/{total} {unit}s  {now - self._start:.0f} s{end}")


def in_words(figures: Mapping[str, float]) -> str:
    """Figures as a short text: `loss 1.234  kl 0.12`."""
    return "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
