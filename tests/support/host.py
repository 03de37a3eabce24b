"""What runs on this machine while a test does."""

from __future__ import annotations

import os
import time
from pathlib import Path


def processes() -> set[int]:
    """This test's own children and theirs."""
    found, parents = {os.getpid()}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    while new := {child for child, parent in parents.items() if parent in found} - found:
        found |= new
    return found


def marked(mark: str) -> list[str]:
    """Processes of the host whose command line holds a mark."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if mark in line:
                found.append(line)
    return found


def gone(before: set[int]) -> bool:
    for _ in range(50):
        if processes() <= before:
            return True
        time.sleep(0.1)
    return False
