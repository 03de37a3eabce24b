"""TAB for what Hydra does not complete: options at another key, keys of a dictionary, values that a type names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from alignpipe.config.model import RunSettings
from alignpipe.config.search_path import conf_dir
from alignpipe.registry import registry

_CHOICE = re.compile(r"(?P<head>\+?(?P<group>[\w/]+)(?P<package>@[\w.-]+)?=)(?P<listed>(?:\w+,)*)(?P<begun>\w*)")
"""`reward=a,b` and `+reward@reward.members.polite=a`."""
_KEY_OF_KEYS = re.compile(r"(?P<slot>\w+)\.(?P<field>\w+)\.[\w-]*")
"""`reward.weights.` and what was typed of the next key."""
_VALUE = re.compile(r"(?P<path>(?:[\w-]+\.)*)(?P<field>[\w-]+)=(?P<listed>(?:\w+,)*)(?P<begun>\w*)")
"""`ppo.schedule=`, and further values of a sweep: `ppo.schedule=linear,`."""


def override_words(typed: Sequence[str], current: str) -> list[str]:
    """The words that `current` may become, the ones before it being `typed`; empty where Hydra knows them."""
    return _options(current) or _members(typed, current)


def _options(current: str) -> list[str]:
    """Options after `<group>@<package>=`, and those that may follow in a list of a sweep (`reward=a,`)."""
    found = _CHOICE.fullmatch(current)
    if found is None or not (found["package"] or found["listed"]):
        return []
    listed = found["listed"].split(",")
    options = registry().options(found["group"]) or _presets(found["group"])
    left = [option for option in options if option.startswith(found["begun"]) and option not in listed]
    return [f"{found['head']}{found['listed']}{option}" for option in left]


def _presets(group: str) -> list[str]:
    """The options of a group that is a folder of conf/, such as scale/tiny/reward."""
    return sorted(file.stem for file in (conf_dir() / group).glob("*.yaml"))


def _members(typed: Sequence[str], current: str) -> list[str]:
    """The keys of an option's empty dictionary: what the user has named in another one of it (the members of a mix)."""
    found = _KEY_OF_KEYS.fullmatch(current)
    if found is None:
        return []
    slot, field = found["slot"], found["field"]
    placed = re.compile(rf"\+?{slot}@{slot}\.(?P<beside>\w+)\.(?P<name>[\w-]+)=\w+")
    matches = [match for word in typed if (match := placed.fullmatch(word)) is not None]
    named = [match["name"] for match in matches if match["beside"] != field]
    chosen = [option for word in typed for name, _, option in [word.partition("=")] if name == slot]
    if not (named and chosen and _is_dictionary(slot, chosen[-1], field)):
        return []
    return [word for name in named if (word := f"{slot}.{field}.{name}=").startswith(current)]


def _is_dictionary(slot: str, option: str, field: str) -> bool:
    """Whether a key of an option is by default an empty dictionary."""
    offers = registry().offers(slot, option)
    entries = fields(offers[0].component.config) if len(offers) == 1 else ()
    entry = next((entry for entry in entries if entry.name == field), None)
    default = entry.default_factory() if entry is not None and entry.default_factory is not MISSING else None
    return isinstance(default, Mapping) and not default


def value_words(current: str, ask: Callable[[str], Sequence[str]]) -> list[str]:
    """The words that `current` may become; empty where its key's type names no values.

    `ask` completes a word as Hydra does: it knows which option was chosen at a place.
    """
    found = _VALUE.fullmatch(current)
    if found is None:
        return []
    config = _config_at(found["path"].split(".")[:-1], ask)
    values = _values(get_type_hints(config).get(found["field"])) if config is not None else []
    taken, start = found["listed"].split(","), current.removesuffix(found["begun"])
    return [start + value for value in values if value.startswith(found["begun"]) and value not in taken]


def _config_at(path: Sequence[str], ask: Callable[[str], Sequence[str]]) -> type | None:
    """The dataclass of the node at `path`: a component's config, one nested in it, or the run settings."""
    if not path:
        return RunSettings
    slot = next((slot for slot in registry().groups() if re.fullmatch(rf"{slot}(_\w+)?", path[0])), None)
    if slot is not None:  # or its second stage: ppo_2 is a ppo
        name = f"{'.'.join(path)}.name="
        chosen = [word.removeprefix(name) for word in ask(name)]
        offers = registry().offers(slot, chosen[0]) if len(chosen) == 1 else ()
        if len(offers) == 1:
            return offers[0].component.config
    outer = _config_at(path[:-1], ask)
    inner = get_type_hints(outer).get(path[-1]) if outer is not None else None
    return inner if isinstance(inner, type) and is_dataclass(inner) else None


def _values(kind: Any) -> list[str]:
    if get_origin(kind) in (Union, UnionType):
        parts = [_values(part) for part in get_args(kind)]
        return [value for part in parts for value in part] if all(parts) else []  # int | None is not offered as null
    if kind is NoneType:
        return ["null"]
    if kind is bool:
        return ["true", "false"]
    return list(kind.__members__) if isinstance(kind, type) and issubclass(kind, Enum) else []
