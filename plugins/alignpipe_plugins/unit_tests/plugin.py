"""Offers reward=unit_tests."""

from __future__ import annotations

from collections.abc import Iterable

from alignpipe.api import Component, hookimpl
from alignpipe_plugins.unit_tests.config import UnitTestsConfig


@hookimpl
def alignpipe_components() -> Iterable[Component]:
    """A reward that runs code."""
    yield Component(
        group="reward",
        name="unit_tests",
        config=UnitTestsConfig,
        factory="alignpipe_plugins.unit_tests.reward:build",
        summary="runs the response's Python code against the row's tests, in a sandbox without network and files",
        requires=("sandbox",),
    )
