"""The memory that a process and all its descendants hold, as the host sees it."""

from __future__ import annotations

import os


def held_bytes(root: int) -> int:
    """Resident memory of a process and everything that descends from it, in bytes.

    Counted are anonymous and shared pages (also of files in memory), in each process that holds them; not the
    read-only pages of programs and libraries. What ends meanwhile counts nothing.
    """
    total, left = 0, [root]
    while left:
        process = left.pop()
        # An ended process is no error here. Where /proc is hidden, nothing is counted: the probe finds that out.
        try:
            total += _own_bytes(process)
            for thread in os.listdir(f"/proc/{process}/task"):
                with open(f"/proc/{process}/task/{thread}/children") as file:
                    left += map(int, file.read().split())
        except OSError:
            continue
    return total


def _own_bytes(process: int) -> int:
    with open(f"/proc/{process}/status") as file:
        lines = [line.split() for line in file]
    return sum(int(line[1]) << 10 for line in lines if line and line[0] in ("RssAnon:", "RssShmem:"))
