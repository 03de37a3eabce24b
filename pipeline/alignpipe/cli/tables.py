"""Tables for people at a terminal; plain columns, one line per row, for everything that reads a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def show_table(headers: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Write a table to stdout."""
    if sys.stdout.isatty():
        _rich(headers, rows, title)
        return
    widths = [max(len(cell) for cell in column) for column in zip(headers, *rows, strict=True)]
    if title:
        sys.stdout.write(f"{title}\n")
    for row in (headers, *rows):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(line.rstrip() + "\n")


def _rich(headers: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: a default such as [a] is no markup
    Console().print(table)
