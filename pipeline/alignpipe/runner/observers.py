"""Lifecycle hooks: observers are told what happens; one that raises is reported once and switched off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Observers:
    """Calls the lifecycle hooks of all plugins one by one, so that none can stop the others or the run."""

    def __init__(self, hook: Any, say: Callable[[str], None]) -> None:
        self._hook = hook
        self._say = say
        self._off: set[str] = set()

    def tell(self, name: str, **facts: Any) -> None:
        """Call one hook of every observer that is still on; an implementation takes the arguments it names."""
        for implementation in reversed(getattr(self._hook, name).get_hookimpls()):
            plugin = implementation.plugin_name
            if plugin in self._off:
                continue
            try:
                implementation.function(*(facts[argument] for argument in implementation.argnames))
            except (Exception, SystemExit) as error:
                self._off.add(plugin)
                told = f"its {name} raised {type(error).__name__}: {error}"
                self._say(f"plugin {plugin} is not told of this run any more: {told}")
