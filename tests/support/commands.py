"""Runs the installed console script as a user would: in a folder of its own, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

from support.distributions import write_distribution

SCRIPT = Path(sys.executable).with_name("alignpipe")
ERROR = "alignpipe: error: "
PATIENCE = 240
"""Seconds after which a command counts as hanging."""

Done = subprocess.CompletedProcess[str]


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without what would change a run: alignpipe's and W&B's variables, PYTHONPATH."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ALIGNPIPE_", "WANDB_", "HYDRA_")) and name != "PYTHONPATH"
    }
    return {**kept, "HF_HUB_OFFLINE": "1", **changes}


def run(command: Sequence[str], cwd: Path, **changes: str) -> Done:
    """Run a command in `cwd`; `changes` are environment variables."""
    cwd.mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        command, cwd=cwd, env=environment(**changes), capture_output=True, text=True, timeout=PATIENCE
    )


def alignpipe(cwd: Path, *arguments: str, **changes: str) -> Done:
    """Run `alignpipe <arguments>` in `cwd`."""
    return run([str(SCRIPT), *arguments], cwd, **changes)


def start(cwd: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start `alignpipe <arguments>` in `cwd`."""
    return start_command(cwd, [str(SCRIPT), *arguments])


def start_command(cwd: Path, command: Sequence[str]) -> subprocess.Popen[str]:
    """Start a command in `cwd`."""
    cwd.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        command, cwd=cwd, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_until(true: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    """Wait for something that a running command does; fails if it ends without having done it."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def succeed(done: Done) -> Done:
    """The command went well, or the test shows what it said."""
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done


def complaint(done: Done, *, shown: bool = False) -> str:
    """The one error message of a command that failed as it should: status 1; a traceback only if `shown` on purpose."""
    said = f"{done.stdout}\n{done.stderr}"
    assert done.returncode == 1, said
    assert ("Traceback" in said) == shown, said
    messages = [line for line in said.splitlines() if line.startswith(ERROR)]
    assert len(messages) == 1, said
    assert done.stderr.count("error:") == said.count("error:"), "errors belong on stderr"
    return done.stderr.partition(ERROR)[2]


def summaries(cwd: Path) -> list[dict[str, Any]]:
    """The summaries of all runs below `cwd`, oldest first."""
    return [json.loads(path.read_text()) for path in sorted(cwd.glob("outputs/runs/*/summary.json"))]


def statuses(summary: Mapping[str, Any]) -> dict[str, str]:
    """How each stage went."""
    return {name: stage["status"] for name, stage in summary["stages"].items()}


def published(cwd: Path) -> set[str]:
    """The stages that have something in the store."""
    return {path.parent.parent.name for path in cwd.glob("outputs/store/objects/*/*/manifest.json")}


def write_plugin(site: Path, group: str, name: str, body: str) -> dict[str, str]:
    """Write a distribution with one plugin, as pip would install it; returns the environment that finds it.

    `body` defines `build(config, context)`; its options are those of a dataclass `Config`, empty unless `body` has one.
    """
    source = f"""
        from dataclasses import dataclass
        from alignpipe.api import Component, hookimpl
        @dataclass
        class Config:
            pass
        @hookimpl
        def alignpipe_components():
            yield Component("{group}", "{name}", Config, __name__ + ":build", "written by a test")
    """
    module = f"{name}_plugin"
    write_distribution(site, name, "1.0", {name: module}, {f"{module}.py": dedent(source) + dedent(body)})
    return {"PYTHONPATH": str(site)}
