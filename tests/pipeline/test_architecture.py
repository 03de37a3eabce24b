"""ARCHITECTURE.md sends its readers to files that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_file_that_is_named_is_there() -> None:
    named = set(re.findall(r"`([\w./-]+\.(?:py|yaml|md|toml))`", (ROOT / "ARCHITECTURE.md").read_text()))
    named.remove("config.yaml")  # in `conf/`, as the table says
    assert len(named) > 50
    bases = (ROOT, ROOT / "pipeline" / "alignpipe")
    assert [name for name in sorted(named) if not any((base / name).is_file() for base in bases)] == []
