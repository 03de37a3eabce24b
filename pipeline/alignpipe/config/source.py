"""`plugins://`: the config source that makes every plugin's option a typed config option for Hydra.

It is registered in this process only, so that no other Hydra application of the environment sees our plugins;
workers of a launcher import this module by name and build their own registry.
"""

from __future__ import annotations

import builtins

from hydra.core.object_type import ObjectType
from hydra.errors import ConfigCompositionException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf

from alignpipe.api import SLOTS
from alignpipe.config.convert import component_node, settings_node
from alignpipe.errors import AlignpipeError, PluginError
from alignpipe.registry import registry

SETTINGS = "run_settings"
"""The config that holds the run settings; `config.yaml` begins with it."""
CALLBACKS = "hydra/callbacks/alignpipe"
"""The config that registers our Hydra callback for sweeps."""
SWEEP_CALLBACK = "alignpipe.cli.sweeps.SweepCallback"
"""The callback's class: named here, because no YAML may name code to run."""


class OptionError(PluginError, ConfigCompositionException):
    """An option that is offered but cannot be used; to Hydra's completion, a config that cannot be composed."""


class PluginConfigSource(ConfigSource):
    """Reads configs from the registry: `reward/acme` is the config dataclass of the option `acme`."""

    @staticmethod
    def scheme() -> str:
        """The scheme of our entry in Hydra's search path."""
        return "plugins"

    def available(self) -> bool:
        """The registry is always there."""
        return True

    def load_config(self, config_path: str) -> ConfigResult:
        """The typed node of an option, the run settings, or the callback of sweeps.

        Raises `OptionError` if the option is ambiguous, or its plugin broken or blocked.
        """
        path = _clean(config_path)
        if path == SETTINGS:
            return ConfigResult("alignpipe", "plugins://", settings_node(), {"package": "_global_"})
        if path == CALLBACKS:
            node = OmegaConf.create({"sweep": {"_target_": SWEEP_CALLBACK}})
            return ConfigResult("alignpipe", "plugins://", node, {"package": "hydra.callbacks"})
        group, _, name = path.partition("/")
        try:
            registered = registry().get(group, name)
            node = component_node(registered)
        except AlignpipeError as error:
            raise OptionError(str(error)) from error
        # Several trackers run side by side, so each has a key of its own.
        package = f"tracker.{name}" if group == "tracker" else None
        return ConfigResult(registered.provider, "plugins://", node, {"package": package})

    def is_group(self, config_path: str) -> bool:
        """Whether some plugin offers options of this group."""
        path = _clean(config_path)
        return path == "" or path in registry().groups()

    def is_config(self, config_path: str) -> bool:
        """Whether this is an option; one of a broken plugin too, so that selecting it says why it is not there."""
        path = _clean(config_path)
        group, _, name = path.partition("/")
        if path in (SETTINGS, CALLBACKS) or registry().offers(group, name):
            return True
        known = group in SLOTS or group in registry().groups()
        return known and registry().absent(group, name) is not None

    def list(self, config_path: str, results_filter: ObjectType | None) -> builtins.list[str]:
        """The groups at the root, the options in a group."""
        path = _clean(config_path)
        if path == "":
            return [] if results_filter == ObjectType.CONFIG else registry().groups()
        return [] if results_filter == ObjectType.GROUP else registry().options(path)


def _clean(config_path: str) -> str:
    return config_path.strip("/").removesuffix(".yaml")
