"""The command line that starts a program, given as text, away from the host: one function per isolation."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources

from alignpipe_plugins.unit_tests.config import Isolation
from alignpipe_plugins.unit_tests.interpreter import Interpreter

_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_NOBODY = 65534
"""Who the sandbox's user is on the host when alignpipe runs as root: root's files and processes know no limit."""


@dataclass(frozen=True)
class Command:
    """A process to start; `user` is who to become first (None: stay)."""

    argv: list[str]
    user: int | None = None


def program(name: str) -> str:
    """The text of a program of the folder `inside`."""
    return resources.files("alignpipe_plugins.unit_tests.inside").joinpath(f"{name}.py").read_text(encoding="utf-8")


def missing(isolation: Isolation) -> str | None:
    """Why an isolation cannot be tried at all; None if it can."""
    if sys.platform != "linux":
        return f"it needs Linux, this is {sys.platform}"
    if isolation is Isolation.bubblewrap and shutil.which("bwrap") is None:
        return "bwrap is not on PATH; install the package bubblewrap"
    return None


def namespaces(python: Interpreter, text: str, disk_bytes: int) -> Command:
    """Through the launcher `inside/namespaces.py`."""
    setup = {
        "parent": os.getpid(),
        "outer_id": _NOBODY if os.getuid() == 0 else None,
        "base": os.path.realpath(tempfile.gettempdir()),
        "places": python.places,
        "devices": _DEVICES,
        "disk_bytes": disk_bytes,
    }
    return Command(python.command(program("namespaces"), json.dumps(setup), text))


def bubblewrap(python: Interpreter, text: str, disk_bytes: int) -> Command:
    """Through bwrap; as root it is started by nobody, who must be able to read the interpreter."""
    argv = [shutil.which("bwrap") or "bwrap", "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session"]
    argv += ["--as-pid-1", "--cap-drop", "ALL", "--uid", "1000", "--gid", "1000", "--hostname", "sandbox"]
    for place in python.places:
        link = os.path.islink(place)
        argv += ["--symlink", os.readlink(place), place] if link else ["--ro-bind", place, place]
    for device in _DEVICES:
        argv += ["--dev-bind", device, device]
    argv += ["--perms", "0700", "--size", str(disk_bytes), "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/"]
    return Command([*argv, "--", *python.command(text)], _NOBODY if os.getuid() == 0 else None)


BUILDERS: dict[Isolation, Callable[[Interpreter, str, int], Command]] = {
    Isolation.bubblewrap: bubblewrap,
    Isolation.namespaces: namespaces,
}
"""In the order in which `auto` tries them."""
