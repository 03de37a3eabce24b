"""Digests: how bytes and plain data are hashed, everywhere the same way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> str:
    """Plain data as its one canonical JSON text: sorted keys, no spaces.

    Raises `ValueError` for NaN and infinities, which cannot be part of a key.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def data_digest(value: Any) -> str:
    """The sha256 of plain data, as 64 hex digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """The sha256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def listing_digest(files: Iterable[tuple[str, int, str]]) -> str:
    """The digest of a folder, from (relative path, size in bytes, sha256) of its files in any order."""
    return data_digest([list(entry) for entry in sorted(files)])


def folder_digest(folder: Path) -> str:
    """The digest of a folder's regular files; hidden files and folders (`.git`, `.cache`) do not count."""
    entries = []
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in relative.parts):
            entries.append((relative.as_posix(), path.stat().st_size, file_digest(path)))
    return listing_digest(entries)
