"""What to write instead of an override that Hydra's grammar cannot read."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import fields

from alignpipe.config.command import read_override
from alignpipe.config.model import RunSettings
from alignpipe.registry import registry

_NOT_IN_KEYS = re.compile(r"[^\w.$@/:+~-]", re.ASCII)
_BEFORE_A_KEY = re.compile(r"\s+(?=[+~]{0,2}(\w+)[\w.@/-]*=)", re.ASCII)
"""What may stand between two overrides; the first part of the second one's key."""
_BARE = re.compile(r"[\w.+-]+", re.ASCII)
"""What needs no quotes in a list."""
_CLOSING = {"[": "]", "{": "}"}


def advice(override: str) -> str | None:
    """What is wrong with the word and what to write; None where Hydra's own message says more."""
    key, equals, value = override.partition("=")
    if not equals:
        return "an override is written key=value, without spaces"
    if key != key.rstrip():
        written = _typed(key.strip(), value.strip())
        return "there must be no spaces around the =" + (f": write {written}" if written else "")
    if wrong := _NOT_IN_KEYS.search(key):
        what = "space" if wrong[0].isspace() else repr(wrong[0])
        return f"a key can have no {what} in it, and this one is {key!r}"
    if read_override(f"{key}=1") is None:
        return f"{key!r} is no key"
    return _of_value(key, value.strip())


def _of_value(key: str, value: str) -> str | None:
    """The same for an override whose key is one."""
    if re.fullmatch(r"\S*,", value):
        return "there must be no space behind a comma, and no comma at the end"
    if parts := _overrides_in(f"{key}={value}"):
        return f"{len(parts)} overrides stand in one word; each is a word of its own: {shlex.join(parts)}"
    closing = _CLOSING.get(value[:1])
    if value[:1] in ("'", '"') and value.count(value[0]) == 1:
        return f"the {value[0]} is not closed"
    if closing and not value.endswith(closing):
        return f"the {value[0]} is not closed; if the value has spaces, quote the word for the shell: '{key}=[a b,c]'"
    whole = os.path.expanduser(value)
    written = _typed(key, whole)
    if whole != value:
        return f"a ~ cannot be read here: write {written or 'the whole path'}"
    if closing:
        return f"texts between {value[0]} and {closing} need quotes of their own" + (f": {written}" if written else "")
    return f"this value needs quotes that reach Hydra: {written}" if written else None


def _overrides_in(word: str) -> list[str]:
    """The overrides of a word that holds several (`"$OPTIONS"`): behind a space stands a key that there is."""
    known = {*(entry.name for entry in fields(RunSettings)), *registry().groups(), "experiment", "scale", "hydra"}
    gaps = [gap for gap in _BEFORE_A_KEY.finditer(word) if re.sub(r"_\d+$", "", gap[1]) in known]
    bounds = [0, *(bound for gap in gaps for bound in gap.span()), len(word)]
    return [word[begin:end] for begin, end in zip(bounds[::2], bounds[1::2], strict=True)] if gaps else []


def _typed(key: str, value: str) -> str | None:
    """The override as it is typed in a shell, with the quotes that Hydra needs; None if quotes do not help."""
    quoted = _quoted_list(value) if value.startswith("[") else _quoted(value)
    words = [f"{key}={each}" for each in (value, quoted) if each is not None]
    return next((_for_shell(word) for word in words if read_override(word) is not None), None)


def _for_shell(word: str) -> str:
    """The word with quotes for the shell; `shlex.quote` alone makes five quotes of an apostrophe."""
    if "'" not in word or set(word) & set("$`!\\"):
        return shlex.quote(word)
    return '"' + word.replace('"', '\\"') + '"'


def _quoted(text: str) -> str | None:
    """The text in quotes; None for one with both kinds of quotes in it, or with quotes of its own."""
    mark = next((mark for mark in "\"'" if mark not in text), None)
    return None if mark is None or text[:1] in ("'", '"') else f"{mark}{text}{mark}"


def _quoted_list(text: str) -> str | None:
    """A list of plain texts with quotes around those that need them; None for any other list."""
    items = [item.strip() for item in text[1:-1].split(",")]
    quoted = [item if _BARE.fullmatch(item) else _quoted(item) for item in items]
    if None in quoted or re.search(r"[][{}]", text[1:-1]):
        return None
    return f"[{','.join(map(str, quoted))}]"
