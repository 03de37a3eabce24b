"""Rewards installed beside the built-in plugins, in this process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from alignpipe.authoring.package import render
from alignpipe.registry import registry
from support.distributions import InstallFakePlugin, InstallReward


@pytest.fixture
def install_reward(install_fake_plugin: InstallFakePlugin) -> Iterator[InstallReward]:
    """Installs `acme-reward`, whose module defines `score` by `@reward("acme")`; `source` follows the usual imports."""
    head = (
        "from dataclasses import dataclass, field\n"
        "from alignpipe.rewards import Failure, Sample, Scores, reward\n"
        "@dataclass(frozen=True)\nclass Options:\n    word: str = field(default='please', metadata={'help': 'x'})\n"
    )

    def install(source: str) -> None:
        install_fake_plugin("acme-reward", {"acme": "acme_reward:score"}, {"acme_reward.py": head + source})
        registry.cache_clear()

    yield install
    registry.cache_clear()


@pytest.fixture
def example_reward(install_fake_plugin: InstallFakePlugin) -> Iterator[None]:
    """plugins/example-reward, as pip would install it."""
    source = render("example-reward")["src/example_reward/__init__.py"]
    files = {"example_reward/__init__.py": source}
    install_fake_plugin("example-reward", {"example_reward": "example_reward:score"}, files, version="0.1.0")
    registry.cache_clear()
    yield
    registry.cache_clear()
