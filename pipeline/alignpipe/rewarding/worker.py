"""A thread in which calls are made, so that one which hangs can be left behind."""

from __future__ import annotations

import asyncio
import inspect
import queue
import selectors
import sys
import threading
import traceback
import weakref
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

_Answer = queue.SimpleQueue[tuple[Any, BaseException | None]]
_Call = tuple[Callable[[], Any], float | None, _Answer]
"""What to call, how many seconds it has, and where its answer goes."""
_GRACE = 0.5
"""Seconds that an async call which is cancelled at its deadline has to say where it was."""
_OURS = ("alignpipe", "alignpipe_plugins")
"""Packages whose lines tell an author nothing."""


class Overdue(Exception):
    """A call did not return in time; the text says where it was."""


class Worker:
    """Makes calls one after the other; once one does not come back it is of no more use, and `idle` says so.

    Its thread holds neither it nor, between two calls, what was called: a reward, with the model it may be, is let go
    as soon as nobody asks it any more, and the thread ends.
    """

    def __init__(self) -> None:
        self.idle = True
        self._awaiting = threading.Event()
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        # A daemon: a call that never returns must not keep the process from ending.
        self._thread = threading.Thread(
            target=_serve, args=(self._calls, self._awaiting), name="alignpipe-reward", daemon=True
        )
        self._thread.start()
        weakref.finalize(self, self._calls.put, None)

    def call(self, function: Callable[[], Any], seconds: float | None) -> Any:
        """What `function` returns, awaited if it is awaitable; raises what it raises, `Overdue` after `seconds`."""
        answer: _Answer = queue.SimpleQueue()
        self.idle = False
        self._calls.put((function, seconds, answer))
        try:
            value, error = answer.get(timeout=seconds)
        except queue.Empty:
            assert seconds is not None
            try:
                value, error = answer.get(timeout=_GRACE if self._awaiting.is_set() else 0)
            except queue.Empty:
                raise Overdue(_overdue_message(seconds, self._current_line())) from None
        self.idle = True
        if error is not None:
            raise error
        return value

    def _current_line(self) -> str | None:
        """The line that the worker's thread is executing."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        if frame is None:
            return None
        last = traceback.extract_stack(frame)[-1]
        if last.filename == selectors.__file__:  # an event loop that waits: of what, a cancelled call would have told
            return None
        return f"{last.filename}:{last.lineno} ({last.name})"


def _serve(calls: queue.SimpleQueue[_Call | None], awaiting: threading.Event) -> None:
    """Make the calls that come, until None does."""
    while (call := calls.get()) is not None:
        _make(call, awaiting)
        del call  # `get` waits for long, and would keep it


def _make(call: _Call, awaiting: threading.Event) -> None:
    """Make one call and send what it gives or raises; `awaiting` is set while an awaitable is awaited."""
    function, seconds, answer = call
    try:
        value = function()
        if inspect.isawaitable(value):
            awaiting.set()
            value = asyncio.run(_awaited(value, seconds))
    except BaseException as error:
        answer.put((None, error))
    else:
        answer.put((value, None))
    finally:
        awaiting.clear()


async def _awaited(value: Awaitable[Any], seconds: float | None) -> Any:
    """Await a back end's answer; cancelled when the time is over, so that its connections are closed."""
    line: list[str | None] = []
    if seconds is not None:  # set before the time limit, and so called before it cancels anything
        asyncio.get_running_loop().call_later(seconds, lambda: line.append(_waiting_line()))
    try:
        async with asyncio.timeout(seconds) as limit:
            return await value
    except TimeoutError as error:
        if limit.expired():
            assert seconds is not None
            raise Overdue(_overdue_message(seconds, line[0] if line else None)) from None
        raise error


def _overdue_message(seconds: float, line: str | None) -> str:
    where = f"; it was at {line}" if line else ""
    # What was left of the deadline when the call began: a little less than what the user set.
    return f"no answer within {round(seconds, 2) or seconds:g} s{where}"


def _waiting_line() -> str | None:
    """The line of the reward's own code that the running loop waits in; None if only ours and asyncio's are to be seen.

    Of several tasks it is a line of one that waits for no other task: the first of those that wait at most lines of it.
    """
    lines = [line for task in asyncio.all_tasks() if (line := _line_of(task.get_coro())) is not None]
    return max(sorted(set(lines)), key=lines.count, default=None)


def _line_of(coroutine: Any) -> str | None:
    """The innermost line of the reward's own package in a waiting coroutine; None if it waits for tasks."""
    frames: list[FrameType] = []
    awaited = coroutine
    while (frame := getattr(awaited, "cr_frame", None)) is not None:
        frames.append(frame)
        awaited = awaited.cr_await
    if isinstance(awaited, asyncio.Task) or hasattr(awaited, "_children"):  # the future of asyncio.gather
        return None
    packages = [str(frame.f_globals.get("__name__")).partition(".")[0] for frame in frames]
    own = next((package for package in packages if package not in (*_OURS, "asyncio")), None)
    if own is None:
        return None
    last = next(frame for frame, package in zip(reversed(frames), reversed(packages), strict=True) if package == own)
    return f"{last.f_code.co_filename}:{last.f_lineno} ({last.f_code.co_name})"
