"""A component together with who brought it, and its factory, imported when the component is built."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignpipe.api import Component
from alignpipe.errors import AlignpipeError, PluginError
from alignpipe.importing import uncollected

BUILT_IN = "alignpipe"
"""The distribution that the built-in plugins come with."""


@dataclass(frozen=True)
class Registered:
    """A component together with the plugin and the distribution it came from."""

    component: Component
    plugin: str
    """The entry point's name."""
    module: str
    """What the entry point names."""
    distribution: str
    """The normalised distribution name."""
    version: str
    """The distribution's version."""
    folder: Path | None
    """The folder of the module that declared it, for the code hash; None if it has no file."""

    @property
    def built_in(self) -> bool:
        """Whether alignpipe itself brings it."""
        return self.distribution == BUILT_IN

    @property
    def provider(self) -> str:
        """The distribution with its version."""
        return f"{self.distribution} {self.version}"

    def __str__(self) -> str:
        return f"{self.component.group}/{self.component.name} ({self.provider})"


def load_factory(registered: Registered) -> Callable[..., Any]:
    """Import what `factory` names; nothing else imports a plugin's heavy modules.

    Raises `PluginError`, naming the plugin and its distribution, if it cannot be imported or called.
    """
    factory = registered.component.factory
    module, _, attribute = factory.partition(":")
    owner = f"factory {factory!r} of {registered}, plugin {registered.plugin!r},"
    try:
        with uncollected():
            imported = importlib.import_module(module)
        loaded = getattr(imported, attribute)
    except AlignpipeError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(f"{owner} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(loaded):
        raise PluginError(f"{owner} is a {type(loaded).__name__}, which cannot be called")
    build: Callable[..., Any] = loaded
    return build
