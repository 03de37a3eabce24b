"""Which label counts. Imports no torch, so that a wrong one is found while a run is planned."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignpipe.errors import ConfigError
from alignpipe.training.location import Location


def choose(label: str | None, names: Mapping[int, str], path: str) -> int:
    """The position of a label given by its name (whatever its case) or number; it may be None where there is one only.

    Raises `ConfigError` with the labels of the classifier at `path`.
    """
    if label is None and len(names) == 1:
        return next(iter(names))
    wanted = (label or "").casefold()
    by_name = [index for index, name in names.items() if name.casefold() == wanted]
    if len(by_name) == 1:
        return by_name[0]
    if wanted.isdecimal() and int(wanted) in names:
        return int(wanted)
    listed = ", ".join(f"{index}: {name}" for index, name in sorted(names.items()))
    told = " is not set" if label is None else f"={label}: there is no such label"
    raise ConfigError(f"reward.label{told}; labels of {path}: {listed}")


def numbered(id2label: Mapping[Any, Any]) -> dict[int, str]:
    """A model config's labels by their positions."""
    return {int(index): str(name) for index, name in id2label.items()}


def published(where: Location) -> dict[int, str] | None:
    """The labels named in a checkpoint's config.json; None if it names none, or cannot be read."""
    path: str | None = str(Path(where.name) / "config.json")
    if where.commit is not None:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(where.name, "config.json", revision=where.commit)
        path = cached if isinstance(cached, str) else None
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError):
        return None  # loading the model says what is wrong with it
    return numbered(record["id2label"]) if record.get("id2label") else None
