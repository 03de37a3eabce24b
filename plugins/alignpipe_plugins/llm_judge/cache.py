"""Answers of a judge on disk, and what they cost.

<folder>/<2 letters>/<key>.json    {"answer", "prompt_tokens", "completion_tokens"}
<folder>/usage.jsonl               one line per batch: requests, cached, tokens, cost

A key is the sha256 of the endpoint and of everything that was sent: model, messages, parameters; never of the API key.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What the judge said, and how many tokens it read and wrote (0 where the endpoint does not tell)."""

    answer: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


def request_key(base_url: str, body: Mapping[str, Any]) -> str:
    """What a request is filed under."""
    return hashlib.sha256(json.dumps([base_url, body], sort_keys=True).encode()).hexdigest()


class Cache:
    """Replies in a folder, each in a file that appears complete or not at all; any number of processes may share it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: str) -> Reply | None:
        """The reply; None if there is none, or if its file is damaged."""
        try:
            return Reply(**json.loads(self._path(key).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply; of two processes that keep the same one at once, either's file stays, whole."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{key}.{uuid.uuid4().hex}.part")
        part.write_text(json.dumps(asdict(reply)), encoding="utf-8")
        os.replace(part, path)

    def note(self, usage: Mapping[str, float | str]) -> None:
        """Add a line to `usage.jsonl`: one short write at the end, so that lines of several processes do not mix."""
        self._folder.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **usage}) + "\n"
        file = os.open(self._folder / "usage.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"
