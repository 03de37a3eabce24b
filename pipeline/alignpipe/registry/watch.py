"""Names the plugin that is being imported when that takes long: a hang of its would look like one of alignpipe's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = 5.0
"""Seconds of one plugin's import after which it is named."""
_LOOK_EVERY = 0.5


class Watch:
    """One thread beside the imports, which says once of each plugin that it takes long."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._patience = PATIENCE
        self._current: tuple[str, str, float] | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="alignpipe-plugins", daemon=True)

    @contextmanager
    def over(self, distribution: str, plugin: str) -> Iterator[None]:
        """Watch the import that a block makes."""
        self._current = (distribution, plugin, time.monotonic())
        try:
            yield
        finally:
            self._current = None

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _look(self) -> None:
        told = None
        while not self._ended.wait(min(_LOOK_EVERY, self._patience)):
            current = self._current
            if current is None or current == told or time.monotonic() - current[2] < self._patience:
                continue
            told = current
            distribution, plugin, _ = current
            self._warn(
                f"plugin {plugin!r} of {distribution} is still being imported after {self._patience:g} s; Ctrl-C ends "
                f"this command, ALIGNPIPE_BLOCK_PLUGINS={distribution} keeps the plugin out of the next"
            )
