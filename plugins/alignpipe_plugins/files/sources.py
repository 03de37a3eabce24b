"""From the config's values to sources: local files that are there, and hub data sets."""

from __future__ import annotations

import difflib
import glob
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignpipe.api import Table
from alignpipe.digests import file_digest
from alignpipe.errors import ConfigError, DataError
from alignpipe.paths import user_path
from alignpipe.rows import FORMATS, ending, format_of
from alignpipe_plugins.files.config import FilesConfig

TABLES: tuple[Table, ...] = ("demonstrations", "preferences", "prompts")
KEYS = (*TABLES, *(f"heldout_{table}" for table in TABLES))
_HUB = re.compile(r"hub:(?P<name>.+?)(?::(?P<split>[A-Za-z]\w*(?:\[[^\]]*\])?))?")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class FileSource:
    """One local file; `format` is a value of `alignpipe.rows.FORMATS`."""

    key: str
    path: Path
    shown: str
    format: str

    def revision(self) -> str:
        """Format, size in bytes and sha256 of the bytes."""
        return f"{self.format}:{self.path.stat().st_size}:{_digest(self.path, self.key)}"


@dataclass(frozen=True)
class HubSource:
    """One split of a data set that `datasets.load_dataset` opens: a hub name, or a local folder or builder."""

    key: str
    name: str
    subset: str | None
    split: str
    revision_wanted: str | None

    @property
    def shown(self) -> str:
        """How messages call it."""
        return f"hub:{self.name}:{self.split}"

    def revision(self) -> str:
        """Name, subset, split and revision; for a local folder also a digest of its files."""
        parts = ["hub", self.name, self.subset or "", self.split, self.revision_wanted or "main"]
        folder = user_path(self.name)
        if folder.is_dir():
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            listing = "\n".join(f"{path.relative_to(folder)} {_digest(path, self.key)}" for path in files)
            # Where the folder lies says nothing about its rows.
            parts[1] = hashlib.sha256(listing.encode()).hexdigest()
        return ":".join(parts)


Source = FileSource | HubSource


def find_sources(config: FilesConfig) -> dict[str, list[Source]]:
    """The sources of every key that is set, files sorted within a glob.

    Raises `ConfigError` for values that are no path, an option out of range or no source at all, `DataError` for a
    file that is not there or whose ending is not known.
    """
    _check(config)
    found: dict[str, list[Source]] = {}
    for key in KEYS:
        values = _as_list(key, getattr(config, key))
        sources = [source for value in values for source in _find(key, value, config)]
        names = [source.shown for source in sources]
        if double := next((name for name in names if names.count(name) > 1), None):
            raise ConfigError(f"data.{key} names {double} twice; name it once")
        if sources:
            found[key] = sources
    if not any(table in found for table in TABLES):
        raise ConfigError(
            "data=files needs data.demonstrations, data.preferences or data.prompts: a file, a list of files, "
            "or hub:owner/name"
        )
    return found


def _check(config: FilesConfig) -> None:
    if not 0 <= config.heldout_share < 1:
        raise ConfigError(f"data.heldout_share is {config.heldout_share}; it must be at least 0 and below 1")
    for key in ("heldout_max", "max_prompt_tokens"):
        value = getattr(config, key)
        if value is not None and value < 1:
            raise ConfigError(f"data.{key} is {value}; it must be at least 1, or null for no limit")
    for table in TABLES:
        if getattr(config, f"heldout_{table}") is not None and all(getattr(config, each) is None for each in TABLES):
            raise ConfigError(f"data.heldout_{table} is set, but there is no data to train on: set data.{table} too")
    known = ("prompt", "messages", "completion", "chosen", "rejected", "text")
    for ours, theirs in config.columns.items():
        if ours not in known:
            turned = f": write {{{theirs}: {ours}}}, ours first" if theirs in known else ""
            raise ConfigError(
                f"data.columns renames {theirs!r} to {ours!r}, which is none of {', '.join(known)}{turned}"
            )
    names = list(config.columns.values())
    if double := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"data.columns uses the column {double!r} twice")


def _as_list(key: str, value: Any) -> Sequence[str]:
    if value is None:
        return []
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or not values or not all(isinstance(each, str) and each for each in values):
        raise ConfigError(f"data.{key} is {value!r}; it must be a path, hub:owner/name, or a list of those")
    return values


def _find(key: str, value: str, config: FilesConfig) -> list[Source]:
    if value.startswith("hub:"):
        match = _HUB.fullmatch(value)
        if match is None:
            raise ConfigError(f"data.{key}={value} names no data set; write hub:owner/name or hub:owner/name:split")
        name, split = match["name"], match["split"] or config.hub_split
        return [HubSource(key, name, config.hub_subset, split, config.hub_revision)]
    path = user_path(value)
    if os.path.isfile(path):  # unlike Path.is_file, it takes a folder that may not be entered for a missing file
        return [FileSource(key, path, value, _format(key, path))]
    if os.path.isdir(path):
        raise DataError(f"data.{key}={value} is a folder; name its files, for instance {value.rstrip('/')}/*.jsonl")
    if glob.has_magic(value):
        matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True)) if Path(match).is_file()]
        if matches:
            return [FileSource(key, match, str(match), _format(key, match)) for match in matches]
    raise DataError(_missing(key, value, path))


def _missing(key: str, value: str, path: Path) -> str:
    """The message for a file that is not there, with what is near."""
    message = f"data.{key}={value}: there is no such file"
    if glob.has_magic(value):
        message = f"data.{key}={value}: no file matches"
    folder = path.parent
    while not folder.is_dir():
        folder = folder.parent
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError:
        names = []
    wanted = path.relative_to(folder).parts[0]
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)
    near = near or [name for name in names if ending(Path(name)) in FORMATS][:5]
    where = f" in {folder.resolve()}"
    message += f"{where}; near it: {', '.join(near)}" if near else where
    if _HUB_NAME.fullmatch(value) and not Path(value).suffix:
        message += f" (for a data set on the hub write data.{key}=hub:{value})"
    return message


def _format(key: str, path: Path) -> str:
    try:
        return format_of(path)
    except DataError as error:
        raise DataError(f"data.{key}: {error}") from None


def _digest(path: Path, key: str) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise DataError(f"data.{key}: cannot read {path}: {error.strerror}") from error
