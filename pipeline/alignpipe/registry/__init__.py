"""Plugins: `loader` finds and loads them, `registry` looks components up, `factories` builds from them."""

from alignpipe.registry.factories import load_factory
from alignpipe.registry.loader import Plugin, normalise, plugin_module
from alignpipe.registry.registered import Registered
from alignpipe.registry.registry import Registry, registry

__all__ = ["Plugin", "Registered", "Registry", "load_factory", "normalise", "plugin_module", "registry"]
