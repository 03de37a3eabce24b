"""Plugins: `loader` finds and loads them, `registry` looks their components (`registered`) up."""

from alignpipe.registry.loader import Plugin, normalise
from alignpipe.registry.registered import Registered, load_factory
from alignpipe.registry.registry import Registry, registry

__all__ = ["Plugin", "Registered", "Registry", "load_factory", "normalise", "registry"]
