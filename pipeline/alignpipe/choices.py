"""Walks through component configs: dataclasses, mappings and lists, and the choices nested in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import Field, fields, is_dataclass
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

from alignpipe.api.components import Selected
from alignpipe.digests import file_digest


def is_keyed(field: Field[Any]) -> bool:
    """Whether a field of a config dataclass is part of the stage's key: all but those that say `fingerprint: False`."""
    return bool(field.metadata.get("fingerprint", True))


def entries(value: Any, keyed_only: bool = False) -> dict[str, Any] | None:
    """What a dataclass instance or a mapping holds, by name; None for a value of any other kind."""
    if is_dataclass(value) and not isinstance(value, type):
        return {entry.name: getattr(value, entry.name) for entry in fields(value) if not keyed_only or is_keyed(entry)}
    return {str(name): item for name, item in value.items()} if isinstance(value, Mapping) else None


def all_selected(value: Any) -> list[Selected]:
    """A choice and every choice nested in its config, as a mix's members are."""
    items: Iterable[Any] = value if isinstance(value, list | tuple) else (entries(value) or {}).values()
    nested = [found for item in items for found in all_selected(item)]
    return [value, *nested] if isinstance(value, Selected) else nested  # a `Selected` is a dataclass itself


def revision_of(config: Any) -> dict[str, str]:
    """The state of what a config refers to outside itself: files that its paths name, and what `revision()` says."""
    ask = getattr(config, "revision", None)
    asked = {str(name): str(state) for name, state in ask().items()} if callable(ask) else {}
    return {**_files(config, ""), **asked}


def _files(value: Any, name: str) -> dict[str, str]:
    """The hash of each file that a value of the type `Path` names, by its field; other choices have their own."""
    if isinstance(value, Path):
        return {name: file_digest(value)} if value.is_file() else {}
    if isinstance(value, list | tuple):
        inner = {str(place): item for place, item in enumerate(value)}
    else:
        inner = entries(value, keyed_only=True) or {}
    return {
        field: digest
        for key, item in inner.items()
        if not isinstance(item, Selected)
        for field, digest in _files(item, f"{name}.{key}" if name else key).items()
    }


def plain(value: Any) -> Any:
    """A config as plain data: dataclasses become dicts, enums their names, paths text; the rest stays as it is."""
    inner = entries(value)
    if inner is not None:
        return {name: plain(item) for name, item in inner.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Enum):
        return value.name
    return str(value) if isinstance(value, PurePath) else value
