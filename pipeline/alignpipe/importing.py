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
    """Around an import: the garbage collector passes over what it makes, and if that is much, later too.

    torch and transformers make half a million objects that stay. Python's collector starts a thousand times while they
    are imported, and goes through them all in every full collection of the run (`tests/benchmarks/RESULTS.md`).
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
