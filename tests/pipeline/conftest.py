"""Fixtures: real distributions with plugins, written into a temporary folder."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, distributions
from pathlib import Path

import pytest

from alignpipe.api import ENTRY_POINT_GROUP
from support.distributions import OPTIONS, InstallFakePlugin, RunCommand, command_environment, write_distribution


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forcing every file to the disk is most of a small run's time, and no test here pulls the plug."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """Put the signals' handlers back: a process of several that fails keeps its own to the end."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def install_fake_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InstallFakePlugin]:
    """Installs a distribution with plugins where `importlib.metadata` and `import` find it.

    `install_fake_plugin("acme-reward", {"acme": "acme_reward.plugin"}, {"acme_reward/plugin.py": source}, "0.3.1")`
    """
    before = set(sys.modules)
    site = tmp_path / "site"

    def install(
        distribution: str,
        entry_points: Mapping[str, str],
        modules: Mapping[str, str],
        version: str = "1.0",
        folder: Path | None = None,
    ) -> Path:
        path = write_distribution(folder or site, distribution, version, entry_points, modules)
        if str(path) not in sys.path:
            monkeypatch.syspath_prepend(str(path))
        importlib.invalidate_caches()
        return path

    yield install
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and file.startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def fake_entry_points(tmp_path: Path) -> Callable[[], list[EntryPoint]]:
    """The entry points of the fake distributions alone: what is installed on this machine stays unseen."""

    def collect() -> list[EntryPoint]:
        paths = [path for path in sys.path if path.startswith(str(tmp_path))]
        found = distributions(path=paths)
        return [point for dist in found for point in dist.entry_points if point.group == ENTRY_POINT_GROUP]

    return collect


@pytest.fixture
def fake_pipeline(install_fake_plugin: InstallFakePlugin, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A distribution `fakes` in place of every plugin that is installed; returns the folder for PYTHONPATH."""
    from alignpipe.registry import registry

    points = {f"{group}.{name}": f"fakes.{group}_{name}" for group, name in OPTIONS}
    modules = {f"fakes/{group}_{name}.py": source for (group, name), source in OPTIONS.items()}
    site = install_fake_plugin("fakes", points, modules, version="2.5")
    monkeypatch.setenv("ALIGNPIPE_PLUGINS", "fakes")
    monkeypatch.setenv("ALIGNPIPE_BLOCK_PLUGINS", "alignpipe")
    registry.cache_clear()
    yield site
    registry.cache_clear()


@pytest.fixture
def alignpipe_command(tmp_path: Path) -> RunCommand:
    """Runs `python -m alignpipe` in an empty folder with the fake distributions installed."""

    def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        cwd = tmp_path / "cwd"
        cwd.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "alignpipe", *arguments]
        return subprocess.run(
            command, cwd=cwd, env=command_environment(tmp_path, **environ), capture_output=True, text=True, timeout=120
        )

    return run
