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

from alignpipe.cli.commands import COMMANDS
from alignpipe.cli.overrides import override_words
from alignpipe.errors import AlignpipeError

_NAME_KEY = re.compile(r"\.name=$")
"""A component's `name` is set by choosing an option, so nobody types it."""

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
    if typed and typed[0] in COMMANDS:
        given = override_words(typed, current)
        if given or typed[0] != "plan":
            return given or _fitting(COMMANDS[typed[0]].words(typed[1:]), current)
        # Hydra must see the overrides alone; the cursor moves by what is cut.
        line = re.sub(r"^(\s*\S+\s+)plan\s+", r"\1", line)
        return _hydra_words(line, argv)
    own = [] if typed else _fitting(list(COMMANDS), current)
    return own + (override_words(typed, current) or _hydra_words(line, argv))


def _fitting(words: Sequence[str], current: str) -> list[str]:
    return [word for word in words if word.startswith(current)]


def _hydra_words(line: str, argv: list[str]) -> list[str]:
    """Hydra's candidates for `line`; none for a line it cannot compose (TAB is no place for error messages)."""
    from alignpipe.cli.app import run

    os.environ["COMP_LINE"] = line
    os.environ["COMP_POINT"] = str(len(line))
    captured = io.StringIO()
    unfinished = (AlignpipeError, HydraException, OmegaConfBaseException)
    with contextlib.redirect_stdout(captured), contextlib.suppress(*unfinished):
        run(argv)
    return [word for word in captured.getvalue().split() if not _NAME_KEY.search(word)]
