"""Sandboxes for tests: skipped where the machine has no means for one, an error where it has and ours does not hold."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from alignpipe_plugins.unit_tests.config import Isolation
from alignpipe_plugins.unit_tests.sandbox import Refused, Sandbox

_ROOT = os.getuid() == 0
# Other people's programs with the same needs: what they can do here, our sandbox must be able to do.
_UNSHARE = ["unshare", *(() if _ROOT else ("--user", "--map-root-user")), "--mount", "--pid", "--fork", "--net", "true"]
_BWRAP = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", os.path.realpath(sys.executable), "-c", "pass"]


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
    return _works(_BWRAP, 65534 if _ROOT else None)


def _works(command: list[str], user: int | None) -> bool:
    return (
        shutil.which(command[0]) is not None and subprocess.run(command, capture_output=True, user=user).returncode == 0
    )
