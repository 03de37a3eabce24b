"""What the registry knows of a component: the record, and who brought it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alignpipe.api import Component

BUILT_IN = "alignpipe"
"""The distribution that the built-in plugins come with."""


@dataclass(frozen=True)
class Registered:
    """A component together with the plugin and the distribution it came from."""

    component: Component
    plugin: str
    """The entry point's name."""
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

    def __str__(self) -> str:
        return f"{self.component.group}/{self.component.name} ({self.distribution} {self.version})"
