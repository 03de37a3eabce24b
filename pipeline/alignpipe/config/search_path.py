"""Makes Hydra search our YAML tree and, behind it, the plugins."""

from __future__ import annotations

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

import alignpipe
from alignpipe.config.source import PluginConfigSource
from alignpipe.errors import ConfigError


class PluginSearchPath(SearchPathPlugin):
    """Puts the plugins behind the YAML tree, so that a preset can build on an option."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append our source."""
        search_path.append("plugins", "plugins://")


def register() -> None:
    """Make Hydra know the plugins; harmless when done twice."""
    plugins = Plugins.instance()
    for plugin in (PluginConfigSource, PluginSearchPath):
        plugins.register(plugin)


def conf_dir() -> Path:
    """The absolute folder of `config.yaml`: in a wheel `alignpipe/conf`, in an editable install `conf/`.

    Raises `ConfigError` if neither is there.
    """
    package = Path(alignpipe.__file__).resolve().parent
    candidates = (package / "conf", package.parents[1] / "conf")
    for folder in candidates:
        if (folder / "config.yaml").is_file():
            return folder
    tried = " nor ".join(map(str, candidates))
    raise ConfigError(f"config.yaml is neither in {tried}; install alignpipe again")
