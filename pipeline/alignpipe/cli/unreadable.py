"""What to write instead of an override that Hydra's grammar cannot read."""

from __future__ import annotations

import re
import shlex

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

_NOT_IN_KEYS = re.compile(r"[^\w.$@/:+~-]", re.ASCII)


def advice(override: str) -> str | None:
    """What is wrong with the word and what to write; None where Hydra's own message says more."""
    key, equals, value = override.partition("=")
    if not equals:
        return "an override is written key=value, without spaces"
    if key != key.rstrip():
        written = _readable(key.strip(), value.strip())
        return "there must be no spaces around the =" + (f": write {written}" if written else "")
    if wrong := _NOT_IN_KEYS.search(key):
        what = "space" if wrong[0].isspace() else repr(wrong[0])
        return f"a key can have no {what} in it, and this one is {key!r}"
    if not _is_readable(f"{key}=1"):
        return f"{key!r} is no key"
    return _quoting(key, value)


def _quoting(key: str, value: str) -> str | None:
    """What to write for a value that has to be quoted: spaces, umlauts, brackets in file names."""
    quoted = f'{key}="{value}"'
    if not value or value[0] in "[{'\"" or '"' in value or not _is_readable(quoted):
        return None
    return f"this value needs quotes that reach Hydra: {shlex.quote(quoted)}"


def _readable(key: str, value: str) -> str | None:
    """The override as it is typed in a shell, its value in quotes if it needs them; None if that does not help."""
    words = (f"{key}={value}", f'{key}="{value}"')
    return next((shlex.quote(word) for word in words if _is_readable(word)), None)


def _is_readable(override: str) -> bool:
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:  # what a wrong character raises is no OverrideParseException
        return False
    return True
