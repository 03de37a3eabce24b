"""Loads the plugins that are installed: one by one, so that a broken one stops nothing but itself.

pluggy's own loader ends at the first exception and drops the second of two equal entry-point names in silence; here
every entry point is imported, registered under `<distribution>:<entry point>` and asked for its components by itself.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

import pluggy

from alignpipe.api import API_VERSION, Component, HookSpecs
from alignpipe.errors import PluginError
from alignpipe.registry.registered import BUILT_IN, Registered
from alignpipe.rewards import RewardPlugin

ALLOW = "ALIGNPIPE_PLUGINS"
BLOCK = "ALIGNPIPE_BLOCK_PLUGINS"
STRICT = "ALIGNPIPE_STRICT_PLUGINS"

PATIENCE = 5.0
"""Seconds that one plugin's import may take before the user is told which plugin it is."""

Warn = Callable[[str], None]


@dataclass(frozen=True)
class Plugin:
    """One entry point: what it brought, or why it brought nothing."""

    name: str
    """The entry point's name."""
    distribution: str
    version: str
    state: Literal["ok", "broken", "blocked"]
    reason: str = ""
    """Why it is broken or blocked, in one line."""
    traceback: str = ""
    """The whole traceback of a broken plugin."""
    seconds: float = 0.0
    """How long the import and the components took."""
    components: tuple[Registered, ...] = field(default=())

    @property
    def id(self) -> str:
        """The name it is registered and blocked under."""
        return f"{self.distribution}:{self.name}"

    def __str__(self) -> str:
        return f"plugin {self.name!r} of {self.distribution} {self.version}"


def load_plugins(
    entry_points: Iterable[EntryPoint], manager: pluggy.PluginManager, environ: Mapping[str, str], warn: Warn
) -> list[Plugin]:
    """Import and register the plugins that the environment allows; alignpipe's own first, then by distribution name.

    A plugin that fails is unregistered, reported through `warn` and kept as a `broken` record; with
    `ALIGNPIPE_STRICT_PLUGINS=1` it raises `PluginError` instead.
    """
    candidates = _unique(entry_points)
    _check_names(candidates, environ, warn)
    return [_plugin(candidate, manager, environ, warn) for candidate in candidates]


def _plugin(
    candidate: tuple[str, str, EntryPoint], manager: pluggy.PluginManager, environ: Mapping[str, str], warn: Warn
) -> Plugin:
    """The record of one entry point, imported if it may be."""
    distribution, version, entry_point = candidate
    record = partial(Plugin, entry_point.name, distribution, version)
    strict = environ.get(STRICT, "") not in ("", "0")
    blocked = _blocked(distribution, entry_point.name, environ)
    if blocked:
        return record("blocked", blocked)
    begin = time.perf_counter()
    try:
        with _named_if_slow(distribution, entry_point.name, warn):
            components = _load(f"{distribution}:{entry_point.name}", entry_point, manager)
        folder = _folder(entry_point)
    except (Exception, SystemExit) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        trace = "".join(traceback.format_exception(error))
        plugin = record("broken", reason, trace, time.perf_counter() - begin)
        if strict:
            raise PluginError(f"{plugin} is broken: {reason} ({STRICT} is set)") from error
        warn(f"{plugin} is broken and left out: {reason} (see 'alignpipe plugins show {plugin.id}')")
        return plugin
    seconds = time.perf_counter() - begin
    registered = tuple(
        Registered(component, entry_point.name, entry_point.module, distribution, version, folder)
        for component in components
    )
    plugin = record("ok", seconds=seconds, components=registered)
    for component in components:
        if component.api[1] > API_VERSION[1]:
            note = (
                f"{component.group}/{component.name} ({plugin}) was written for plugin API {_dotted(component.api)}, "
                f"this alignpipe has {_dotted(API_VERSION)}; update alignpipe if it misbehaves"
            )
            if strict:
                raise PluginError(f"{note} ({STRICT} is set)")
            warn(note)
    return plugin


@contextlib.contextmanager
def _named_if_slow(distribution: str, plugin: str, warn: Warn) -> Iterator[None]:
    """Warn if the block takes longer than `PATIENCE`: a plugin that hangs would look like alignpipe hanging."""
    message = (
        f"plugin {plugin!r} of {distribution} is still being imported after {PATIENCE:g} s; Ctrl-C ends this command, "
        f"{BLOCK}={distribution} keeps the plugin out of the next"
    )
    timer = threading.Timer(PATIENCE, warn, [message])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def normalise(distribution: str) -> str:
    """The distribution name as pip compares it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _unique(entry_points: Iterable[EntryPoint]) -> list[tuple[str, str, EntryPoint]]:
    """(distribution, version, entry point), sorted; of a distribution found twice, the copy that is imported."""
    owners: dict[str, str] = {}
    identities: dict[str, tuple[str, str]] = {}
    found = []
    for entry_point in entry_points:
        dist = entry_point.dist
        location = str(getattr(dist, "_path", dist))
        if location not in identities:  # each asking reads and parses the distribution's metadata
            metadata = dist.metadata if dist is not None else {"Name": "unknown", "Version": ""}
            identities[location] = (normalise(metadata["Name"]), metadata["Version"])
        name, version = identities[location]
        # Distribution objects of one folder are made anew per query, so only the folder distinguishes two copies.
        if owners.setdefault(name, location) == location:
            found.append((name, version, entry_point))
    return sorted(found, key=lambda item: (item[0] != BUILT_IN, item[0], item[2].name, item[2].value))


def _names(environ: Mapping[str, str], variable: str) -> list[str]:
    """The list in an environment variable, as `distribution` or `distribution:entry point`."""
    entries = [entry.strip().partition(":") for entry in environ.get(variable, "").split(",") if entry.strip()]
    return [normalise(distribution) + colon + name for distribution, colon, name in entries]


def _blocked(distribution: str, name: str, environ: Mapping[str, str]) -> str:
    """Why the environment keeps this plugin out; empty if it does not."""
    own = {distribution, f"{distribution}:{name}"}
    if own & set(_names(environ, BLOCK)):
        return f"blocked by {BLOCK}"
    if ALLOW not in environ:
        return ""
    allowed = _names(environ, ALLOW)
    # The list chooses among third parties; it reaches the built-ins only when it names some of them.
    if distribution == BUILT_IN and not any(entry.partition(":")[0] == BUILT_IN for entry in allowed):
        return ""
    return "" if own & set(allowed) else f"not listed in {ALLOW}"


def _check_names(candidates: Sequence[tuple[str, str, EntryPoint]], environ: Mapping[str, str], warn: Warn) -> None:
    """Warn about names in the lists that no installed plugin has: a misspelt block would block nothing."""
    known = {distribution for distribution, _, _ in candidates}
    known |= {f"{distribution}:{entry_point.name}" for distribution, _, entry_point in candidates}
    for variable in (ALLOW, BLOCK):
        for entry in _names(environ, variable):
            if entry not in known and entry != BUILT_IN:
                warn(f"{variable} names {entry!r}, but no such plugin is installed")


def _load(name: str, entry_point: EntryPoint, manager: pluggy.PluginManager) -> list[Component]:
    """Import one plugin, register it under `name` and take its components; it is not left registered if that fails."""
    try:
        # What a plugin prints at import must not get into `--cfg job` or into the words of a completion.
        with contextlib.redirect_stdout(sys.stderr):
            loaded = entry_point.load()
            plugin = loaded() if isinstance(loaded, type) else loaded
            if isinstance(plugin, RewardPlugin):  # it observes nothing, and pluggy would look at its every attribute
                return _checked(plugin.alignpipe_components())
            if inspect.isfunction(plugin):
                raise PluginError(
                    f"{entry_point.value} is a plain function; put @reward (alignpipe.rewards) above it, or name a "
                    "module with the hook alignpipe_components"
                )
            manager.register(plugin, name=name)
            manager.check_pending()
            _check_hooks(entry_point, plugin, manager)
            return _components(plugin, manager)
    except BaseException:
        if manager.has_plugin(name):
            manager.unregister(name=name)
        raise


def _check_hooks(entry_point: EntryPoint, plugin: object, manager: pluggy.PluginManager) -> None:
    """Raise `PluginError` for a hook without its mark, which would not be called, and for a plugin without hooks."""
    callers = manager.get_hookcallers(plugin) or []
    marked = {caller.name for caller in callers}
    unmarked = [name for name in dir(plugin) if name not in marked and hasattr(HookSpecs, name)]
    if unmarked := [name for name in unmarked if name.startswith("alignpipe_")]:
        raise PluginError(f"{unmarked[0]} of {entry_point.value} is not marked: put @hookimpl (alignpipe.api) above it")
    if not marked:
        rewards = [name for name, value in vars(plugin).items() if isinstance(value, RewardPlugin)]
        what = f"name the reward in it, {entry_point.module}:{rewards[0]}" if rewards else "see alignpipe.api.hooks"
        raise PluginError(f"{entry_point.value} has no hook (alignpipe_components, or one that observes); {what}")


def _components(plugin: object, manager: pluggy.PluginManager) -> list[Component]:
    """What the plugin's hook yields, checked."""
    components: list[Component] = []
    for hookimpl in manager.hook.alignpipe_components.get_hookimpls():
        if hookimpl.plugin is plugin:
            offered: Any = hookimpl.function()
            components += _checked(offered or ())
    return components


def _checked(offered: Iterable[Any]) -> list[Component]:
    """What a plugin offers.

    Raises `PluginError` for something that is no component and for another major version of the API.
    """
    components = []
    for component in offered:
        if not isinstance(component, Component):
            raise PluginError(f"alignpipe_components yielded {component!r}, which is no alignpipe.api.Component")
        if component.api[0] != API_VERSION[0]:
            raise PluginError(
                f"{component.group}/{component.name} was written for plugin API {_dotted(component.api)}, "
                f"this alignpipe has {_dotted(API_VERSION)}; install matching versions"
            )
        components.append(component)
    return components


def _dotted(api: tuple[int, int]) -> str:
    return ".".join(map(str, api))


def _folder(entry_point: EntryPoint) -> Path | None:
    """The folder of the plugin's module; None for a module without a file."""
    file = getattr(sys.modules[entry_point.module], "__file__", None)
    return Path(file).parent if file else None
