"""From a config dataclass to the typed OmegaConf node that Hydra composes with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any, TypeGuard

from omegaconf import Container, DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from alignpipe.config.model import RunSettings
from alignpipe.errors import PluginError
from alignpipe.registry import Registered

NAME = "name"
"""The key of a component's node that bears the option's name."""


def component_node(registered: Registered) -> DictConfig:
    """A component's config as a typed node with its option's name in it, so that a dumped config says what built it.

    Raises `PluginError` if OmegaConf cannot take the dataclass.
    """
    config = registered.component.config
    try:
        node: DictConfig = OmegaConf.structured(config)
    except (OmegaConfBaseException, TypeError, ValueError, NameError) as error:
        reason = " ".join(str(error).split())
        raise PluginError(f"{registered}: OmegaConf cannot take its config {config.__name__}: {reason}") from error
    _loosen(node)
    with open_dict(node):
        node[NAME] = registered.component.name
    return node


def settings_node() -> DictConfig:
    """The run settings as an untyped dictionary of typed values: the root of the config must take slots beside them."""
    typed = OmegaConf.structured(RunSettings)
    _loosen(typed)
    node = OmegaConf.create({})
    for key in typed:
        node[key] = typed._get_node(key)
    return node


def is_typed(node: Any) -> TypeGuard[DictConfig]:
    """Whether a node was made from a dataclass."""
    return isinstance(node, DictConfig) and is_dataclass(OmegaConf.get_type(node))


def children(node: Container) -> Iterator[tuple[str, Any]]:
    """(key, child node) of a container, nothing resolved; none if it is missing, None or an interpolation."""
    if node._is_none() or node._is_missing() or node._is_interpolation():
        return
    if isinstance(node, DictConfig):
        yield from ((str(key), node._get_node(key)) for key in list(node))
    elif isinstance(node, ListConfig):
        yield from ((str(index), node._get_node(index)) for index in range(len(node)))


def _loosen(node: Container) -> None:
    """Let overrides in: frozen dataclasses come out read-only, and `dict` fields take new keys without a `+`."""
    node._set_flag("readonly", None)
    if isinstance(node, DictConfig) and not is_typed(node):
        node._set_flag("struct", False)
    for _, child in children(node):
        if OmegaConf.is_config(child):
            _loosen(child)
