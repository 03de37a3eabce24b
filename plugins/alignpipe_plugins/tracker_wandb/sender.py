"""The thread that calls wandb: training waits for none of its calls, and none of its failures reaches the training."""

from __future__ import annotations

import sys
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wandb.sdk.wandb_run import Run

Call = Callable[["Run"], Any]
_MAX_FAILURES = 3


class Sender:
    """Makes calls of one run, in the order in which they are given.

    wandb hands every call on to a thread of its own and waits for it: a fraction of a millisecond on an idle machine,
    several where all cores are at work on the training.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._failures = 0
        self._thread = Thread(target=self._work, name="wandb-sender", daemon=True)
        self._thread.start()

    def send(self, call: Call) -> None:
        """Have a call made soon; a failure costs that call, several in a row end the logging to W&B."""
        self._calls.put(call)

    def close(self) -> Run:
        """Wait until all calls are made; gives the run."""
        self._calls.put(None)
        self._thread.join()
        return self.run

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            if self._failures < _MAX_FAILURES:
                self._make(call)

    def _make(self, call: Call) -> None:
        try:
            call(self.run)
        except Exception as error:
            self._failures += 1
            if self._failures == 1:
                say(f"W&B refused something ({type(error).__name__}: {error}); metrics.jsonl has everything")
            if self._failures >= _MAX_FAILURES:
                say("W&B refused several calls in a row and is left alone from here on")
        else:
            self._failures = 0


def say(line: str) -> None:
    """Tell the user one line."""
    sys.stderr.write(f"{line}\n")
