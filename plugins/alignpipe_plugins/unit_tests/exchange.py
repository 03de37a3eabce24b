"""A conversation with a child process: all of its input at once, bounded output back, dead at the end."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import threading
import time
from dataclasses import dataclass

from alignpipe_plugins.unit_tests.isolation import Command
from alignpipe_plugins.unit_tests.memory import held_bytes

_LOOK = 0.05
"""Seconds after which to look whether the answer is still wanted, and at the memory held."""


class Unwanted(Exception):
    """Whoever asked has gone."""


@dataclass(frozen=True)
class Said:
    """What the process wrote until it ended or was ended."""

    output: bytes
    errors: bytes
    overdue: bool
    heavy: bool


@dataclass(frozen=True)
class Bounds:
    """When a process is ended: after `seconds`, or once it and its descendants hold more than `memory_bytes`.

    At most `output_bytes` are read of each of its outputs.
    """

    seconds: float
    output_bytes: int
    memory_bytes: int


def exchange(command: Command, given: bytes, bounds: Bounds, stop: threading.Event) -> Said:
    """Start a process, give it `given`, and read what it says, within bounds.

    Its environment is empty but for a fixed hash seed, so that sets are in the same order every time. The process has
    ended when this returns; what it started in its own pid namespace ends with it.

    Raises `OSError` if it cannot be started and `Unwanted` once `stop` is set.
    """
    process = subprocess.Popen(
        command.argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PYTHONHASHSEED": "0"},
        cwd="/",
        start_new_session=True,
        user=command.user,
        group=command.user,
        extra_groups=None if command.user is None else [],
    )
    try:
        return _converse(process, given, bounds, stop)
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def _converse(process: subprocess.Popen[bytes], given: bytes, bounds: Bounds, stop: threading.Event) -> Said:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    heard = {process.stdout: bytearray(), process.stderr: bytearray()}
    left = memoryview(given)
    look = time.monotonic()
    ends = look + bounds.seconds
    with selectors.DefaultSelector() as selector:
        for stream in heard:
            selector.register(stream, selectors.EVENT_READ)
        os.set_blocking(process.stdin.fileno(), False)
        selector.register(process.stdin, selectors.EVENT_WRITE)
        overdue = heavy = False
        while selector.get_map() and not overdue and not heavy:
            if stop.is_set():
                raise Unwanted
            for key, _ in selector.select(min(_LOOK, max(0.0, ends - time.monotonic()))):
                if key.fileobj is process.stdin:
                    left = _give(process, left)
                    if not left:
                        selector.unregister(process.stdin)
                        process.stdin.close()
                    continue
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fileobj)
                buffer = heard[key.fileobj]  # type: ignore[index]
                buffer += data[: bounds.output_bytes - len(buffer)]
            now = time.monotonic()
            overdue = now >= ends
            if now >= look:
                heavy = held_bytes(process.pid) > bounds.memory_bytes
                look = time.monotonic() + _LOOK
    return Said(bytes(heard[process.stdout]), bytes(heard[process.stderr]), overdue, heavy)


def _give(process: subprocess.Popen[bytes], left: memoryview) -> memoryview:
    """Write what the pipe takes; what is left."""
    assert process.stdin is not None
    try:
        return left[os.write(process.stdin.fileno(), left[: 1 << 16]) :]
    except BrokenPipeError:
        return left[:0]
    except BlockingIOError:
        return left
