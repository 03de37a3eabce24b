"""A thread in which calls are made, so that one which hangs can be left behind."""

from __future__ import annotations

import asyncio
import inspect
import queue
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

_Answer = queue.SimpleQueue[tuple[Any, BaseException | None]]


class Overdue(Exception):
    """A call did not return in time; the text says where it was."""


class Worker:
    """Makes calls one after the other; after an :class:`Overdue` one it is of no more use, and `idle` says so."""

    def __init__(self) -> None:
        self.idle = True
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], float | None, _Answer]] = queue.SimpleQueue()
        # A daemon: a call that never returns must not keep the process from ending.
        self._thread = threading.Thread(target=self._serve, name="alignpipe-reward", daemon=True)
        self._thread.start()

    def call(self, function: Callable[[], Any], seconds: float | None) -> Any:
        """What `function` returns, awaited if it is awaitable; raises what it raises, `Overdue` after `seconds`."""
        answer: _Answer = queue.SimpleQueue()
        self.idle = False
        self._calls.put((function, seconds, answer))
        try:
            value, error = answer.get(timeout=seconds)
        except queue.Empty:
            raise Overdue(f"no answer within {seconds:g} s; it was {self._place()}") from None
        self.idle = True
        if error is not None:
            raise error
        return value

    def _serve(self) -> None:
        while True:
            function, seconds, answer = self._calls.get()
            try:
                value = function()
                if inspect.isawaitable(value):
                    value = asyncio.run(_awaited(value, seconds))
            except BaseException as error:
                answer.put((None, error))
            else:
                answer.put((value, None))

    def _place(self) -> str:
        """Where the thread is now: the innermost line of its stack."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        if frame is None:
            return "gone"
        last = traceback.extract_stack(frame)[-1]
        return f"at {last.filename}:{last.lineno} ({last.name})"


async def _awaited(value: Awaitable[Any], seconds: float | None) -> Any:
    """Await a back end's answer; cancelled when the time is over, so that its connections are closed."""
    try:
        async with asyncio.timeout(seconds) as limit:
            return await value
    except TimeoutError as error:
        if limit.expired():
            raise Overdue(f"no answer within {seconds:g} s") from None
        raise error
