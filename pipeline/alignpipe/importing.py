"""Imports of large libraries without the garbage collector."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_LARGE = 200
"""So many new modules are worth it. Garbage that is around is put aside with them and never freed: after a small
import, in the middle of a run, that could be more than the modules are."""


@contextmanager
def uncollected() -> Iterator[None]:
    """Around an import: what it makes is passed over by the garbage collector, now and if it is much later too.

    torch and transformers make a million objects that stay. Python's collector goes through them all some hundred times
    while they are imported, and again in each full collection of the run: two seconds of the default one.
    """
    known, collecting = len(sys.modules), gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) - known >= _LARGE:
            gc.freeze()
        if collecting:
            gc.enable()
