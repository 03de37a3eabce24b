"""The file of `model.chat_template`. Imports no torch."""

from __future__ import annotations

import hashlib

from alignpipe.errors import ConfigError
from alignpipe.paths import user_path


def template_text(path: str) -> str:
    """The text of `model.chat_template`.

    Raises `ConfigError` if it cannot be read.
    """
    try:
        return user_path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"model.chat_template={path} cannot be read: {error}") from error


def text_digest(text: str) -> str:
    """The sha256 of a text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()
