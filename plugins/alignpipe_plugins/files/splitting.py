"""Held-out rows, parted by prompt: over all three tables no prompt lies on both sides."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping

from alignpipe.api import Table
from alignpipe_plugins.files.formats import Row


def prompt_key(text: str) -> str:
    r"""The prompt as it is compared: neither case, spacing nor Unicode's several ways to write a letter count.

    >>> prompt_key("  How  ARE you?\n") == prompt_key("how are you?")
    True
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def deduplicate(rows: Iterable[Row]) -> list[Row]:
    """The first of the rows with the same prompt (by `prompt_key`) and the same answers."""
    seen: set[tuple[str, ...]] = set()
    kept = []
    for row in rows:
        identity = (prompt_key(row.prompt), *(row.answers[name].strip() for name in sorted(row.answers)))
        if identity not in seen:
            seen.add(identity)
            kept.append(row)
    return kept


def choose_heldout(
    prompts: Mapping[Table, set[str]], sharing: Iterable[Table], share: float, most: int | None, seed: int
) -> set[str]:
    """The prompt keys to hold out.

    Each table of `sharing` gives `share` of its prompts, at least one and at most `most`; every table keeps one to
    train on. Keys are taken in the order of a hash of seed and key, so the order of the rows does not matter, and
    tables that hold the same prompts choose the same ones.

    Args:
        prompts: the prompt keys of every table's training rows.
        sharing: the tables that have no held-out file.
        share: between 0 and 1; 0 holds out nothing.
        most: the limit per table, or None.
        seed: seeds the order.
    """
    heldout: set[str] = set()
    left = {table: len(keys) for table, keys in prompts.items()}
    for table in sharing:
        keys = prompts[table]
        quota = max(1, round(len(keys) * share)) if share else 0
        quota = quota if most is None else min(quota, most)
        have = len(keys & heldout)
        for key in sorted(keys - heldout, key=lambda key: _rank(seed, key)):
            if have >= quota:
                break
            holders = [each for each in prompts if key in prompts[each]]
            if all(left[each] > 1 for each in holders):
                heldout.add(key)
                have += 1
                for each in holders:
                    left[each] -= 1
    return heldout


def _rank(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"{seed}\n{key}".encode()).digest()


def part(rows: Iterable[Row], heldout: set[str]) -> tuple[list[Row], list[Row]]:
    """The rows whose prompt is not held out, and those whose prompt is."""
    train: list[Row] = []
    held: list[Row] = []
    for row in rows:
        (held if prompt_key(row.prompt) in heldout else train).append(row)
    return train, held
