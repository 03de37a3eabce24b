"""The words of a command line as Hydra's own parser tells them apart: flags, and overrides anywhere between them.

The parser is no public part of Hydra; this is the one module that asks it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.types import RunMode

from alignpipe.config.command import read_override

_MODE = re.compile(r"\+{0,2}hydra\.mode=[\s'\"]*(?:RunMode\.)?(\w+)[\s'\"]*")
"""Hydra's setting for what `-m` is a flag for."""


class _Word(str):
    """A word of its own: the parser hands on what it is given, and a flag's value may equal an override."""


def in_order(argv: Sequence[str]) -> list[str]:
    """The same words with the overrides together behind the flags: Hydra 1.3 finds them nowhere else, 1.4 anywhere."""
    flags, overrides, _ = _read(argv)
    return [*flags, "--", *for_jobs(overrides)]


def for_jobs(overrides: Sequence[str]) -> list[str]:
    """The overrides such that Hydra leaves to a sweep's jobs what depends on an option that differs between them.

    Before the jobs Hydra composes a config of what they share, with the default of a slot that is swept over: there
    `-m ppo=grpo,rloo ppo.group_size=4` would be refused for `ppo=ppo`. A choice among one value waits for the job.
    """
    read = [read_override(word) for word in overrides]
    slots = {
        override.package or override.key_or_group
        for override in read
        if override is not None and override.is_sweep_override() and "." not in override.key_or_group
    }
    return [
        _chosen(override, word) if override is not None and _depends(override, slots) else word
        for word, override in zip(overrides, read, strict=True)
    ]


def _depends(override: Override, slots: Set[str]) -> bool:
    slot, dot, _ = override.key_or_group.partition(".")
    plain = override.type is not OverrideType.DEL and not override.is_sweep_override()
    return bool(dot) and slot != "hydra" and plain and (slot in slots or "experiment" in slots)


def _chosen(override: Override, word: str) -> str:
    """The same value as a choice among one, if that is what Hydra's grammar makes of it."""
    key, _, value = word.partition("=")
    chosen = read_override(f"{key}=choice({value})")
    if chosen is None or not chosen.is_sweep_override():
        return word
    read = [read_override(f"{key}={text}") for text in chosen.sweep_string_iterator()]
    same = len(read) == 1 and read[0] is not None and read[0].value() == override.value()
    return f"{key}=choice({value})" if same else word


def is_sweep(argv: Sequence[str]) -> bool:
    """Whether the words ask for a sweep: `-m`, what the parser takes as short for it, or Hydra's own setting."""
    _, overrides, multirun = _read(argv)
    modes = [found[1] for word in overrides if (found := _MODE.fullmatch(word))]
    return multirun or modes[-1:] in (["MULTIRUN"], [str(RunMode.MULTIRUN.value)])


def known_flags() -> dict[str, Sequence[str]]:
    """Hydra's flags, and of those that take one of a few values these."""
    return {flag: tuple(action.choices or ()) for flag, action in get_args_parser()._option_string_actions.items()}


def _read(argv: Sequence[str]) -> tuple[list[str], list[str], bool]:
    """The flags with their values, the overrides, and whether a flag asks for a sweep.

    Behind a `--` of the user's own there are overrides only.
    """
    words: list[str] = [_Word(word) for word in argv]
    end = words.index("--") if "--" in words else len(words)
    read = get_args_parser().parse_intermixed_args(words[:end])
    flags = [word for word in words[:end] if not any(word is override for override in read.overrides)]
    return list(map(str, flags)), list(map(str, [*read.overrides, *words[end + 1 :]])), read.multirun
