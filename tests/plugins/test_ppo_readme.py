"""The README's table of numbered details: complete, and every test it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import alignpipe_plugins.ppo

TESTS = Path(__file__).resolve().parents[1]
README = Path(alignpipe_plugins.ppo.__file__).parent / "README.md"
ROWS = re.findall(r"^\| (D\d\d) \|(.*)\|$", README.read_text(), flags=re.MULTILINE)


def test_every_number_has_its_line_in_order() -> None:
    assert [number for number, _ in ROWS] == [f"D{number:02d}" for number in range(1, 70)]


def test_every_test_it_names_is_there() -> None:
    files = {path.stem: path.read_text() for path in TESTS.rglob("test_*.py")}
    named = [(number, *found) for number, row in ROWS for found in re.findall(r"`(test_\w+)::(test_\w+)`", row)]
    assert len(named) > 60
    assert [entry for entry in named if f"\ndef {entry[2]}(" not in files.get(entry[1], "")] == []


def test_every_number_in_the_code_is_in_the_table() -> None:
    sources = README.parent.glob("*.py")
    used = {number for path in sources for number in re.findall(r"\bD\d\d\b", path.read_text())}
    assert used <= {number for number, _ in ROWS}


def test_every_file_is_in_the_reading_order() -> None:
    section = README.read_text().split("\n## Reading order\n")[1].split("\n## ")[0]
    files = {path.name for path in README.parent.glob("*.py")} - {"__init__.py", "plugin.py"}
    assert set(re.findall(r"`(\w+\.py)`", section)) == files
