"""The words of a command line as Hydra's own parser tells them apart: flags, and overrides anywhere between them."""

from __future__ import annotations

from collections.abc import Sequence

from hydra._internal.utils import get_args_parser


class _Word(str):
    """A word of its own: the parser hands on what it is given, and a flag's value may equal an override."""


def in_order(argv: Sequence[str]) -> list[str]:
    """The same words with the overrides together behind the flags: Hydra 1.3 finds them nowhere else, 1.4 anywhere.

    Behind a `--` of the user's own there are overrides only.
    """
    words: list[str] = [_Word(word) for word in argv]
    end = words.index("--") if "--" in words else len(words)
    given = get_args_parser().parse_intermixed_args(words[:end]).overrides
    flags = [word for word in words[:end] if not any(word is override for override in given)]
    return [str(word) for word in (*flags, "--", *given, *words[end + 1 :])]
