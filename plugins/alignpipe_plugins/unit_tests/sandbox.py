"""The sandbox: chosen and proved once, then used for one response after the other."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from alignpipe_plugins.unit_tests.cases import Case
from alignpipe_plugins.unit_tests.config import Isolation
from alignpipe_plugins.unit_tests.exchange import Bounds, exchange
from alignpipe_plugins.unit_tests.interpreter import Interpreter, find_interpreter
from alignpipe_plugins.unit_tests.isolation import BUILDERS, missing, program
from alignpipe_plugins.unit_tests.probe import PROBE_LIMITS, TOO_HEAVY, probe
from alignpipe_plugins.unit_tests.seccomp import MACHINES, longer_filter, own_filter

_GRACE = 15.0
"""Seconds that starting and ending a sandbox may take beside the time of its tests."""
_log = logging.getLogger(__name__)


class Refused(Exception):
    """There is no sandbox of the kind asked for; the text says what is missing."""


class Trouble(Exception):
    """The sandbox was there and failed, and not through the code in it."""


@dataclass(frozen=True)
class Limits:
    """What a response may use."""

    timeout: float
    test_timeout: float
    memory_bytes: int
    total_memory_bytes: int
    processes: int
    file_bytes: int
    disk_bytes: int
    output_bytes: int


@dataclass(frozen=True)
class Result:
    """How a case went; `stated` holds the values that its test handed out (JSON)."""

    passed: bool
    timeout: bool
    output: str
    cut: bool
    detail: str
    stated: str = ""


_LOST = Result(
    passed=False, timeout=True, output="", cut=False, detail="the sandbox was ended before this test was over"
)
_HEAVY = replace(_LOST, timeout=False, detail=TOO_HEAVY)


class Sandbox:
    """Runs code; `isolation` and `seccomp` are what was asked for."""

    def __init__(self, limits: Limits, isolation: Isolation, seccomp: bool | None, python: str | None) -> None:
        self._limits = limits
        self._asked = isolation
        self._seccomp = seccomp
        self._python = python
        self._lock = threading.Lock()
        self._refusal: str | None = None
        self._chosen: _Way | None = None

    def way(self) -> str:
        """The isolation in use, in words; proves it first.

        Raises `Refused`.
        """
        return self._ready().name

    def run(
        self, code: str, cases: Sequence[Case], stop: threading.Event | None = None, *, setup: str = ""
    ) -> list[Result]:
        """Run the code, `setup` in front of it, once per case; one result each, in order.

        Raises `Refused` where the isolation asked for is not to be had, `Trouble` if the sandbox fails on its own, and
        `Unwanted` once `stop` is set.
        """
        return _run(self._ready(), self._limits, (setup, code), cases, stop or threading.Event())

    def _ready(self) -> _Way:
        with self._lock:
            if self._chosen is None and self._refusal is None:
                self._choose()
            if self._chosen is None:
                raise Refused(self._refusal)
            return self._chosen

    def _choose(self) -> None:
        """Take the first isolation that holds what it promises; the reasons of those that do not are kept."""
        reasons = []
        python = find_interpreter(self._python)
        try:
            filters = self._filters()
        except Refused as error:
            self._refusal = str(error)
            return
        for isolation in BUILDERS if self._asked is Isolation.auto else (self._asked,):
            lacking = missing(isolation, python)
            if lacking is None:
                way = _Way(isolation, python, filters)
                lacking = self._prove(way)
                if lacking is None:
                    self._chosen = way
                    _log.info("reward=unit_tests runs code in: %s", way.name)
                    return
            reasons.append(f"{isolation.name}: {lacking}")
        self._refusal = (
            f"no sandbox for reward.isolation={self._asked.name} on this machine, and code is not run without one. "
            f"{'; '.join(reasons)}. Install bubblewrap or nsjail, or allow unprivileged user namespaces (in a "
            "container: a seccomp profile that allows unshare and mount)"
        )

    def _filters(self) -> tuple[str, ...]:
        """Our own filter of system calls, and where it is wanted and possible the longer one."""
        try:
            own = own_filter(os.uname().machine)
        except KeyError as error:
            raise Refused(
                f"no sandbox for reward=unit_tests on this machine: it needs {', '.join(MACHINES)}, not {error}"
            ) from error
        if self._seccomp is False:
            return (own,)
        try:
            return (own, longer_filter())
        except (ImportError, OSError, RuntimeError) as error:
            if self._seccomp is None:
                return (own,)
            raise Refused(
                "reward.seccomp=true needs pyseccomp and libseccomp (pip install 'alignpipe[sandbox]'); "
                f"{type(error).__name__}: {error}"
            ) from error

    def _prove(self, way: _Way) -> str | None:
        """What the isolation does not hold, found by trying to get out; None if it holds."""

        def attempt(cases: Sequence[Case], **more: int) -> list[Result]:
            limits = replace(self._limits, **PROBE_LIMITS, **more)
            return _run(way, limits, ("", ""), cases, threading.Event())

        try:
            return probe(attempt, self._limits.memory_bytes, self._limits.processes, filtered=way.long_filter)
        except (Refused, Trouble) as error:
            return str(error)


@dataclass(frozen=True)
class _Way:
    """A way to run code: the isolation, the interpreter, the filters of system calls."""

    isolation: Isolation
    python: Interpreter
    filters: tuple[str, ...]

    @property
    def long_filter(self) -> bool:
        return len(self.filters) > 1

    @property
    def name(self) -> str:
        return f"{self.isolation.name}{' with seccomp' if self.long_filter else ''}"


def _run(
    way: _Way, limits: Limits, code: tuple[str, str], cases: Sequence[Case], stop: threading.Event
) -> list[Result]:
    job = {
        "setup": code[0],
        "code": code[1],
        "cases": [{"test": case.test, "input": case.input, "stated_bytes": case.stated_bytes} for case in cases],
        "timeout": limits.timeout,
        "test_timeout": limits.test_timeout,
        "memory_bytes": limits.memory_bytes,
        "processes": limits.processes,
        "file_bytes": limits.file_bytes,
        "output_bytes": limits.output_bytes,
        "filters": way.filters,
    }
    command = BUILDERS[way.isolation](way.python, program("harness"), limits.disk_bytes)
    kept = sum(limits.output_bytes + case.stated_bytes + 10_000 for case in cases) + 10_000
    bounds = Bounds(
        seconds=limits.timeout + _GRACE,
        output_bytes=6 * kept,  # a byte may become \uXXXX in the report's JSON
        memory_bytes=limits.total_memory_bytes,
    )
    try:
        said = exchange(command, json.dumps(job).encode(), bounds, stop)
    except OSError as error:
        raise Trouble(f"{way.name} could not be started: {error}") from error
    lines = _lines(said.output)
    for line in lines:
        if "refused" in line:
            raise Refused(f"{way.name}: {line['refused']}")
        if "broken" in line:
            raise Trouble(f"the sandbox ({way.name}) failed: {line['broken']}")
    if not lines:
        why = "it did not start in time" if said.overdue else "it ended before it was ready"
        raise Trouble(f"the sandbox ({way.name}) failed: {why}. {said.errors.decode(errors='replace')[-500:]}".rstrip())
    results = [Result(**line) for line in lines[1:]]
    return results + [_HEAVY if said.heavy else _LOST] * (len(cases) - len(results))


def _lines(output: bytes) -> list[Mapping[str, Any]]:
    """The complete lines of the report."""
    return [json.loads(line) for line in output.split(b"\n")[:-1]]
