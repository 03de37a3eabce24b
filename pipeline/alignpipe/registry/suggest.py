"""Did-you-mean: the nearest name to a misspelt one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"`, or nothing if no name is near."""
    near = get_close_matches(word, list(names), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""
