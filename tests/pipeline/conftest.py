"""Fixtures: real distributions with plugins, written into a temporary folder."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from textwrap import dedent

import pytest

from alignpipe.api import ENTRY_POINT_GROUP

ROOT = Path(__file__).resolve().parents[2]

InstallFakePlugin = Callable[..., Path]


def write_distribution(
    site: Path, distribution: str, version: str, entry_points: Mapping[str, str], modules: Mapping[str, str]
) -> Path:
    """Write what pip would install: a `.dist-info` with entry points, and the modules (path -> source)."""
    info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    lines = [f"{name} = {value}" for name, value in entry_points.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{ENTRY_POINT_GROUP}]", *lines, ""]))
    for path, source in modules.items():
        file = site / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.parent != site:
            (file.parent / "__init__.py").touch()
        file.write_text(dedent(source))
    return site


_BUILT = """
class Built:
    def __init__(self, config):
        self.config = config
    def run(self, inputs, ctx):
        (ctx.payload / "result.txt").write_text(f"{self.config} {sorted(inputs)}")
        ctx.log({"loss": 1.0}, 1)
    def start(self, info):
        return "id"
    def log(self, stage, metrics, step): ...
    def artifact(self, artifact): ...
    def summary(self, values): ...
    def finish(self, status): ...
def build(config, context):
    return Built(config)
"""
"""What every fake factory makes: a stage and a tracker in one."""


def component_source(group: str, name: str, fields: str = "scale: float = 1.0", **options: str) -> str:
    """A plugin module that offers one component; `options` are further arguments of `Component`, as source."""
    extra = "".join(f", {key}={value}" for key, value in options.items())
    return (
        "from dataclasses import dataclass, field\n"
        "from enum import Enum\n"
        "from typing import Any\n"
        "from alignpipe.api import Component, Port, hookimpl\n"
        "class Mode(Enum):\n"
        "    fast = 1\n"
        "    slow = 2\n"
        "@dataclass(frozen=True)\n"
        "class Config:\n" + "".join(f"    {line}\n" for line in fields.splitlines()) + "@hookimpl\n"
        "def alignpipe_components():\n"
        f"    yield Component('{group}', '{name}', Config, __name__ + ':build', 'a fake {group}'{extra})\n"
    ) + _BUILT


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


STAGE = {
    "makes": "'policy'",
    "needs": "{'dataset': Port('dataset'), 'policy': Port('policy', 'nearest', required=False)}",
}
OPTIONS: Mapping[tuple[str, str], str] = {
    ("data", "support"): component_source("data", "support", "size: int = 10", makes="'dataset'"),
    ("model", "toy"): component_source("model", "toy", "width: int = 8\npath: str | None = None"),
    ("sft", "standard"): component_source("sft", "standard", "lr: float = 1e-5\nmax_steps: int = 5", **STAGE),
    ("reward", "bradley_terry"): component_source("reward", "bradley_terry", "lr: float = 1e-5", makes="'reward'"),
    ("reward", "acme"): component_source(
        "reward",
        "acme",
        "scale: float = field(default=1.0, metadata={'help': 'multiplies every score'})\n"
        "mode: Mode = Mode.fast\n"
        "members: dict[str, Any] = field(default_factory=dict)\n"
        "weights: dict[str, float] = field(default_factory=dict)\n"
        "span: tuple[int, int] = (1, 2)\n"
        "cache: str = field(default='', metadata={'fingerprint': False})\n"
        "def __post_init__(self):\n"
        "    if self.scale < 0:\n"
        "        raise ValueError(f'scale must not be negative, got {self.scale}')",
    ),
    ("ppo", "ppo"): component_source("ppo", "ppo", "lr: float = 1e-6\nkl_coef: float = 0.05", **STAGE),
    ("eval", "standard"): component_source("eval", "standard", "samples: int = 4", makes="'report'"),
    ("rollout", "local"): component_source("rollout", "local", "batch_size: int = 4"),
    ("tracker", "wandb"): component_source("tracker", "wandb", "project: str = 'alignpipe'"),
    ("tracker", "files"): component_source("tracker", "files", "folder: str = '.'"),
    ("dpo", "plain"): component_source("dpo", "plain", "beta: float = 0.1", **STAGE),
}
"""Stand-ins for the built-in options of the default config (with model=toy: scale/tiny.yaml is for the real ones)."""


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


RunCommand = Callable[..., "subprocess.CompletedProcess[str]"]


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


def command_environment(tmp_path: Path, **environ: str) -> dict[str, str]:
    """The environment of a child process: our sources and the fake distributions first."""
    paths = [str(ROOT / "pipeline"), str(ROOT / "plugins"), str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **environ}
