"""TAB for overrides that Hydra does not complete: an option at another place, further ones of a list, members."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields

from alignpipe.config.paths import conf_dir
from alignpipe.registry import registry

_CHOICE = re.compile(r"(?P<head>\+?(?P<group>[\w/]+)(?P<package>@[\w.-]+)?=)(?P<listed>(?:\w+,)*)(?P<begun>\w*)")
"""`reward=a,b` and `+reward@reward.members.polite=a`."""
_KEY_OF_KEYS = re.compile(r"(?P<slot>\w+)\.(?P<field>\w+)\.[\w-]*")
"""`reward.weights.` and what was typed of the next key."""


def override_words(typed: Sequence[str], current: str) -> list[str]:
    """The words that `current` may become, the ones before it being `typed`; empty where Hydra knows them."""
    return _options(current) or _members(typed, current)


def _options(current: str) -> list[str]:
    """Options after `<group>@<package>=`, and those that may follow in a list of a sweep (`reward=a,`)."""
    found = _CHOICE.fullmatch(current)
    if found is None or not (found["package"] or found["listed"]):
        return []
    listed = found["listed"].split(",")
    options = registry().options(found["group"]) or _presets(found["group"])
    left = [option for option in options if option.startswith(found["begun"]) and option not in listed]
    return [f"{found['head']}{found['listed']}{option}" for option in left]


def _presets(group: str) -> list[str]:
    """The options of a group that is a folder of conf/, such as scale/tiny/reward."""
    return sorted(file.stem for file in (conf_dir() / group).glob("*.yaml"))


def _members(typed: Sequence[str], current: str) -> list[str]:
    """The keys of an option's empty dictionary: what the user has named in another one of it (the members of a mix)."""
    found = _KEY_OF_KEYS.fullmatch(current)
    if found is None:
        return []
    slot, field = found["slot"], found["field"]
    placed = re.compile(rf"\+?{slot}@{slot}\.(?P<beside>\w+)\.(?P<name>[\w-]+)=\w+")
    matches = [match for word in typed if (match := placed.fullmatch(word)) is not None]
    named = [match["name"] for match in matches if match["beside"] != field]
    chosen = [option for word in typed for name, _, option in [word.partition("=")] if name == slot]
    if not (named and chosen and _is_dictionary(slot, chosen[-1], field)):
        return []
    return [word for name in named if (word := f"{slot}.{field}.{name}=").startswith(current)]


def _is_dictionary(slot: str, option: str, field: str) -> bool:
    """Whether a key of an option is by default an empty dictionary."""
    offers = registry().offers(slot, option)
    entries = fields(offers[0].component.config) if len(offers) == 1 else ()
    entry = next((entry for entry in entries if entry.name == field), None)
    default = entry.default_factory() if entry is not None and entry.default_factory is not MISSING else None
    return isinstance(default, Mapping) and not default
