"""Between config dataclasses and OmegaConf nodes: typed nodes to compose with, then real dataclass instances again.

`component_node` and `choice_of` are the two ways; what they need comes behind them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeGuard, get_args, get_origin

from omegaconf import Container, DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from alignpipe.api import Selected
from alignpipe.choices import plain
from alignpipe.config.model import RunSettings
from alignpipe.errors import AlignpipeError, ConfigError, PluginError, did_you_mean
from alignpipe.registry import Registered, Registry

NAME = "name"
"""The key of a component's node that holds the option's name."""


def component_node(registered: Registered) -> DictConfig:
    """A component's config as a typed node with its option's name in it, so that a dumped config says what built it.

    Raises `PluginError` if OmegaConf cannot take the dataclass.
    """
    config = registered.component.config
    try:
        node: DictConfig = OmegaConf.structured(config)
    except Exception as error:  # OmegaConf's, Python's for a type it does not know, what a default's factory raises
        reason = " ".join(str(error).split())
        raise PluginError(
            f"{registered}: OmegaConf cannot take its config {config.__name__}: {reason}. It takes bool, int, float, "
            "str, Path, Enum, dataclasses, and lists, tuples and dicts of these, each also with None (an Enum for a "
            "Literal, a list for a set)"
        ) from error
    _loosen(node)
    with open_dict(node):
        node[NAME] = registered.component.name
    return node


def choice_of(node: DictConfig, key: str, registry: Registry) -> Selected:
    """The choice that a component's node holds; `key` is its key in the config.

    Raises `ConfigError` for a key the component does not have and for values that its dataclass refuses.
    """
    registered = registered_of(node, key, registry)
    component = registered.component
    config = _instance(node, key, registry, owner=f"{component.group}={component.name}")
    return Selected(component.group, component.name, config)


def registered_of(node: DictConfig, key: str, registry: Registry) -> Registered:
    """The component a typed node was made from, by its dataclass and the name in it.

    Raises `ConfigError` if the name was changed.
    """
    try:
        return registry.of_node(OmegaConf.get_type(node), str(node[NAME]))
    except ConfigError as error:
        group, config = key.split(".")[0], OmegaConf.get_type(node)
        names = [entry.name for entry in fields(config) if NAME in entry.name] if is_dataclass(config) else []
        near = "".join(f" (did you mean {key}.{name}?)" for name in names[:1])
        raise ConfigError(
            f"{key}.{NAME} is set by choosing an option ({group}=<option>), not by itself{near}: {error}"
        ) from error


def _instance(node: DictConfig, key: str, registry: Registry, owner: str) -> Any:
    """An instance of the node's dataclass, with every field converted."""
    config = OmegaConf.get_type(node)
    assert config is not None
    known = {entry.name: entry for entry in fields(config)}
    for name in map(str, node):
        if name not in known and not (name == NAME and owner):
            raise ConfigError(
                f"{key}.{name}: there is no such key{did_you_mean(name, known)}; keys of {key}: {', '.join(known)}"
            )
    values = {
        name: _value(node, name, f"{key}.{name}", registry)
        for name, entry in known.items()
        if entry.init and name in node
    }
    try:
        return config(**values)
    except (ValueError, AlignpipeError) as error:
        raise ConfigError(f"{key}{f' ({owner})' if owner else ''}: {error}") from error
    except Exception as error:  # mostly a null that the plugin did not think of
        raise ConfigError(
            f"{key}{f' ({owner})' if owner else ''}: {config.__name__} cannot check these values: "
            f"{type(error).__name__}: {error}; is one of them null? (HYDRA_FULL_ERROR=1 shows where)"
        ) from error


def _value(parent: Container, name: Any, key: str, registry: Registry) -> Any:
    """One field or item, interpolations resolved."""
    value = parent[name]
    if is_typed(value):
        return choice_of(value, key, registry) if _is_component(value) else _instance(value, key, registry, owner="")
    if isinstance(value, DictConfig):
        return {item: _value(value, item, f"{key}.{item!s}", registry) for item in value}
    if isinstance(value, ListConfig):
        items = [_value(value, index, f"{key}.{index}", registry) for index, _ in enumerate(children(value))]
        declared = value._metadata.ref_type
        if declared is not tuple and get_origin(declared) is not tuple:
            return items
        wanted = get_args(declared)
        if wanted and ... not in wanted and len(items) != len(wanted):
            raise ConfigError(f"{key}: {len(wanted)} values are wanted, got {items}")
        return tuple(items)
    return value


def _is_component(node: DictConfig) -> bool:
    """Whether a typed node is a component's: `name` is there without being a field of the dataclass."""
    config = OmegaConf.get_type(node)
    assert config is not None
    return NAME in node and all(entry.name != NAME for entry in fields(config))


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


def settings_node() -> DictConfig:
    """The run settings as an untyped dictionary of typed values: the root of the config must take slots beside them."""
    typed = OmegaConf.structured(RunSettings)
    _loosen(typed)
    node = OmegaConf.create({})
    for key in typed:
        node[key] = typed._get_node(key)
    return node


def from_plain(config: Mapping[str, Any], registered: Registered, registry: Registry) -> Any:
    """An instance of a component's dataclass from plain data, as an artifact holds it.

    Raises `ConfigError` for keys and values the dataclass does not take (an artifact of another version).
    """
    owner = f"{registered.component.group}={registered.component.name}"
    try:
        node = OmegaConf.merge(component_node(registered), _escaped(dict(config)))
    except OmegaConfBaseException as error:
        raise ConfigError(f"stored options of {owner} do not fit {registered}: {error}") from error
    assert isinstance(node, DictConfig)
    return _instance(node, f"stored {registered.component.group}", registry, owner)


def resolved_data(node: Any) -> Any:
    """A node as resolved plain data; paths and enum members become text.

    Values that are still missing stay `???`.
    """
    return plain(OmegaConf.to_container(node, resolve=True, enum_to_str=True))


def as_yaml(data: Mapping[str, Any]) -> str:
    """Resolved plain data as YAML; a text with `${` in it, as shell code has, is not read as an interpolation again."""
    return OmegaConf.to_yaml(OmegaConf.create(_escaped(dict(data))), resolve=True)


def _escaped(value: Any) -> Any:
    """Plain data in which OmegaConf finds no interpolation: resolved, it is `value` again."""
    if isinstance(value, dict):
        return {name: _escaped(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value
