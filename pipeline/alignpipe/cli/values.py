"""TAB behind `key=` where a type says what may stand there: the members of an enumeration, true and false, null."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from alignpipe.config.model import RunSettings
from alignpipe.registry import registry

_VALUE = re.compile(r"(?P<path>(?:[\w-]+\.)*)(?P<field>[\w-]+)=(?P<listed>(?:\w+,)*)(?P<begun>\w*)")
"""`ppo.schedule=`, and further values of a sweep: `ppo.schedule=linear,`."""


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
