"""Paths as users write them."""

from __future__ import annotations

import os
from pathlib import Path


def user_path(text: str | Path) -> Path:
    """The path with its `~` replaced by the home; `~nobody`, who has none, is a file that is not there.

    `Path.expanduser` raises a `RuntimeError` for that one.
    """
    return Path(os.path.expanduser(text))
