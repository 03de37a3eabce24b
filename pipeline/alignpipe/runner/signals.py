"""Stopping: Ctrl-C, SIGTERM and a terminal that closes ask the stage to save and end; a later one ends it at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any, Self

_SAME = 1.0
"""Seconds in which further signals are the first once more: launchers and schedulers send one to a process directly and
to its group, milliseconds apart."""
_FIRST = b"\nalignpipe: stopping at the next step; once more to stop at once\n"


class StopSignals:
    """Context manager that turns signals into a flag, in the main thread; handlers are put back on leaving.

    Under submitit the scheduler's signal (USR2) has a handler already, which puts the job back into the queue: the flag
    is set first, and `chain` calls that handler once everything is saved. SIGTERM then stays with submitit, which
    ignores it, because a job that ends by itself is not queued again. A closed terminal (SIGHUP) stops nothing under
    nohup, which has it ignored. `silent` leaves it to another process to say that the run stops. `lasting` keeps the
    handlers after an error: a launcher that has seen another process end sends SIGTERM while this one still has to say
    why.
    """

    def __init__(self, *, silent: bool = False, lasting: bool = False) -> None:
        self.received: signal.Signals | None = None
        self.received_at: float | None = None
        """When, on the monotonic clock."""
        self._silent = silent
        self._lasting = lasting
        self._left = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        earlier = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
        if isinstance(earlier, StopSignals) and earlier._left:  # of a run that failed in this process
            earlier._put_back()
        watched = [signal.SIGINT]
        if callable(signal.getsignal(signal.SIGUSR2)):
            watched.append(signal.SIGUSR2)
        if not callable(signal.getsignal(signal.SIGTERM)):
            watched.append(signal.SIGTERM)
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            watched.append(signal.SIGHUP)
        for number in watched:
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        if failure is not None and self._lasting:
            self._silent = self._left = True  # there is no next step
            return
        self._put_back()

    def _put_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def requested(self) -> bool:
        """Whether a stop was asked for."""
        return self.received is not None

    @property
    def exit_code(self) -> int:
        """What a process ended by this signal returns: 130 for Ctrl-C, 129 for SIGHUP, 143 for the others."""
        of_their_own = (signal.SIGINT, signal.SIGHUP)
        return 128 + (self.received or signal.SIGINT) if self.received in (None, *of_their_own) else 143

    def chain(self) -> None:
        """Give the signal to the handler that was there before, if it was the scheduler's."""
        if self.received is signal.SIGUSR2:
            self._before[signal.SIGUSR2](signal.SIGUSR2, None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received_at is not None:
            if now - self.received_at < _SAME:
                return
            raise KeyboardInterrupt
        self.received, self.received_at = signal.Signals(number), now
        if not self._silent:
            with suppress(OSError):  # `| tee` may have ended by the same Ctrl-C; raised here, it would end the stage
                os.write(2, _FIRST)
