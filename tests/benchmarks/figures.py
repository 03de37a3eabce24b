"""Figures and tables of the benchmarks: pure functions, but for `machine` which looks where it runs."""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; numbers are shown with three significant digits, None as a dash."""
    lines = [list(headers), ["---"] * len(headers), *([show(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def show(cell: object) -> str:
    """A cell as text."""
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.0f}" if abs(cell) >= 100 else f"{cell:.3g}"
    return str(cell)


def median_of(records: Sequence[Mapping[str, float]], key: str) -> float | None:
    """The median of one figure over rounds; None if some round lacks it."""
    values = [record.get(key) for record in records]
    found = [value for value in values if value is not None]
    return statistics.median(found) if found and len(found) == len(values) else None


def ratio(value: float | None, base: float | None) -> str:
    """`value / base` as `x1.23`."""
    return "-" if value is None or not base else f"x{value / base:.2f}"


def spread(ratios: Sequence[float]) -> str:
    """The median with the smallest and the largest: rounds of a noisy machine differ."""
    return f"x{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def with_error(values: Sequence[float]) -> str:
    """`+0.012 (0.004)`: the mean and its standard error, which one value does not have."""
    error = f"{statistics.stdev(values) / math.sqrt(len(values)):.3f}" if len(values) > 1 else "-"
    return f"{statistics.fmean(values):+.3f} ({error})"


def at_level(levels: Sequence[float], values: Sequence[float], wanted: float) -> float | None:
    """The value where a curve of levels first reaches `wanted`, interpolated between points; None if it never does.

    `at_level([0, 2, 4], [10, 20, 40], 3)` is 30.
    """
    for index, level in enumerate(levels):
        if level < wanted:
            continue
        if index == 0:
            return values[0]
        before = levels[index - 1]
        share = (wanted - before) / (level - before)
        return values[index - 1] + share * (values[index] - values[index - 1])
    return None


def cost_at(process: float, steps: Sequence[float], apart: float, done: int) -> float:
    """Seconds from the start of a process until `done` of its steps are made.

    `process` is the whole process, `steps` the seconds of every step without measuring (evaluation, checkpoints), and
    `apart` all seconds of that measuring. What comes after the last step counts as if it came before the first.
    """
    return process - apart - sum(steps[done:])


def machine() -> str:
    """One line: processor, cores, system."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        name = names[0] if names else name
    threads = os.environ.get("OMP_NUM_THREADS")
    return f"{os.cpu_count()} cores ({name}), {platform.system()}, OMP_NUM_THREADS {threads or 'not set'}"


def versions(*names: str) -> str:
    """The versions of distributions of this Python."""
    found = [f"Python {platform.python_version()}"]
    for name in names or ("alignpipe", "torch", "transformers"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
