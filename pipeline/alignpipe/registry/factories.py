"""From a component's factory string to the callable; the only place where a plugin's heavy modules get imported."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from alignpipe.errors import AlignpipeError, PluginError
from alignpipe.registry.registered import Registered


def load_factory(registered: Registered) -> Callable[..., Any]:
    """Import what `factory` names.

    Raises `PluginError`, naming the plugin and its distribution, if the module or the attribute cannot be had.
    """
    factory = registered.component.factory
    module, _, attribute = factory.partition(":")
    owner = f"factory {factory!r} of {registered}, plugin {registered.plugin!r},"
    try:
        loaded = getattr(importlib.import_module(module), attribute)
    except AlignpipeError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(f"{owner} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(loaded):
        raise PluginError(f"{owner} is a {type(loaded).__name__}, which cannot be called")
    build: Callable[..., Any] = loaded
    return build
