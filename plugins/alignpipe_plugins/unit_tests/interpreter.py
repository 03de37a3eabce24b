"""The Python that runs the tested code, and the files it needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from alignpipe.errors import ConfigError

_ASK = (
    "import json, os, sys; print(json.dumps({'version': '%d.%d' % sys.version_info[:2], 'prefix': sys.prefix, "
    "'base': sys.base_prefix, 'path': [p for p in sys.path if os.path.isabs(p)], "
    "'own': os.path.realpath(getattr(sys, '_base_executable', sys.executable))}))"
)
_SHARED = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/etc/ld.so.cache")
"""Where the dynamic linker looks."""


@dataclass(frozen=True)
class Interpreter:
    """How to start it, and the paths that it reads."""

    version: str
    executable: str
    flags: tuple[str, ...]
    paths: tuple[str, ...]

    def command(self, program: str, *arguments: str) -> list[str]:
        """The command line that runs a program given as text."""
        return [self.executable, *self.flags, "-c", program, *arguments]


@lru_cache
def find_interpreter(path: str | None) -> Interpreter:
    """The interpreter at `path` with its installed packages, or alignpipe's own without any.

    Raises `ConfigError` for one that cannot be run, or that lies where the sandbox cannot show it.
    """
    flags = ("-s", "-B", "-X", "utf8", *(("-S",) if path is None else ()))
    try:
        told = subprocess.run(
            [path or sys.executable, *flags, "-c", _ASK],
            capture_output=True, text=True, check=True, timeout=60, env={}, cwd="/",
        )  # fmt: skip
        known = json.loads(told.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        said = (getattr(error, "stderr", "") or "").strip()[-300:]
        raise ConfigError(
            f"reward.python={path or sys.executable} cannot be run as a Python interpreter: {error} {said}".rstrip()
        ) from error
    own = known["own"]
    executable = os.path.abspath(path) if path is not None else own
    wanted = [*_SHARED, own, executable, *_libraries(known["base"])]
    if path is not None:
        wanted += [known["prefix"], *known["path"]]
    paths = _paths(wanted)
    hidden = [path for path in paths if path.startswith("/tmp/")]
    if hidden:
        raise ConfigError(
            f"the interpreter {executable} lies in part under /tmp ({hidden[0]}), where the sandbox has a private "
            "folder; name another one as reward.python"
        )
    return Interpreter(known["version"], executable, flags, paths)


def _libraries(base: str) -> list[str]:
    """What an installation of Python reads: its whole folder, where that is not one it shares with the system."""
    shared = base in ("/", "/usr", "/usr/local")
    return [f"{base.rstrip('/')}/lib"] if shared else [base]


def _paths(wanted: Sequence[str]) -> tuple[str, ...]:
    """The paths that exist, each with what its links lead to, none inside another."""
    found: set[str] = set()
    for path in wanted:
        if os.path.exists(path):
            found.add(os.path.realpath(path))
            if os.path.islink(path):
                found.add(_real_parent(path))
    return tuple(sorted(path for path in found if not _below(path, found)))


def _real_parent(path: str) -> str:
    """The link itself, its folders' links followed."""
    link = Path(path)
    return str(link.parent.resolve() / link.name)


def _below(path: str, others: set[str]) -> bool:
    return any(other != path and path.startswith(other.rstrip("/") + "/") for other in others)
