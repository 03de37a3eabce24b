"""The lists of `alignpipe --help`; its other words are in conf/hydra/help/alignpipe.yaml."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import omegaconf
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from alignpipe.config.model import RunSettings

_NOT_CHOSEN = {"hydra", "scale"}
"""Groups that nobody chooses from: `scale` follows the model, or the experiment."""


def register_help() -> None:
    """Make the lists known to the help template as interpolations."""
    # OmegaConf 2.4 warns of the name that this has in 2.3, and the other way round.
    old = omegaconf.__version__.startswith("2.3")
    add: Any = OmegaConf.register_new_resolver if old else OmegaConf.register_resolver
    add("alignpipe_options", options_text, replace=True)
    add("alignpipe_settings", settings_text, replace=True)


def options_text() -> str:
    """Every group with its options, presets included.

    Hydra's own list holds the groups below a group too: parts that presets are made of, which nobody chooses.
    """
    loader = GlobalHydra.instance().config_loader()
    groups = [group for group in sorted(loader.list_groups("")) if group not in _NOT_CHOSEN]
    listing = [(group, ", ".join(sorted(loader.get_group_options(group)))) for group in groups]
    return "\n".join(f"{group:<11} {options}" for group, options in listing if options)


def settings_text() -> str:
    """Every run setting with its meaning."""
    return "\n".join(f"{entry.name:<11} {entry.metadata['help']}" for entry in fields(RunSettings))
