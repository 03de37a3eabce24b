"""Tables for people at a terminal; plain columns, one line per row, for everything that reads a pipe.

Also `printable`, for text that a model, a data set or a reward wrote.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any, TextIO

_DRIVES_TERMINALS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and newline, those that turn the direction of writing, and halves of characters."""


def printable(text: str) -> str:
    """The text with U+FFFD for what would drive the terminal, or make a saved log something else than text."""
    return _DRIVES_TERMINALS.sub("\N{REPLACEMENT CHARACTER}", text)


def show_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    title: str = "",
    *,
    figures: bool = False,
    out: TextIO | None = None,
) -> None:
    """Write a table to `out`, by default stdout; with `figures` all columns but the first are aligned to the right."""
    out = out or sys.stdout
    rows = [[printable(cell) for cell in row] for row in rows]
    if out.isatty():
        _rich(headers, rows, title, figures, out)
        return
    widths = [max(len(cell) for cell in column) for column in zip(headers, *rows, strict=True)]
    if title:
        out.write(f"{title}\n")
    for row in (headers, *rows):
        cells = [
            cell.rjust(width) if figures and column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        out.write("  ".join(cells).rstrip() + "\n")


def cell(value: Any) -> str:
    """A value of a table; a dash for one that is not there."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:z.3f}" if abs(value) < 1000 else f"{value:.4g}"
    return str(value)


def _rich(headers: Sequence[str], rows: Sequence[Sequence[str]], title: str, figures: bool, out: TextIO) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column, header in enumerate(headers):
        table.add_column(header, overflow="fold", justify="right" if figures and column else "left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: a default such as [a] is no markup
    Console(file=out).print(table)
