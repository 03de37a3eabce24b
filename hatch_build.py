"""Build hook: puts the YAML tree into real wheels. An editable install reads `conf/` in the repository instead."""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ConfHook(BuildHookInterface[Any]):
    """Copies `conf/` to `alignpipe/conf`; a static `force-include` would leave a stale copy in editable installs."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the folder if this is a real wheel (`standard`), not an editable one."""
        if version == "standard":
            build_data["force_include"]["conf"] = "alignpipe/conf"
