"""Why a key is not in the store: what differs from the nearest one that is, in words of the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from alignpipe.store import Fingerprint

_SHOWN = 4


def why_missing(known: Iterable[tuple[str, Fingerprint]], fingerprint: Fingerprint) -> tuple[str, ...]:
    """The differences to the nearest of the keys the store knows for the stage, given with their times."""
    candidates = list(known)
    if not candidates:
        return ("nothing is stored for this stage yet",)
    when, nearest = min(candidates, key=lambda candidate: len(_changed(candidate[1], fingerprint)))
    lines = differences(nearest, fingerprint)
    if not lines:
        return (f"its result of {when} is no longer in the store",)
    more = len(lines) - _SHOWN
    return (f"differs from the result of {when}:", *lines[:_SHOWN], *([f"and {more} more"] if more > 0 else []))


def differences(before: Fingerprint, now: Fingerprint) -> list[str]:
    """What differs between two fingerprints, as lines `ppo.kl_coef: 0.05 -> 0.1`.

    Another option is one line, whatever their keys are; so are inputs that come from the same stages as before.
    """
    lines, swapped, renewed = [], [], set()
    changed = _changed(before, now)
    for name, (old, new) in changed.items():
        prefix, _, last = name.rpartition(".")
        if last == "name" and (prefix == "component" or re.fullmatch(r"uses\.\w+", prefix)):
            swapped.append(f"{prefix}.")
            lines.append(f"{now['stage'] if prefix == 'component' else prefix.removeprefix('uses.')}: {old} -> {new}")
    for name, (old, new) in changed.items():
        maker = str(new).partition(" ")[0]
        if name.startswith("inputs.") and maker == str(old).partition(" ")[0]:
            renewed.add(maker)
        elif not name.startswith(tuple(swapped)):
            lines.append(f"{_as_override(name, now['stage'])}: {_short(old)} -> {_short(new)}")
    return [*lines, *([f"new result of {', '.join(sorted(renewed))}"] if renewed else [])]


def _changed(before: Fingerprint, now: Fingerprint) -> dict[str, tuple[Any, Any]]:
    """(before, now) of every value that differs, by its dotted name."""
    old, new = _flat(before), _flat(now)
    pairs = {name: (old.get(name, "absent"), new.get(name, "absent")) for name in sorted({*old, *new})}
    return {name: (was, becomes) for name, (was, becomes) in pairs.items() if was != becomes}


def _as_override(name: str, stage: str) -> str:
    """A value's name as it is written on the command line (`ppo.kl_coef`, `model.size`, `data.prompts[0]`)."""
    parts = re.fullmatch(r"(?:component|uses\.(?P<slot>\w+))\.(?:config|revision)\.(?P<key>.+)", name)
    return f"{parts['slot'] or stage}.{parts['key']}" if parts else name


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value} if prefix and value != {} else {}
    flat: dict[str, Any] = {}
    for name, entry in value.items():
        flat.update(_flat(entry, f"{prefix}.{name}" if prefix else str(name)))
    return flat


def _short(value: Any) -> str:
    """A value for a line: digests cut to twelve digits, long texts to sixty characters."""
    words = [word[:12] if len(word) == 64 else word for word in str(value).split(" ")]
    text = " ".join(words)
    return text if len(text) <= 60 else f"{text[:57]}..."
