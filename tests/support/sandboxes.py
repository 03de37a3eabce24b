"""Sandboxes for tests: skipped where the machine has no means for one, an error where it has and ours does not hold."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from alignpipe_plugins.unit_tests.config import Isolation
from alignpipe_plugins.unit_tests.sandbox import Refused, Sandbox

_ROOT = os.getuid() == 0
# Other people's programs with the same needs: what they can do here, our sandbox must be able to do.
_UNSHARE = ["unshare", *(() if _ROOT else ("--user", "--map-root-user")), "--mount", "--pid", "--fork", "--net", "true"]
_BWRAP = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", os.path.realpath(sys.executable), "-c", "pass"]
_NSJAIL = [sys.executable, "-m", "nsjail", "--really_quiet", "--disable_proc", "--bindmount_ro", "/", "--", "/bin/true"]
OWN_SANDBOX = """
import sys
sys.path[:0] = {path!r}
from alignpipe_plugins.unit_tests.cases import Case
from alignpipe_plugins.unit_tests.config import Isolation
from alignpipe_plugins.unit_tests.sandbox import Limits, Sandbox
limits = Limits(60, 60, 256 << 20, 320 << 20, 8, 1 << 20, 4 << 20, 1 << 14)
sandbox = Sandbox(limits, Isolation.{kind}, False, None)
sandbox.way()
"""
"""The beginning of a program that has a sandbox of its own."""


def need(sandbox: Sandbox, *isolations: Isolation) -> None:
    """Skip the test if the machine has the means for none of these; fail it if it has and the sandbox is refused."""
    try:
        sandbox.way()
    except Refused as error:
        if "does not keep" in str(error) or any(_possible(isolation) for isolation in isolations):
            pytest.fail(str(error))
        pytest.skip(str(error))


def _possible(isolation: Isolation) -> bool:
    if isolation is Isolation.namespaces:
        return _works(_UNSHARE, None)
    if isolation is Isolation.nsjail:
        return _works(_NSJAIL, 65534 if _ROOT else None)
    return _works(_BWRAP, 65534 if _ROOT else None)


def _works(command: list[str], user: int | None) -> bool:
    try:
        return subprocess.run(command, capture_output=True, user=user).returncode == 0
    except (FileNotFoundError, PermissionError):
        return False
