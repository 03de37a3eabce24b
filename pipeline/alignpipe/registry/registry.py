"""The registry: every option of every slot, who brought it, and the error when one cannot be used."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pluggy

from alignpipe.api import ENTRY_POINT_GROUP, HookSpecs
from alignpipe.api.hooks import PROJECT
from alignpipe.errors import ConfigError, PluginError, did_you_mean
from alignpipe.processes import this_process
from alignpipe.registry.loader import BLOCK, Plugin, Warn, load_plugins
from alignpipe.registry.registered import Registered


def _warn(message: str) -> None:
    if not this_process().follows:  # one of several processes speaks for all
        sys.stderr.write(f"alignpipe: warning: {message}\n")


class Registry:
    """Looks up components; filled once, never changed."""

    def __init__(self, plugins: Sequence[Plugin], manager: pluggy.PluginManager) -> None:
        self.plugins = tuple(plugins)
        """All entry points that were found, with their state: ok, broken or blocked."""
        self.manager = manager
        self.hook: Any = manager.hook
        """Calls the lifecycle hooks: `registry.hook.alignpipe_run_started(info=...)`."""
        self._offers: dict[str, dict[str, list[Registered]]] = {}
        for plugin in self.plugins:
            for registered in plugin.components:
                component = registered.component
                self._offers.setdefault(component.group, {}).setdefault(component.name, []).append(registered)

    @classmethod
    def load(
        cls,
        entry_points: Iterable[importlib.metadata.EntryPoint] | None = None,
        environ: Mapping[str, str] = os.environ,
        warn: Warn = _warn,
    ) -> Registry:
        """Load the plugins, by default those installed.

        Raises `PluginError` for a broken plugin if `ALIGNPIPE_STRICT_PLUGINS` is set.
        """
        manager = pluggy.PluginManager(PROJECT)
        manager.add_hookspecs(HookSpecs)
        points = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP) if entry_points is None else entry_points
        return cls(load_plugins(points, manager, environ, warn), manager)

    def groups(self) -> list[str]:
        """The groups that some plugin offers an option of, sorted."""
        return sorted(self._offers)

    def options(self, group: str) -> list[str]:
        """The option names of a group, ambiguous ones too, sorted."""
        return sorted(self._offers.get(group, {}))

    def offers(self, group: str, name: str) -> Sequence[Registered]:
        """All who offer this option; more than one makes it ambiguous."""
        return tuple(self._offers.get(group, {}).get(name, ()))

    def get(self, group: str, name: str) -> Registered:
        """The component of an option.

        Raises `PluginError` if two plugins offer it or the plugin that would is broken or blocked, `ConfigError` if
        nobody offers it.
        """
        offers = self.offers(group, name)
        if len(offers) > 1:
            raise PluginError(_ambiguous(offers))
        if offers:
            return offers[0]
        plugin = self.absent(group, name)
        if plugin is not None:
            raise PluginError(
                f"{group}={name} cannot be used: {plugin} is {plugin.state}: {plugin.reason}; "
                f"'alignpipe plugins show {plugin.id}' says more"
            )
        options = self.options(group)
        listing = f"; options: {', '.join(options)}" if options else f"; no plugin offers any {group}"
        raise ConfigError(f"{group}={name}: there is no such option{did_you_mean(name, options)}{listing}")

    def absent(self, group: str, name: str) -> Plugin | None:
        """The broken or blocked plugin that, by its entry point's name, would have offered this option."""
        names = (name, f"{group}.{name}")
        return next((plugin for plugin in self.plugins if plugin.state != "ok" and plugin.name in names), None)

    def of_node(self, config_type: type[Any] | None, name: str) -> Registered:
        """The component behind a part of a composed config, which keeps its dataclass and its option's name.

        Its key in the config does not tell the group: `ppo_2` may hold any option. So no two groups may share a
        dataclass.

        Raises `ConfigError` if there is none, `PluginError` if it is ambiguous.
        """
        matches = [
            registered
            for options in self._offers.values()
            for registered in options.get(name, ())
            if registered.component.config is config_type
        ]
        groups = {registered.component.group for registered in matches}
        if len(groups) > 1:
            listing = " and ".join(map(str, matches))
            raise PluginError(f"{listing} share one config dataclass; each option needs a dataclass of its own")
        if not matches:
            kind = config_type.__name__ if isinstance(config_type, type) else config_type
            raise ConfigError(f"no component is called {name!r} and has a {kind} config")
        return self.get(matches[0].component.group, name)  # which refuses what several offer


def _ambiguous(offers: Sequence[Registered]) -> str:
    """Names all who offer an option, and how to block one of them: a third party rather than a built-in."""
    component = offers[0].component
    who = " and ".join(f"{offer.provider} (plugin {offer.plugin!r})" for offer in offers)
    last = offers[-1]
    same = all(offer.distribution == last.distribution for offer in offers)
    block = f"{last.distribution}:{last.plugin}" if same else last.distribution
    return f"{component.group}={component.name} is offered by {who}; block one of them, for example {BLOCK}={block}"


@functools.cache
def registry() -> Registry:
    """The registry of the installed plugins, loaded once per process."""
    return Registry.load()
