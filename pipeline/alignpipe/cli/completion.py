"""TAB: the words of the subcommands are ours, nearly everything else is completed by Hydra.

The shell function that `alignpipe -sc install=bash` prints calls us with the line in COMP_LINE and the cursor in
COMP_POINT, and reads words from our stdout.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Sequence

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from alignpipe.cli.commands import COMMANDS, is_override
from alignpipe.cli.suggestions import override_words, value_words
from alignpipe.cli.words import in_order, known_flags
from alignpipe.config.command import config_flags
from alignpipe.errors import AlignpipeError

_NAME_KEY = re.compile(r"\.name=$")
"""A component's `name` is set by choosing an option, so nobody types it."""

_KEY_AS_VALUE = re.compile(r"=[\w-]+[=.]$")
"""Behind the `=` of a list or a dictionary Hydra offers what lies in it, as `stages=0=`."""

_NAMING = (re.compile(r"^score .*--reward[ =](\w+)( |$)"), re.compile(r"^plugins check (?:reward/)?(\w+)( |$)"))
"""How the words of `score` and `plugins check` name a reward."""
_TAKEN = ("reward.", "scoring.")
"""The overrides that these take."""

_AT_SIGN = "COMP_WORDBREAKS=${COMP_WORDBREAKS//@}\n"
"""An interactive bash breaks words at @ (for host names), and `+reward@reward.members.a=` is one word to us."""


def complete(argv: list[str]) -> int:
    """Print the words that may stand at the cursor; at `install=bash` the function that asks for them."""
    if "install=bash" in argv:
        from alignpipe.cli.app import run

        status = run(argv)
        sys.stdout.write(_AT_SIGN)
        return status
    line = os.environ.get("COMP_LINE", "")
    point = os.environ.get("COMP_POINT", "")
    line = line[: int(point)] if point.isdigit() else line
    with contextlib.redirect_stderr(io.StringIO()):  # a broken plugin's line would garble the prompt at every TAB
        words = _words(line, argv)
    sys.stdout.write(" ".join(words) + "\n")
    return 0


def _words(line: str, argv: list[str]) -> list[str]:
    """All candidates for the last word of `line`; the shell function picks those that fit what was typed."""
    typed = line.split()[1:]
    current = "" if line.endswith(" ") or not typed else typed.pop()
    words = COMMANDS[typed[0]].words if typed and typed[0] in COMMANDS else None
    if words is not None:
        run = _as_run(typed)
        given = override_words(run, current)
        if run and not given and current.startswith(_TAKEN):
            given = _key_words(run, current, argv)
        return given or _fitting(words(typed[1:]), current)
    own = [] if typed else _fitting(list(COMMANDS), current)
    run = typed[1:] if typed[:1] == ["plan"] else typed
    as_flags = _flag_words(run, current)
    if as_flags is not None:
        return [word for word in as_flags if run is typed or word != "--multirun"]  # a plan is of one run
    return own + (override_words(run, current) or _key_words(run, current, argv))


def _flag_words(typed: Sequence[str], current: str) -> list[str] | None:
    """Hydra's flags, or the values of the one before; None where neither is wanted."""
    known = known_flags()
    if values := known.get(typed[-1]) if typed else None:
        return _fitting(values, current)
    if not current.startswith("-") or "--" in typed:
        return None
    return _fitting([flag for flag in known if flag.startswith("--") and flag not in typed], current)


def _fitting(words: Sequence[str], current: str) -> list[str]:
    return [word for word in words if word.startswith(current)]


def _as_run(typed: Sequence[str]) -> list[str]:
    """The overrides of `score` and `plugins check` as those of a run with the reward that they name; none without."""
    words = " ".join(typed)
    named = next((found[1] for naming in _NAMING if (found := naming.search(words))), None)
    given = [word for word in typed if is_override(word) and not word.startswith("-")]
    return [] if named is None else [f"reward={named}", *given]


def _key_words(typed: Sequence[str], current: str, argv: list[str]) -> list[str]:
    """Keys, options, and behind `key=` the values that its type names, or else the current value."""
    values = value_words(current, lambda word: _hydra_words(typed, word, argv))
    return values or [word for word in _hydra_words(typed, current, argv) if not _NAME_KEY.search(word)]


def _hydra_words(typed: Sequence[str], current: str, argv: list[str]) -> list[str]:
    """Hydra's candidates for `current` behind these overrides; none where it cannot compose: TAB shows no errors."""
    from alignpipe.cli.app import run

    captured = io.StringIO()
    # Hydra's parser leaves at a flag without its value.
    unfinished = (AlignpipeError, HydraException, OmegaConfBaseException, SystemExit)
    with contextlib.redirect_stdout(captured), contextlib.suppress(*unfinished):
        line = " ".join(["alignpipe", *in_order(typed), current])
        os.environ["COMP_LINE"] = line
        os.environ["COMP_POINT"] = str(len(line))
        run([*config_flags(typed), *argv])  # Hydra lists a folder of the user's own too
    return [word for word in captured.getvalue().split() if not _KEY_AS_VALUE.search(word)]
