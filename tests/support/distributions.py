"""Fake distributions: what pip would install, written into a temporary folder; and the environment that finds them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import dedent

from alignpipe.api import ENTRY_POINT_GROUP

ROOT = Path(__file__).resolve().parents[2]

InstallFakePlugin = Callable[..., Path]

InstallReward = Callable[[str], None]

RunCommand = Callable[..., "subprocess.CompletedProcess[str]"]


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
        (ctx.payload / "dataset.json").write_text('{"tables": {}, "gold": null}')
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
    ("judge", "strict"): component_source("judge", "strict", "path: str"),
    ("dpo", "plain"): component_source("dpo", "plain", "beta: float = 0.1", **STAGE),
}
"""Stand-ins for the built-in options of the default config (with model=toy: scale/tiny.yaml is for the real ones)."""


def command_environment(tmp_path: Path, **environ: str) -> dict[str, str]:
    """The environment of a child process: our sources and the fake distributions first."""
    paths = [str(ROOT / "pipeline"), str(ROOT / "plugins"), str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **environ}
